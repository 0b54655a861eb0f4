//! What the machine reports: L0 on its report channel, L1's user space on its second UART.
//!
//! Fields that these types do not know are ignored: an image may be newer than the lab that shows its run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An object on L0's report channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum FromL0 {
    /// L0 is about to start L1.
    Start(Start),
    /// Exit counters.
    Counters(Counters),
    /// The clean-field auditor found something, the first time at this place.
    StaleField(StaleField),
    /// The partition has been saved.
    Saved {
        /// Ticks that it took.
        ticks: u64,
    },
    /// How it ended; nothing follows.
    End(End),
}

/// What L0 found and what it offers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Start {
    /// The processor's brand string.
    pub cpu: String,
    /// Its vendor.
    pub vendor: String,
    /// Physical processors.
    pub cpus: u32,
    /// L1's virtual processors.
    pub vps: u32,
    /// L1's memory in bytes.
    pub memory: u64,
    /// The TSC's rate.
    pub tsc_hz: u64,
    /// Whether hardware shadows a plain VMCS for L1.
    #[serde(default)]
    pub vmcs_shadowing: bool,
    /// Whether hardware hides changes of the TSC's rate.
    #[serde(default)]
    pub tsc_scaling: bool,
    /// Ticks that loading L1 took, where it was restored; else 0.
    #[serde(default)]
    pub load_ticks: u64,
    /// What L1 is offered, by name.
    pub enlightenments: Vec<String>,
}

/// L0's counters, one map for each VP.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Counters {
    /// `end` or `request`.
    pub reason: String,
    /// Counter name to value, for each VP.
    pub vps: Vec<BTreeMap<String, u64>>,
}

/// A field of an enlightened VMCS that L1 changed although it declares its group clean. Numbers are text, as L0's log
/// has them: a reader of JSON may keep no more than 53 bits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StaleField {
    /// The VP that entered.
    pub vp: u32,
    /// The enlightened VMCS's address.
    pub evmcs: String,
    /// L1's RIP: that of its VMLAUNCH or VMRESUME.
    pub rip: String,
    /// The field, by the TLFS's name.
    pub field: String,
    /// Its group, by the name of its clean bit.
    pub group: String,
    /// Where it lies in the enlightened VMCS; of the MSR bitmap's contents, where in the bitmap.
    pub offset: u16,
    /// Its value when L1 declared it last, or as L2's last exit left it.
    pub known: String,
    /// Its value now.
    pub found: String,
}

/// How L1's run ended, as L0 tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct End {
    /// The way it ended.
    pub reason: Reason,
    /// What a panic or L0 had to say.
    #[serde(default)]
    pub message: String,
}

/// The ways L1's run can end by L0's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// L1 switched itself off.
    PowerOff,
    /// L1 asked for a reset.
    Reset,
    /// An exception in L1 that its handlers could not take.
    TripleFault,
    /// L1 reported a crash by the Hv crash MSRs.
    Panic,
    /// The partition is saved.
    Saved,
    /// L0 stopped: a bug, or it refused to go on.
    L0Stop,
}

/// An object on L1's second UART.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum FromL1 {
    /// The init script's facts about L1.
    L1(L1),
    /// A step of `hynest.run=` begins or has ended.
    Step(Step),
    /// L0's counters when a step began or ended.
    Counters(StepCounters),
    /// The vmm measured an operation of L2, or says why it could not.
    Measure(Measurement),
    /// An L2 Linux has ended.
    L2End(L2End),
    /// An L2's memory was changed under it, and verified.
    Churn(Churn),
    /// How often L1 has been told that the TSC's rate changed.
    Reenlightenments {
        /// Interrupts on all of its processors, since its boot.
        count: u64,
    },
    /// L1 and an L2 compared their clocks with L0's.
    Clocks(Clocks),
    /// An L2's vCPUs read their clocks.
    Clock(Clock),
    /// Exits of an L2 Linux while it read its clock.
    L2Exits(L2Exits),
}

/// What came of an L2's vCPUs reading kvm-clock, all at once.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Clock {
    /// KVM_GET_CLOCK's KVM_CLOCK_TSC_STABLE: L1's KVM uses its master clock.
    pub tsc_stable: bool,
    /// What KVM's trace point said of the master clock; absent without tracing.
    pub master_clock: Option<String>,
    /// Reads by each vCPU.
    pub reads: u64,
    /// Of each vCPU.
    pub vcpus: Vec<ClockReads>,
}

/// What came of one vCPU's reads.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ClockReads {
    /// Exits to L1's KVM but for L1's interrupts.
    pub exits: u64,
    /// Exits for L1's interrupts, which are timer ticks.
    pub interrupts: u64,
    /// Exits to L0, with those for ticks; absent where L0 is not hynest.
    pub exits_l0: Option<u64>,
    /// Reads earlier than what some vCPU had read before.
    pub backwards: u64,
    /// Reads of a page that did not say that all vCPUs have the same clock.
    pub unstable: u64,
}

impl Clock {
    /// Whether every read was right and took no exit, but for ticks.
    pub fn is_stable(&self) -> bool {
        self.tsc_stable
            && self
                .vcpus
                .iter()
                .all(|vcpu| (vcpu.exits, vcpu.backwards, vcpu.unstable) == (0, 0, 0))
    }

    /// The finding as a line.
    pub fn line(&self) -> String {
        let sum = |count: fn(&ClockReads) -> u64| self.vcpus.iter().map(count).sum::<u64>();
        format!(
            "KVM's master clock is {}; kvm-clock read {} times on {}: {} exits and {} for ticks, {} backwards, {} not stable",
            if self.tsc_stable {
                "in use"
            } else {
                "NOT in use"
            },
            self.reads,
            match self.vcpus.len() {
                1 => "one vCPU".to_owned(),
                count => format!("each of {count} vCPUs"),
            },
            sum(|vcpu| vcpu.exits),
            sum(|vcpu| vcpu.interrupts),
            sum(|vcpu| vcpu.backwards),
            sum(|vcpu| vcpu.unstable)
        )
    }
}

/// What came of comparing clocks with L0's reckoning while the TSC's rate changed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Clocks {
    /// How often it changed.
    pub changes: u64,
    /// How often L1 was saved and restored meanwhile.
    #[serde(default)]
    pub moves: u64,
    /// How often L1 had been told of either before.
    #[serde(default)]
    pub told_before: u64,
    /// Which changes.
    pub seed: u64,
    /// How long it took, by L1's clock.
    pub seconds: f64,
    /// Of each clock.
    pub clocks: Vec<ComparedClock>,
    /// Readings of kvm-clock's page that did not say that all vCPUs have the same clock.
    pub unstable: u64,
    /// Readings of L2's reference TSC page that was not valid.
    pub invalid: u64,
    /// TSC reads that L0 emulated; absent where L0 is not hynest.
    pub emulated_reads: Option<u64>,
    /// Those after L1 had taken note of the last change.
    pub emulated_reads_after: Option<u64>,
}

/// What came of reading one clock.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ComparedClock {
    /// Whose and which.
    pub name: String,
    /// How often it was read.
    pub reads: u64,
    /// Readings earlier than what any reader had read before.
    pub backwards: u64,
    /// How far from L0's reckoning; absent for what does not count time.
    pub deviation: Option<Deviation>,
}

/// How a clock kept time beside L0's reckoning.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Deviation {
    /// Comparisons over a time long enough to tell the rate.
    pub comparisons: u64,
    /// By how much it may have been too fast or too slow at the most, in millionths.
    pub ppm: u64,
    /// By how much it was ahead or behind for certain from one sample to the next, in nanoseconds.
    pub jump: u64,
}

impl Clocks {
    /// One of the clocks.
    pub fn clock(&self, name: &str) -> Option<&ComparedClock> {
        self.clocks.iter().find(|clock| clock.name == name)
    }

    /// The finding as lines.
    pub fn lines(&self) -> Vec<String> {
        let known = |count: Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
        let first = format!(
            "{} changes of the TSC's rate (seed {}) in {:.1} s; {} TSC reads emulated, {} after the last was taken note of",
            self.changes,
            self.seed,
            self.seconds,
            known(self.emulated_reads),
            known(self.emulated_reads_after)
        );
        let clocks = self.clocks.iter().map(|clock| {
            let deviation = clock.deviation.map_or(String::new(), |deviation| {
                format!(
                    ", at most {} ppm from L0's clock in {} comparisons, largest jump {} ns",
                    deviation.ppm, deviation.comparisons, deviation.jump
                )
            });
            format!(
                "{}: {} reads, {} backwards{deviation}",
                clock.name, clock.reads, clock.backwards
            )
        });
        std::iter::once(first).chain(clocks).collect()
    }
}

/// Exits of one vCPU of an L2 Linux to L1's KVM while it read its clock.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct L2Exits {
    /// The L2's name.
    pub name: String,
    /// But for L1's interrupts.
    pub exits: u64,
    /// For L1's interrupts.
    pub interrupts: u64,
}

/// What came of changing an L2's memory under it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Churn {
    /// The L2's name.
    pub name: String,
    /// Its vCPUs.
    pub vcpus: u32,
    /// The memory that was changed.
    pub memory_mib: u64,
    /// What was not as it must be.
    pub failure: Option<String>,
    /// What was done; nothing of it is told after a failure.
    #[serde(flatten)]
    pub done: Option<ChurnDone>,
}

/// Counts of what was done to an L2's memory.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ChurnDone {
    /// Rounds of changes.
    pub rounds: u64,
    /// Pages given back to the kernel.
    pub zapped: u64,
    /// Pages given back and filled by the VMM.
    pub replaced: u64,
    /// Pages that changed places.
    pub swapped: u64,
    /// How often pages were write-protected by reading the dirty log.
    pub protected: u64,
    /// Pages that L2 checked, word by word.
    pub checked: u64,
}

impl Churn {
    /// The finding as a line.
    pub fn line(&self) -> String {
        let Self {
            name,
            vcpus,
            memory_mib,
            failure,
            done,
        } = self;
        let guest = format!("{name} ({vcpus} vCPU, {memory_mib} MiB)");
        match (failure, done) {
            (Some(why), _) => format!("{guest}: its memory is WRONG: {why}"),
            (None, None) => format!("{guest}: nothing was done to its memory"),
            (None, Some(done)) => format!(
                "{guest}: {} pages zapped, {} replaced, {} swapped, {} dirty logs read under it; {} pages checked, all right",
                done.zapped, done.replaced, done.swapped, done.protected, done.checked
            ),
        }
    }
}

/// What L1's Linux says about itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct L1 {
    /// Version.
    pub kernel: String,
    /// Processors it brought up.
    pub cpus: u32,
    /// Seconds since its boot, by its own clock, when it wrote this.
    pub uptime: f64,
    /// Current clocksource.
    pub clocksource: String,
    /// Current clockevent of the first processor.
    pub clockevent: String,
    /// The row of /proc/interrupts that counts interrupts of synthetic timers.
    #[serde(default)]
    pub stimer_interrupts: String,
    /// KVM's module parameter: Y, N, or `none`.
    pub enlightened_vmcs: String,
    /// Whether there is a /dev/kvm.
    pub kvm: bool,
    /// Lines of the kernel's log that tell what it found of Hyper-V, and its warnings.
    pub dmesg: Vec<String>,
}

/// Where the init script is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Step {
    /// A word of `hynest.run=`.
    pub name: String,
    /// `begin`, `done` or `failed`.
    pub state: String,
}

/// L0's counters as L1's user space read them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct StepCounters {
    /// A step and its state: `measure begin`.
    pub label: Option<String>,
    /// Counter name to value, for each VP.
    pub vps: Vec<BTreeMap<String, u64>>,
}

/// The cost of one operation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Measurement {
    /// What the figures stand for: `plain`, `enlightened`.
    pub label: Option<String>,
    /// The operation.
    pub operation: String,
    /// Ticks of L2's TSC for each repetition.
    pub ticks: Option<i64>,
    /// The middle repetition.
    pub median: Option<i64>,
    /// Repetitions that count.
    pub repetitions: Option<u64>,
    /// Repetitions before those.
    pub warm_up: Option<u64>,
    /// Exits to L0 for each repetition; absent when L0 is not hynest.
    pub exits_l0: Option<f64>,
    /// Every counter of L0, for each repetition.
    pub counters: Option<BTreeMap<String, f64>>,
    /// Why there is no figure.
    pub skipped: Option<String>,
}

/// How an L2 ended, as its VMM tells it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct L2End {
    /// The L2's name.
    pub name: String,
    /// `reset`, `power-off`, `panic`, `triple-fault` or `failed`.
    pub reason: String,
    /// More about it.
    pub message: Option<String>,
    /// How long it ran, by L1's clock.
    pub seconds: f64,
    /// Pages of 4 KiB in its EPT at the end, where L1's KVM counts them.
    pub pages_4k: Option<u64>,
    /// Pages of 2 MiB there.
    pub pages_2m: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_stable_only_if_every_vcpu_finds_it_so() {
        let clock = |flag: bool, exits: u64, backwards: u64, unstable: u64| -> Clock {
            let line = format!(
                r#"{{"tsc_stable":{flag},"master_clock":null,"reads":9,"vcpus":[
                    {{"exits":0,"interrupts":3,"exits_l0":3,"backwards":0,"unstable":0}},
                    {{"exits":{exits},"interrupts":3,"backwards":{backwards},"unstable":{unstable}}}]}}"#
            );
            serde_json::from_str(&line).unwrap()
        };
        assert!(clock(true, 0, 0, 0).is_stable());
        for bad in [
            clock(false, 0, 0, 0),
            clock(true, 1, 0, 0),
            clock(true, 0, 1, 0),
            clock(true, 0, 0, 1),
        ] {
            assert!(!bad.is_stable(), "{}", bad.line());
        }
        let line = clock(true, 0, 0, 0).line();
        assert!(
            line.contains("each of 2 vCPUs: 0 exits and 6 for ticks"),
            "{line}"
        );
    }

    #[test]
    fn churned_memory_is_right_or_its_failure_is_told() {
        let line = r#"{"event":"churn","name":"two","vcpus":2,"memory_mib":16,"seconds":3.2,"failure":null,"rounds":40,
            "zapped":400,"replaced":440,"swapped":438,"protected":32,"logged":1029,"filled":6446,"checked":8594,
            "checksum":10642195626589784714}"#;
        let FromL1::Churn(churn) = serde_json::from_str(line).unwrap() else {
            panic!()
        };
        assert_eq!(churn.done.as_ref().map(|done| done.swapped), Some(438));
        assert!(churn.line().ends_with("8594 pages checked, all right"));
        let line = r#"{"event":"churn","name":"one","vcpus":1,"memory_mib":16,"seconds":1.0,"failure":"round 1: x"}"#;
        let FromL1::Churn(churn) = serde_json::from_str(line).unwrap() else {
            panic!()
        };
        assert!(churn.done.is_none() && churn.line().ends_with("WRONG: round 1: x"));
    }

    #[test]
    fn l0s_reports_are_read() {
        let start: FromL0 = serde_json::from_str(
            r#"{"event":"start","cpu":"X","vendor":"GenuineIntel","cpus":2,"vps":1,"memory":1048576,"tsc_hz":5,"enlightenments":["a"],"more":1}"#,
        )
        .unwrap();
        assert!(matches!(start, FromL0::Start(Start { cpus: 2, .. })));
        for (text, reason) in [
            ("power-off", Reason::PowerOff),
            ("reset", Reason::Reset),
            ("triple-fault", Reason::TripleFault),
            ("panic", Reason::Panic),
            ("saved", Reason::Saved),
            ("l0-stop", Reason::L0Stop),
        ] {
            let end =
                serde_json::from_str(&format!(r#"{{"event":"end","reason":"{text}"}}"#)).unwrap();
            assert!(matches!(end, FromL0::End(End { reason: r, .. }) if r == reason));
        }
        assert!(serde_json::from_str::<FromL0>(r#"{"event":"end","reason":"other"}"#).is_err());
    }

    #[test]
    fn stale_fields_are_read() {
        let line = r#"{"event":"stale-field","vp":0,"evmcs":"0x6000","rip":"0x1","field":"GuestRsp","group":"GUEST_BASIC","offset":768,"known":"0x0","found":"0xffffffffffffffff"}"#;
        let report = serde_json::from_str(line).unwrap();
        assert!(
            matches!(report, FromL0::StaleField(stale) if stale.field == "GuestRsp" && stale.offset == 0x300)
        );
    }

    #[test]
    fn l1s_reports_are_read() {
        let line = r#"{"event":"measure","label":null,"operation":"cpuid","ticks":-3,"min":1,"median":2,"max":9,"repetitions":500,"warm_up":50,"exits_l0":2.0,"counters":{"exits":2.0}}"#;
        let FromL1::Measure(m) = serde_json::from_str(line).unwrap() else {
            panic!()
        };
        assert_eq!(
            (m.ticks, m.exits_l0, m.skipped),
            (Some(-3), Some(2.0), None)
        );
        let line = r#"{"event":"measure","label":"plain","operation":"x","skipped":"why"}"#;
        let FromL1::Measure(m) = serde_json::from_str(line).unwrap() else {
            panic!()
        };
        assert_eq!((m.ticks, m.skipped.as_deref()), (None, Some("why")));
    }
}
