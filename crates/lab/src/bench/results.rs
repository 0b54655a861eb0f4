//! What a benchmark found: what `--json` writes and `--compare` reads.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::Configuration;
use super::saving::Saving;
use crate::events::Measurement;
use crate::paths;
use crate::report::{Setup, Summary};

/// All figures of a benchmark.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Results {
    /// The day, as YYYY-MM-DD (UTC).
    pub date: String,
    /// The emulator and its version.
    pub emulator: String,
    /// Its processor model.
    pub cpu_model: String,
    /// L1's kernel.
    pub kernel: String,
    /// By configuration, in the order of the plan.
    pub configurations: Vec<Measured>,
    /// What saving and restoring cost, by what L1 has done.
    #[serde(default)]
    pub saving: Vec<Saving>,
}

/// The figures of one configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// What L0 offered.
    pub enlightenments: String,
    /// L1's processors.
    pub cpus: u32,
    /// Whether L0 counted its own accesses: then its instructions mean little.
    pub counts_accesses: bool,
    /// By operation.
    pub operations: BTreeMap<String, Figure>,
}

/// What one operation costs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Figure {
    /// Instructions of all levels: the mean.
    pub instructions: i64,
    /// The middle repetition.
    pub median: Option<i64>,
    /// Repetitions that count.
    pub repetitions: Option<u64>,
    /// Exits to L0.
    pub exits: Option<f64>,
    /// Every counter of L0.
    pub counters: BTreeMap<String, f64>,
}

impl Results {
    /// Reads what `--json` wrote.
    pub fn read(path: &Path) -> Result<Self> {
        serde_json::from_slice(&paths::read(path)?)
            .with_context(|| format!("{} is no result of cargo hynest bench", path.display()))
    }

    /// A configuration's figures.
    pub fn configuration(&self, name: &str) -> Option<&Measured> {
        self.configurations.iter().find(|one| one.name == name)
    }

    /// One figure.
    pub fn figure(&self, configuration: &str, operation: &str) -> Option<&Figure> {
        self.configuration(configuration)?.operations.get(operation)
    }

    /// Says what the figures are of.
    pub fn describe(&mut self, setup: &Setup) {
        self.emulator.clone_from(&setup.emulator);
        self.cpu_model.clone_from(&setup.cpu_model);
        self.kernel.clone_from(&setup.kernel);
    }

    /// Enters what a run measured for a configuration.
    pub fn enter(&mut self, one: &Configuration, summary: &Summary) {
        let setup = &summary.setup;
        self.describe(setup);
        let of_this = |m: &&Measurement| m.label.as_deref() == Some(one.label);
        self.configurations.push(Measured {
            name: one.name.to_owned(),
            about: one.about.to_owned(),
            enlightenments: setup.enlightenments.clone(),
            cpus: setup.cpus,
            counts_accesses: one.counts_accesses,
            operations: summary
                .measurements
                .iter()
                .filter(of_this)
                .filter_map(|m| Some((m.operation.clone(), figure(m)?)))
                .collect(),
        });
    }
}

fn figure(measurement: &Measurement) -> Option<Figure> {
    Some(Figure {
        instructions: measurement.ticks?,
        median: measurement.median,
        repetitions: measurement.repetitions,
        exits: measurement.exits_l0,
        counters: measurement.counters.clone().unwrap_or_default(),
    })
}

/// Today, as YYYY-MM-DD (UTC).
pub fn today() -> String {
    let mut now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    now.truncate("YYYY-MM-DD".len());
    now
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results with these configurations, operations, instructions and exits.
    pub fn results(figures: &[(&str, &str, i64, f64)]) -> Results {
        let mut results = Results {
            date: "2026-11-22".into(),
            emulator: "Bochs 2.7".into(),
            cpu_model: "corei7_skylake_x".into(),
            kernel: "6.1".into(),
            ..Results::default()
        };
        for (configuration, operation, instructions, exits) in figures {
            if results.configuration(configuration).is_none() {
                results.configurations.push(Measured {
                    name: (*configuration).into(),
                    ..Measured::default()
                });
            }
            let one = results.configurations.iter_mut();
            for one in one.filter(|one| one.name == *configuration) {
                let figure = Figure {
                    instructions: *instructions,
                    exits: Some(*exits),
                    ..Figure::default()
                };
                one.operations.insert((*operation).into(), figure);
            }
        }
        results
    }

    #[test]
    fn what_is_written_is_read_again() {
        let results = results(&[("plain", "cpuid", 3988, 9.06)]);
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
        assert_eq!(results.figure("plain", "cpuid").unwrap().instructions, 3988);
        assert_eq!(results.figure("plain", "out"), None);
    }

    #[test]
    fn a_day_is_a_day() {
        let day = today();
        assert_eq!(day.len(), 10);
        assert!(day.as_str() > "2026-01-01" && day.as_bytes()[4] == b'-');
    }
}
