//! What to look at for each enlightenment.

use std::collections::BTreeMap;

use super::{Proof, Verdict};
use crate::costs::thousands;
use crate::events::{L1, Measurement};
use crate::exit::Ending;
use crate::report::Summary;

/// What a run left to judge by.
pub struct Evidence<'a> {
    pub summary: &'a Summary,
    pub l1: &'a L1,
    pub vps: u32,
    /// Of the steps in which KVM may use everything.
    pub counters: Option<BTreeMap<&'a str, u64>>,
}

impl Evidence<'_> {
    /// What it shows of one enlightenment; `None` for one that is not known here.
    pub fn of(&self, name: &str) -> Option<Proof> {
        let (linux, l0, verdict) = match name {
            "base" => self.log("Hypervisor detected"),
            "ref-count" => self.reference_counter(),
            "tsc-page" => self.tsc_page(),
            "frequency-msrs" => self.log("LAPIC Timer Frequency"),
            "stimer" => self.synthetic_timers(),
            "crash" => self.crash(),
            "guest-idle" => self.log("PV spinlocks enabled"),
            "xmm-input" => unused("passes no input in XMM registers"),
            "reset" => unused("resets by ACPI"),
            "vp-assist" => self.assist_page(),
            "apic-msrs" => self.eoi_assist(),
            "evmcs" => self.enlightened_vmcs(),
            "msr-bitmap" => self.msr_bitmap(),
            "direct-flush" => self.direct_flush(),
            "gpa-flush" => self.gpa_flush(),
            "tlb-flush" => self.between_vps("hypercall for remote TLB flush", "tlb-flushes"),
            "ipi" => self.between_vps("Using IPI hypercalls", "ipis"),
            "reenlightenment" => self.reenlightenment(),
            _ => return None,
        };
        Some(Proof {
            enlightenment: name.to_owned(),
            linux,
            l0,
            verdict,
        })
    }

    /// Interrupts that tell of changes of the TSC's rate, and reads that were emulated until L1 had taken note.
    fn reenlightenment(&self) -> (String, String, Verdict) {
        match self.summary.reenlightenments {
            None => unused("counts no such interrupts"),
            Some(0) => unused("was told of no change of the TSC's rate"),
            Some(count) => {
                // A restored L1 takes note before its first step.
                let reads = self.summary.total("emulated-tsc-reads");
                (
                    format!("was told {count} times of another TSC rate"),
                    format!("{} emulated reads", grouped(reads)),
                    Verdict::Proved,
                )
            }
        }
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
        // What the page is compared with is read by the MSR.
        let compared = self.summary.compared_clocks.iter();
        let compared = compared.filter_map(|clocks| clocks.clock("L1 TIME_REF_COUNT"));
        let compared: u64 = compared.map(|clock| clock.reads).sum();
        let reads = self.count("reference-reads");
        let reads = reads.map(|reads| reads.saturating_sub(compared));
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

    /// The ends of interrupts that L0 did not hear of.
    fn eoi_assist(&self) -> (String, String, Verdict) {
        let (linux, _, verdict) = self.log("Using enlightened APIC");
        match (self.count("spared-eois"), self.count("interrupts")) {
            (Some(spared), Some(all)) if verdict == Verdict::Proved => (
                linux,
                format!(
                    "{} of {} interrupts ended without an exit",
                    grouped(spared),
                    grouped(all)
                ),
                // A run's first steps may see no interrupt at all.
                Verdict::of(spared > 0 || all == 0),
            ),
            _ => (linux, String::new(), verdict),
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
