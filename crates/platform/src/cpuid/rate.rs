//! Leaf 0x15: the TSC's rate as a multiple of the APIC timer's.

use super::Registers;
use core::sync::atomic::{AtomicU64, Ordering};
use serde::{Deserialize, Serialize, Serializer};

/// The two rates. The TSC's changes where the machine that L1 is on does.
#[derive(Debug, Deserialize)]
#[serde(from = "(u32, u64)")]
pub(super) struct TscRate {
    apic_hz: u32,
    tsc_hz: AtomicU64,
}

impl Serialize for TscRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.apic_hz, self.tsc_hz.load(Ordering::Relaxed)).serialize(serializer)
    }
}

impl From<(u32, u64)> for TscRate {
    fn from((apic_hz, tsc_hz): (u32, u64)) -> Self {
        Self {
            apic_hz,
            tsc_hz: AtomicU64::new(tsc_hz),
        }
    }
}

impl TscRate {
    /// Both timers at one rate, in Hz; where the leaf has no room for it, the APIC timer at the largest
    /// power of two's part for which it has.
    pub(super) const fn new(tsc_hz: u64) -> Self {
        Self {
            apic_hz: (tsc_hz >> excess(tsc_hz)) as u32,
            tsc_hz: AtomicU64::new(tsc_hz),
        }
    }

    pub(super) const fn apic_hz(&self) -> u32 {
        self.apic_hz
    }

    pub(super) fn set(&self, tsc_hz: u64) {
        self.tsc_hz.store(tsc_hz, Ordering::Relaxed);
    }

    /// EAX denominator and EBX numerator, in lowest terms, ECX the APIC timer's rate. A numerator of
    /// more than 32 bits loses the lowest, and the denominator as many.
    #[cold]
    pub(super) fn leaf(&self) -> Registers {
        let tsc_hz = self.tsc_hz.load(Ordering::Relaxed);
        let apic_hz = u64::from(self.apic_hz);
        let divisor = greatest_common_divisor(tsc_hz, apic_hz).max(1);
        let (denominator, numerator) = (apic_hz / divisor, tsc_hz / divisor);
        let lost = excess(numerator);
        Registers {
            eax: (denominator >> lost) as u32,
            ebx: (numerator >> lost) as u32,
            ecx: self.apic_hz,
            edx: 0,
        }
    }
}

/// Bits that a number has more than fit a register.
const fn excess(number: u64) -> u32 {
    (u64::BITS - number.leading_zeros()).saturating_sub(u32::BITS)
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
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

    #[test]
    fn a_rate_of_more_than_32_bits_is_told() {
        let told = |rate: &TscRate| {
            let r = rate.leaf();
            u64::from(r.ecx) * u64::from(r.ebx) / u64::from(r.eax)
        };
        for tsc_hz in [4_294_967_295, 4_300_000_000, 5_000_000_001, 20_000_000_003] {
            let rate = TscRate::new(tsc_hz);
            assert_eq!(u64::from(rate.apic_hz()), tsc_hz >> excess(tsc_hz));
            assert!(told(&rate).abs_diff(tsc_hz) < 16, "{tsc_hz}");
            rate.set(3_000_000_000);
            assert!(told(&rate).abs_diff(3_000_000_000) < 16, "{tsc_hz}");
        }
        let rate = TscRate::new(100_000_000);
        rate.set(4_999_999_999);
        assert!(told(&rate).abs_diff(4_999_999_999) < 500);
    }
}
