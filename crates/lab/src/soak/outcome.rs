//! What came of a soak, and whether it is right.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::plan::Leg;
use crate::costs::thousands;
use crate::events::{Churn, Clocks, ComparedClock};
use crate::exit::Ending;
use crate::report::Summary;
use crate::scenario::TscScaling;

/// A clock may be wrong by this, in millionths.
const MOST_PPM: u64 = 200;
/// From one sample to the next it may be ahead or behind by this for certain, in nanoseconds.
const MOST_JUMP: u64 = 1_000;

/// Clocks that count time, and are held against L0's.
const COMPARED: [&str; 2] = ["L1 CLOCK_MONOTONIC", "L2 kvm-clock"];
/// Clocks that are only to go on: a TSC has a rate that changes, and Linux 6.1's KVM leaves L2's page as it is then.
const OTHERS: [&str; 4] = [
    "L1 TSC",
    "L1 TIME_REF_COUNT",
    "L2 TSC",
    "L2 reference TSC page",
];

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// What drew it.
    pub seed: u64,
    /// Changes of the rate that were asked for.
    pub changes: u32,
    /// Moves that were asked for.
    pub moves: u32,
    /// Changes that L0 made.
    pub changes_made: u64,
    /// How often L1 was told, of changes and of moves.
    pub told: Option<u64>,
    /// The machines.
    pub legs: Vec<Ended>,
    /// What L1 and an L2 found of their clocks.
    pub clocks: Option<Clocks>,
    /// What the L2 Linux found of its clock.
    pub linux: Option<String>,
    /// L2s whose memory was changed under them.
    pub churns: Vec<Churn>,
    /// What was not as it must be.
    pub failures: Vec<String>,
}

/// What came of one machine.
#[derive(Debug, Serialize)]
pub struct Ended {
    /// The rate of its TSC.
    pub tsc_hz: u32,
    /// Whether hardware was to hide it.
    pub is_hidden: bool,
    /// Seconds of the host's, from the command to its end.
    pub seconds: f64,
    /// Instructions of all processors.
    pub instructions: Option<u64>,
    /// TSC reads that L0 emulated.
    pub emulated_reads: u64,
    /// Bytes of the file that L1 was saved to.
    pub saved_bytes: Option<u64>,
    /// Its processors in the middle of an L2's run then.
    pub saved_in_l2: Option<usize>,
}

impl Outcome {
    /// Takes up what came of one machine. Returns whether L1 is to go on.
    pub fn take(&mut self, leg: &Leg, took: Duration, summary: Summary) -> bool {
        let n = self.legs.len();
        let expected = match leg.save_at {
            Some(_) => Ending::Saved,
            None => Ending::PowerOff,
        };
        let is_right = summary.ending == Some(expected);
        if !is_right {
            let how = summary
                .ending
                .map_or("it did not end", |ending| ending.sentence());
            self.failures
                .push(format!("machine {n}: {how}: {}", summary.message));
        }
        let warnings = summary.warnings.iter();
        self.failures
            .extend(warnings.map(|line| format!("machine {n}: {line}")));
        let failed = summary.steps.iter().filter(|step| step.state == "failed");
        self.failures
            .extend(failed.map(|step| format!("machine {n}: the step '{}' failed", step.name)));
        self.changes_made += summary.total("tsc-rate-changes");
        self.told = summary.reenlightenments.or(self.told);
        self.legs.push(Ended {
            tsc_hz: leg.tsc_hz,
            is_hidden: leg.scaling == TscScaling::Auto,
            seconds: took.as_secs_f64(),
            instructions: summary.instructions,
            emulated_reads: summary.total("emulated-tsc-reads"),
            saved_bytes: summary.saved.as_ref().map(|saved| saved.bytes),
            saved_in_l2: summary.saved.as_ref().map(|saved| saved.in_l2),
        });
        self.clocks = summary
            .compared_clocks
            .into_iter()
            .next()
            .or(self.clocks.take());
        let mut guests = summary.l2.into_values();
        self.linux = guests.find_map(|l2| l2.clock).or(self.linux.take());
        self.churns.extend(summary.churns);
        is_right
    }

    /// Holds it against what must be, when all machines have ended.
    pub fn judge(&mut self) {
        let verdicts = [
            self.was_told(),
            self.was_hidden_or_noted(),
            self.clocks_are_right(),
            self.linux_is_right(),
            self.memory_is_right(),
        ];
        let wrong = verdicts.into_iter().filter_map(Result::err);
        self.failures
            .extend(wrong.map(|error| format!("{error:#}")));
    }

    fn was_told(&self) -> Result<()> {
        let (made, moved) = (self.changes_made, self.legs.len() as u64 - 1);
        ensure!(
            made == u64::from(self.changes) && moved == u64::from(self.moves),
            "{} changes and {} moves were asked for, {made} and {moved} made",
            self.changes,
            self.moves
        );
        ensure!(
            self.told == Some(made + moved),
            "L1 was told of {:?} changes and moves, there were {}",
            self.told,
            made + moved
        );
        Ok(())
    }

    /// Where hardware can hide a rate no read was emulated, and elsewhere some were.
    fn was_hidden_or_noted(&self) -> Result<()> {
        for (n, leg) in self.legs.iter().enumerate().skip(1) {
            ensure!(
                leg.is_hidden == (leg.emulated_reads == 0),
                "machine {n}: {} TSC reads were emulated, and the rate was {} be hidden",
                leg.emulated_reads,
                if leg.is_hidden { "to" } else { "not to" }
            );
        }
        Ok(())
    }

    fn clocks_are_right(&self) -> Result<()> {
        let found = self.clocks.as_ref().context("no clocks were compared")?;
        ensure!(
            found.emulated_reads_after == Some(0),
            "TSC reads were emulated when L1 had taken note of all: {:?}",
            found.emulated_reads_after
        );
        ensure!(
            self.moves == 0 || found.told_before < u64::from(self.moves),
            "all moves were over before the clocks were compared"
        );
        for name in COMPARED.into_iter().chain(OTHERS) {
            let clock = found.clock(name);
            let clock = clock.with_context(|| format!("{name} was not read"))?;
            ensure!(
                clock.reads > 0 && clock.backwards == 0,
                "{name}: {} of {} reads went back",
                clock.backwards,
                clock.reads
            );
        }
        for name in COMPARED {
            let deviation = found.clock(name).and_then(|clock| clock.deviation);
            let is_right = deviation.is_some_and(|deviation| {
                deviation.comparisons > 0
                    && deviation.ppm <= MOST_PPM
                    && deviation.jump <= MOST_JUMP
            });
            ensure!(is_right, "{name} is wrong beside L0's: {deviation:?}");
        }
        Ok(())
    }

    fn linux_is_right(&self) -> Result<()> {
        let read = self.linux.as_deref();
        let read = read.context("the L2 Linux did not come to its end")?;
        ensure!(
            read.contains(" 0 by system call, 0 backwards"),
            "the L2 Linux: {read}"
        );
        Ok(())
    }

    fn memory_is_right(&self) -> Result<()> {
        if self.moves == 0 {
            return Ok(());
        }
        let wrong = self.churns.iter().find(|churn| churn.failure.is_some());
        ensure!(
            wrong.is_none(),
            "{}",
            wrong.map_or_else(String::new, Churn::line)
        );
        ensure!(self.checked() > 0, "no L2 has checked its memory");
        Ok(())
    }

    /// Pages that L2s have checked.
    fn checked(&self) -> u64 {
        let done = self.churns.iter().filter_map(|churn| churn.done.as_ref());
        done.map(|done| done.checked).sum()
    }

    /// For people.
    pub fn text(&self) -> String {
        let saves: Vec<&Ended> = self
            .legs
            .iter()
            .filter(|leg| leg.saved_bytes.is_some())
            .collect();
        let in_l2 = saves.iter().filter(|leg| leg.saved_in_l2 > Some(0)).count();
        let hidden = self.legs.iter().skip(1).filter(|leg| leg.is_hidden).count();
        let emulated: u64 = self.legs.iter().map(|leg| leg.emulated_reads).sum();
        let seconds: f64 = self.legs.iter().map(|leg| leg.seconds).sum();
        let sizes = || {
            saves
                .iter()
                .filter_map(|leg| leg.saved_bytes)
                .map(|bytes| bytes >> 20)
        };
        let mut out = format!(
            "seed {}: {} changes of the TSC's rate in place, {} moves to another machine in {seconds:.0} s\n",
            self.seed,
            self.changes_made,
            saves.len()
        );
        out += &format!(
            "  {in_l2} saves in the middle of an L2's run; files of {} to {} MiB; {hidden} moves hidden by hardware where it can\n",
            sizes().min().unwrap_or(0),
            sizes().max().unwrap_or(0)
        );
        out += &format!(
            "  L1 was told {} times; {} TSC reads were emulated; {} L2s verified {} pages of memory that was changed under them\n",
            self.told.map_or("?".to_owned(), |told| told.to_string()),
            thousands(emulated as i64),
            self.churns.len(),
            thousands(self.checked() as i64)
        );
        if let Some(linux) = &self.linux {
            out += &format!("  the L2 Linux's clock: {linux}\n");
        }
        if let Some(clocks) = &self.clocks {
            out += &format!("\n{}\n", table(&clocks.clocks));
        }
        for failure in &self.failures {
            out += &format!("FAILED  {failure}\n");
        }
        if self.failures.is_empty() {
            out += "No clock went back, stepped, or was wrong by more than it may be.\n";
        }
        out
    }
}

fn table(clocks: &[ComparedClock]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["clock", "reads", "backwards", "ppm at most", "largest step"]);
    for clock in clocks {
        // L2's reference TSC page is told of nothing by Linux 6.1's KVM.
        let deviation = clock
            .deviation
            .filter(|_| COMPARED.contains(&clock.name.as_str()));
        let of = |text: fn(&crate::events::Deviation) -> String| {
            deviation.as_ref().map_or("-".to_owned(), text)
        };
        table.add_row([
            clock.name.clone(),
            thousands(clock.reads as i64),
            clock.backwards.to_string(),
            of(|deviation| deviation.ppm.to_string()),
            of(|deviation| format!("{} ns", deviation.jump)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{ChurnDone, Deviation};

    fn clock(name: &str, ppm: u64) -> ComparedClock {
        ComparedClock {
            name: name.to_owned(),
            reads: 5,
            backwards: 0,
            deviation: Some(Deviation {
                comparisons: 3,
                ppm,
                jump: 0,
            }),
        }
    }

    fn right() -> Outcome {
        let leg = |emulated_reads| Ended {
            tsc_hz: 1,
            is_hidden: false,
            seconds: 1.0,
            instructions: None,
            emulated_reads,
            saved_bytes: None,
            saved_in_l2: None,
        };
        let names = COMPARED.into_iter().chain(OTHERS);
        Outcome {
            changes: 2,
            moves: 1,
            changes_made: 2,
            told: Some(3),
            legs: vec![leg(0), leg(3)],
            clocks: Some(Clocks {
                changes: 2,
                moves: 1,
                told_before: 0,
                seed: 1,
                seconds: 1.0,
                clocks: names.map(|name| clock(name, 200)).collect(),
                unstable: 0,
                invalid: 0,
                emulated_reads: Some(3),
                emulated_reads_after: Some(0),
            }),
            linux: Some("kvm-clock, 9 reads, 0 by system call, 0 backwards, 1 ns each".to_owned()),
            churns: vec![Churn {
                name: "memory".to_owned(),
                vcpus: 1,
                memory_mib: 1,
                failure: None,
                done: Some(ChurnDone {
                    rounds: 1,
                    zapped: 1,
                    replaced: 1,
                    swapped: 1,
                    protected: 1,
                    checked: 1,
                }),
            }],
            ..Outcome::default()
        }
    }

    #[test]
    fn each_thing_that_is_wrong_is_told() {
        let failures = |break_it: fn(&mut Outcome)| {
            let mut outcome = right();
            break_it(&mut outcome);
            outcome.judge();
            outcome.failures.join("\n")
        };
        assert_eq!(failures(|_| ()), "");
        for (break_it, text) in [
            ((|o| o.told = Some(2)) as fn(&mut Outcome), "there were 3"),
            (|o| o.changes_made = 1, "1 and 1 made"),
            (|o| o.clocks = None, "no clocks"),
            (|o| o.clocks.as_mut().unwrap().told_before = 1, "all moves"),
            (|o| o.legs[1].is_hidden = true, "3 TSC reads"),
            (|o| o.legs[1].emulated_reads = 0, "not to be hidden"),
            (|o| o.linux = None, "its end"),
            (|o| o.churns.clear(), "no L2 has checked"),
            (|o| o.churns[0].failure = Some("word".to_owned()), "word"),
            (
                |o| o.clocks.as_mut().unwrap().clocks[1] = clock("L2 kvm-clock", 201),
                "ppm: 201",
            ),
            (
                |o| o.clocks.as_mut().unwrap().clocks[4].backwards = 1,
                "1 of 5 reads went back",
            ),
        ] {
            assert!(failures(break_it).contains(text), "{}", failures(break_it));
        }
    }
}
