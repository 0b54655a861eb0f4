//! The tests that need no machine: `cargo test` of the default members.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{Kind, Tally};
use crate::paths::Paths;

/// Runs them; each counts as one.
pub fn run(paths: &Paths, tally: &mut Tally) {
    let started = Instant::now();
    eprintln!("hynest: cargo test");
    let mut counts = Counts::default();
    let outcome = cargo_test(paths, &mut counts);
    tally.enter_passed(counts.passed);
    for name in &counts.failed {
        tally.enter(
            Kind::Host,
            name,
            started,
            Err(anyhow::anyhow!("see its output above")),
        );
    }
    // Tests that do not even build have no names.
    if let (Err(error), true) = (outcome, counts.failed.is_empty()) {
        tally.enter(Kind::Host, "cargo test", started, Err(error));
    } else if counts.failed.is_empty() {
        println!(
            "ok      host: {} tests ({:.1} s)",
            counts.passed,
            started.elapsed().as_secs_f32()
        );
    }
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: usize,
    failed: Vec<String>,
}

impl Counts {
    /// Takes note of a line as Rust's test harness writes it.
    fn line(&mut self, line: &str) {
        let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        match verdict.trim() {
            "ok" => self.passed += 1,
            "FAILED" => self.failed.push(name.to_owned()),
            _ => {}
        }
    }
}

fn cargo_test(paths: &Paths, counts: &mut Counts) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["test", "--no-fail-fast"])
        .current_dir(&paths.workspace)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cargo's output is no text")?;
        counts.line(&line);
        lines.push(line);
    }
    if !child.wait().context("cargo is gone")?.success() {
        for line in lines.iter().filter(|line| !line.ends_with(" ... ok")) {
            println!("{line}");
        }
        bail!("`cargo test` failed before or after its tests");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_lines_are_counted() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test c ... FAILED",
            "test d ... ignored",
            "test result: FAILED. 1 passed; 1 failed",
        ] {
            counts.line(line);
        }
        assert_eq!(
            counts,
            Counts {
                passed: 1,
                failed: vec!["c".into()]
            }
        );
    }
}
