//! A saved partition that is cut short or changed at random places is refused, each time.
//!
//! Most of it is done on the host, by the code that L0 reads with and as L0 does it; a few times L0 itself reads in the
//! emulator, and is to say the same.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use snapshot::{PAGE, Reader, Sink, Source};
use state::Machine;

use super::runs::{self, Run};
use crate::exit::Ending;
use crate::paths::{self, Paths};
use crate::random::Random;
use crate::run::{self, Boot, View};
use crate::scenario::Scenario;
use crate::snapshot as file;

/// Damages of each kind, on the host.
const EACH: usize = 500;
/// Where the random numbers begin. A failure names it with the damage.
const SEED: u64 = 0x5EED_0DA7_A6ED_F11E;

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Its first bytes are left.
    Cut(usize),
    /// Bits of the byte at a place are turned over.
    Flip(usize, u8),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(kept) => write!(f, "cut to {kept} bytes"),
            Self::Flip(at, bits) => write!(f, "byte {at} changed by {bits:#04x}"),
        }
    }
}

/// A disk with the damaged bytes; what is not there is zero, as on a disk that is larger.
struct Disk<'a> {
    bytes: &'a [u8],
    pages: u64,
}

/// The reader asks for what is not on the disk.
#[derive(Debug)]
struct Outside;

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a read outside the disk")
    }
}

impl Source for Disk<'_> {
    type Error = Outside;

    fn pages(&self) -> u64 {
        self.pages
    }

    fn read(&mut self, first: u64, pieces: &mut [&mut [u8]]) -> Result<(), Outside> {
        let wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
        let wanted = (wanted / PAGE) as u64;
        if first.checked_add(wanted).is_none_or(|end| end > self.pages) {
            return Err(Outside);
        }
        let mut at = first as usize * PAGE;
        for piece in pieces {
            let there = self.bytes.get(at..).unwrap_or_default();
            let there = &there[..there.len().min(piece.len())];
            let (front, rest) = piece.split_at_mut(there.len());
            front.copy_from_slice(there);
            rest.fill(0);
            at += piece.len();
        }
        Ok(())
    }
}

/// The file at `path`, which `run` had L0 write, is refused whatever happens to it.
pub fn is_refused(paths: &Paths, run: &Run, path: &Path) -> Result<()> {
    let good = paths::read(path)?;
    let contents = file::read(path)?;
    ensure!(contents.in_l2 > 0, "no L2 is in what is to be damaged");
    let mut memory = vec![0; contents.memory as usize];
    ensure!(
        refusal(&good, good.len(), &mut memory).is_none(),
        "the file is refused as it is"
    );
    let mut random = Random::new(SEED);
    let damages: Vec<Damage> = (0..2 * EACH)
        .map(|i| match i % 2 {
            0 => Damage::Cut(random.below(good.len())),
            _ if i % 4 == 1 => Damage::Flip(random.below(good.len()), 1 << random.below(8)),
            _ => Damage::Flip(random.below(good.len()), random.below(255) as u8 + 1),
        })
        .collect();
    for damage in &damages {
        one_is_refused(&good, *damage, &mut memory)
            .with_context(|| format!("{damage}, with seed {SEED:#x}"))?;
    }
    by_the_lab(paths, &good, &damages[..10])?;
    decoded(&good, &mut random)?;

    let memory_half = good.len() / 2;
    for damage in [
        Damage::Flip(PAGE + random.below(PAGE), 0xFF),
        Damage::Flip(memory_half + random.below(good.len() / 4), 1),
        Damage::Cut(memory_half + random.below(good.len() / 4)),
    ] {
        by_l0(paths, run, &contents, &good, damage, &mut memory)
            .with_context(|| format!("L0, {damage}, with seed {SEED:#x}"))?;
    }
    impossible_by_l0(paths, run, &contents, &good, &mut memory)
}

fn apply(good: &[u8], damage: Damage) -> Vec<u8> {
    let mut bytes = good.to_vec();
    match damage {
        Damage::Cut(kept) => bytes.truncate(kept),
        Damage::Flip(at, bits) => bytes[at] ^= bits,
    }
    bytes
}

/// What L0 says of these bytes on a disk of `size` bytes, if it refuses them.
fn refusal(bytes: &[u8], size: usize, memory: &mut [u8]) -> Option<String> {
    fn read(disk: Disk<'_>, memory: &mut [u8]) -> Result<(), String> {
        let mut reader = Reader::open(disk).map_err(|error| error.to_string())?;
        let machine = reader.machine().map_err(|error| error.to_string())?;
        Machine::decode(&machine).map_err(|error| error.to_string())?;
        reader
            // What is loaded is of no interest.
            .load_memory(memory, |_| ())
            .map_err(|error| error.to_string())
    }
    let pages = (size / PAGE) as u64;
    read(Disk { bytes, pages }, memory).err()
}

/// The damage is refused on a disk as large as what is left, and on one as large as the file was.
fn one_is_refused(good: &[u8], damage: Damage, memory: &mut [u8]) -> Result<()> {
    let bytes = apply(good, damage);
    let text = refusal(&bytes, bytes.len(), memory).context("it is accepted")?;
    names_the_damage(&text, damage)?;
    let is_gone = good[bytes.len()..].iter().any(|&byte| byte != 0);
    if matches!(damage, Damage::Cut(_)) && is_gone {
        let text =
            refusal(&bytes, good.len(), memory).context("it is accepted on a larger disk")?;
        is_of_a_part(&text)?;
    }
    Ok(())
}

fn names_the_damage(text: &str, damage: Damage) -> Result<()> {
    let expected: &[&str] = match damage {
        Damage::Cut(kept) if kept < PAGE => &["not a saved partition"],
        Damage::Cut(_) => &["truncated: "],
        Damage::Flip(0..8, _) => &["not a saved partition"],
        Damage::Flip(at, _) if at < PAGE => &["corrupt: the header"],
        Damage::Flip(..) => return is_of_a_part(text),
    };
    let is_named = expected.iter().any(|start| text.starts_with(start));
    ensure!(is_named, "it is refused by '{text}'");
    Ok(())
}

/// The message is one line that names a part of the file.
fn is_of_a_part(text: &str) -> Result<()> {
    let parts = ["header", "machine part", "block", "end of the memory"];
    let is_named = text.starts_with("corrupt: ") && parts.iter().any(|part| text.contains(part));
    let is_nothing = text.starts_with("not a saved partition");
    ensure!(
        (is_named || is_nothing) && !text.contains('\n'),
        "it is refused by '{text}'"
    );
    Ok(())
}

/// The lab refuses the file before anything starts, and one with something behind its end.
fn by_the_lab(paths: &Paths, good: &[u8], damages: &[Damage]) -> Result<()> {
    let dir = tempfile::tempdir_in(runs::folder(paths)?)?;
    let path = dir.path().join("damaged");
    let refused = |bytes: &[u8]| -> Result<String> {
        paths::write_whole(&path, bytes)?;
        let error = file::read(&path).err().context("the lab accepts it")?;
        Ok(format!("{error:#}"))
    };
    for damage in damages {
        refused(&apply(good, *damage)).with_context(|| damage.to_string())?;
    }
    for extra in [1, PAGE, 10 * PAGE + 1] {
        let text = refused(&[good, &vec![0; extra]].concat())?;
        ensure!(text.contains("too long: "), "{extra} bytes more: '{text}'");
    }
    Ok(())
}

/// The machine part with a right checksum and one byte wrong: whatever it says, it is decoded or refused.
fn decoded(good: &[u8], random: &mut Random) -> Result<()> {
    let pages = (good.len() / PAGE) as u64;
    let mut reader =
        Reader::open(Disk { bytes: good, pages }).map_err(|error| anyhow!("{error}"))?;
    let machine = reader.machine().map_err(|error| anyhow!("{error}"))?;
    let mut refused = 0;
    for _ in 0..EACH {
        let mut bytes = machine.clone();
        bytes[random.below(machine.len())] ^= random.below(255) as u8 + 1;
        refused += usize::from(Machine::decode(&bytes).is_err());
        refused += usize::from(Machine::decode(&machine[..random.below(machine.len())]).is_err());
    }
    ensure!(
        refused >= EACH,
        "a part of the state is taken for the whole"
    );
    Ok(())
}

/// L0 ends with the one line that the host found for the same disk.
fn by_l0(
    paths: &Paths,
    run: &Run,
    contents: &file::Contents,
    good: &[u8],
    damage: Damage,
    memory: &mut [u8],
) -> Result<()> {
    let bytes = apply(good, damage);
    let expected = refusal(&bytes, good.len(), memory).context("the host accepts it")?;
    // The lab would refuse it: L0 is given a disk that has been damaged since.
    let mut disk = bytes;
    disk.resize(good.len(), 0);
    l0_stops(paths, run, contents, &disk, &expected)
}

/// A file of which all that the host can look at is right: what the processor does not take of it ends in one line, too.
fn impossible_by_l0(
    paths: &Paths,
    run: &Run,
    contents: &file::Contents,
    good: &[u8],
    memory: &mut [u8],
) -> Result<()> {
    let pages = (good.len() / PAGE) as u64;
    let mut reader =
        Reader::open(Disk { bytes: good, pages }).map_err(|error| anyhow!("{error}"))?;
    let bytes = reader.machine().map_err(|error| anyhow!("{error}"))?;
    let loaded = reader.load_memory(memory, |pages| pages.fill(0));
    loaded.map_err(|error| anyhow!("{error}"))?;
    let mut machine = Machine::decode(&bytes)?;
    let (number, value) = machine.vps[0]
        .processor
        .msrs
        .iter_mut()
        .find(|(number, _)| *number == KERNEL_GS_BASE)
        .context("no VP has a KERNEL_GS_BASE")?;
    *value = 1 << 63;
    let expected =
        format!("VP 0 cannot go on as it was saved: MSR {number:#x} cannot have the value saved");
    let mut disk = NewDisk(Vec::new());
    snapshot::write(&mut disk, &machine.encode(), memory).map_err(|error| anyhow!("{error}"))?;
    l0_stops(paths, run, contents, &disk.0, &expected).context("L0, with an impossible MSR")
}

/// IA32_KERNEL_GS_BASE: an address, which is to be canonical.
const KERNEL_GS_BASE: u32 = 0xC000_0102;

/// A disk that has room for whatever is written.
struct NewDisk(Vec<u8>);

impl Sink for &mut NewDisk {
    type Error = Outside;

    fn pages(&self) -> u64 {
        u64::MAX
    }

    fn write(&mut self, first: u64, pieces: &[&[u8]]) -> Result<(), Outside> {
        let mut at = first as usize * PAGE;
        for piece in pieces {
            let end = at + piece.len();
            self.0.resize(self.0.len().max(end), 0);
            self.0[at..end].copy_from_slice(piece);
            at = end;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Outside> {
        Ok(())
    }
}

/// L0 ends with this one line where the partition on this disk is to go on.
fn l0_stops(
    paths: &Paths,
    run: &Run,
    contents: &file::Contents,
    disk: &[u8],
    expected: &str,
) -> Result<()> {
    let dir = tempfile::tempdir_in(runs::folder(paths)?)?;
    let path = dir.path().join("damaged");
    paths::write_whole(&path, disk)?;
    let scenario = Scenario {
        restore: Some(path),
        timeout: Some(300),
        ..Scenario::default()
    };
    let boot = Boot {
        image: run.argument("--image").context("the run has no image")?,
        modules: Vec::new(),
        kernel: String::new(),
    };
    let view = View {
        silent: true,
        ..View::default()
    };
    let summary = run::start(paths, &scenario.as_saved(contents), &boot, &view)?;
    ensure!(
        summary.ending == Some(Ending::L0Stop) && summary.status() == Ending::L0Stop.status(),
        "it ended otherwise: {:?}, {}",
        summary.ending,
        summary.message
    );
    ensure!(
        summary.message == expected,
        "it says '{}' instead of '{expected}'",
        summary.message
    );
    Ok(())
}
