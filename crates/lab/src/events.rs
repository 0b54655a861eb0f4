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
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("l0-stop", Reason::L0Stop),
        ] {
            let end =
                serde_json::from_str(&format!(r#"{{"event":"end","reason":"{text}"}}"#)).unwrap();
            assert!(matches!(end, FromL0::End(End { reason: r, .. }) if r == reason));
        }
        assert!(serde_json::from_str::<FromL0>(r#"{"event":"end","reason":"other"}"#).is_err());
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
