//! Leaf 0x15: the TSC's rate as a multiple of the APIC timer's.

use super::Registers;
use core::sync::atomic::{AtomicU32, Ordering};
use serde::{Deserialize, Serialize, Serializer};

/// The two rates. The TSC's changes where the machine that L1 is on does.
#[derive(Debug, Deserialize)]
#[serde(from = "(u32, u32)")]
pub(super) struct TscRate {
    apic_hz: u32,
    tsc_hz: AtomicU32,
}

impl Serialize for TscRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.apic_hz, self.tsc_hz.load(Ordering::Relaxed)).serialize(serializer)
    }
}

impl From<(u32, u32)> for TscRate {
    fn from((apic_hz, tsc_hz): (u32, u32)) -> Self {
        Self {
            apic_hz,
            tsc_hz: AtomicU32::new(tsc_hz),
        }
    }
}

impl TscRate {
    /// Both timers at one rate, in Hz.
    pub(super) const fn new(hz: u32) -> Self {
        Self {
            apic_hz: hz,
            tsc_hz: AtomicU32::new(hz),
        }
    }

    pub(super) fn set(&self, tsc_hz: u32) {
        self.tsc_hz.store(tsc_hz, Ordering::Relaxed);
    }

    /// EAX denominator and EBX numerator, in lowest terms, ECX the APIC timer's rate.
    #[cold]
    pub(super) fn leaf(&self) -> Registers {
        let tsc_hz = self.tsc_hz.load(Ordering::Relaxed);
        let divisor = greatest_common_divisor(tsc_hz, self.apic_hz).max(1);
        Registers {
            eax: self.apic_hz / divisor,
            ebx: tsc_hz / divisor,
            ecx: self.apic_hz,
            edx: 0,
        }
    }
}

const fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_exact() {
        let rate = TscRate::new(100_000_000);
        let leaf = |rate: &TscRate| {
            let r = rate.leaf();
            (r.eax, r.ebx, r.ecx, r.edx)
        };
        assert_eq!(leaf(&rate), (1, 1, 100_000_000, 0));
        rate.set(150_000_000);
        assert_eq!(leaf(&rate), (2, 3, 100_000_000, 0));
        rate.set(99_999_989);
        assert_eq!(leaf(&rate), (100_000_000, 99_999_989, 100_000_000, 0));
    }
}
