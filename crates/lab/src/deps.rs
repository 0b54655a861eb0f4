//! The Debian packages a run needs, installed by name on first use.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::machine;

/// A Debian package and a file by which to know that it is there.
///
/// The file, not dpkg's database, decides: a self-built Bochs in the same place is as good.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    name: &'static str,
    file: &'static str,
}

/// The emulator. `bochs-term` is the smallest package that satisfies the dependency of `bochs` on a GUI.
pub const BOCHS: Package = Package {
    name: "bochs",
    file: "/usr/bin/bochs-bin",
};
const BOCHS_GUI: Package = Package {
    name: "bochs-term",
    file: "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_rfb_gui.so",
};
const BIOS: Package = Package {
    name: "bochsbios",
    file: "/usr/share/bochs/BIOS-bochs-latest",
};
const VGA_BIOS: Package = Package {
    name: "vgabios",
    file: "/usr/share/bochs/VGABIOS-lgpl-latest",
};
const GRUB: Package = Package {
    name: "grub-common",
    file: "/usr/bin/grub-mkimage",
};
const GRUB_PC: Package = Package {
    name: "grub-pc-bin",
    file: "/usr/lib/grub/i386-pc/multiboot2.mod",
};
const BUSYBOX: Package = Package {
    name: "busybox-static",
    file: "/bin/busybox",
};
/// `setpriv`, by which the emulator ends when the lab does.
const SETPRIV: Package = Package {
    name: "util-linux",
    file: "/usr/bin/setpriv",
};

/// Everything that a run in the emulator needs.
pub const FOR_A_RUN: &[Package] = &[
    BOCHS, BOCHS_GUI, BIOS, VGA_BIOS, GRUB, GRUB_PC, BUSYBOX, SETPRIV,
];

/// Installs those of `packages` whose file is not there.
///
/// # Errors
///
/// When neither this user nor `sudo -n` may install, one line with the command that somebody else may run.
pub fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|p| !Path::new(p.file).exists())
        .map(|p| p.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let by_hand = as_root(&format!(
        "apt-get update && apt-get install --no-install-recommends {list}"
    ));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("these Debian packages are needed and there is no apt-get here: {list}");
    }
    let Some(root) = Root::find() else {
        bail!("Debian packages are missing, and neither root nor sudo works here; run: {by_hand}");
    };
    eprintln!("hynest: installing {list}");
    let install = || {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(&missing);
        root.apt_get(&arguments)
    };
    // On a fresh system there are no package lists yet, and on an old one they may name packages that the
    // mirror has replaced: both are cured by an update.
    if !lists_are_there() || !install()? {
        root.apt_get(&["update"])?;
        if !install()? {
            bail!(
                "apt-get could not install {list}, its messages are above; try it by hand: {by_hand}"
            );
        }
    }
    match packages.iter().find(|p| !Path::new(p.file).exists()) {
        None => Ok(()),
        Some(p) => bail!(
            "{} is still missing after installing {} (another distribution than Debian 12?)",
            p.file,
            p.name
        ),
    }
}

/// Whether this user may bring apt's package lists up to date.
pub fn may_update_lists() -> bool {
    Root::find().is_some()
}

/// Brings apt's package lists up to date, with what rights there are.
pub fn update_lists() -> Result<()> {
    let Some(root) = Root::find() else {
        bail!(
            "apt's package lists are missing or old, and neither root nor sudo works here; run: {}",
            as_root("apt-get update")
        );
    };
    eprintln!("hynest: updating apt's package lists");
    if !root.apt_get(&["update"])? {
        bail!("`apt-get update` failed, its messages are above; is there a network?");
    }
    Ok(())
}

/// How somebody who may become root runs `command`: by sudo, or where there is none, by su.
fn as_root(command: &str) -> String {
    let by = match Path::new("/usr/bin/sudo").exists() {
        true => "sudo sh -c",
        false => "su -c",
    };
    format!("{by} '{command}'")
}

/// apt-get without the animations that are for terminals, unless this is one.
pub fn quietness() -> &'static [&'static str] {
    match std::io::stderr().is_terminal() {
        true => &[],
        false => &["-q"],
    }
}

fn lists_are_there() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|dir| {
        dir.filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

/// A way to act as root.
enum Root {
    Already,
    Sudo,
}

impl Root {
    fn find() -> Option<Self> {
        if nix::unistd::Uid::effective().is_root() {
            return Some(Self::Already);
        }
        let sudo = Command::new("sudo")
            .args(["-n", "true"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        sudo.is_ok_and(|status| status.success())
            .then_some(Self::Sudo)
    }

    /// Runs apt-get, its output on standard error so that the user sees it work; says whether it succeeded.
    fn apt_get(&self, arguments: &[&str]) -> Result<bool> {
        let mut command = match self {
            Self::Already => Command::new("env"),
            Self::Sudo => Command::new("sudo"),
        };
        if matches!(self, Self::Sudo) {
            command.args(["-n", "env"]);
        }
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(quietness())
            .args(arguments);
        command.stdin(Stdio::null()).stdout(std::io::stderr());
        let status = command.status().context("cannot start apt-get")?;
        // Ctrl-C has reached apt-get, too: no second try.
        ensure!(!machine::interrupted(), "interrupted");
        Ok(status.success())
    }
}
