//! Format, lints and documentation.
//!
//! The bare-metal images are linted with the flags they are built with, and apart from the rest: together with crates
//! that want the standard library, Cargo would give it to theirs, too.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{Kind, Tally};
use crate::image;
use crate::paths::Paths;

struct Check {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Arguments that choose features.
    features: &'static [&'static str],
    /// Flags for rustdoc.
    documentation: &'static str,
    /// Whether it is of the images.
    of_images: bool,
}

/// Each image by itself, as it is built: together they would share the features of what both use, and the payloads have
/// no allocator.
macro_rules! lints_of {
    ($image:literal) => {
        &[
            "clippy",
            "--package",
            $image,
            "--profile",
            "metal",
            "--target",
            image::TARGET,
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]
    };
}

const CHECKS: [Check; 6] = [
    Check {
        name: "format",
        arguments: &["fmt", "--all", "--check"],
        features: &[],
        documentation: "",
        of_images: false,
    },
    Check {
        name: "lints",
        arguments: &["clippy", "--all-targets", "--quiet", "--", "-D", "warnings"],
        features: &[],
        documentation: "",
        of_images: false,
    },
    Check {
        name: "lints of the image",
        arguments: lints_of!("hynest"),
        features: &[],
        documentation: "",
        of_images: true,
    },
    Check {
        name: "lints of the image that counts its accesses",
        arguments: lints_of!("hynest"),
        features: &["--features", "count-accesses"],
        documentation: "",
        of_images: true,
    },
    Check {
        name: "lints of the payloads",
        arguments: lints_of!("payloads"),
        features: &[],
        documentation: "",
        of_images: true,
    },
    Check {
        name: "documentation",
        arguments: &["doc", "--no-deps", "--quiet"],
        features: &[],
        documentation: "-D warnings",
        of_images: false,
    },
];

/// Runs the checks. Each is a test.
pub fn run(paths: &Paths, tally: &mut Tally) {
    for check in &CHECKS {
        let started = Instant::now();
        eprintln!("hynest: cargo {}", check.arguments.join(" "));
        tally.enter(Kind::Checks, check.name, started, check.run(paths));
    }
}

impl Check {
    fn run(&self, paths: &Paths) -> Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // They go in front of what is for clippy itself.
        let (command_name, rest) = self.arguments.split_at(1);
        command.args(command_name).args(self.features).args(rest);
        if !self.documentation.is_empty() {
            command.env("RUSTDOCFLAGS", self.documentation);
        }
        if self.of_images {
            image::metal_environment(&mut command, paths);
        }
        let output = command
            .current_dir(&paths.workspace)
            .stdin(Stdio::null())
            .output();
        let output = output.context("cannot start cargo")?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let first: Vec<&str> = text.lines().take(LINES).collect();
            bail!(
                "`cargo {}` does not pass:\n{}",
                self.arguments.join(" "),
                first.join("\n")
            );
        }
        Ok(())
    }
}

/// How much of the output of a failed check is shown.
const LINES: usize = 60;
