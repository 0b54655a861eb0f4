//! Sets of virtual processors.

use crate::partition::MAX_VPS;
use tlfs::hypercall::VPS_PER_BANK;

const BANKS: usize = (MAX_VPS / VPS_PER_BANK) as usize;

/// A set of VPs, by their index.
///
/// A caller can name VPs from [`MAX_VPS`] on, which no partition has. An L2
/// can have such VPs, though, as L1 numbers them: of those the set knows only
/// whether there are any, and then counts all of them in. A flush of too many
/// is a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VpSet {
    banks: [u64; BANKS],
    beyond: bool,
}

impl VpSet {
    /// No VP.
    pub const NONE: Self = Self {
        banks: [0; BANKS],
        beyond: false,
    };

    /// Every VP.
    pub const ALL: Self = Self {
        banks: [u64::MAX; BANKS],
        beyond: true,
    };

    /// The VPs 0 to 63 whose bits are set in `mask`.
    pub const fn mask(mask: u64) -> Self {
        let mut set = Self::NONE;
        set.banks[0] = mask;
        set
    }

    /// Adds the VPs of `bank`, which is the bank of this number, below 64.
    pub(super) fn insert_bank(&mut self, number: u32, bank: u64) {
        match self.banks.get_mut(number as usize) {
            Some(place) => *place |= bank,
            None => self.beyond |= bank != 0,
        }
    }

    /// Whether the VP is in the set.
    #[inline]
    pub fn contains(&self, vp: u32) -> bool {
        match self.banks.get((vp / VPS_PER_BANK) as usize) {
            Some(bank) => bank >> (vp % VPS_PER_BANK) & 1 != 0,
            None => self.beyond,
        }
    }

    /// Whether no VP is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The VPs of the set that a partition of `vps` VPs has, ascending.
    pub fn iter(&self, vps: u32) -> impl Iterator<Item = u32> {
        let banks = self
            .banks
            .into_iter()
            .take(vps.div_ceil(VPS_PER_BANK) as usize);
        let mut banks = (0..).step_by(VPS_PER_BANK as usize).zip(banks);
        let (mut first, mut bank) = (0, 0);
        let members = core::iter::from_fn(move || {
            while bank == 0 {
                (first, bank) = banks.next()?;
            }
            let vp: u32 = first + bank.trailing_zeros();
            bank &= bank - 1;
            Some(vp)
        });
        members.take_while(move |vp| *vp < vps)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    proptest! {
        // Against a plain set of numbers.
        #[test]
        fn sparse_sets(banks in proptest::collection::btree_map(0..64u32, any::<u64>(), 0..64), vps in 1..2000u32) {
            let mut set = VpSet::NONE;
            let mut model = BTreeSet::new();
            for (number, bank) in banks {
                set.insert_bank(number, bank);
                model.extend((0..64).filter(|bit| bank >> bit & 1 != 0).map(|bit| number * 64 + bit));
            }
            for vp in 0..MAX_VPS {
                prop_assert_eq!(set.contains(vp), model.contains(&vp));
            }
            let beyond = model.range(MAX_VPS..).next().is_some();
            prop_assert_eq!(set.contains(MAX_VPS), beyond);
            prop_assert_eq!(set.contains(4095), beyond);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            let wanted: Vec<u32> = model.range(..vps.min(MAX_VPS)).copied().collect();
            prop_assert_eq!(set.iter(vps).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn all_and_none() {
        assert_eq!(VpSet::ALL.iter(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(VpSet::ALL.contains(u32::MAX));
        assert!(VpSet::NONE.is_empty() && !VpSet::ALL.is_empty());
        assert_eq!(VpSet::NONE.iter(64).next(), None);
        assert_eq!(
            VpSet::mask(1 << 63 | 2).iter(64).collect::<Vec<_>>(),
            [1, 63]
        );
        assert_eq!(VpSet::mask(1 << 63 | 2).iter(63).collect::<Vec<_>>(), [1]);
    }
}
