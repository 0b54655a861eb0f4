//! The summary at a run's end: for people as text, for programs as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit::{Row, Word};
use crate::costs::{self, thousands};
use crate::events::{
    Churn, Clock, Clocks, Counters, L1, L2End, L2Exits, Measurement, StaleField, Start, Step,
    StepCounters,
};
use crate::exit::{self, Ending};
use crate::proof::{self, Proof};

/// What a run showed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Summary {
    /// What ran.
    pub setup: Setup,
    /// How it ended.
    pub ending: Option<Ending>,
    /// What whoever ended it had to say.
    pub message: String,
    /// Instructions (or ticks) from power-on to the end, all processors' time together.
    pub instructions: Option<u64>,
    /// What L0 reported at its start.
    pub l0: Option<Start>,
    /// What L1's Linux said about itself, the last time it did.
    pub l1: Option<L1>,
    /// The L2 Linuxes, by name.
    pub l2: BTreeMap<String, L2>,
    /// The steps of `hynest.run=`, in order.
    pub steps: Vec<Step>,
    /// L0's counters at the beginning and the end of each step.
    pub step_counters: Vec<StepCounters>,
    /// Costs of L2's operations.
    pub measurements: Vec<Measurement>,
    /// L2s whose memory was changed under them.
    pub churns: Vec<Churn>,
    /// L2s whose vCPUs read their clocks.
    pub clocks: Vec<Clock>,
    /// What came of comparing clocks with L0's.
    #[serde(default)]
    pub compared_clocks: Vec<Clocks>,
    /// How often L1 was told that the TSC's rate changed, where it says so.
    #[serde(default)]
    pub reenlightenments: Option<u64>,
    /// Verdicts of a test payload as L1.
    pub cases: Vec<Case>,
    /// What an auditing payload put to the test.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit: Vec<Row>,
    /// The words that it looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit_words: Vec<Word>,
    /// The payload's own sums: passed and failed. It ran to its end when they are there.
    pub sums: Option<(usize, usize)>,
    /// What shows each enlightenment at work.
    pub proofs: Vec<Proof>,
    /// L0's counters when it ended.
    pub counters: Option<Counters>,
    /// What the clean-field auditor found, each place once.
    #[serde(default)]
    pub stale_fields: Vec<StaleField>,
    /// Lines that no run should show.
    pub warnings: Vec<String>,
    /// Seconds from the emulator's start until L1's init was at a step.
    #[serde(default)]
    pub up_after: Option<f64>,
    /// Ticks that L0 took to save the partition.
    #[serde(default)]
    pub save_ticks: Option<u64>,
    /// The partition as it was saved.
    #[serde(default)]
    pub saved: Option<Saved>,
}

/// A saved partition.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Saved {
    /// The file.
    pub file: PathBuf,
    /// Bytes of it.
    pub bytes: u64,
    /// Bytes of L1's memory in it: of pages that do not repeat one word.
    pub memory_bytes: u64,
    /// L1's processors in the middle of an L2's run.
    pub in_l2: usize,
    /// Seconds of L1's reference clock.
    pub seconds: f64,
}

/// What was started.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Setup {
    /// The emulator and its version.
    pub emulator: String,
    /// Its processor model.
    pub cpu_model: String,
    /// Processors.
    pub cpus: u32,
    /// The machine's memory.
    pub memory_mib: u32,
    /// L1's share of it.
    pub l1_memory_mib: u32,
    /// The TSC's rate; a tick is an instruction.
    pub tsc_hz: u64,
    /// L1's kernel.
    pub kernel: String,
    /// Its command line.
    pub command_line: String,
    /// What was asked of L0.
    pub enlightenments: String,
    /// Whether the clean-field auditor looked at L1's entries.
    #[serde(default)]
    pub is_audited: bool,
    /// The saved partition that went on.
    #[serde(default)]
    pub restored: Option<PathBuf>,
}

/// A test payload's verdict on one thing it looked at.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Case {
    /// What was looked at.
    pub name: String,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// What an L2 Linux told of itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct L2 {
    /// What its kernel's log tells of the hypervisor that it sees.
    #[serde(default)]
    pub log: Vec<String>,
    /// `uname -srm`.
    pub uname: Option<String>,
    /// Processors.
    pub processors: Option<u32>,
    /// Its uptime in seconds when it reached its user space, by its own clock.
    pub uptime: Option<f64>,
    /// What came of reading its clock from its user space.
    pub clock: Option<String>,
    /// How often that left L2.
    pub clock_exits: Option<L2Exits>,
    /// How it ended.
    pub end: Option<L2End>,
}

impl Setup {
    /// The lines shown before anything runs.
    pub fn header(&self) -> String {
        let plural = if self.cpus == 1 { "" } else { "s" };
        let l1 = match &self.restored {
            Some(file) => format!(
                "L1: goes on as saved in {}, enlightenments offered: {}\n",
                file.display(),
                self.enlightenments
            ),
            None => format!(
                "L1: Linux {}, enlightenments offered: {}\nL1 command line: {}\n",
                self.kernel, self.enlightenments, self.command_line,
            ),
        };
        format!(
            "hynest on {} ({}), {} processor{plural}, {} MiB of memory ({} MiB for L1)\n\
             clock: instructions, one tick each, {} million a second of virtual time\n\
             {l1}",
            self.emulator,
            self.cpu_model,
            self.cpus,
            self.memory_mib,
            self.l1_memory_mib,
            self.tsc_hz / 1_000_000,
        )
    }
}

impl Summary {
    /// The command's exit status: the ending's, and a run that ended well fails by what the auditor found, or by
    /// a step of L1's init that failed.
    pub fn status(&self) -> u8 {
        match self.ending.map_or(1, Ending::status) {
            0 if !self.stale_fields.is_empty() => exit::STALE_FIELDS,
            0 if self.steps.iter().any(|step| step.state == "failed") => exit::FAILED_STEP,
            status => status,
        }
    }

    /// What L0 counted under this name, on all VPs.
    pub fn total(&self, counter: &str) -> u64 {
        let vps = self.counters.iter().flat_map(|counters| &counters.vps);
        vps.filter_map(|vp| vp.get(counter)).sum()
    }

    /// Takes note of a line of L1's console, where L1 is a test payload: `ok NAME`, `FAIL NAME: why`, and at the end
    /// `payload: N passed, N failed`.
    pub fn payload_line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("ok ") {
            self.cases.push(Case {
                name: name.to_owned(),
                failure: None,
            });
        } else if let Some(rest) = line.strip_prefix("FAIL ") {
            // The name itself has a colon: `group.test: what is looked at: why`.
            let (name, why) = rest.rsplit_once(": ").unwrap_or((rest, ""));
            self.cases.push(Case {
                name: name.to_owned(),
                failure: Some(why.to_owned()),
            });
        } else if let Some(row) = Row::read(line) {
            self.audit.push(row);
        } else if let Some(word) = Word::read(line) {
            self.audit_words.push(word);
        } else if let Some(sums) = line.strip_prefix("payload: ").and_then(sums) {
            self.sums = Some(sums);
        }
    }

    /// Takes note of a line of an L2's console.
    pub fn l2_line(&mut self, name: &str, line: &str) {
        let Some((key, value)) = line.trim().split_once(": ") else {
            return;
        };
        let known = matches!(key, "uname" | "processors" | "uptime" | "clock" | "log");
        if !known {
            return;
        }
        let l2 = self.l2.entry(name.to_owned()).or_default();
        match key {
            "log" => l2.log.push(value.to_owned()),
            "uname" => l2.uname = Some(value.to_owned()),
            "clock" => l2.clock = Some(value.to_owned()),
            "processors" => l2.processors = value.parse().ok(),
            _ => l2.uptime = value.trim_end_matches(" s").parse().ok(),
        }
    }

    /// Whether this step of `hynest.run=` ended well.
    pub fn step_done(&self, name: &str) -> bool {
        self.steps
            .iter()
            .any(|step| step.name == name && step.state == "done")
    }

    /// What L0 counted from the beginning of steps to their end, all VPs together; `None` if no such step was done.
    pub fn counted(&self, is_wanted: impl Fn(&str) -> bool) -> Option<BTreeMap<&str, u64>> {
        let mut sums = BTreeMap::new();
        let mut is_counted = false;
        for pair in self.step_counters.windows(2) {
            let word = |at: usize| {
                pair[at]
                    .label
                    .as_deref()
                    .unwrap_or_default()
                    .split_once(' ')
            };
            let (Some((name, "begin")), Some((ended, _))) = (word(0), word(1)) else {
                continue;
            };
            if name != ended || !is_wanted(name) {
                continue;
            }
            is_counted = true;
            for (before, after) in pair[0].vps.iter().zip(&pair[1].vps) {
                for (counter, value) in after {
                    let before = before.get(counter).copied().unwrap_or(0);
                    *sums.entry(counter.as_str()).or_insert(0) += value.saturating_sub(before);
                }
            }
        }
        is_counted.then_some(sums)
    }

    /// The figure of an operation under a label.
    pub fn figure(&self, label: &str, operation: &str) -> Option<&Measurement> {
        self.measurements
            .iter()
            .find(|m| m.label.as_deref() == Some(label) && m.operation == operation)
    }

    /// The summary as text.
    pub fn text(&self, colour: bool) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_levels(&mut out);
        out += &proof::table(&self.proofs, colour);
        out += &costs::table(&self.measurements);
        let _ = self.write_end(&mut out);
        out
    }

    fn write_levels(&self, out: &mut String) -> std::fmt::Result {
        if let Some(l1) = &self.l1 {
            writeln!(
                out,
                "L1  Linux {}, {}, in its user space after {} s",
                l1.kernel,
                processors(l1.cpus),
                l1.uptime
            )?;
            for line in l1.dmesg.iter().filter(|line| is_proof(line)) {
                writeln!(out, "    {line}")?;
            }
            writeln!(
                out,
                "    clocksource {}, clockevent {}",
                l1.clocksource, l1.clockevent
            )?;
            if !l1.kvm {
                writeln!(out, "    no /dev/kvm")?;
            }
        }
        for (name, l2) in &self.l2 {
            let count = l2
                .processors
                .map_or_else(|| "? processors".to_owned(), processors);
            let uptime = l2
                .uptime
                .map_or_else(|| "?".to_owned(), |uptime| uptime.to_string());
            writeln!(
                out,
                "L2  {name}: {}, {count}, in its user space after {uptime} s",
                l2.uname.as_deref().unwrap_or("?")
            )?;
            for line in &l2.log {
                writeln!(out, "    {line}")?;
            }
        }
        for end in self.l2.values().filter_map(|l2| l2.end.as_ref()) {
            if !matches!(end.reason.as_str(), "reset" | "power-off") {
                let message = end.message.as_deref().unwrap_or_default();
                writeln!(out, "L2  {} ended by {}: {message}", end.name, end.reason)?;
            }
        }
        for (name, l2) in &self.l2 {
            if let (Some(clock), Some(exits)) = (&l2.clock, &l2.clock_exits) {
                let (exits, ticks) = (exits.exits, exits.interrupts);
                writeln!(
                    out,
                    "L2  {name}: {clock}; {exits} exits and {ticks} for L1's ticks"
                )?;
            }
        }
        for line in self.compared_clocks.iter().flat_map(Clocks::lines) {
            writeln!(out, "L1  {line}")?;
        }
        for clock in &self.clocks {
            writeln!(out, "L2  {}", clock.line())?;
        }
        for churn in &self.churns {
            writeln!(out, "L2  {}", churn.line())?;
        }
        for step in self.steps.iter().filter(|step| step.state == "failed") {
            writeln!(out, "L1  the step '{}' failed", step.name)?;
        }
        for warning in &self.warnings {
            writeln!(out, "    ! {warning}")?;
        }
        if let Some((passed, failed)) = self.sums {
            writeln!(out, "L1  payload: {passed} passed, {failed} failed")?;
        }
        if self.setup.is_audited {
            self.write_audit(out)?;
        }
        Ok(())
    }

    fn write_audit(&self, out: &mut String) -> std::fmt::Result {
        let entries = thousands(self.total("audited-entries") as i64);
        write!(out, "L1  clean fields: {entries} entries audited, ")?;
        if self.stale_fields.is_empty() {
            return writeln!(out, "no stale field");
        }
        writeln!(
            out,
            "{} stale fields, at {} places:",
            thousands(self.total("stale-fields") as i64),
            self.stale_fields.len()
        )?;
        for stale in &self.stale_fields {
            let StaleField {
                vp,
                evmcs,
                rip,
                field,
                group,
                known,
                found,
                ..
            } = stale;
            writeln!(
                out,
                "    ! {field} ({group}): {known} when it was declared, {found} at the entry from {rip} on VP {vp} (eVMCS {evmcs})"
            )?;
        }
        Ok(())
    }

    fn write_end(&self, out: &mut String) -> std::fmt::Result {
        let Some(ending) = self.ending else {
            return Ok(());
        };
        // A power-off has nothing more to say.
        let message = if self.message.is_empty() || ending == Ending::PowerOff {
            String::new()
        } else {
            format!(": {}", self.message)
        };
        write!(out, "\n{}{message}", ending.sentence())?;
        if let Some(instructions) = self.instructions {
            write!(
                out,
                "; {} million instructions",
                thousands((instructions / 1_000_000) as i64)
            )?;
        }
        out.push('\n');
        if let Some(saved) = &self.saved {
            writeln!(
                out,
                "{} has {} MiB, of a partition {:.2} s old{}; `cargo hynest run --restore {}` goes on with it",
                saved.file.display(),
                saved.bytes >> 20,
                saved.seconds,
                match saved.in_l2 {
                    0 => String::new(),
                    one_or_more => format!(", {} in an L2", processors(one_or_more as u32)),
                },
                saved.file.display(),
            )?;
        }
        Ok(())
    }
}

/// Reads `N passed, N failed`.
fn sums(text: &str) -> Option<(usize, usize)> {
    let (passed, rest) = text.split_once(" passed, ")?;
    Some((
        passed.parse().ok()?,
        rest.strip_suffix(" failed")?.parse().ok()?,
    ))
}

/// The lines of L1's log that show the enlightenments at work.
fn is_proof(line: &str) -> bool {
    line.contains("Hypervisor detected") || line.contains("Enlightened VMCS")
}

/// Lines of L1's log that no run should show.
pub fn is_warning(line: &str) -> bool {
    [
        "unchecked MSR access",
        "BUG: ",
        "WARNING: CPU: ",
        "Kernel panic",
    ]
    .iter()
    .any(|text| line.contains(text))
}

fn processors(count: u32) -> String {
    format!("{count} processor{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_apart_by_their_counters() {
        let reading = |label: &str, vps: &[u64]| StepCounters {
            label: Some(label.into()),
            vps: vps
                .iter()
                .map(|&value| BTreeMap::from([("vmreads".to_owned(), value)]))
                .collect(),
        };
        let summary = Summary {
            step_counters: vec![
                reading("measure begin", &[1, 10]),
                reading("measure done", &[3, 10]),
                reading("plain begin", &[4, 10]),
                reading("plain failed", &[900, 800]),
                reading("linux begin", &[1000, 800]),
                reading("linux done", &[1005, 801]),
                reading("hang begin", &[2000, 2000]),
            ],
            ..Summary::default()
        };
        let counted = |wanted: &[&str]| {
            let sums = summary.counted(|name| wanted.contains(&name))?;
            sums.get("vmreads").copied()
        };
        assert_eq!(counted(&["measure", "linux"]), Some(8));
        assert_eq!(counted(&["plain"]), Some(896 + 790));
        assert_eq!(counted(&["hang"]), None);
    }

    #[test]
    fn what_the_auditor_found_is_listed_and_fails_the_run() {
        let mut summary = Summary {
            setup: Setup {
                is_audited: true,
                ..Setup::default()
            },
            ending: Some(Ending::PowerOff),
            counters: Some(Counters {
                reason: "end".into(),
                vps: [(1000, 3), (234, 4)]
                    .map(|(entries, stale)| {
                        BTreeMap::from([
                            ("audited-entries".to_owned(), entries),
                            ("stale-fields".to_owned(), stale),
                        ])
                    })
                    .to_vec(),
            }),
            ..Summary::default()
        };
        assert!(
            summary
                .text(false)
                .contains("1,234 entries audited, no stale field")
        );
        assert_eq!(summary.status(), 0);
        summary.stale_fields = vec![StaleField {
            vp: 1,
            evmcs: "0x1000".into(),
            rip: "0xffffffffc0501234".into(),
            field: "GuestRsp".into(),
            group: "GUEST_BASIC".into(),
            offset: 0x300,
            known: "0x1".into(),
            found: "0x2".into(),
        }];
        assert!(summary.text(false).contains("7 stale fields, at 1 places"));
        assert!(
            summary
                .text(false)
                .contains("! GuestRsp (GUEST_BASIC): 0x1")
        );
        assert_eq!(summary.status(), exit::STALE_FIELDS);
        summary.ending = Some(Ending::Panic);
        assert_eq!(summary.status(), Ending::Panic.status());
    }

    #[test]
    fn a_step_that_failed_fails_a_run_that_ended_well() {
        let step = |state: &str| Step {
            name: "linux".into(),
            state: state.into(),
        };
        let mut summary = Summary {
            ending: Some(Ending::PowerOff),
            steps: vec![step("begin"), step("done")],
            ..Summary::default()
        };
        assert_eq!(summary.status(), 0);
        summary.steps.push(step("failed"));
        assert_eq!(summary.status(), exit::FAILED_STEP);
        summary.ending = Some(Ending::Reset);
        assert_eq!(summary.status(), Ending::Reset.status());
    }

    #[test]
    fn a_payloads_verdicts_are_noted() {
        let mut summary = Summary::default();
        for line in [
            "payload: virtual machine",
            "ok vmx.a: one",
            "FAIL vmx.b: two: expected 1, came 2",
            "note x",
            "payload: 1 passed, 1 failed",
        ] {
            summary.payload_line(line);
        }
        let case = |name: &str, failure: Option<&str>| Case {
            name: name.into(),
            failure: failure.map(str::to_owned),
        };
        assert_eq!(
            summary.cases,
            [
                case("vmx.a: one", None),
                case("vmx.b: two", Some("expected 1, came 2"))
            ]
        );
        assert_eq!(summary.sums, Some((1, 1)));
    }

    #[test]
    fn an_l2s_words_are_noted() {
        let mut summary = Summary::default();
        summary.l2_line("a", "uname: Linux 6.1 x86_64");
        summary.l2_line("a", "uptime: 1.25 s");
        summary.l2_line("a", "log: Hyper-V: Using hypercall");
        summary.l2_line("a", "processors: 2");
        summary.l2_line("b", "something else: 1");
        summary.l2_line("b", "plain text");
        let expected = L2 {
            log: vec!["Hyper-V: Using hypercall".into()],
            uname: Some("Linux 6.1 x86_64".into()),
            processors: Some(2),
            uptime: Some(1.25),
            clock: None,
            clock_exits: None,
            end: None,
        };
        assert_eq!(summary.l2, BTreeMap::from([("a".to_owned(), expected)]));
        assert!(
            summary
                .text(false)
                .contains("a: Linux 6.1 x86_64, 2 processors, in its user space after 1.25 s")
        );
    }
}
