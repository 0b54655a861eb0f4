//! `cargo hynest test`: everything that is checked, in one command with one verdict.

mod chain;
mod checks;
mod damage;
mod host;
mod image;
mod payload;
mod runs;
mod seed;
mod system;

use std::time::Instant;

use anyhow::Result;

use crate::cli::Test as Options;
use crate::deps;
use crate::machine;
use crate::paths::Paths;

/// The kinds of test, in the order in which they run: the quick ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Format, lints, documentation
    Checks,
    /// Unit and property tests, on the host
    Host,
    /// The bare-metal image, taken apart
    Image,
    /// Test payloads as L1, in the emulator
    Machine,
    /// Whole systems in the emulator
    System,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Checks,
        Self::Host,
        Self::Image,
        Self::Machine,
        Self::System,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Checks => "checks",
            Self::Host => "host",
            Self::Image => "image",
            Self::Machine => "machine",
            Self::System => "system",
        }
    }
}

/// Counts what passed and what failed, and says so as it happens.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Enters one test's outcome: an error is why it failed.
    fn enter(&mut self, kind: Kind, name: &str, started: Instant, outcome: Result<()>) {
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {}: {name} ({seconds:.1} s)", kind.name());
            }
            Err(error) => {
                println!("FAILED  {}: {name} ({seconds:.1} s)", kind.name());
                println!(
                    "        {}",
                    format!("{error:#}").replace('\n', "\n        ")
                );
                self.failures.push(format!("{}: {name}", kind.name()));
            }
        }
    }

    /// Enters many tests that passed.
    fn enter_passed(&mut self, count: usize) {
        self.passed += count;
    }

    /// The last lines of the command's output.
    fn verdict(&self) -> String {
        let mut out = String::new();
        for failure in &self.failures {
            out += &format!("failed: {failure}\n");
        }
        out + &format!("{} passed, {} failed\n", self.passed, self.failures.len())
    }
}

/// Runs what `options` select; the exit status is 0 only if all passed.
pub fn run(paths: &Paths, options: &Options) -> Result<u8> {
    let mut tally = Tally::default();
    for kind in Kind::ALL {
        if options.only.is_some_and(|only| only != kind) || machine::interrupted() {
            continue;
        }
        let filter = options.filter.as_deref().unwrap_or_default();
        match kind {
            Kind::Checks if filter.is_empty() => checks::run(paths, &mut tally),
            Kind::Host if filter.is_empty() => host::run(paths, &mut tally),
            Kind::Image if filter.is_empty() => image::run(paths, &mut tally),
            Kind::Machine => {
                deps::ensure(deps::FOR_A_RUN)?;
                payload::run(paths, filter, &mut tally);
            }
            Kind::System => {
                deps::ensure(deps::FOR_A_RUN)?;
                system::run(paths, filter, &mut tally);
            }
            _ => {}
        }
    }
    if machine::interrupted() {
        tally.failures.push("interrupted".to_owned());
    }
    print!("\n{}", tally.verdict());
    Ok(u8::from(!tally.failures.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_last_line() {
        let mut tally = Tally::default();
        tally.enter_passed(40);
        tally.enter(Kind::Image, "good", Instant::now(), Ok(()));
        assert_eq!(tally.verdict(), "41 passed, 0 failed\n");
        tally.enter(
            Kind::System,
            "bad",
            Instant::now(),
            Err(anyhow::anyhow!("why")),
        );
        assert_eq!(tally.verdict().lines().last(), Some("41 passed, 1 failed"));
        assert!(tally.verdict().contains("failed: system: bad"));
    }
}
