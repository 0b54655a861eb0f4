//! `cargo hynest clean`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::paths::Paths;

/// Removes what was built and what killed runs left; with `all`, everything.
pub fn clean(paths: &Paths, all: bool) -> Result<()> {
    if all {
        return remove(&paths.root);
    }
    remove(&paths.build())?;
    remove(&paths.runs())
}

fn remove(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    eprintln!("hynest: removed {}", dir.display());
    Ok(())
}
