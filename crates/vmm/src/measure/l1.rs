//! What L1's user space measures of itself.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::hint::black_box;

use crate::counters::{CounterPort, Reading};
use crate::error::{Result, last_system_error};

/// Repeats `operation` and gives the ticks of each repetition, with L0's counters
/// around them all.
pub fn repeat(
    repetitions: u64,
    port: Option<CounterPort>,
    operation: &mut dyn FnMut(),
) -> (Vec<u64>, Option<(Reading, Reading)>) {
    // Written once before, so that no page fault falls into the measurement.
    let mut stamps = vec![1u64; repetitions as usize + 1];
    let before = port.map(CounterPort::read);
    stamps[0] = ticks();
    for stamp in &mut stamps[1..] {
        black_box(&mut *operation)();
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

/// The time, as most programs ask for it.
pub fn clock() {
    // SAFETY: zeroes are a time, and the call writes one.
    unsafe {
        let mut time: libc::timespec = core::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        black_box(time);
    }
}

/// Makes [`barrier`] possible.
pub fn allow_barriers() -> Result<()> {
    match membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) {
        0 => Ok(()),
        _ => Err(last_system_error("register for memory barriers")),
    }
}

/// Has every CPU that runs this program execute a memory barrier, which takes an interrupt there.
pub fn barrier() {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

fn membarrier(command: libc::c_int) -> libc::c_long {
    // SAFETY: the call takes numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
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
        let (samples, counters) = repeat(20, None, &mut nothing);
        assert_eq!(samples.len(), 20);
        assert!(counters.is_none());
        let (samples, _) = repeat(0, None, &mut cpuid);
        assert!(samples.is_empty());
    }
}
