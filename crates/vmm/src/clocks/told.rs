//! How often L1 was told that its TSC may have another rate: Linux counts the interrupts in
//! /proc/interrupts, in the row HRE.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

const FILE: &str = "/proc/interrupts";

/// L1 is told at once, but what it is to be told of may be long in coming. This is by its own clock.
const PATIENCE: Duration = Duration::from_secs(120);

/// What L1 is to be told of, and has been.
pub struct Told {
    /// How often it is to be, since its boot: a move can come before anybody compares clocks.
    wanted: u64,
    last: Mutex<Last>,
}

struct Last {
    count: u64,
    at: Instant,
}

impl Told {
    /// It is to be told of `changes` of the rate and of `moves` to other machines.
    pub fn of(changes: u64, moves: u64) -> Self {
        Told {
            wanted: changes + moves,
            last: Mutex::new(Last {
                count: 0,
                at: Instant::now(),
            }),
        }
    }

    /// Whether it has been told of all.
    ///
    /// # Errors
    /// [`Error::Guest`] if it was told of nothing for long.
    pub fn is_all(&self) -> Result<bool> {
        let count = count()?;
        if count >= self.wanted {
            return Ok(true);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.count != count {
            *last = Last {
                count,
                at: Instant::now(),
            };
        }
        if last.at.elapsed() > PATIENCE {
            let wanted = self.wanted;
            return Err(Error::Guest(format!(
                "L1 was told of {count} of {wanted} changes of its TSC's rate"
            )));
        }
        Ok(false)
    }
}

fn count() -> Result<u64> {
    let text = fs::read_to_string(FILE).map_err(|cause| Error::File {
        path: PathBuf::from(FILE),
        cause,
    })?;
    Ok(sum(&text))
}

/// Of the row's counts, one for each processor; 0 where a kernel has no such row.
fn sum(interrupts: &str) -> u64 {
    let rows = interrupts.lines().map(str::trim_start);
    let counts = rows.filter_map(|row| row.strip_prefix("HRE:"));
    counts
        .flat_map(|row| {
            row.split_whitespace()
                .map_while(|word| word.parse::<u64>().ok())
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_summed_over_the_processors() {
        let text = "           CPU0       CPU1\n LOC:  5  6  Local timer interrupts\n \
                    HRE:         20          3  Hyper-V reenlightenment 7 interrupts\n";
        assert_eq!(sum(text), 23);
        assert_eq!(sum("LOC: 5 6\n"), 0);
    }
}
