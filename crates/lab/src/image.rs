//! The programs of this workspace that run inside the machine, built by cargo: L0's image and L1's vmm.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;

/// Flags of the bare-metal images: loaded where linked; no red zone, for an interrupt would overwrite it; no SSE,
/// whose registers are the guest's while L0 runs.
const METAL_FLAGS: &[&str] = &[
    "-Crelocation-model=static",
    "-Cno-redzone=yes",
    "-Ctarget-feature=-sse,-sse2",
];

/// Flags of programs in the initramfs, which has no libraries.
const STATIC_FLAGS: &[&str] = &["-Ctarget-feature=+crt-static", "-Cstrip=symbols"];

/// Naming the target keeps the flags away from build scripts and procedural macros, which run on the host.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds a bare-metal image: the binary `name` of the package `name`.
pub fn metal(paths: &Paths, name: &str) -> Result<PathBuf> {
    metal_with(paths, name, &[])
}

/// The same with features of the package on.
pub fn metal_with(paths: &Paths, name: &str, features: &[&str]) -> Result<PathBuf> {
    build(paths, name, "metal", METAL_FLAGS, features)
}

/// Has a cargo command treat the bare-metal images as [`metal`] builds them.
pub fn metal_environment(command: &mut Command, paths: &Paths) {
    command.env("CARGO_ENCODED_RUSTFLAGS", METAL_FLAGS.join("\u{1f}"));
    command.env("CARGO_TARGET_DIR", paths.build());
}

/// Builds a static Linux program: the binary `name` of the package `name`.
pub fn program(paths: &Paths, name: &str) -> Result<PathBuf> {
    build(paths, name, "release", STATIC_FLAGS, &[])
}

fn build(
    paths: &Paths,
    name: &str,
    profile: &str,
    flags: &[&str],
    features: &[&str],
) -> Result<PathBuf> {
    let target_dir = paths.build();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&paths.workspace).stdin(Stdio::null());
    command.args([
        "build",
        "--quiet",
        "--package",
        name,
        "--bin",
        name,
        "--profile",
        profile,
        "--target",
        TARGET,
    ]);
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    command.arg("--target-dir").arg(&target_dir);
    // Takes the place of RUSTFLAGS and of any configuration: the flags above are part of the image.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // Its words would run into the line of progress, and are worth reading only when it fails: rustc warns each time
    // that an image without SSE will need another target some day.
    crate::progress::step(&format!("building {name}"), || {
        let output = command.output().context("cannot start cargo")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` does not build; cargo says:\n{}", said.trim())
    })?;
    let binary = Path::new(&target_dir).join(TARGET).join(profile).join(name);
    if !binary.exists() {
        bail!(
            "cargo built `{name}`, and {} is not there",
            binary.display()
        );
    }
    Ok(binary)
}
