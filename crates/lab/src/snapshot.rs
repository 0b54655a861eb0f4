//! Saved partitions as files of the host.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use hyperv::clock::REFERENCE_HZ;
use hyperv::enlightenments::Set;
use snapshot::{Header, Invalid, PAGE, Reader, Source};
use state::Machine;

/// A file, as whole pages.
struct Pages {
    file: File,
    bytes: u64,
}

impl Source for Pages {
    type Error = io::Error;

    fn pages(&self) -> u64 {
        self.bytes / PAGE as u64
    }

    fn read(&mut self, first: u64, pieces: &mut [&mut [u8]]) -> io::Result<()> {
        let mut at = first * PAGE as u64;
        for piece in pieces {
            self.file.read_exact_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// What a saved partition is.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// Bytes of the file.
    pub bytes: u64,
    /// Processors.
    pub vps: u32,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of it that the file holds: of pages that do not repeat one word.
    pub stored: u64,
    /// The enlightenments it is offered, in L0's words.
    pub enlightenments: String,
    /// The rate of its TSC in Hz.
    pub tsc_hz: u64,
    /// Seconds of its clock.
    pub seconds: f64,
    /// VPs in the middle of an L2's run.
    pub in_l2: usize,
}

/// Reads and checks the whole of a saved partition.
///
/// # Errors
///
/// What is wrong with it, in one line.
pub fn read(path: &Path) -> Result<Contents> {
    const UNITS: f64 = REFERENCE_HZ as f64;
    let named = || path.display().to_string();
    let (header, machine) = verify(path)?;
    let machine = Machine::decode(&machine).with_context(named)?;
    let setup = &machine.setup;
    if setup.memory != header.memory_bytes {
        bail!(
            "{}: its two parts are of partitions with different memory",
            named()
        );
    }
    let names: Vec<&str> = setup.enlightenments.iter().map(|one| one.name()).collect();
    Ok(Contents {
        bytes: header.pages() * PAGE as u64,
        vps: setup.vps,
        memory: setup.memory,
        stored: header.data_pages * PAGE as u64,
        enlightenments: match (setup.enlightenments == Set::ALL, names.is_empty()) {
            (true, _) => "all".to_owned(),
            (_, true) => "none".to_owned(),
            _ => names.join(","),
        },
        tsc_hz: machine.partition.tsc_hz,
        seconds: machine.partition.hyperv.reference.0 as f64 / UNITS,
        in_l2: machine.vps.iter().filter(|vp| vp.nested.is_in_l2()).count(),
    })
}

/// The bytes that a saved partition has, of a file or a disk that may be larger.
///
/// # Errors
///
/// What is wrong with its beginning.
pub fn size(path: &Path) -> Result<u64> {
    let reader = Reader::open(open(path)?).with_context(|| path.display().to_string())?;
    Ok(reader.header().pages() * PAGE as u64)
}

fn open(path: &Path) -> Result<Pages> {
    let open = || -> io::Result<Pages> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Pages { file, bytes })
    };
    open().with_context(|| format!("cannot open {}", path.display()))
}

/// Reads and checks the whole file; returns what its header says, and its machine part.
fn verify(path: &Path) -> Result<(Header, Vec<u8>)> {
    let named = || path.display().to_string();
    let pages = open(path)?;
    let bytes = pages.bytes;
    let mut reader = Reader::open(pages).with_context(named)?;
    let header = *reader.header();
    let expected = header.pages() * PAGE as u64;
    if bytes != expected {
        return Err(Invalid::TooLong { bytes, expected }).with_context(named);
    }
    reader.verify().with_context(named)?;
    let machine = reader.machine().with_context(named)?;
    Ok((header, machine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    impl snapshot::Sink for Pages {
        type Error = io::Error;

        fn pages(&self) -> u64 {
            u64::MAX
        }

        fn write(&mut self, first: u64, pieces: &[&[u8]]) -> io::Result<()> {
            let mut at = first * PAGE as u64;
            for piece in pieces {
                self.file.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.file.sync_all()
        }
    }

    #[test]
    fn a_file_is_verified_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut memory = vec![0; 300 * PAGE];
        memory[7 * PAGE] = 1;
        memory[299 * PAGE + 5] = 2;
        let file = File::create(&path).unwrap();
        let written = snapshot::write(Pages { file, bytes: 0 }, b"machine", &memory).unwrap();
        assert_eq!(verify(&path).unwrap(), (written, b"machine".to_vec()));
        let good = fs::read(&path).unwrap();

        let line = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = verify(&path).unwrap_err();
            format!("{error:#}").replace(&*path.to_string_lossy(), "FILE")
        };
        let mut flipped = good.clone();
        flipped[4 * PAGE] ^= 1;
        assert_eq!(
            line(&flipped),
            "FILE: corrupt: the checksum of the memory in block 0 is wrong"
        );
        assert_eq!(
            line(&good[..5 * PAGE + 9]),
            "FILE: truncated: the saved partition has 6 pages of 4096 bytes, and 5 are there"
        );
        assert_eq!(
            line(&[&good[..], b"x"].concat()),
            "FILE: too long: the saved partition has 24576 bytes, and 24577 are there"
        );
        assert_eq!(line(b"text\n"), "FILE: not a saved partition");
        assert_eq!(line(&[b'x'; PAGE]), "FILE: not a saved partition");
    }
}
