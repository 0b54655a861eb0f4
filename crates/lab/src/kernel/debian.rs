//! Debian's own kernel: downloaded by apt, opened into the cache, never installed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::{self, Paths};
use crate::{deps, machine, progress};

/// What the lab takes out of Debian's kernel package.
#[derive(Clone, Debug)]
pub struct DebianKernel {
    /// The package's folder in the cache.
    dir: PathBuf,
}

/// The package that always depends on Debian's current kernel.
const META_PACKAGE: &str = "linux-image-amd64";

/// The modules L1 loads, in an order in which each finds what it needs.
pub const MODULES: [&str; 4] = ["irqbypass", "kvm", "kvm-intel", "msr"];

/// How the names of folders for downloads begin; the process's number follows.
const DOWNLOAD: &str = "download-";

/// Written last, so that a folder with it is complete.
const COMPLETE: &str = "complete";

impl DebianKernel {
    /// The kernel, from the cache, or else downloaded.
    ///
    /// The cache is not checked against the mirror: a run must not need the network, nor change by itself. `cargo
    /// hynest clean --all` makes the next run take the newest.
    pub fn get(paths: &Paths) -> Result<Self> {
        let base = folder(paths);
        if let Some(found) = Self::cached(paths) {
            return Ok(found);
        }
        paths::create_dir(&base)?;
        forget_broken_off(&base);
        let package = match dependency()? {
            Some(package) => package,
            None => {
                deps::update_lists()?;
                dependency()?.with_context(|| {
                    format!("apt knows no package {META_PACKAGE}; is this Debian 12?")
                })?
            }
        };
        let download = tempfile::Builder::new()
            .prefix(&format!("{DOWNLOAD}{}-", std::process::id()))
            .tempdir_in(&base);
        let download =
            download.with_context(|| format!("cannot create a folder in {}", base.display()))?;
        let mut archive = fetch(&package, download.path())?;
        if archive.is_none() && deps::may_update_lists() {
            // The mirror may have replaced the version that old lists name.
            deps::update_lists()?;
            archive = fetch(&package, download.path())?;
        }
        let Some(archive) = archive else {
            bail!(
                "apt-get could not download {package}, its messages are above; is there a network, is there room in {}, are apt's lists up to date?",
                base.display()
            )
        };
        let content = download.path().join("content");
        progress::step(&format!("opening {package}"), || open(&archive, &content))?;
        let dir = base.join(&package);
        match std::fs::rename(&content, &dir) {
            // Another run was faster, and has put the same there.
            Err(_) if dir.join(COMPLETE).exists() => {}
            other => other.with_context(|| format!("cannot create {}", dir.display()))?,
        }
        Ok(Self { dir })
    }

    /// The newest complete folder in the cache.
    pub fn cached(paths: &Paths) -> Option<Self> {
        let mut dirs: Vec<_> = std::fs::read_dir(folder(paths))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        dirs.retain(|dir| dir.join(COMPLETE).exists());
        dirs.sort();
        dirs.pop().map(|dir| Self { dir })
    }

    /// The kernel's version, which its modules want to find.
    pub fn version(&self) -> Option<&str> {
        self.dir.file_name()?.to_str()?.strip_prefix("linux-image-")
    }

    /// The bzImage.
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The bytes of a module of [`MODULES`], without its signature: to check one of kvm.ko costs L1 more instructions
    /// than half of its own boot.
    pub fn module(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = paths::read(&self.dir.join(format!("{name}.ko")))?;
        bytes.truncate(unsigned_length(&bytes));
        Ok(bytes)
    }
}

fn folder(paths: &Paths) -> PathBuf {
    paths.cache().join("debian-kernel")
}

/// Removes what downloads have left that were killed.
fn forget_broken_off(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(DOWNLOAD)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !paths::is_running(pid)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The length of a module without the signature that the kernel's scripts/sign-file appends: the signature, a
/// structure of 12 bytes that ends in the signature's length (big-endian), and a line of text.
fn unsigned_length(module: &[u8]) -> usize {
    const TEXT: &[u8] = b"~Module signature appended~\n";
    const STRUCTURE: usize = 12;
    let Some(signed) = module.strip_suffix(TEXT) else {
        return module.len();
    };
    let length = signed
        .last_chunk()
        .map_or(0, |&length| u32::from_be_bytes(length) as usize);
    signed
        .len()
        .checked_sub(STRUCTURE + length)
        .unwrap_or(module.len())
}

/// The package that [`META_PACKAGE`] depends on at present, or `None` when apt has no lists.
fn dependency() -> Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", META_PACKAGE])
        .stderr(Stdio::null())
        .output();
    let output = output.context("cannot start apt-cache (is this a Debian system?)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names
        .map(str::to_owned)
        .find(|name| name.starts_with("linux-image-")))
}

/// Downloads `package` into `dir`; `None` when apt-get could not.
fn fetch(package: &str, dir: &Path) -> Result<Option<PathBuf>> {
    eprintln!("hynest: downloading {package}");
    // When the lab is killed, so is the download: nobody waits for it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "apt-get"]);
    command.args(deps::quietness());
    // Without this, root is warned that the unprivileged user of apt cannot write here.
    command.args(["-o", "APT::Sandbox::User=root", "download", package]);
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    let status = command.status().context("cannot start apt-get")?;
    ensure!(!machine::interrupted(), "interrupted");
    if !status.success() {
        return Ok(None);
    }
    let files = std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(files
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb")))
}

/// Takes the kernel and its modules out of the package into the new folder `content`.
fn open(archive: &Path, content: &Path) -> Result<()> {
    paths::create_dir(content)?;
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let stdout = child.stdout.take().context("dpkg-deb has no output")?;
    let mut found = 0;
    for entry in tar::Archive::new(stdout).entries()? {
        let mut entry = entry.with_context(|| format!("{} is damaged", archive.display()))?;
        let path = entry.path()?.into_owned();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let wanted = if name.starts_with("vmlinuz-") {
            "vmlinuz".to_owned()
        } else if name
            .strip_suffix(".ko")
            .is_some_and(|stem| MODULES.contains(&stem))
        {
            name
        } else {
            continue;
        };
        let mut bytes = Vec::new();
        entry
            .read_to_end(&mut bytes)
            .with_context(|| format!("{} is damaged", archive.display()))?;
        paths::write_whole(&content.join(wanted), &bytes)?;
        found += 1;
    }
    if !child.wait().context("dpkg-deb is gone")?.success() || found != MODULES.len() + 1 {
        bail!(
            "{} does not hold a kernel and its KVM modules as Debian 12 packs them",
            archive.display()
        );
    }
    paths::write_whole(&content.join(COMPLETE), b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_download_left_goes_and_what_another_is_at_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mine = format!("{DOWNLOAD}{}-x", std::process::id());
        // No process has this number: it is above the kernel's limit.
        let broken_off = format!("{DOWNLOAD}99999999-y");
        for name in [
            &mine,
            &broken_off,
            &format!("{DOWNLOAD}old"),
            "linux-image-6",
        ] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        forget_broken_off(dir.path());
        let left = std::fs::read_dir(dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [&*mine, "linux-image-6"]);
    }

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let text = b"~Module signature appended~\n";
        let signed = [&b"ELF"[..], &[9; 5], &[0; 8], &5_u32.to_be_bytes(), text].concat();
        assert_eq!(unsigned_length(&signed), 3);
        assert_eq!(unsigned_length(b"ELF"), 3);
        let absurd = [&b"ELF"[..], &u32::MAX.to_be_bytes(), text].concat();
        assert_eq!(unsigned_length(&absurd), absurd.len());
    }
}
