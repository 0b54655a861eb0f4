//! `cargo hynest audit`: what L1 is shown works, and what it is not shown is refused.
//!
//! A payload as L1 does the work (`groups/audit` of the payloads); here its runs are planned, their
//! lines read and named, compared, and shown.

mod names;
mod plan;
mod row;
mod table;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use serde::Serialize;

pub use row::{Kind, Row, Word};

use crate::cli::Audit as Options;
use crate::exit::Ending;
use crate::paths::{self, Paths};
use crate::report::Summary;
use crate::run::View;
use crate::scenario::Scenario;
use crate::{deps, image, machine};
use plan::{Aim, Step};

/// What a run showed.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// What the run is called.
    pub name: String,
    /// What L0 offered.
    pub enlightenments: String,
    /// What was put to the test.
    pub rows: Vec<Row>,
    /// The words that were looked at.
    pub words: Vec<Word>,
}

impl Part {
    /// The rows that failed.
    pub fn problems(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.problem.is_some())
    }
}

/// Runs the command; the exit status is 0 only if nothing failed.
pub fn run(paths: &Paths, options: &Options) -> Result<u8> {
    deps::ensure(deps::FOR_A_RUN)?;
    let parts = perform(paths, options.quick)?;
    let text = match options.json {
        true => serde_json::to_string_pretty(&parts).context("the table cannot be written")? + "\n",
        false => table::text(&parts, options.problems),
    };
    // A reader that has gone is no reason for an error message.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    let failed = parts.iter().any(|part| part.problems().next().is_some());
    Ok(u8::from(failed))
}

/// Does all runs, or the first alone, as many at a time as there are processors.
pub fn perform(paths: &Paths, quick: bool) -> Result<Vec<Part>> {
    let images = Images {
        l0: image::metal(paths, "hynest")?,
        payload: image::metal(paths, "payloads")?,
    };
    let mut steps = vec![plan::first()];
    if !quick {
        steps.extend(plan::others());
    }
    let queue: Mutex<VecDeque<(usize, &Step)>> = Mutex::new(steps.iter().enumerate().collect());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = lock(&queue).pop_front();
                    let Some((index, step)) = next.filter(|_| !machine::interrupted()) else {
                        return;
                    };
                    eprintln!("hynest: auditing {}", step.name);
                    let outcome = images.part(paths, step);
                    lock(&done).push((index, outcome));
                }
            });
        }
    });
    if machine::interrupted() {
        bail!("interrupted");
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    let mut parts: Vec<Part> = Vec::new();
    for ((_, outcome), step) in done.into_iter().zip(&steps) {
        let mut part = outcome.with_context(|| format!("the run '{}'", step.name))?;
        if let (Aim::Off, Some(first)) = (step.aim, parts.first()) {
            part.rows.insert(0, gone(&part, first));
        }
        parts.push(part);
    }
    Ok(parts)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What boots.
struct Images {
    l0: PathBuf,
    payload: PathBuf,
}

impl Images {
    fn part(&self, paths: &Paths, step: &Step) -> Result<Part> {
        let scenario = Scenario {
            image: Some(self.l0.clone()),
            kernel: Some(self.payload.clone()),
            no_initrd: Some(true),
            cmdline: Some(step.command_line.clone()),
            cpus: Some(2),
            memory: Some("256M".parse()?),
            enlightenments: Some(step.enlightenments.clone()),
            timeout: Some(600),
            ..Scenario::default()
        };
        let view = View {
            silent: true,
            log: Some(log(paths, &step.name)?),
            ..View::default()
        };
        let mut summary = crate::run::run(paths, &scenario, &view)?;
        let ending = ended(&summary, step.aim);
        let mut rows = std::mem::take(&mut summary.audit);
        rows.extend(ending);
        Ok(Part {
            name: step.name.clone(),
            enlightenments: step.enlightenments.clone(),
            rows,
            words: summary.audit_words,
        })
    }
}

/// Where a run's log is kept.
fn log(paths: &Paths, name: &str) -> Result<PathBuf> {
    let folder = paths.root.join("audit");
    paths::create_dir(&folder)?;
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let file: String = name.chars().map(plain).collect();
    Ok(folder.join(file + ".log"))
}

/// The row about a run's end: always where it was meant to end the partition, else if it did not come to its own.
fn ended(summary: &Summary, aim: Aim) -> Option<Row> {
    let sentence = summary.ending.map_or("it did not end", Ending::sentence);
    let problem = format!("{sentence}: {}", summary.message);
    let (register, bits, expected, how) = match aim {
        Aim::End(ending, register, bit) => (register, bit.to_string(), ending, ending.sentence()),
        Aim::Walk | Aim::Off => ("the run", "-".to_owned(), Ending::PowerOff, "its end"),
    };
    let is_promise = matches!(aim, Aim::End(..));
    let whole = is_promise || matches!(summary.sums, Some(sums) if sums != (0, 0));
    let fine = summary.ending == Some(expected) && whole;
    (is_promise || !fine).then(|| Row {
        name: bits
            .parse()
            .ok()
            .and_then(|bit| names::name(register, bit))
            .map(str::to_owned),
        register: register.to_owned(),
        bits,
        kind: if is_promise { Kind::Shown } else { Kind::Fact },
        how: how.to_owned(),
        problem: (!fine).then_some(problem),
    })
}

/// The row about a switch that is off: something of the Hv#1 leaves is gone, and nothing is there instead.
fn gone(part: &Part, first: &Part) -> Row {
    let (mut lost, mut gained) = (Vec::new(), Vec::new());
    for word in &part.words {
        let Some(before) = first
            .words
            .iter()
            .find(|other| other.register == word.register)
        else {
            continue;
        };
        for bit in 0..64 {
            let name = || {
                let number = || format!("{} {bit}", word.register);
                names::name(&word.register, bit).map_or_else(number, str::to_owned)
            };
            match (before.value >> bit & 1, word.value >> bit & 1) {
                (1, 0) => lost.push(name()),
                (0, 1) => gained.push(name()),
                _ => {}
            }
        }
    }
    let problem = if !gained.is_empty() {
        Some(format!("shown instead: {}", gained.join(", ")))
    } else if lost.is_empty() {
        Some("nothing is hidden".to_owned())
    } else {
        None
    };
    Row {
        register: "Hv#1 leaves".to_owned(),
        bits: "-".to_owned(),
        name: None,
        kind: Kind::Hidden,
        how: format!("gone: {}", lost.join(", ")),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: u64) -> Part {
        Part {
            name: "x".into(),
            enlightenments: "all".into(),
            rows: Vec::new(),
            words: vec![Word {
                register: "CPUID 0x40000004 EAX".into(),
                value,
            }],
        }
    }

    #[test]
    fn a_switch_takes_bits_away_and_gives_none() {
        let fine = gone(&part(0b0100), &part(0b1100));
        assert_eq!(fine.problem, None);
        assert_eq!(fine.how, "gone: apic_msrs");
        assert!(gone(&part(0b1100), &part(0b1100)).problem.is_some());
        assert!(gone(&part(0b0101), &part(0b1100)).problem.is_some());
    }

    #[test]
    fn a_run_that_breaks_off_is_a_problem() {
        let mut summary = Summary {
            ending: Some(Ending::PowerOff),
            ..Summary::default()
        };
        assert!(ended(&summary, Aim::Walk).unwrap().problem.is_some());
        summary.sums = Some((3, 0));
        assert_eq!(ended(&summary, Aim::Walk), None);
        let aim = Aim::End(Ending::Reset, "CPUID 0x40000003 EBX:EAX", 7);
        let row = ended(&summary, aim).unwrap();
        assert!(row.problem.is_some());
        assert_eq!(row.name.as_deref(), Some("access_reset"));
        summary.ending = Some(Ending::Reset);
        assert_eq!(ended(&summary, aim).unwrap().problem, None);
    }
}
