//! Where the partition's TSC comes from: the machine's; or, where that has taken on
//! another rate, the machine's as hardware scales it, or an emulation.

use super::{ReferenceTime, Timeline, TooSlow, Tsc};

mod scaling;

pub use scaling::Scaling;

/// A TSC that goes on at the rate that the guest knows on a machine whose own
/// has another, and whose hardware cannot hide it.
///
/// What it gives is the *counter*: what the machine's TSC would read now. All
/// offsets, the partition's and those of VPs, are on top of it as they are on
/// top of the machine's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emulation {
    /// The machine's TSC when the machine took on its present rate.
    from: u64,
    /// The counter then.
    to: u64,
    /// The counter's rate in Hz.
    guest_hz: u64,
    /// The machine's rate in Hz.
    machine_hz: u64,
}

impl Emulation {
    /// The counter when the machine's TSC is `machine`: rounded down, and held
    /// on a processor whose TSC is behind that of the one that began.
    #[inline]
    pub const fn counter(&self, machine: u64) -> u64 {
        let ticks = machine.saturating_sub(self.from);
        self.to
            .wrapping_add(scaled(ticks, self.guest_hz, self.machine_hz) as u64)
    }

    /// Ticks of the machine's TSC from `machine` on until the counter has gone
    /// on by `left`: never too few, `u64::MAX` if it is that or more.
    pub const fn machine_ticks(&self, machine: u64, left: u64) -> u64 {
        let ticks = machine.saturating_sub(self.from);
        let wanted = scaled(ticks, self.guest_hz, self.machine_hz).saturating_add(left as u128);
        let Some(product) = wanted.checked_mul(self.machine_hz as u128) else {
            return u64::MAX;
        };
        // The first moment at which the rounded-down counter is there.
        let reached = product.div_ceil(self.guest_hz as u128);
        saturated(reached.saturating_sub(ticks as u128))
    }
}

/// `ticks * numerator / denominator`, rounded down; the product cannot overflow.
const fn scaled(ticks: u64, numerator: u64, denominator: u64) -> u128 {
    ticks as u128 * numerator as u128 / denominator as u128
}

/// A number of ticks, `u64::MAX` if it is that or more.
const fn saturated(ticks: u128) -> u64 {
    if ticks > u64::MAX as u128 {
        u64::MAX
    } else {
        ticks as u64
    }
}

/// What makes the counter of the machine's TSC where they are not the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conversion {
    /// Hardware multiplies whatever a guest reads.
    Scaled(Scaling),
    /// The guests' reads are intercepted.
    Emulated(Emulation),
}

impl Conversion {
    /// The counter when the machine's TSC is `machine`.
    #[inline]
    pub const fn counter(&self, machine: u64) -> u64 {
        match self {
            Self::Scaled(scaling) => scaling.counter(machine),
            Self::Emulated(emulation) => emulation.counter(machine),
        }
    }

    /// Ticks of the machine's TSC from `machine` on until the counter has gone
    /// on by `left`: never too few, `u64::MAX` if it is that or more.
    pub const fn machine_ticks(&self, machine: u64, left: u64) -> u64 {
        match self {
            Self::Scaled(scaling) => scaling.machine_ticks(machine, left),
            Self::Emulated(emulation) => emulation.machine_ticks(machine, left),
        }
    }
}

/// How the partition's TSC follows the machine's.
///
/// It changes only while all VPs are stopped; each then takes the new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscSource {
    offset: u64,
    guest_hz: u64,
    since: Tsc,
    machine_hz: u64,
    conversion: Option<Conversion>,
}

impl TscSource {
    /// The TSC of a machine of `machine_hz`, plus `offset`.
    ///
    /// # Errors
    ///
    /// [`TooSlow`] up to 10 MHz.
    pub const fn new(offset: u64, machine_hz: u64) -> Result<Self, TooSlow> {
        match Timeline::through(Tsc(0), ReferenceTime(0), machine_hz) {
            Ok(_) => Ok(Self {
                offset,
                guest_hz: machine_hz,
                since: Tsc(0),
                machine_hz,
                conversion: None,
            }),
            Err(slow) => Err(slow),
        }
    }

    /// The partition's TSC less the counter.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// What makes the counter of the machine's TSC, where they are not the same.
    pub const fn conversion(&self) -> Option<Conversion> {
        self.conversion
    }

    /// The rate at which the partition's TSC runs, in Hz.
    pub const fn guest_hz(&self) -> u64 {
        self.guest_hz
    }

    /// What the partition's TSC was when it began to run at that rate: 0 where it always has.
    pub const fn since(&self) -> Tsc {
        self.since
    }

    /// What the machine's TSC reads, or is made to read, when it is `machine`.
    pub const fn counter(&self, machine: u64) -> u64 {
        match &self.conversion {
            Some(conversion) => conversion.counter(machine),
            None => machine,
        }
    }

    /// The partition's TSC when the machine's is `machine`.
    pub const fn tsc(&self, machine: u64) -> Tsc {
        Tsc(self.counter(machine).wrapping_add(self.offset))
    }

    /// The machine's TSC runs at `machine_hz` from `machine` on, and hardware is
    /// to have the partition's go on at its rate without a step. Returns whether
    /// it can; nothing has changed otherwise.
    ///
    /// # Errors
    ///
    /// [`TooSlow`] up to 10 MHz; nothing has changed then.
    pub const fn scale(&mut self, machine: u64, machine_hz: u64) -> Result<bool, TooSlow> {
        if let Err(slow) = Self::new(0, machine_hz) {
            return Err(slow);
        }
        if machine_hz == self.guest_hz {
            self.convert(machine, None);
        } else if let Some(scaling) = Scaling::between(self.guest_hz, machine_hz) {
            self.convert(machine, Some(Conversion::Scaled(scaling)));
        } else {
            return Ok(false);
        }
        self.machine_hz = machine_hz;
        Ok(true)
    }

    /// The machine's TSC runs at `machine_hz` from `machine` on, and the
    /// partition's goes on at its rate by emulation.
    ///
    /// # Errors
    ///
    /// [`TooSlow`] up to 10 MHz; nothing has changed then.
    pub const fn emulate(&mut self, machine: u64, machine_hz: u64) -> Result<(), TooSlow> {
        if let Err(slow) = Self::new(0, machine_hz) {
            return Err(slow);
        }
        self.conversion = Some(Conversion::Emulated(Emulation {
            from: machine,
            to: self.counter(machine),
            guest_hz: self.guest_hz,
            machine_hz,
        }));
        self.machine_hz = machine_hz;
        Ok(())
    }

    /// The partition's TSC follows the machine's again from `machine` on: at the
    /// machine's rate, without a step.
    pub const fn follow_machine(&mut self, machine: u64) {
        self.convert(machine, None);
        if self.guest_hz != self.machine_hz {
            self.guest_hz = self.machine_hz;
            self.since = self.tsc(machine);
        }
    }

    /// Another counter from `machine` on: the offset takes up the step between the two.
    const fn convert(&mut self, machine: u64, conversion: Option<Conversion>) {
        let before = self.counter(machine);
        self.conversion = conversion;
        let step = before.wrapping_sub(self.counter(machine));
        self.offset = self.offset.wrapping_add(step);
    }
}

#[cfg(test)]
mod tests;
