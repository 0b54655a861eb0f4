//! A VP's synthetic timers, in direct mode (TLFS, "Synthetic Timers").
//!
//! Deadlines are kept in reference time. When the hardware is to be armed the
//! earliest is turned into a TSC value, rounded so that it is never early, and
//! what has expired is decided by the reference clock alone: an early hardware
//! timer delivers nothing.

use crate::clock::ReferenceTime;
use serde::{Deserialize, Serialize};
use tlfs::msr::{STIMER_COUNT, StimerConfig};

/// Lowest vector that an APIC delivers as a fixed interrupt (SDM, "Valid
/// Interrupt Vectors").
const LOWEST_VECTOR: u8 = 16;

/// A periodic timer that is not lazy catches up with at most this many missed
/// periods; the rest are skipped.
const CATCH_UP_MAX: u64 = 8;

/// When a timer that does not run expires.
const NEVER: ReferenceTime = ReferenceTime(u64::MAX);

/// One timer. State, to be saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timer {
    /// STIMERn_CONFIG.
    pub config: StimerConfig,
    /// STIMERn_COUNT: deadline of a one-shot timer, period of a periodic one.
    pub count: u64,
    /// When it expires next: all ones if it does not run.
    pub expires: ReferenceTime,
    /// Periodic: when it would expire next, had it never been late.
    pub due: ReferenceTime,
}

/// A value that the configuration register does not take: #GP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadConfig;

impl Default for Timer {
    /// As after reset: disabled.
    fn default() -> Self {
        Self {
            config: StimerConfig::new(),
            count: 0,
            expires: NEVER,
            due: NEVER,
        }
    }
}

impl Timer {
    fn write_config(
        &mut self,
        value: u64,
        now: impl FnOnce() -> ReferenceTime,
    ) -> Result<(), BadConfig> {
        let config = StimerConfig::from_bits(value);
        let armed = config.enabled() || config.auto_enable();
        if value & StimerConfig::RESERVED != 0
            || (armed && config.direct() && config.vector() < LOWEST_VECTOR)
        {
            return Err(BadConfig);
        }
        self.config = config;
        self.start(now);
        Ok(())
    }

    #[inline]
    fn write_count(&mut self, count: u64, now: impl FnOnce() -> ReferenceTime) {
        self.count = count;
        if count == 0 {
            self.config.set_enabled(false);
        } else if self.config.auto_enable() {
            self.config.set_enabled(true);
        }
        self.start(now);
    }

    #[inline]
    fn start(&mut self, now: impl FnOnce() -> ReferenceTime) {
        // A timer that is not direct sends a message to a SINT. There is no
        // SynIC, so no SINT could take it: the TLFS's answer to a timer
        // without a SINT is that it does not become enabled.
        if !self.config.direct() {
            self.config.set_enabled(false);
        }
        self.due = if !self.config.enabled() || self.count == 0 {
            NEVER
        } else if self.config.periodic() {
            ReferenceTime(now().0.saturating_add(self.count))
        } else {
            ReferenceTime(self.count)
        };
        self.expires = self.due;
    }

    /// Moves past an expiration noticed at `now`.
    fn advance(&mut self, now: ReferenceTime) {
        if !self.config.periodic() {
            self.config.set_enabled(false);
            self.expires = NEVER;
            return;
        }
        let period = self.count;
        self.due.0 = self.due.0.saturating_add(period);
        self.expires = self.due;
        if self.due > now {
            return;
        }
        let missed = (now.0 - self.due.0) / period + 1;
        if self.config.lazy() || missed > CATCH_UP_MAX {
            self.due.0 = self.due.0.saturating_add(missed.saturating_mul(period));
            self.expires = self.due;
        } else {
            // Period modulation: half the period until the lag is gone.
            self.expires.0 = now.0.saturating_add((period / 2).max(1));
        }
    }
}

/// The four timers of a VP. State, to be saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timers(pub [Timer; STIMER_COUNT]);

impl Timers {
    /// Whether writes can have led to this: what runs has a deadline or a period.
    pub fn are_possible(&self) -> bool {
        let is_possible = |timer: &Timer| {
            let is_stopped = timer.expires == NEVER;
            is_stopped || timer.config.enabled() && timer.config.direct() && timer.count != 0
        };
        self.0.iter().all(is_possible)
    }

    /// STIMERn_CONFIG of timer `n`, below 4.
    pub fn config(&self, n: usize) -> u64 {
        self.0[n].config.into_bits()
    }

    /// STIMERn_COUNT of timer `n`, below 4.
    pub fn count(&self, n: usize) -> u64 {
        self.0[n].count
    }

    /// Writes STIMERn_CONFIG of timer `n`, below 4. `now` is asked for only if
    /// a period begins.
    ///
    /// # Errors
    ///
    /// [`BadConfig`] if a reserved bit is set, or a direct timer is armed with
    /// a vector that no APIC delivers. The timer is as before then.
    pub fn write_config(
        &mut self,
        n: usize,
        value: u64,
        now: impl FnOnce() -> ReferenceTime,
    ) -> Result<(), BadConfig> {
        self.0[n].write_config(value, now)
    }

    /// Writes STIMERn_COUNT of timer `n`, below 4. `now` is asked for only if
    /// a period begins.
    #[inline]
    pub fn write_count(&mut self, n: usize, count: u64, now: impl FnOnce() -> ReferenceTime) {
        self.0[n].write_count(count, now);
    }

    /// When the first of the timers expires; it may have passed.
    #[inline]
    pub fn next_deadline(&self) -> Option<ReferenceTime> {
        let [a, b, c, d] = self.0.each_ref().map(|timer| timer.expires);
        let first = a.min(b).min(c.min(d));
        (first != NEVER).then_some(first)
    }

    /// The vectors of the timers that have expired by `now`, each once. A
    /// one-shot timer is disabled, a periodic one goes on.
    pub fn expire(&mut self, now: ReferenceTime) -> Vectors {
        let mut vectors = Vectors::default();
        for timer in self
            .0
            .iter_mut()
            .filter(|timer| timer.expires <= now && timer.expires != NEVER)
        {
            vectors.push(timer.config.vector());
            timer.advance(now);
        }
        vectors
    }
}

/// The vectors of expired timers, to be asserted in the VP's local APIC as
/// fixed, edge-triggered interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vectors {
    vectors: [u8; STIMER_COUNT],
    next: usize,
    end: usize,
}

impl Vectors {
    fn push(&mut self, vector: u8) {
        // One for each timer at most.
        self.vectors[self.end] = vector;
        self.end += 1;
    }
}

impl Iterator for Vectors {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let vector = *self.vectors[..self.end].get(self.next)?;
        self.next += 1;
        Some(vector)
    }
}

#[cfg(test)]
mod tests;
