//! Format, lints and documentation of the whole workspace.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{Kind, Tally};
use crate::paths::Paths;

struct Check {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const CHECKS: [Check; 3] = [
    Check {
        name: "format",
        arguments: &["fmt", "--all", "--check"],
        environment: &[],
    },
    Check {
        name: "lints",
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Check {
        name: "documentation",
        arguments: &["doc", "--workspace", "--no-deps", "--quiet"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
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
        command
            .args(self.arguments)
            .envs(self.environment.iter().copied());
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
