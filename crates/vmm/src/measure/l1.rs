//! What L1's user space measures of itself.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::hint::black_box;

use crate::counters::{CounterPort, Reading};

/// Repeats `operation` and gives the ticks of each repetition, with L0's counters
/// around them all.
pub fn repeat(
    repetitions: u64,
    port: Option<CounterPort>,
    operation: fn(),
) -> (Vec<u64>, Option<(Reading, Reading)>) {
    // Written once before, so that no page fault falls into the measurement.
    let mut stamps = vec![1u64; repetitions as usize + 1];
    let operation = black_box(operation);
    let before = port.map(CounterPort::read);
    stamps[0] = ticks();
    for stamp in &mut stamps[1..] {
        operation();
        *stamp = ticks();
    }
    let after = port.map(CounterPort::read);
    let samples = stamps
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]))
        .collect();
    (samples, before.zip(after))
}

/// CPUID leaf 0.
pub fn cpuid() {
    black_box(__cpuid(0));
}

/// What costs as much as the call alone.
pub fn nothing() {}

fn ticks() -> u64 {
    // SAFETY: RDTSC is part of x86-64 and reads a register; Linux does not forbid it
    // to user space unless asked to.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sample_for_each_repetition() {
        let (samples, counters) = repeat(20, None, nothing);
        assert_eq!(samples.len(), 20);
        assert!(counters.is_none());
        let (samples, _) = repeat(0, None, cpuid);
        assert!(samples.is_empty());
    }
}
