//! Where the partition's TSC comes from: the machine's, or an emulation of what
//! the machine's would be if its rate had not changed.

use super::{ReferenceTime, Timeline, TooSlow, Tsc};

/// A TSC that goes on at the rate that the guest knows on a machine whose own
/// has another.
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
        let further = reached.saturating_sub(ticks as u128);
        if further > u64::MAX as u128 {
            u64::MAX
        } else {
            further as u64
        }
    }
}

/// `ticks * numerator / denominator`, rounded down; the product cannot overflow.
const fn scaled(ticks: u64, numerator: u64, denominator: u64) -> u128 {
    ticks as u128 * numerator as u128 / denominator as u128
}

/// How the partition's TSC follows the machine's.
///
/// It changes only while all VPs are stopped; each then takes the new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscSource {
    offset: u64,
    machine_hz: u64,
    emulation: Option<Emulation>,
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
                machine_hz,
                emulation: None,
            }),
            Err(slow) => Err(slow),
        }
    }

    /// The partition's TSC less the counter.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The emulation in progress: TSC reads are intercepted for it.
    pub const fn emulation(&self) -> Option<Emulation> {
        self.emulation
    }

    /// The rate at which the partition's TSC runs, in Hz.
    pub const fn guest_hz(&self) -> u64 {
        match &self.emulation {
            Some(emulation) => emulation.guest_hz,
            None => self.machine_hz,
        }
    }

    /// What the machine's TSC reads, or is made to read, when it is `machine`.
    pub const fn counter(&self, machine: u64) -> u64 {
        match &self.emulation {
            Some(emulation) => emulation.counter(machine),
            None => machine,
        }
    }

    /// The partition's TSC when the machine's is `machine`.
    pub const fn tsc(&self, machine: u64) -> Tsc {
        Tsc(self.counter(machine).wrapping_add(self.offset))
    }

    /// The machine's TSC runs at `machine_hz` from `machine` on, and the
    /// partition's goes on at its rate.
    ///
    /// # Errors
    ///
    /// [`TooSlow`] up to 10 MHz; nothing has changed then.
    pub const fn emulate(&mut self, machine: u64, machine_hz: u64) -> Result<(), TooSlow> {
        if let Err(slow) = Self::new(0, machine_hz) {
            return Err(slow);
        }
        self.emulation = Some(Emulation {
            from: machine,
            to: self.counter(machine),
            guest_hz: self.guest_hz(),
            machine_hz,
        });
        self.machine_hz = machine_hz;
        Ok(())
    }

    /// The partition's TSC follows the machine's again from `machine` on: at the
    /// machine's rate, without a step. Returns what VPs' offsets grow by.
    pub const fn follow_machine(&mut self, machine: u64) -> u64 {
        let step = self.counter(machine).wrapping_sub(machine);
        self.offset = self.offset.wrapping_add(step);
        self.emulation = None;
        step
    }
}

#[cfg(test)]
mod tests;
