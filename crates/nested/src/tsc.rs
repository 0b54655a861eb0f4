//! L2's time stamp counter: L1's offset on top of L0's (SDM 26.3).

use vmx::PrimaryControls;

use crate::Nested;
use crate::vmcs12::get;

impl Nested {
    /// What L2's TSC is ahead of L1's by: L1's offset, where L1 uses one.
    #[inline]
    pub fn tsc_offset(&self) -> u64 {
        if self
            .primary_controls()
            .contains(PrimaryControls::USE_TSC_OFFSETTING)
        {
            get!(self.vmcs12, TSC_OFFSET)
        } else {
            0
        }
    }
}

/// The TSC offset of VMCS 02. L2 sees the machine's TSC plus L0's offset for
/// L1 plus L1's offset for L2, each modulo 2^64.
#[inline(always)]
pub const fn compose_offset(offset01: u64, offset12: u64) -> u64 {
    offset01.wrapping_add(offset12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn l2_sees_what_l1_would_give_it(tsc: u64, offset01: u64, offset12: u64) {
            let l1_sees = tsc.wrapping_add(offset01);
            let l2_sees = tsc.wrapping_add(compose_offset(offset01, offset12));
            prop_assert_eq!(l2_sees, l1_sees.wrapping_add(offset12));
        }
    }
}
