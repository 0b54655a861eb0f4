//! What shows each enlightenment at work: Linux's own word, L0's counters, a verdict.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::OwoColorize;
use serde::{Deserialize, Serialize};

use crate::events::{L1, Measurement};
use crate::exit::Ending;
use crate::report::{Summary, thousands};

/// What a run shows of one enlightenment.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Proof {
    /// Its name.
    pub enlightenment: String,
    /// What L1's Linux says of it.
    pub linux: String,
    /// What L0 counted.
    pub l0: String,
    /// What follows.
    pub verdict: Verdict,
}

/// What follows from what Linux says and L0 counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is used, and does what it is for.
    Proved,
    /// This run has no use for it.
    Unused,
    /// It is offered and there is a use for it, and it is not used or does not do what it is for.
    Failed,
}

impl Verdict {
    fn of(is_proved: bool) -> Self {
        if is_proved {
            Self::Proved
        } else {
            Self::Failed
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::Unused => "not used",
            Self::Failed => "FAILED",
        }
    }
}

/// What a run shows of each enlightenment that L0 offered, in the order of L0's report. Nothing where L1 is no Linux
/// that tells about itself.
pub fn proofs(summary: &Summary) -> Vec<Proof> {
    let (Some(l0), Some(l1)) = (&summary.l0, &summary.l1) else {
        return Vec::new();
    };
    let evidence = Evidence {
        summary,
        l1,
        vps: l0.vps,
        counters: summary.counted(|step| !step.starts_with("plain")),
    };
    l0.enlightenments
        .iter()
        .filter_map(|name| evidence.of(name))
        .collect()
}

/// What a run left to judge by.
struct Evidence<'a> {
    summary: &'a Summary,
    l1: &'a L1,
    vps: u32,
    /// Of the steps in which KVM may use everything.
    counters: Option<BTreeMap<&'a str, u64>>,
}

impl Evidence<'_> {
    fn of(&self, name: &str) -> Option<Proof> {
        let (linux, l0, verdict) = match name {
            "base" => self.log("Hypervisor detected"),
            "ref-count" => self.reference_counter(),
            "tsc-page" => self.tsc_page(),
            "frequency-msrs" => self.log("LAPIC Timer Frequency"),
            "stimer" => self.synthetic_timers(),
            "crash" => self.crash(),
            "guest-idle" => self.log("PV spinlocks enabled"),
            "reset" => unused("resets by ACPI"),
            "vp-assist" => self.assist_page(),
            "evmcs" => self.enlightened_vmcs(),
            "msr-bitmap" => self.msr_bitmap(),
            "direct-flush" => self.direct_flush(),
            "gpa-flush" => self.gpa_flush(),
            "tlb-flush" => self.between_vps("hypercall for remote TLB flush", "tlb-flushes"),
            "ipi" => self.between_vps("Using IPI hypercalls", "ipis"),
            _ => return None,
        };
        Some(Proof {
            enlightenment: name.to_owned(),
            linux,
            l0,
            verdict,
        })
    }

    /// A line of L1's log is all there is to see.
    fn log(&self, text: &str) -> (String, String, Verdict) {
        match self.line(text) {
            Some(line) => (line, String::new(), Verdict::Proved),
            None => (
                format!("no line with '{text}'"),
                String::new(),
                Verdict::Failed,
            ),
        }
    }

    fn line(&self, text: &str) -> Option<String> {
        let line = self.l1.dmesg.iter().find(|line| line.contains(text))?;
        let short = line
            .trim_start_matches("Hyper-V: ")
            .trim_start_matches("KVM: vmx: ");
        Some(short.to_owned())
    }

    /// A counter over those steps.
    fn count(&self, counter: &str) -> Option<u64> {
        self.counters.as_ref()?.get(counter).copied()
    }

    /// An operation's figures, with everything that is offered in use.
    fn figure(&self, operation: &str) -> Option<&Measurement> {
        self.summary
            .measurements
            .iter()
            .filter(|m| m.label.as_deref() != Some("plain") && m.ticks.is_some())
            .find(|m| m.operation == operation)
    }

    fn reference_counter(&self) -> (String, String, Verdict) {
        let reads = self.count("reference-reads");
        let l0 = reads.map_or_else(String::new, |n| format!("{} reads", grouped(n)));
        let source = format!("clocksource {}", self.l1.clocksource);
        match self.l1.clocksource.as_str() {
            "hyperv_clocksource_msr" => (source, l0, Verdict::of(reads != Some(0))),
            "hyperv_clocksource_tsc_page" => ("reads the TSC page".into(), l0, Verdict::Unused),
            _ => (source, l0, Verdict::Failed),
        }
    }

    fn tsc_page(&self) -> (String, String, Verdict) {
        let reads = self.count("reference-reads");
        let used = self.l1.clocksource == "hyperv_clocksource_tsc_page";
        (
            format!("clocksource {}", self.l1.clocksource),
            reads.map_or_else(String::new, |n| {
                format!("{} reads of TIME_REF_COUNT", grouped(n))
            }),
            Verdict::of(used && reads.is_none_or(|reads| reads == 0)),
        )
    }

    fn synthetic_timers(&self) -> (String, String, Verdict) {
        let interrupts: u64 = self
            .l1
            .stimer_interrupts
            .split_whitespace()
            .filter_map(|word| word.parse::<u64>().ok())
            .sum();
        (
            format!("{}, {} interrupts", self.l1.clockevent, grouped(interrupts)),
            String::new(),
            Verdict::of(self.l1.clockevent.starts_with("Hyper-V clockevent") && interrupts > 0),
        )
    }

    fn crash(&self) -> (String, String, Verdict) {
        match self.summary.ending {
            Some(Ending::Panic) => (
                "panicked".into(),
                "L1's message came".into(),
                Verdict::of(!self.summary.message.is_empty()),
            ),
            _ => unused("did not panic"),
        }
    }

    fn assist_page(&self) -> (String, String, Verdict) {
        match self.l1.enlightened_vmcs.as_str() {
            "Y" => (
                "enters its enlightened VMCSs by it".into(),
                String::new(),
                Verdict::Proved,
            ),
            _ => unused("has no enlightened VMCS"),
        }
    }

    fn enlightened_vmcs(&self) -> (String, String, Verdict) {
        let parameter = &self.l1.enlightened_vmcs;
        if !self.l1.kvm {
            return unused("has no KVM");
        }
        let linux = match self.line("Enlightened VMCS") {
            Some(line) => format!("{line} ({parameter})"),
            None => format!("enlightened_vmcs = {parameter}"),
        };
        if self.count("nested-entries").unwrap_or(0) == 0 {
            return (linux, String::new(), Verdict::of(parameter == "Y"));
        }
        let exits =
            ["vmreads", "vmwrites", "vmptrlds"].map(|counter| self.count(counter).unwrap_or(0));
        let l0 = match exits {
            [0, 0, 0] => "no VMREAD, VMWRITE, VMPTRLD".to_owned(),
            [reads, writes, loads] => format!("{reads} VMREAD, {writes} VMWRITE, {loads} VMPTRLD"),
        };
        (linux, l0, Verdict::of(parameter == "Y" && exits == [0; 3]))
    }

    fn msr_bitmap(&self) -> (String, String, Verdict) {
        let linux = "has no word for it".to_owned();
        let entries = self.count("nested-entries").unwrap_or(0);
        let Some(merges) = self.count("msr-bitmap-merges").filter(|_| entries > 0) else {
            return unused("ran no L2");
        };
        (
            linux,
            format!("{} merges in {} entries", grouped(merges), grouped(entries)),
            Verdict::of(merges * 10 < entries),
        )
    }

    fn direct_flush(&self) -> (String, String, Verdict) {
        if let Some(figure) = self.figure("hv-flush-direct") {
            let each = |counter: &str| {
                let counters = figure.counters.as_ref();
                counters.and_then(|all| all.get(counter)).copied()
            };
            let (direct, reflected) = (each("direct-flushes"), each("reflected-vmcalls"));
            return (
                "KVM_CAP_HYPERV_DIRECT_TLBFLUSH is on".into(),
                format!(
                    "each: {:.1} here, {:.1} to L1",
                    direct.unwrap_or(0.0),
                    reflected.unwrap_or(0.0)
                ),
                Verdict::of(direct.is_some_and(|n| n >= 1.0) && reflected == Some(0.0)),
            );
        }
        match self.count("direct-flushes") {
            Some(flushes) if flushes > 0 => (
                "KVM_CAP_HYPERV_DIRECT_TLBFLUSH is on".into(),
                format!("{} of L2's flushes", grouped(flushes)),
                Verdict::Proved,
            ),
            _ => unused("had no L2 that flushes by hypercalls"),
        }
    }

    fn gpa_flush(&self) -> (String, String, Verdict) {
        let linux = "has no word for it".to_owned();
        let flushes = self.count("gpa-flushes").unwrap_or(0);
        let invepts = self.count("invepts").unwrap_or(0);
        if self.count("nested-entries").unwrap_or(0) == 0 {
            return unused("ran no L2");
        }
        let l0 = format!("{} flushes, {} INVEPT", grouped(flushes), grouped(invepts));
        let zap = self.figure("zap").and_then(|zap| zap.counters.as_ref());
        match zap {
            Some(zap) => {
                let each = |counter: &str| zap.get(counter).copied().unwrap_or(0.0);
                (
                    linux,
                    format!(
                        "{:.1} flushes, {:.1} INVEPT for a zap",
                        each("gpa-flushes"),
                        each("invepts")
                    ),
                    Verdict::of(each("gpa-flushes") >= 1.0 && each("invepts") == 0.0),
                )
            }
            None if flushes == 0 => unused("took no memory from L2"),
            // KVM says INVEPT where a vCPU or a VM begins.
            None => (linux, l0, Verdict::of(flushes > invepts)),
        }
    }

    /// What one VP asks of others.
    fn between_vps(&self, line: &str, counter: &str) -> (String, String, Verdict) {
        let linux = self.line(line);
        let count = self.count(counter);
        let l0 = count.map_or_else(String::new, |n| format!("{} hypercalls", grouped(n)));
        match linux {
            None => (format!("no line with '{line}'"), l0, Verdict::Failed),
            Some(said) if self.vps < 2 => (said, "one VP alone".into(), Verdict::Unused),
            Some(said) => (said, l0, Verdict::of(count != Some(0))),
        }
    }
}

fn unused(why: &str) -> (String, String, Verdict) {
    (why.to_owned(), String::new(), Verdict::Unused)
}

fn grouped(number: u64) -> String {
    thousands(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The proofs as a table; nothing if there are none.
pub fn table(proofs: &[Proof], colour: bool) -> String {
    if proofs.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["enlightenment", "verdict", "L1", "L0 counted"]);
    for proof in proofs {
        table.add_row([
            &proof.enlightenment,
            proof.verdict.word(),
            &proof.linux,
            &proof.l0,
        ]);
    }
    let mut out = String::from("\nThe enlightenments at work:\n");
    for line in table.lines() {
        out += &format!("  {}\n", painted(line.trim_end(), colour));
    }
    out
}

/// The line, its verdict in the colour that it deserves.
fn painted(line: &str, colour: bool) -> String {
    if !colour {
        return line.to_owned();
    }
    let failed = format!(" {} ", Verdict::Failed.word());
    let proved = format!(" {} ", Verdict::Proved.word());
    line.replacen(&failed, &failed.red().to_string(), 1)
        .replacen(&proved, &proved.green().to_string(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Start, StepCounters};

    fn summary(vps: u32, counters: &[(&str, u64)]) -> Summary {
        let offered = "base ref-count tsc-page stimer evmcs msr-bitmap gpa-flush tlb-flush reset";
        let zero: BTreeMap<String, u64> = counters.iter().map(|(n, _)| ((*n).into(), 0)).collect();
        let end = counters.iter().map(|(n, v)| ((*n).into(), *v)).collect();
        Summary {
            l0: Some(Start {
                cpu: String::new(),
                vendor: String::new(),
                cpus: vps,
                vps,
                memory: 0,
                tsc_hz: 1,
                enlightenments: offered.split(' ').map(str::to_owned).collect(),
            }),
            l1: Some(L1 {
                kernel: "6.1".into(),
                cpus: vps,
                uptime: 1.0,
                clocksource: "hyperv_clocksource_tsc_page".into(),
                clockevent: "Hyper-V clockevent".into(),
                stimer_interrupts: "HVS: 3 4 Hyper-V stimer0 interrupts".into(),
                enlightened_vmcs: "Y".into(),
                kvm: true,
                dmesg: vec![
                    "Hypervisor detected: Microsoft Hyper-V".into(),
                    "KVM: vmx: using Hyper-V Enlightened VMCS".into(),
                    "Hyper-V: Using hypercall for remote TLB flush".into(),
                ],
            }),
            step_counters: vec![
                StepCounters {
                    label: Some("linux begin".into()),
                    vps: vec![zero],
                },
                StepCounters {
                    label: Some("linux done".into()),
                    vps: vec![end],
                },
            ],
            ..Summary::default()
        }
    }

    fn verdicts(summary: &Summary) -> String {
        let words = proofs(summary).into_iter();
        let words = words.map(|proof| format!("{} {}", proof.enlightenment, proof.verdict.word()));
        words.collect::<Vec<_>>().join(", ")
    }

    const GOOD: [(&str, u64); 7] = [
        ("nested-entries", 1000),
        ("vmreads", 0),
        ("msr-bitmap-merges", 3),
        ("reference-reads", 0),
        ("gpa-flushes", 50),
        ("invepts", 2),
        ("tlb-flushes", 9),
    ];

    #[test]
    fn what_is_used_is_proved() {
        assert_eq!(
            verdicts(&summary(2, &GOOD)),
            "base proved, ref-count not used, tsc-page proved, stimer proved, evmcs proved, msr-bitmap proved, \
             gpa-flush proved, tlb-flush proved, reset not used"
        );
        assert!(verdicts(&summary(1, &GOOD)).contains("tlb-flush not used"));
        let mut idle = summary(1, &GOOD);
        idle.step_counters.clear();
        assert!(verdicts(&idle).contains("msr-bitmap not used, gpa-flush not used"));
        idle.l1 = None;
        assert_eq!(verdicts(&idle), "");
    }

    #[test]
    fn a_counter_that_says_otherwise_refutes() {
        for (counter, value, verdict) in [
            ("vmreads", 1, "evmcs FAILED"),
            ("msr-bitmap-merges", 1000, "msr-bitmap FAILED"),
            ("reference-reads", 5, "tsc-page FAILED"),
            ("invepts", 60, "gpa-flush FAILED"),
            ("tlb-flushes", 0, "tlb-flush FAILED"),
        ] {
            let mut counters = GOOD;
            for entry in &mut counters {
                if entry.0 == counter {
                    entry.1 = value;
                }
            }
            let said = verdicts(&summary(2, &counters));
            assert!(said.contains(verdict), "{counter}: {said}");
            assert_eq!(said.matches("FAILED").count(), 1, "{said}");
        }
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let text = table(&proofs(&summary(2, &GOOD)), false);
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        assert!(text.contains("3 merges in 1,000 entries"));
        assert_eq!(table(&[], true), "");
        let painted = table(&proofs(&summary(2, &GOOD)), true);
        assert!(painted.contains("\u{1b}["));
    }
}
