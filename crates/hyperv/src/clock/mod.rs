//! The partition's reference clock.
//!
//! Reference time counts units of 100 ns from the partition's creation. It is
//! a straight line over the TSC, and one formula serves both who reads the
//! MSR (here) and who reads the reference TSC page (the guest), so that the
//! two never disagree. The TSC itself is the machine's or, where the machine's
//! rate has changed, made to go on at the old one: [`TscSource`].

mod page;
mod rate_change;
mod shared;
mod source;
mod timeline;

pub use page::TscPage;
pub use rate_change::{BadRateChange, RateChange};
pub use shared::ReferenceClock;
pub use source::{Conversion, Emulation, Scaling, TscSource};
pub use timeline::{Timeline, TooSlow};

use serde::{Deserialize, Serialize};

/// Units of reference time in a second.
pub const REFERENCE_HZ: u64 = 10_000_000;

/// A value of the partition's TSC: what RDTSC gives in a VP that has not
/// written its own TSC or TSC_ADJUST.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Tsc(pub u64);

/// A point on the partition's reference clock, or a span of it, in units of
/// 100 ns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[repr(transparent)]
pub struct ReferenceTime(pub u64);

impl ReferenceTime {
    /// Whole seconds of it.
    pub const fn seconds(self) -> u64 {
        self.0 / REFERENCE_HZ
    }
}
