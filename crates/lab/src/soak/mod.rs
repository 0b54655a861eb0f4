//! `cargo hynest soak`: an L1 with L2s is saved and restored again and again beside TSCs of other rates, and the rate
//! changes in place, too, while all of them read their clocks and check their memory.
//!
//! [`plan`] says what a seed stands for, [`outcome`] whether what came of it is right.

mod outcome;
mod plan;

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cli::Soak as Options;
use crate::paths::{self, Paths};
use crate::programs::Programs;
use crate::progress::Pieces;
use crate::run::{self, View};
use crate::scenario::{Count, Rate, Scenario};
use crate::{deps, machine};
use outcome::Outcome;
use plan::Leg;

/// Seconds that one machine may take, and be silent, on a host that is not stuck.
const PATIENCE: u64 = 3600;

/// Runs the command; the exit status is 0 only if all is right.
pub fn run(paths: &Paths, options: &Options) -> Result<u8> {
    deps::ensure(deps::FOR_A_RUN)?;
    let outcome = perform(paths, options)?;
    let text = match options.json {
        true => {
            serde_json::to_string_pretty(&outcome).context("the outcome cannot be written")? + "\n"
        }
        false => outcome.text(),
    };
    // A reader that has gone is no reason for an error message.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(u8::from(!outcome.failures.is_empty()))
}

fn perform(paths: &Paths, options: &Options) -> Result<Outcome> {
    let logs = paths.root.join("soak");
    paths::create_dir(&logs)?;
    let states = tempfile::tempdir_in(&logs).context("no folder for the saved partitions")?;
    let given = (options.image.clone(), options.vmm.clone());
    let programs = Programs::get(paths, states.path(), given.0, given.1)?;
    let legs = plan::legs(options.seed, options.moves);
    let state = |n: usize| states.path().join(format!("state-{}", n % 2));
    let mut outcome = Outcome {
        seed: options.seed,
        changes: options.changes,
        moves: options.moves,
        ..Outcome::default()
    };
    let progress = Pieces::new(legs.len());
    for (n, leg) in legs.iter().enumerate() {
        progress.say(&format!("[{}/{}] {}", n + 1, legs.len(), leg.sentence()));
        let scenario = Scenario {
            image: Some(programs.image.clone()),
            restore: (n > 0).then(|| state(n - 1)),
            save: leg.save_at.map(|_| state(n)),
            ..scenario(options, leg, n == 0, &programs)
        };
        let view = View {
            silent: true,
            log: Some(logs.join(format!("seed-{}-{n:02}.log", options.seed))),
            ..View::default()
        };
        let started = Instant::now();
        let summary = run::run(paths, &scenario, &view)?;
        ensure!(!machine::interrupted(), "interrupted");
        if !outcome.take(leg, started.elapsed(), summary) {
            break;
        }
        progress.done();
    }
    outcome.judge();
    Ok(outcome)
}

fn scenario(options: &Options, leg: &Leg, boots: bool, programs: &Programs) -> Scenario {
    let common = Scenario {
        tsc_hz: Some(Rate(leg.tsc_hz)),
        tsc_scaling: Some(leg.scaling),
        tsc_rate_port: Some(true),
        save_at: leg.save_at.map(Count),
        timeout: Some(PATIENCE),
        watchdog: Some(PATIENCE),
        ..Scenario::default()
    };
    if !boots {
        return common;
    }
    let Options {
        seed,
        changes,
        moves,
        ..
    } = options;
    Scenario {
        cpus: Some(2),
        run: Some(vec!["clocks".to_owned()]),
        clock_changes: Some(format!("{changes}:{seed}:{moves}")),
        vmm: Some(programs.vmm.clone()),
        ..common
    }
}
