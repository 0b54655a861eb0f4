//! Waiting until L1 was told of all that its TSC goes through.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::reenlightenments;

/// L1 is told at once, but what it is to be told of may be long in coming. This is by its own clock.
const PATIENCE: Duration = Duration::from_secs(120);

/// What L1 is to be told of, and has been.
pub struct Told {
    /// How often it had been before anybody compared clocks.
    pub before: u64,
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
    pub fn of(changes: u64, moves: u64) -> Result<Self> {
        Ok(Told {
            before: reenlightenments::count()?.unwrap_or(0),
            wanted: changes + moves,
            last: Mutex::new(Last {
                count: 0,
                at: Instant::now(),
            }),
        })
    }

    /// Whether it has been told of all.
    ///
    /// # Errors
    /// [`Error::Guest`] if it was told of nothing for long.
    pub fn is_all(&self) -> Result<bool> {
        let count = reenlightenments::count()?.unwrap_or(0);
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
