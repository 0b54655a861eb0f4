//! Saved partitions as files of the host.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use snapshot::{Header, Invalid, PAGE, Reader, Source};

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

/// Reads and checks the whole of a saved partition; returns what its header says.
///
/// # Errors
///
/// What is wrong with it, in one line.
#[cfg_attr(not(test), expect(dead_code, reason = "no command restores yet"))]
pub fn verify(path: &Path) -> Result<Header> {
    let open = || -> io::Result<Pages> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Pages { file, bytes })
    };
    let named = || path.display().to_string();
    let pages = open().with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = pages.bytes;
    let mut reader = Reader::open(pages).with_context(named)?;
    let header = *reader.header();
    let expected = header.pages() * PAGE as u64;
    if bytes != expected {
        return Err(Invalid::TooLong { bytes, expected }).with_context(named);
    }
    reader.verify().with_context(named)?;
    Ok(header)
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
        assert_eq!(verify(&path).unwrap(), written);
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
