//! What runs boot: copies, so that all of them boot the same whatever is edited meanwhile.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::image;
use crate::paths::{self, Paths};

/// L0 and the vmm.
pub struct Programs {
    /// L0's image.
    pub image: PathBuf,
    /// The vmm.
    pub vmm: PathBuf,
}

impl Programs {
    /// Builds those that are not given, and keeps them in `folder`.
    pub fn get(
        paths: &Paths,
        folder: &Path,
        image: Option<PathBuf>,
        vmm: Option<PathBuf>,
    ) -> Result<Self> {
        let image = match image {
            Some(image) => image,
            None => keep(folder, &image::metal(paths, "hynest")?, "hynest")?,
        };
        let vmm = match vmm {
            Some(vmm) => vmm,
            None => keep(folder, &image::program(paths, "vmm")?, "vmm")?,
        };
        Ok(Self { image, vmm })
    }
}

/// Copies what was built into `folder`, as `name`.
pub fn keep(folder: &Path, built: &Path, name: &str) -> Result<PathBuf> {
    let copy = folder.join(name);
    paths::write_whole(&copy, &paths::read(built)?)?;
    Ok(copy)
}
