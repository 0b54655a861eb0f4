//! What shows each enlightenment at work: Linux's own word, L0's counters, a verdict.

mod evidence;

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::OwoColorize;
use serde::{Deserialize, Serialize};

use crate::report::Summary;
use evidence::Evidence;

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
    use std::collections::BTreeMap;

    use hyperv::enlightenments::Set;

    use super::*;
    use crate::events::{Counters, L1, Start, StepCounters};

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
                vmcs_shadowing: true,
                tsc_scaling: true,
                load_ticks: 0,
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
    fn reads_are_counted_that_were_emulated_before_the_first_step() {
        let mut summary = summary(1, &[("emulated-tsc-reads", 0)]);
        summary.l0.as_mut().unwrap().enlightenments = vec!["reenlightenment".to_owned()];
        summary.reenlightenments = Some(1);
        summary.counters = Some(Counters {
            reason: "end".into(),
            vps: vec![BTreeMap::from([("emulated-tsc-reads".to_owned(), 2181)])],
        });
        assert_eq!(proofs(&summary)[0].l0, "2,181 emulated reads");
    }

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
    fn something_is_said_of_every_enlightenment() {
        let mut summary = summary(1, &GOOD);
        let all: Vec<String> = Set::ALL.iter().map(|one| one.name().to_owned()).collect();
        if let Some(l0) = &mut summary.l0 {
            l0.enlightenments.clone_from(&all);
        }
        let said: Vec<String> = proofs(&summary)
            .into_iter()
            .map(|p| p.enlightenment)
            .collect();
        assert_eq!(said, all);
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
