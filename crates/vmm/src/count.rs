//! `vmm counters`: what L0 has counted, for each of its VPs, and how often it has told Linux of another
//! TSC rate.

use std::path::PathBuf;

use platform::counters::{Counter, NO_COUNTER};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::affinity::{self, Cpus};
use crate::counters::{CounterPort, Reading};
use crate::error::Result;
use crate::reenlightenments;
use crate::report::Report;

/// What `vmm counters` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// Where it goes: JSON objects, appended [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// A word to carry in it
    #[arg(long)]
    pub label: Option<String>,
}

#[derive(Serialize, Debug)]
struct Counters<'a> {
    event: &'static str,
    label: Option<&'a str>,
    /// For each CPU on which this process may run, L0's counters of that VP by name.
    vps: Vec<Map<String, Value>>,
}

#[derive(Serialize, Debug)]
struct Reenlightenments {
    event: &'static str,
    /// Interrupts on all processors together, since the boot.
    count: u64,
}

/// Reads and reports; nothing where L0 is not hynest.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Some(port) = CounterPort::find() else {
        return Ok(());
    };
    let mut vps = Vec::new();
    let cpus = Cpus::allowed()?;
    for n in 0..cpus.count() {
        affinity::pin(Some(cpus.nth(n)))?;
        vps.push(by_name(&port.read()));
    }
    let report = Report::open(arguments.report.as_deref())?;
    report.event(&Counters {
        event: "counters",
        label: arguments.label.as_deref(),
        vps,
    })?;
    if let Some(count) = reenlightenments::count()? {
        report.event(&Reenlightenments {
            event: "reenlightenments",
            count,
        })?;
    }
    Ok(())
}

/// The counters that L0 keeps.
fn by_name(reading: &Reading) -> Map<String, Value> {
    Counter::ALL
        .iter()
        .zip(reading)
        .filter(|(_, value)| **value != NO_COUNTER)
        .map(|(counter, value)| (counter.name().to_owned(), (*value).into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_names_and_those_not_kept_are_left_out() {
        let mut reading = [3; Counter::ALL.len()];
        reading[Counter::Vmreads as usize] = 7;
        reading[Counter::Reads02 as usize] = NO_COUNTER;
        let named = by_name(&reading);
        assert_eq!(named["vmreads"], 7);
        assert_eq!(named.len(), Counter::ALL.len() - 1);
        assert!(!named.contains_key(Counter::Reads02.name()));
    }
}
