//! L1's initramfs, and the one of its L2 inside it: cpio archives in the `newc` format.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};

use crate::kernel::{DebianKernel, Kernel, MODULES};
use crate::paths::{self, Paths};
use crate::{pack, progress};

const INIT: &[u8] = include_bytes!("../../../guest/init");
const L2_INIT: &[u8] = include_bytes!("../../../guest/l2-init");

/// Debian's static busybox.
const BUSYBOX: &str = "/bin/busybox";

/// An archive being written. Times and owners are zero and inode numbers count up, so that the same content gives
/// the same bytes.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    const DIRECTORY: u32 = 0o040_755;
    const FILE: u32 = 0o100_644;
    const PROGRAM: u32 = 0o100_755;
    const LINK: u32 = 0o120_777;
    const CONSOLE: u32 = 0o020_600;

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        self.inode += 1;
        let builder = Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .nlink(1)
            .rdev_major(device.0)
            .rdev_minor(device.1);
        let size =
            u32::try_from(content.len()).context("a file of the initramfs is larger than 4 GiB")?;
        let mut writer = builder.write(&mut self.bytes, size);
        std::io::Write::write_all(&mut writer, content)?;
        writer.finish()?;
        Ok(())
    }

    fn directories(&mut self, names: &[&str]) -> Result<()> {
        names
            .iter()
            .try_for_each(|name| self.entry(name, Self::DIRECTORY, (0, 0), &[]))
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, Self::FILE, (0, 0), content)
    }

    fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, Self::PROGRAM, (0, 0), content)
    }

    /// What every init here begins with: busybox under its own name and its applets', a console to speak on.
    fn base(&mut self, init: &[u8], busybox: &[u8]) -> Result<()> {
        self.directories(&["bin", "dev", "proc", "sys", "tmp"])?;
        // The kernel opens this for PID 1 before anything is mounted.
        self.entry("dev/console", Self::CONSOLE, (5, 1), &[])?;
        self.program("bin/busybox", busybox)?;
        for applet in APPLETS {
            self.entry(&format!("bin/{applet}"), Self::LINK, (0, 0), b"busybox")?;
        }
        self.program("init", init)
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        trailer(&mut self.bytes)?;
        Ok(self.bytes)
    }
}

/// The applets that the two init scripts call. (In an interactive shell all of them are there.)
const APPLETS: [&str; 24] = [
    "awk", "cat", "cttyhack", "cut", "dmesg", "echo", "grep", "insmod", "mkdir", "mount",
    "poweroff", "printf", "reboot", "rmmod", "sed", "setsid", "sh", "sleep", "sort", "stty", "tr",
    "true", "uname", "wc",
];

/// Builds L1's initramfs and packs it: busybox, the vmm, KVM's modules, and what an L2 Linux boots from.
///
/// `modules` is Debian's kernel when its modules fit L1's kernel. The result is cached by content.
pub fn build(
    paths: &Paths,
    kernel: &Kernel,
    modules: Option<&DebianKernel>,
    vmm: &Path,
) -> Result<PathBuf> {
    let busybox = paths::read(Path::new(BUSYBOX))?;
    let vmm = paths::read(vmm)?;
    let l2_kernel = paths::read(&kernel.elf)?;
    let mut module_files = Vec::new();
    if let Some(debian) = modules {
        for name in MODULES {
            module_files.push((format!("lib/modules/{name}.ko"), debian.module(name)?));
        }
    }

    let parts = [INIT, L2_INIT, &busybox, &vmm, &l2_kernel, &[FORMAT]];
    let key = paths::cache_key(
        parts
            .into_iter()
            .chain(module_files.iter().map(|(_, bytes)| &bytes[..])),
    );
    let dir = paths.cache().join("initramfs");
    let packed = dir.join(format!("{key}.cpio.lz4"));
    if packed.exists() {
        return Ok(packed);
    }
    progress::step("packing L1's initramfs", || {
        let mut l2 = Archive::default();
        l2.base(L2_INIT, &busybox)?;
        l2.program("bin/vmm", &vmm)?;

        let mut l1 = Archive::default();
        l1.base(INIT, &busybox)?;
        l1.program("bin/vmm", &vmm)?;
        l1.directories(&["lib", "lib/modules", "l2"])?;
        for (name, bytes) in &module_files {
            l1.file(name, bytes)?;
        }
        l1.file("l2/vmlinux", &l2_kernel)?;
        l1.file("l2/initrd", &l2.finish()?)?;

        paths::create_dir(&dir)?;
        paths::forget_parts(&dir);
        forget_old(&dir);
        paths::write_whole(&packed, &pack::lz4_frame(&l1.finish()?)?)
    })?;
    Ok(packed)
}

/// Changes whenever this module makes something else of the same inputs.
const FORMAT: u8 = 2;

/// How many archives of earlier builds stay in the cache.
const KEPT: usize = 3;

/// Each build of the vmm makes a new archive: removes all but the newest few. A failure costs only disk space.
fn forget_old(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            entry
                .ok()
                .and_then(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        })
        .collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(KEPT) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(bytes).unwrap();
            if reader.entry().is_trailer() {
                return out;
            }
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
            out.push((
                reader.entry().name().to_owned(),
                reader.entry().mode(),
                content,
            ));
            bytes = reader.finish().unwrap();
        }
    }

    #[test]
    fn an_archive_holds_what_was_put_in() {
        let mut archive = Archive::default();
        archive.base(b"#!init", b"busybox!").unwrap();
        archive.file("x", &[7; 5]).unwrap();
        let bytes = archive.finish().unwrap();
        let entries = entries(&bytes);
        let find = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(
            find("init"),
            &("init".to_owned(), Archive::PROGRAM, b"#!init".to_vec())
        );
        assert_eq!(find("bin/sh").2, b"busybox");
        assert_eq!(find("dev/console").1, Archive::CONSOLE);
        assert_eq!(find("x").2, [7; 5]);
        // A parent comes before what is in it, as the kernel needs it.
        let position = |name: &str| entries.iter().position(|entry| entry.0 == name).unwrap();
        assert!(position("dev") < position("dev/console") && position("bin") < position("bin/sh"));
    }

    #[test]
    fn the_scripts_call_no_applet_that_is_not_linked() {
        for script in [INIT, L2_INIT] {
            let text = std::str::from_utf8(script).unwrap();
            for applet in ["head", "tail", "find", "ls", "expr", "seq", "basename"] {
                let called = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with('#'))
                    .any(|line| {
                        line.split(|c: char| c.is_whitespace() || "|;&($)".contains(c))
                            .any(|word| word == applet)
                    });
                assert!(!called, "{applet} is called");
            }
        }
    }
}
