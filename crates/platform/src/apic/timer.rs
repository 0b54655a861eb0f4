//! The local APIC timer, computed from TSC values. SDM vol. 3, 11.5.4.
//!
//! Nothing ticks here: a running count is the TSC at which it started and a
//! rate, and its end is a TSC value that L0 programs into whatever timer the
//! machine has.

use serde::{Deserialize, Serialize};

/// The rates that tie the APIC timer to the TSC of the VP, both in Hz.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", try_from = "(u64, u64)")]
pub struct TimerClock {
    tsc_hz: u64,
    apic_hz: u64,
}

/// A rate is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRate;

impl core::fmt::Display for NoRate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a timer's rate is 0")
    }
}

impl From<TimerClock> for (u64, u64) {
    fn from(clock: TimerClock) -> Self {
        (clock.tsc_hz, clock.apic_hz)
    }
}

impl TryFrom<(u64, u64)> for TimerClock {
    type Error = NoRate;

    fn try_from((tsc_hz, apic_hz): (u64, u64)) -> Result<Self, NoRate> {
        Self::new(tsc_hz, apic_hz).ok_or(NoRate)
    }
}

impl TimerClock {
    /// A clock whose count register runs at `apic_hz` (before the divider)
    /// while the TSC runs at `tsc_hz`; `None` if either is 0.
    pub const fn new(tsc_hz: u64, apic_hz: u64) -> Option<Self> {
        if tsc_hz == 0 || apic_hz == 0 {
            return None;
        }
        Some(Self { tsc_hz, apic_hz })
    }

    /// The same timer beside a TSC of another rate; `None` if that is 0.
    pub const fn with_tsc_hz(self, tsc_hz: u64) -> Option<Self> {
        Self::new(tsc_hz, self.apic_hz)
    }

    /// Frequency of the undivided timer in Hz: what HV_X64_MSR_APIC_FREQUENCY tells L1.
    pub const fn apic_hz(self) -> u64 {
        self.apic_hz
    }

    /// TSC ticks until `ticks` of the undivided timer have passed: rounded up, so
    /// that a timer never ends early.
    fn tsc(self, ticks: u128) -> u64 {
        let tsc = ticks
            .saturating_mul(self.tsc_hz as u128)
            .div_ceil(self.apic_hz as u128);
        u64::try_from(tsc).unwrap_or(u64::MAX)
    }

    /// Whole ticks of the undivided timer within `tsc` TSC ticks.
    fn ticks(self, tsc: u64) -> u128 {
        tsc as u128 * self.apic_hz as u128 / self.tsc_hz as u128
    }
}

/// What bits 18:17 of the timer's LVT entry select.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Counts down and starts again.
    Periodic,
    /// Ends at the TSC value in IA32_TSC_DEADLINE.
    TscDeadline,
}

impl TimerMode {
    /// The mode a timer LVT entry selects; `None` for the reserved encoding.
    pub(super) const fn from_lvt(lvt: u32) -> Option<Self> {
        Some(match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => return None,
        })
    }
}

/// The timer's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Timer {
    clock: TimerClock,
    mode: TimerMode,
    /// The divide configuration register as written.
    divide: u32,
    /// The initial count register; 0 when stopped or in TSC-deadline mode.
    initial: u32,
    /// TSC when the count was (as if) loaded: a TSC that has been written since may not have come there.
    start: i128,
    /// TSC at which the timer next ends.
    deadline: Option<u64>,
}

impl Timer {
    /// The divide configuration register's bits that exist (SDM figure 11-10).
    pub(super) const DIVIDE_BITS: u32 = 0b1011;

    pub(super) const fn new(clock: TimerClock) -> Self {
        Self {
            clock,
            mode: TimerMode::OneShot,
            divide: 0,
            initial: 0,
            start: 0,
            deadline: None,
        }
    }

    pub(super) const fn reset(&mut self) {
        *self = Self::new(self.clock);
    }

    /// Whether registers can have led to this: a period has a length.
    pub(super) const fn is_possible(&self) -> bool {
        let counts = !matches!(self.mode, TimerMode::TscDeadline);
        !counts || self.initial != 0 || self.deadline.is_none()
    }

    pub(super) const fn clock(&self) -> TimerClock {
        self.clock
    }

    pub(super) fn set_clock(&mut self, clock: TimerClock, now: u64) {
        let left = self.current(now);
        self.clock = clock;
        self.resume(left, now);
    }

    /// The TSC is written: it read `from` and reads `to`. What counts goes on.
    pub(super) fn follow_tsc(&mut self, from: u64, to: u64) {
        if self.mode != TimerMode::TscDeadline {
            let step = to as i128 - from as i128;
            self.start += step;
            self.deadline = self.deadline.map(|tsc| moment(tsc as i128 + step));
        }
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// log2 of the divider: the encodings 000 to 110 mean 2 to 128, 111 means 1.
    const fn shift(&self) -> u32 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        (code + 1) & 7
    }

    /// Ticks of the divided timer since the count was loaded.
    fn elapsed(&self, now: u64) -> u128 {
        let gone = (now as i128 - self.start).clamp(0, u64::MAX as i128);
        self.clock.ticks(gone as u64) >> self.shift()
    }

    /// TSC at which `ticks` of the divided timer have passed since the start.
    fn tsc_after(&self, ticks: u128) -> u64 {
        let after = self.clock.tsc(ticks << self.shift());
        moment(self.start + after as i128)
    }

    /// The current count register. A count that has ended stays 0 whatever becomes of mode, divider and
    /// rate, until another one is loaded.
    pub(super) fn current(&self, now: u64) -> u32 {
        if self.initial == 0 || self.deadline.is_none() {
            return 0;
        }
        let initial = self.initial as u128;
        let elapsed = self.elapsed(now);
        let left = match self.mode {
            TimerMode::Periodic => initial - elapsed % initial,
            _ => initial.saturating_sub(elapsed),
        };
        left as u32
    }

    pub(super) fn set_initial(&mut self, count: u32, now: u64) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial = count;
        self.start = now.into();
        self.deadline = (count != 0).then(|| self.tsc_after(count as u128));
    }

    /// Sets the divider; a running count goes on from where it is.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let left = self.current(now);
        self.divide = value & Self::DIVIDE_BITS;
        self.resume(left, now);
    }

    pub(super) fn set_mode(&mut self, mode: TimerMode, now: u64) {
        if mode == self.mode {
            return;
        }
        let deadline = TimerMode::TscDeadline;
        if mode == deadline || self.mode == deadline {
            self.initial = 0;
            self.deadline = None;
            self.mode = mode;
        } else {
            let left = self.current(now);
            self.mode = mode;
            self.resume(left, now);
        }
    }

    /// Goes on counting at `now` with `left` to go in this period.
    fn resume(&mut self, left: u32, now: u64) {
        if self.initial == 0 || left == 0 {
            return;
        }
        let done = ((self.initial - left) as u128) << self.shift();
        self.start = now as i128 - self.clock.tsc(done) as i128;
        self.deadline = Some(self.tsc_after(self.initial as u128));
    }

    /// IA32_TSC_DEADLINE as L1 reads it.
    pub(super) fn tsc_deadline(&self) -> u64 {
        match self.mode {
            TimerMode::TscDeadline => self.deadline.unwrap_or(0),
            _ => 0,
        }
    }

    /// Writes IA32_TSC_DEADLINE: 0 disarms; ignored in the other modes.
    pub(super) fn set_tsc_deadline(&mut self, tsc: u64) {
        if self.mode == TimerMode::TscDeadline {
            self.deadline = (tsc != 0).then_some(tsc);
        }
    }

    /// Whether the timer has ended by `now`. A periodic one is set to its next
    /// end after `now`, however many went by: missed periods are one interrupt.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        match self.deadline {
            Some(deadline) if deadline <= now => {}
            _ => return false,
        }
        self.deadline = match self.mode {
            TimerMode::Periodic => {
                let initial = self.initial as u128;
                let periods = self.elapsed(now) / initial + 1;
                Some(self.tsc_after(periods * initial))
            }
            _ => None,
        };
        true
    }
}

/// The TSC value nearest to a number: what lies beyond the last never comes.
fn moment(tsc: i128) -> u64 {
    tsc.clamp(0, u64::MAX.into()) as u64
}
