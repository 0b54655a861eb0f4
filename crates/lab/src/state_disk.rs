//! The machine's second disk: where L0 saves a partition to, or takes one up from.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use snapshot::PAGE;

use crate::disk::Geometry;
use crate::snapshot::{self as file, Contents};

/// The disk's name in the run's folder.
const NAME: &str = "state.img";
/// Bytes set aside for all of a partition but its memory.
const MACHINE_BYTES: u64 = 16 << 20;

/// A disk for the state.
#[derive(Clone, Debug)]
pub struct StateDisk {
    /// Its image.
    pub path: PathBuf,
    /// Its geometry.
    pub geometry: Geometry,
}

impl StateDisk {
    /// An empty disk in the folder `dir` with room for a partition of so much memory. It takes no more of the host's disk
    /// than is written to it.
    pub fn for_saving(dir: &Path, memory_bytes: u64) -> Result<Self> {
        let bytes = room(memory_bytes);
        let path = dir.join(NAME);
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Self::of(path, &file, bytes)
    }

    /// A disk in the folder `dir` that holds what the file does. The file itself stays as it is, whatever L0 does. Where the
    /// run may save, too, it is to the same disk, which then has room for a partition of `saves` bytes of memory.
    pub fn for_restoring(dir: &Path, file: &Path, saves: Option<u64>) -> Result<Self> {
        let path = dir.join(NAME);
        let copy = || -> io::Result<(File, u64)> {
            let mut to = File::create(&path)?;
            let bytes = io::copy(&mut File::open(file)?, &mut to)?;
            Ok((to, bytes))
        };
        let (disk, bytes) = copy().with_context(|| {
            format!(
                "cannot copy {} for the run (is the disk full?)",
                file.display()
            )
        })?;
        Self::of(path, &disk, bytes.max(saves.map_or(0, room)))
    }

    fn of(path: PathBuf, file: &File, bytes: u64) -> Result<Self> {
        let size = bytes.next_multiple_of(Geometry::CYLINDER);
        file.set_len(size)
            .with_context(|| format!("cannot make {} large enough", path.display()))?;
        Ok(Self {
            path,
            geometry: Geometry {
                cylinders: size / Geometry::CYLINDER,
            },
        })
    }

    /// The partition that L0 has saved becomes the file `to`, whole or not at all. Returns what it holds.
    pub fn keep(&self, to: &Path) -> Result<Contents> {
        let shown = to.display();
        let bytes = file::size(&self.path)?;
        let folder = to.parent().filter(|dir| !dir.as_os_str().is_empty());
        let write = || -> Result<Contents> {
            let part = tempfile::Builder::new()
                .prefix(".hynest-")
                .tempfile_in(folder.unwrap_or(Path::new(".")))?;
            let mut from = io::Read::take(File::open(&self.path)?, bytes);
            io::copy(&mut from, &mut part.as_file())?;
            let contents = file::read(part.path())?;
            part.persist(to).map_err(|error| anyhow!(error.error))?;
            Ok(contents)
        };
        write().with_context(|| format!("the saved partition cannot be written to {shown}"))
    }
}

/// Bytes that a partition with so much memory takes at most.
fn room(memory_bytes: u64) -> u64 {
    snapshot::most_pages(MACHINE_BYTES, memory_bytes) * PAGE as u64
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_disk_has_whole_cylinders_and_room() {
        let dir = tempfile::tempdir().unwrap();
        let disk = StateDisk::for_saving(dir.path(), 768 << 20).unwrap();
        let size = fs::metadata(&disk.path).unwrap().len();
        assert_eq!(size, disk.geometry.cylinders * Geometry::CYLINDER);
        assert!(size >= (768 << 20) + MACHINE_BYTES);
        assert!(disk.keep(&dir.path().join("x")).is_err());
        assert!(!dir.path().join("x").exists(), "nothing half-written");
    }

    #[test]
    fn the_file_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("saved");
        fs::write(&file, b"state").unwrap();
        let disk = StateDisk::for_restoring(dir.path(), &file, None).unwrap();
        assert_eq!(fs::metadata(&disk.path).unwrap().len(), Geometry::CYLINDER);
        assert_eq!(fs::read(&file).unwrap(), b"state");
    }

    #[test]
    fn what_was_restored_can_be_saved_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("saved");
        fs::write(&file, b"state").unwrap();
        let memory = 64 << 20;
        let disk = StateDisk::for_restoring(dir.path(), &file, Some(memory)).unwrap();
        let size = fs::metadata(&disk.path).unwrap().len();
        assert_eq!(size, disk.geometry.cylinders * Geometry::CYLINDER);
        assert!(size >= memory + MACHINE_BYTES);
        let bytes = fs::read(&disk.path).unwrap();
        assert!(bytes.starts_with(b"state\0"), "it holds what the file does");
    }
}
