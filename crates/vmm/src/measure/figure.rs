//! The lines that `vmm measure` reports.

use platform::counters::Counter;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Arguments;
use super::operation::Operation;
use super::statistics::{PerOperation, Ticks};

/// One measured operation.
#[derive(Serialize, Debug)]
pub struct Figure<'a> {
    event: &'static str,
    label: Option<&'a str>,
    operation: &'static str,
    #[serde(flatten)]
    ticks: Ticks,
    repetitions: u64,
    warm_up: u64,
    /// The usual counters, per operation; `null` where L0 is not hynest.
    exits_l0: Option<f64>,
    l2_exits: Option<f64>,
    reflected: Option<f64>,
    vmreads: Option<f64>,
    vmwrites: Option<f64>,
    /// Every counter by its own name.
    counters: Option<Map<String, Value>>,
}

impl<'a> Figure<'a> {
    /// Puts a line together.
    pub fn new(
        arguments: &'a Arguments,
        operation: Operation,
        ticks: Ticks,
        counters: Option<PerOperation>,
    ) -> Self {
        let get = |counter| counters.as_ref().map(|counters| counters.get(counter));
        Figure {
            event: "measure",
            label: arguments.label.as_deref(),
            operation: operation.name(),
            ticks,
            repetitions: arguments.repetitions,
            warm_up: arguments.warm_up,
            exits_l0: get(Counter::Exits),
            l2_exits: get(Counter::L2Exits),
            reflected: get(Counter::Reflected),
            vmreads: get(Counter::Vmreads),
            vmwrites: get(Counter::Vmwrites),
            counters: counters.as_ref().map(PerOperation::by_name),
        }
    }
}

/// An operation that this KVM has not got.
#[derive(Serialize, Debug)]
pub struct Skipped<'a> {
    event: &'static str,
    label: Option<&'a str>,
    operation: &'static str,
    skipped: String,
}

impl<'a> Skipped<'a> {
    /// Puts a line together.
    pub fn new(label: Option<&'a str>, operation: &'static str, why: String) -> Self {
        Skipped {
            event: "measure",
            label,
            operation,
            skipped: why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn arguments(words: &[&str]) -> Arguments {
        let words = ["vmm", "measure"].iter().chain(words);
        match Cli::parse_from(words).command {
            Command::Measure(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    const TICKS: Ticks = Ticks {
        ticks: 1234,
        min: 1200,
        median: 1230,
        max: 1300,
    };

    #[test]
    fn a_figure_with_counters() {
        let arguments = arguments(&["--label", "plain"]);
        let mut readings = ([0; Counter::ALL.len()], [0; Counter::ALL.len()]);
        readings.1[Counter::Exits as usize] = 1000;
        readings.1[Counter::Vmreads as usize] = 3500;
        let zero = ([0; Counter::ALL.len()], [0; Counter::ALL.len()]);
        let counters = PerOperation::of(readings, zero, 500);
        let figure = Figure::new(&arguments, Operation::Cpuid, TICKS, Some(counters));
        let json = serde_json::to_value(&figure).unwrap();
        assert_eq!(json["event"], "measure");
        assert_eq!(json["label"], "plain");
        assert_eq!(json["operation"], "cpuid");
        assert_eq!(json["ticks"], 1234);
        assert_eq!(json["repetitions"], 500);
        assert_eq!(json["exits_l0"], 2.0);
        assert_eq!(json["vmreads"], 7.0);
        assert_eq!(json["vmwrites"], 0.0);
        assert_eq!(json["counters"]["vmreads"], 7.0);
    }

    #[test]
    fn a_figure_without_counters_says_null() {
        let arguments = arguments(&[]);
        let figure = Figure::new(&arguments, Operation::EptFresh, TICKS, None);
        let json = serde_json::to_value(&figure).unwrap();
        assert_eq!(json["operation"], "ept-fresh");
        for key in [
            "label",
            "exits_l0",
            "l2_exits",
            "reflected",
            "vmreads",
            "vmwrites",
            "counters",
        ] {
            assert!(json.as_object().unwrap().contains_key(key), "{key}");
            assert!(json[key].is_null(), "{key}");
        }
    }
}
