//! Where the lab keeps things: everything under `target/hynest/`, so that `cargo clean` takes it away too.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders one checkout of hynest works with.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The workspace's root: where `Cargo.toml` and `guest/` are.
    pub workspace: PathBuf,
    /// The lab's own folder, `target/hynest/` unless `CARGO_TARGET_DIR` says otherwise.
    pub root: PathBuf,
}

impl Paths {
    /// The folders of the checkout this binary was built from.
    pub fn new() -> Self {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = crate_dir
            .ancestors()
            .nth(2)
            .unwrap_or(crate_dir)
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => workspace.join(dir),
            _ => workspace.join("target"),
        };
        Self {
            root: target.join("hynest"),
            workspace,
        }
    }

    /// What was downloaded or derived from a download: kept between runs.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Cargo's target folder for the images.
    pub fn build(&self) -> PathBuf {
        self.root.join("build")
    }

    /// Parent of the folders of single runs (disk image, emulator configuration, logs).
    pub fn runs(&self) -> PathBuf {
        self.root.join("run")
    }
}

/// Creates `dir` and its parents.
pub fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create the folder {}", dir.display()))
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes `bytes` to `path` so that the file is there whole or not at all: a reader, or the next run after a full
/// disk or an interrupt, never meets half of it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
}

/// Whether a process has this number. Names of temporary things have their owner's, so that others know what is left.
pub fn is_running(pid: &str) -> bool {
    !pid.is_empty() && Path::new("/proc").join(pid).exists()
}

/// Removes what [`write_whole`] has left in `dir` where it was killed: `NAME.PID.part`.
pub fn forget_parts(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_suffix(".part")
            .and_then(|rest| rest.rsplit('.').next());
        if owner.is_some_and(|pid| !is_running(pid)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A key for cached results: the same inputs give the same key, on every run of the same build of the lab.
///
/// FNV-1a with 64 bits over length-prefixed parts; it names cache entries, it protects nothing.
pub fn cache_key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    };
    for part in parts {
        eat(&(part.len() as u64).to_le_bytes());
        eat(part);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_each_part_and_on_where_parts_end() {
        let key = |parts: &[&[u8]]| cache_key(parts.iter().copied());
        assert_eq!(key(&[b"ab", b"c"]), key(&[b"ab", b"c"]));
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"ab", b"d"]));
    }

    #[test]
    fn a_whole_write_replaces_and_leaves_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_whole(&dir.path().join("no/such/dir"), b"x").is_err());
    }

    #[test]
    fn parts_of_the_dead_go_and_those_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let living = format!("a.elf.{}.part", std::process::id());
        // No process has this number: it is above the kernel's limit.
        for name in [&*living, "a.elf.99999999.part", "a.elf"] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        forget_parts(dir.path());
        let left = fs::read_dir(dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.elf", &*living]);
    }
}
