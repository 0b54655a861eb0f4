//! L1's kernel: where it comes from and the shape in which L0 takes it.
//!
//! L0 enters an ELF64 by its PVH note. What users have is a bzImage, so the ELF inside is unpacked here once, cut
//! down to what gets loaded, and packed with LZ4: in the emulator an instruction saved is time saved, and reading a
//! byte of disk through the BIOS costs more instructions than unpacking it.

mod bzimage;
mod compression;
mod debian;
mod elf;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::paths::{self, Paths};
use crate::{pack, progress};

pub use debian::{DebianKernel, MODULES};

/// A kernel in the shape that boots.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What it calls itself: the version, or the file name where it does not say.
    pub version: String,
    /// The reduced ELF: loadable segments and notes only.
    pub elf: PathBuf,
    /// The same as an LZ4 frame.
    pub packed: PathBuf,
}

/// Prepares the kernel in the file at `path`, from the cache if it was prepared before.
pub fn prepare(paths: &Paths, path: &Path) -> Result<Kernel> {
    let file = paths::read(path)?;
    let dir = paths.cache().join("kernels");
    let key = paths::cache_key([&file[..], &[FORMAT]]);
    let kernel = Kernel {
        version: version(&file).unwrap_or_else(|| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        }),
        elf: dir.join(format!("{key}.elf")),
        packed: dir.join(format!("{key}.elf.lz4")),
    };
    if kernel.elf.exists() && kernel.packed.exists() {
        return Ok(kernel);
    }
    progress::step(&format!("unpacking the kernel {}", path.display()), || {
        let elf = unpack(&file)
            .with_context(|| format!("{} cannot be used as a kernel", path.display()))?;
        let reduced = elf::reduce(&elf)
            .with_context(|| format!("{} cannot be used as a kernel", path.display()))?;
        paths::create_dir(&dir)?;
        paths::forget_parts(&dir);
        paths::write_whole(&kernel.elf, &reduced)?;
        paths::write_whole(&kernel.packed, &pack::lz4_frame(&reduced)?)
    })?;
    Ok(kernel)
}

/// Changes whenever this module makes something else of the same kernel.
const FORMAT: u8 = 1;

/// Finds the ELF image in a kernel file of whichever kind.
fn unpack(file: &[u8]) -> Result<Vec<u8>> {
    if file.starts_with(elf::MAGIC) {
        return Ok(file.to_vec());
    }
    match bzimage::Payload::find(file)? {
        Some(payload) => compression::unpack(payload.bytes),
        None => bail!("it is neither a bzImage nor an ELF file (vmlinux)"),
    }
}

/// The version a kernel file carries: a bzImage's header points at it, an ELF has the banner in its data.
fn version(file: &[u8]) -> Option<String> {
    let text = match bzimage::version(file) {
        Some(text) => text,
        None => {
            let banner = b"Linux version ";
            let at = file
                .windows(banner.len())
                .position(|window| window == banner)?
                + banner.len();
            file.get(at..at + 128)?
        }
    };
    let word = text.split(|&byte| byte == b' ' || byte == 0).next()?;
    let word = std::str::from_utf8(word).ok()?;
    (!word.is_empty()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_kernel_is_refused_with_a_reason() {
        let error = unpack(b"#!/bin/sh\necho no kernel\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("neither a bzImage nor an ELF"), "{error}");
        assert!(unpack(b"").is_err());
    }

    #[test]
    fn the_version_is_the_banners_first_word() {
        let file = [
            b"\x7fELF....Linux version 6.1.0-test (a@b) ".as_slice(),
            &[0; 200],
        ]
        .concat();
        assert_eq!(version(&file).as_deref(), Some("6.1.0-test"));
        assert_eq!(version(b"nothing"), None);
    }
}
