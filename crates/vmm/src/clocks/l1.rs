//! L1's clocks: CLOCK_MONOTONIC by the vDSO, and the TSC.

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use std::sync::atomic::AtomicU64;

use super::course::{Sample, compare};
use super::{Count, Course, OfClock, OfVp, Shared, worst};
use crate::error::{Error, Result};
use crate::read_clock;

/// Readings between two samples.
const BURST: usize = 500;

/// The latest reading of each clock by any reader.
#[derive(Default)]
pub struct Latest {
    monotonic: AtomicU64,
    tsc: AtomicU64,
}

/// What one reader found.
pub struct Found {
    monotonic: Count,
    tsc: Count,
    samples: Vec<Sample>,
    /// Beside these clocks.
    pub of_vp: OfVp,
}

fn monotonic() -> Result<u64> {
    let now = read_clock::monotonic()
        .ok_or(Error::NotOffered("CLOCK_MONOTONIC without a system call"))?;
    Ok(now.as_nanos() as u64)
}

fn tsc() -> Result<u64> {
    // SAFETY: reads a counter; every x86-64 processor has both instructions.
    Ok(unsafe {
        _mm_lfence();
        _rdtsc()
    })
}

/// Reads on CPU `cpu` until all is over.
pub fn read(shared: &Shared, cpu: usize) -> Result<Found> {
    let mut course = Course::begin(shared, cpu)?;
    read_clock::forbid_the_system_call()?;
    let latest = &shared.l1;
    let (mut of_monotonic, mut of_tsc) = (Count::default(), Count::default());
    let mut samples = Vec::new();
    while course.goes_on() {
        for _ in 0..BURST {
            of_monotonic.read(&latest.monotonic, monotonic)?;
            of_tsc.read(&latest.tsc, tsc)?;
        }
        course.pass_point()?;
        samples.push(Sample {
            before: course.reference()?,
            clock: of_monotonic.read(&latest.monotonic, monotonic)?,
            after: course.reference()?,
        });
    }
    Ok(Found {
        monotonic: of_monotonic,
        tsc: of_tsc,
        samples,
        of_vp: course.end(),
    })
}

/// What all readers found.
pub fn clocks(found: &[Found]) -> Vec<OfClock> {
    let sum = |count: fn(&Found) -> Count| Count::sum(found.iter().map(count));
    let monotonic = worst(found.iter().map(|found| compare(&found.samples)));
    vec![
        OfClock::new("L1 CLOCK_MONOTONIC", sum(|f| f.monotonic), Some(monotonic)),
        OfClock::new("L1 TSC", sum(|f| f.tsc), None),
    ]
}
