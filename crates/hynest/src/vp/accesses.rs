//! L0's own accesses, counted: VMREADs, VMWRITEs, and words of L1's pages.
//!
//! They are what an L2 exit consists of, and each is an instruction or two, so that counting them takes as
//! long as doing them. So an image counts them only when it is built with the feature `count-accesses`;
//! otherwise all of this is nothing.

#[cfg(feature = "count-accesses")]
pub use kept::{count, counted};
#[cfg(not(feature = "count-accesses"))]
pub use not_kept::{count, counted};

#[cfg(feature = "count-accesses")]
mod kept {
    use core::sync::atomic::{AtomicU64, Ordering};

    use platform::counters::Counter;

    use crate::cpu::per_cpu::{self, MAX_CPUS};

    /// By processor: each has one VP.
    static COUNTS: [[AtomicU64; Counter::ALL.len()]; MAX_CPUS] =
        [const { [const { AtomicU64::new(0) }; Counter::ALL.len()] }; MAX_CPUS];

    /// What an access counter holds for this processor's VP.
    pub fn counted(counter: Counter) -> Option<u64> {
        let count = &COUNTS[per_cpu::this().number()][counter as usize];
        Some(count.load(Ordering::Relaxed))
    }

    /// Counts one.
    pub fn count(counter: Counter) {
        COUNTS[per_cpu::this().number()][counter as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(not(feature = "count-accesses"))]
mod not_kept {
    use platform::counters::Counter;

    /// This image keeps no access counter.
    pub fn counted(_: Counter) -> Option<u64> {
        None
    }

    /// Counts nothing.
    #[inline(always)]
    pub fn count(_: Counter) {}
}
