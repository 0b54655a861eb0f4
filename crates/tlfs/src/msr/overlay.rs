//! The layout shared by the MSRs that place a page.

use addr::Gpa1;
use bitfield_struct::bitfield;
use serde::{Deserialize, Serialize};

/// HYPERCALL, REFERENCE_TSC and VP_ASSIST_PAGE: a page number and whether the
/// page is enabled.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayPage {
    /// The page is there.
    pub enabled: bool,
    /// HYPERCALL only, where leaf 0x40000003 EDX bit 18 offers it: the
    /// register is immutable until reset.
    pub locked: bool,
    #[bits(10)]
    __: u16,
    /// The page's frame number.
    #[bits(52)]
    pub frame: u64,
}

impl OverlayPage {
    /// Where the page lies, if it is enabled.
    pub const fn page(self) -> Option<Gpa1> {
        if self.enabled() {
            Some(self.address())
        } else {
            None
        }
    }

    /// The address that the frame number stands for, enabled or not.
    pub const fn address(self) -> Gpa1 {
        Gpa1::new(self.frame() << 12)
    }

    /// The register that places an enabled page at the start of `page`'s frame.
    pub const fn at(page: Gpa1) -> Self {
        Self::new().with_enabled(true).with_frame(page.frame())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_the_address_without_its_low_bits() {
        let register = OverlayPage::from_bits(0xFFFF_FFFF_FFFF_F001);
        assert_eq!(register.page(), Some(Gpa1::new(0xFFFF_FFFF_FFFF_F000)));
        assert_eq!(
            OverlayPage::at(Gpa1::new(0x1234_5678)).into_bits(),
            0x1234_5001
        );
        assert_eq!(OverlayPage::from_bits(0x5000).page(), None);
        assert_eq!(OverlayPage::new().with_locked(true).into_bits(), 2);
    }
}
