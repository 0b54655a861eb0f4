//! The boot disk: GRUB, L0 and its modules, without a file system.
//!
//! GRUB names the files by their sectors (`(hd0)512+100`). It needs no file system code, no partition code and no
//! configuration file, and gets to L0 in a fifth of the instructions that it takes from an ISO image. A file is
//! followed by zeros up to the sector's end, which neither ELF nor an LZ4 frame nor a cpio archive minds.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A file that GRUB hands to L0.
#[derive(Clone, Debug)]
pub struct Module {
    /// The module string: its name, for a kernel followed by its command line.
    pub string: String,
    /// The file.
    pub path: PathBuf,
}

/// What is on the disk.
#[derive(Clone, Debug)]
pub struct Content<'a> {
    /// L0's ELF.
    pub image: &'a Path,
    /// L0's command line.
    pub command_line: &'a str,
    /// Its modules.
    pub modules: &'a [Module],
}

/// The disk as Bochs's BIOS sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders, each of [`Geometry::CYLINDER`] bytes.
    pub cylinders: u64,
}

impl Geometry {
    /// Heads of a cylinder.
    pub const HEADS: u64 = 16;
    /// Sectors of a track.
    pub const SECTORS: u64 = 63;
    /// Bytes of a cylinder.
    pub const CYLINDER: u64 = Self::HEADS * Self::SECTORS * SECTOR;
}

const SECTOR: u64 = 512;
/// Where the files begin: GRUB's core image, in front of them, takes about 140 KiB.
const FIRST_FILE: u64 = 512;

const GRUB_DIR: &str = "/usr/lib/grub/i386-pc";

/// Writes the disk image to `path`; `scratch` is a folder for GRUB's own image.
pub fn build(content: &Content, scratch: &Path, path: &Path) -> Result<Geometry> {
    let files: Vec<&Path> = std::iter::once(content.image)
        .chain(content.modules.iter().map(|m| &*m.path))
        .collect();
    let mut places = Vec::new();
    let mut next = FIRST_FILE;
    for file in &files {
        let size = file
            .metadata()
            .with_context(|| format!("cannot read {}", file.display()))?
            .len();
        places.push((next, size.div_ceil(SECTOR)));
        next += size.div_ceil(SECTOR);
    }

    let configuration = scratch.join("grub.cfg");
    crate::paths::write_whole(
        &configuration,
        configuration_text(content, &places)?.as_bytes(),
    )?;
    let core = scratch.join("core.img");
    let output = Command::new("grub-mkimage")
        .args([
            "--format=i386-pc",
            "--prefix=(hd0)",
            "--directory",
            GRUB_DIR,
            "--config",
        ])
        .arg(&configuration)
        .arg("--output")
        .arg(&core)
        .args(["biosdisk", "multiboot2"])
        .output()
        .context("cannot start grub-mkimage")?;
    if !output.status.success() {
        bail!(
            "grub-mkimage failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }

    let mut head = crate::paths::read(&Path::new(GRUB_DIR).join("boot.img"))?;
    head.extend(crate::paths::read(&core)?);
    if head.len() as u64 > FIRST_FILE * SECTOR {
        bail!(
            "GRUB's core image has {} bytes, more than is set aside for it",
            head.len()
        );
    }
    let size = (next * SECTOR).next_multiple_of(Geometry::CYLINDER);
    let write = || -> std::io::Result<()> {
        let mut disk = BufWriter::new(File::create(path)?);
        disk.write_all(&head)?;
        for (file, (sector, _)) in files.iter().zip(&places) {
            disk.seek(SeekFrom::Start(sector * SECTOR))?;
            std::io::copy(&mut File::open(file)?, &mut disk)?;
        }
        disk.into_inner()?.set_len(size)
    };
    write().with_context(|| {
        format!(
            "cannot write the disk image {} (is the disk full?)",
            path.display()
        )
    })?;
    Ok(Geometry {
        cylinders: size / Geometry::CYLINDER,
    })
}

/// The commands that GRUB runs. It reads them before it has its shell: one command a line, words and quotes only.
fn configuration_text(content: &Content, places: &[(u64, u64)]) -> Result<String> {
    let mut text = String::new();
    let strings =
        std::iter::once(content.command_line).chain(content.modules.iter().map(|m| &*m.string));
    for (number, (string, (sector, count))) in strings.zip(places).enumerate() {
        let command = if number == 0 { "multiboot2" } else { "module2" };
        text += &format!("{command} (hd0){sector}+{count}{}\n", quote_words(string)?);
    }
    text += "boot\n";
    Ok(text)
}

/// The words of a command line as GRUB's parser gives them back unchanged, each after a blank.
///
/// # Errors
///
/// GRUB writes a backslash before quotes and backslashes when it joins the words again, so these cannot pass.
pub fn quote_words(string: &str) -> Result<String> {
    if let Some(bad) = string
        .chars()
        .find(|c| "\"'\\".contains(*c) || c.is_control())
    {
        bail!(
            "a command line with the character {bad:?} does not pass through GRUB unchanged: {string}"
        );
    }
    Ok(string
        .split_ascii_whitespace()
        .map(|word| format!(" '{word}'"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_files_by_their_sectors() {
        let module = Module {
            string: "l1-kernel console=ttyS0  a=$b;c".into(),
            path: "k".into(),
        };
        let content = Content {
            image: Path::new("i"),
            command_line: "out=e9",
            modules: &[module],
        };
        let text = configuration_text(&content, &[(512, 7), (519, 1)]).unwrap();
        assert_eq!(
            text,
            "multiboot2 (hd0)512+7 'out=e9'\nmodule2 (hd0)519+1 'l1-kernel' 'console=ttyS0' 'a=$b;c'\nboot\n"
        );
    }

    #[test]
    fn what_grub_would_change_is_refused() {
        for bad in ["a\"b c\"", "a'b", "a\\b", "a\nboot"] {
            assert!(quote_words(bad).is_err(), "{bad:?}");
        }
        assert_eq!(quote_words("").unwrap(), "");
    }
}
