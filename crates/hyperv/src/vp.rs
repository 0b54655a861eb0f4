//! What the server keeps for a virtual processor.

use crate::clock::{ReferenceClock, Tsc};
use crate::timers::{Timers, Vectors};
use addr::Gpa1;
use serde::{Deserialize, Serialize};
use tlfs::msr::OverlayPage;

/// A virtual processor's own state. The processor that runs it owns it; it is
/// plain data that can be saved and restored as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vp {
    /// Its index, constant.
    pub index: u32,
    /// The VP_ASSIST_PAGE register.
    pub assist: OverlayPage,
    /// The synthetic timers.
    pub timers: Timers,
}

impl Vp {
    /// The VP of this index as it is after reset.
    pub fn new(index: u32) -> Self {
        Self {
            index,
            assist: OverlayPage::new(),
            timers: Timers::default(),
        }
    }

    /// Where the VP assist page lies, if L1 has enabled it.
    #[inline]
    pub const fn assist_page(&self) -> Option<Gpa1> {
        self.assist.page()
    }

    /// The TSC value at which [`Vp::expire_timers`] should be called next: as
    /// soon as possible after it, and not before. It may have passed.
    #[inline]
    pub fn next_deadline(&self, clock: &ReferenceClock) -> Option<Tsc> {
        clock.tsc_at(self.timers.next_deadline()?)
    }

    /// The vectors of the timers that have expired by `now`.
    #[inline]
    pub fn expire_timers(&mut self, clock: &ReferenceClock, now: Tsc) -> Vectors {
        self.timers.expire(clock.reference(now))
    }
}
