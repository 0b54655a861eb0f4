//! Counting a vCPU's exits to KVM between two marks that the guest makes by OUT.

use std::sync::Arc;

use serde::Serialize;

use crate::error::Result;
use crate::report::Report;
use crate::stats::Stats;

/// The port of the marks: 1 begins, 0 ends. `vmm read-clock` makes them.
pub const PORT: u16 = 0xE0;

/// Exits of one vCPU so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    all: u64,
    interrupts: u64,
}

/// The marks of one vCPU.
pub struct Marks {
    name: String,
    report: Arc<Report>,
    /// Where KVM has them.
    stats: Option<Stats>,
    begun: Option<Counts>,
}

/// The report's line.
#[derive(Serialize, Debug)]
struct Between<'a> {
    event: &'static str,
    name: &'a str,
    /// Exits to KVM that were not for an interrupt of L1, without the marks.
    exits: u64,
    /// Exits for L1's interrupts.
    interrupts: u64,
}

impl<'a> Between<'a> {
    fn new(name: &'a str, begun: Counts, ended: Counts) -> Self {
        let interrupts = ended.interrupts.saturating_sub(begun.interrupts);
        let all = ended.all.saturating_sub(begun.all);
        Between {
            event: "l2-exits",
            name,
            // The mark at the end is one.
            exits: all.saturating_sub(interrupts + 1),
            interrupts,
        }
    }
}

impl Marks {
    /// The marks of a vCPU of the guest `name`.
    pub fn new(name: &str, report: Arc<Report>, stats: Option<Stats>) -> Self {
        Marks {
            name: name.into(),
            report,
            stats,
            begun: None,
        }
    }

    /// The guest wrote `value` to [`PORT`].
    pub fn out(&mut self, value: u8) -> Result<()> {
        let now = self.count()?;
        if value != 0 {
            self.begun = now;
            return Ok(());
        }
        match (self.begun.take(), now) {
            (Some(begun), Some(now)) if self.report.to_file() => {
                self.report.event(&Between::new(&self.name, begun, now))
            }
            _ => Ok(()),
        }
    }

    fn count(&self) -> Result<Option<Counts>> {
        let Some(stats) = &self.stats else {
            return Ok(None);
        };
        let (all, interrupts) = (stats.read("exits")?, stats.read("irq_exits")?);
        Ok(all
            .zip(interrupts)
            .map(|(all, interrupts)| Counts { all, interrupts }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_and_interrupts_are_taken_out() {
        let counts = |all, interrupts| Counts { all, interrupts };
        let json = serde_json::to_value(Between::new("a", counts(100, 40), counts(113, 50)));
        let json = json.unwrap();
        assert_eq!(json["event"], "l2-exits");
        assert_eq!(
            (json["exits"].as_u64(), json["interrupts"].as_u64()),
            (Some(2), Some(10))
        );
    }
}
