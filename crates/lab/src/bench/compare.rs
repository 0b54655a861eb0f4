//! Two benchmarks side by side: what got better, what got worse.

use super::results::Results;
use super::table::{Column, grid};
use crate::costs::thousands;

/// A difference of so few instructions is noise, whatever its share: a timer's tick that falls into a run.
const NOISE: i64 = 10;

/// What differs between two results.
pub struct Comparison {
    changes: Vec<Change>,
    /// Operations that are in both.
    compared: usize,
    tolerance: f64,
}

/// One operation of one configuration.
struct Change {
    configuration: String,
    operation: String,
    before: i64,
    /// Nothing if it was not measured this time.
    now: Option<i64>,
}

impl Change {
    fn difference(&self) -> Option<i64> {
        Some(self.now? - self.before)
    }

    fn percent(&self) -> f64 {
        let difference = self.difference().unwrap_or(0) as f64;
        100.0 * difference / self.before.max(1) as f64
    }

    /// Whether it got worse by more than `tolerance` percent, or is not there any more.
    fn is_worse(&self, tolerance: f64) -> bool {
        match self.difference() {
            Some(difference) => difference > NOISE && self.percent() > tolerance,
            None => true,
        }
    }
}

impl Comparison {
    /// Compares the configurations that both have. What is worse by no more than `tolerance` percent counts as equal.
    pub fn new(before: &Results, now: &Results, tolerance: f64) -> Self {
        let (mut changes, mut compared) = (Vec::new(), 0);
        for old in before
            .configurations
            .iter()
            .filter(|one| !one.counts_accesses)
        {
            let Some(new) = now.configuration(&old.name) else {
                continue;
            };
            for (operation, figure) in &old.operations {
                let new = new.operations.get(operation);
                let change = Change {
                    configuration: old.name.clone(),
                    operation: operation.clone(),
                    before: figure.instructions,
                    now: new.map(|figure| figure.instructions),
                };
                compared += usize::from(new.is_some());
                if change.difference() != Some(0) {
                    changes.push(change);
                }
            }
        }
        Self {
            changes,
            compared,
            tolerance,
        }
    }

    /// Whether an operation got worse.
    pub fn is_worse(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.is_worse(self.tolerance))
    }

    /// Every operation that changed, and the sums.
    pub fn text(&self, before: &Results) -> String {
        let mut rows = Vec::new();
        for change in &self.changes {
            let (now, difference, percent) = match (change.now, change.difference()) {
                (Some(now), Some(difference)) => (
                    thousands(now),
                    signed(difference),
                    format!("{:+.1} %", change.percent()),
                ),
                _ => ("-".into(), "-".into(), "-".into()),
            };
            let word = match change.difference() {
                None => "MISSING",
                Some(_) if change.is_worse(self.tolerance) => "WORSE",
                Some(difference) if difference < -NOISE && change.percent() < -self.tolerance => {
                    "better"
                }
                Some(_) => "",
            };
            rows.push(vec![
                change.operation.clone(),
                change.configuration.clone(),
                thousands(change.before),
                now,
                difference,
                percent,
                word.to_owned(),
            ]);
        }
        let columns = [
            Column::left("operation"),
            Column::left("configuration"),
            Column::right(&before.date),
            Column::right("now"),
            Column::right("differs"),
            Column::right("by"),
            Column::left(""),
        ];
        let same = self.compared - self.changes.iter().filter(|c| c.now.is_some()).count();
        let worse = self
            .changes
            .iter()
            .filter(|c| c.is_worse(self.tolerance))
            .count();
        let mut out = format!("Compared with {} ({}):\n", before.date, before.emulator);
        if !rows.is_empty() {
            out += &grid(&columns, &rows);
        }
        out + &format!(
            "  {} compared, {same} of them equal, {worse} worse (by more than {} % and {NOISE} instructions)\n",
            count(self.compared),
            self.tolerance
        )
    }
}

fn signed(number: i64) -> String {
    let sign = if number > 0 { "+" } else { "" };
    format!("{sign}{}", thousands(number))
}

fn count(operations: usize) -> String {
    let plural = if operations == 1 { "" } else { "s" };
    format!("{operations} operation{plural}")
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn worse_is_what_exceeds_the_tolerance() {
        let before = results(&[
            ("enlightened", "cpuid", 2000, 2.0),
            ("enlightened", "out", 5000, 2.0),
            ("enlightened", "rdmsr-fs-base", 2, 0.0),
            ("plain", "cpuid", 4000, 9.0),
        ]);
        let now = |cpuid, out| {
            results(&[
                ("enlightened", "cpuid", cpuid, 2.0),
                ("enlightened", "out", out, 2.0),
                ("enlightened", "rdmsr-fs-base", 4, 0.0),
            ])
        };
        let is_worse = |cpuid, out, tolerance| {
            Comparison::new(&before, &now(cpuid, out), tolerance).is_worse()
        };
        assert!(!is_worse(2000, 5000, 2.0));
        assert!(!is_worse(2040, 4000, 2.0));
        assert!(is_worse(2041, 4000, 2.0));
        assert!(!is_worse(2041, 4000, 5.0));
        let text = Comparison::new(&before, &now(2041, 4000), 2.0).text(&before);
        let line = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(name));
            line.unwrap_or_else(|| panic!("{text}"))
        };
        assert!(
            line("cpuid").ends_with("WORSE") && line("cpuid").contains("+41"),
            "{text}"
        );
        assert!(
            line("out").ends_with("better") && line("out").contains("-20.0 %"),
            "{text}"
        );
        assert!(
            text.contains("3 operations compared, 0 of them equal, 1 worse"),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_longer_measured_is_worse() {
        let before = results(&[("plain", "cpuid", 10, 1.0), ("plain", "out", 10, 1.0)]);
        let now = results(&[("plain", "cpuid", 10, 1.0)]);
        let comparison = Comparison::new(&before, &now, 2.0);
        assert!(comparison.is_worse());
        assert!(comparison.text(&before).contains("MISSING"));
        // A configuration that was not asked for is no loss.
        assert!(!Comparison::new(&before, &Results::default(), 2.0).is_worse());
    }
}
