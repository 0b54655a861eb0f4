//! The MSR bitmap that L2 runs on.

use addr::Spa;
use nested::access::Page;
use nested::msr_bitmap::{MergedMsrBitmap, MsrFilter, X2apicOpening};

use crate::memory::{frames, pointer};

/// The merged bitmap, with what is kept of it beside the page that hardware reads.
pub struct Bitmap02 {
    merged: &'static mut MergedMsrBitmap,
    at: Spa,
}

impl Bitmap02 {
    /// A bitmap that intercepts everything.
    pub fn new() -> Self {
        // The page comes first in the structure, which takes a little more than a page.
        let at = frames::allocate_pair_at_boot();
        let place = pointer::<MergedMsrBitmap>(at);
        // SAFETY: two frames, new and ours for good, are room enough, and aligned.
        let merged = unsafe {
            place.write(MergedMsrBitmap::closed());
            &mut *place
        };
        Self { merged, at }
    }

    /// The page that VMCS 02 names.
    pub fn address(&self) -> Spa {
        self.at
    }

    /// Merges L0's rules with L1's bitmap; without one everything is intercepted.
    pub fn merge<P: Page>(&mut self, filter: &MsrFilter, l1: Option<&P>, x2apic: &X2apicOpening) {
        match l1 {
            Some(page) => self.merged.merge(filter, page, x2apic),
            None => self.merged.close(),
        }
    }
}
