//! L2's time stamp counter: L1's scale and offset on top of L0's (SDM 26.3,
//! 25.6.5).
//!
//! With a multiplier m of 48 fraction bits hardware gives a guest
//! `(tsc * m >> 48) + offset`. L1's TSC is that of the machine's by L0's pair,
//! L2's is that of L1's by L1's pair, and VMCS 02 has room for one pair that
//! does both at once.

use vmx::{Field, PrimaryControls, SecondaryControls};

use crate::Nested;
use crate::access::Vmcs;
use crate::policy::L0Policy;
use crate::vmcs12::get;

/// The multiplier that changes nothing.
pub const ONE: u64 = 1 << FRACTION_BITS;

/// Bits of a multiplier behind the point.
pub const FRACTION_BITS: u32 = 48;

/// `tsc` by `multiplier`, as hardware has it.
#[inline]
pub const fn scale(tsc: u64, multiplier: u64) -> u64 {
    ((tsc as u128 * multiplier as u128) >> FRACTION_BITS) as u64
}

/// What L1's TSC is of the machine's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L1Tsc {
    /// Not zero.
    pub multiplier: u64,
    /// L1's TSC less the product. It is a number, not one modulo 2^64: L1's
    /// TSC is what L1's multiplier multiplies, and to be wrong by 2^64 there
    /// is to be wrong by any amount.
    pub offset: i128,
}

impl L1Tsc {
    /// L1's TSC when the machine's is `machine`.
    pub const fn read(&self, machine: u64) -> u64 {
        scale(machine, self.multiplier).wrapping_add(self.offset as u64)
    }

    /// The pair that gives L2's TSC, of what L1 gives L2; `None` where no
    /// multiplier does.
    ///
    /// The product of the multipliers is cut off behind its 48th fraction bit,
    /// and two roundings take the place of one. So what L2 reads may be behind
    /// what L1 would give it: by two ticks, and one more in 2^48 of the machine's;
    /// and ahead of it by no more than L2's ticks in two of L1's. It is the same
    /// for the same machine's TSC always, so it never steps.
    pub const fn compose(&self, for_l2: &L2Tsc) -> Option<VmcsTsc> {
        let product = (self.multiplier as u128 * for_l2.multiplier as u128) >> FRACTION_BITS;
        if product == 0 || product > u64::MAX as u128 {
            return None;
        }
        // Only bits 48 to 111 of the product count, which wrapping leaves alone.
        let moved = self.offset.wrapping_mul(for_l2.multiplier as i128) >> FRACTION_BITS;
        Some(VmcsTsc {
            multiplier: product as u64,
            offset: (moved as u64).wrapping_add(for_l2.offset),
        })
    }
}

/// What L2's TSC is of L1's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L2Tsc {
    /// As in VMCS 12.
    pub multiplier: u64,
    /// As in VMCS 12.
    pub offset: u64,
}

impl L2Tsc {
    /// L2's TSC when L1's is `l1`.
    pub const fn read(&self, l1: u64) -> u64 {
        scale(l1, self.multiplier).wrapping_add(self.offset)
    }
}

/// A multiplier and an offset of VMCS 02.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmcsTsc {
    /// Not zero.
    pub multiplier: u64,
    /// Modulo 2^64.
    pub offset: u64,
}

impl Nested {
    /// What L1 makes of its TSC for L2. Without offsetting there is no scaling
    /// either.
    fn l2_tsc(&self) -> L2Tsc {
        let mut tsc = L2Tsc {
            multiplier: ONE,
            offset: 0,
        };
        if self
            .primary_controls()
            .contains(PrimaryControls::USE_TSC_OFFSETTING)
        {
            tsc.offset = get!(self.vmcs12, TSC_OFFSET);
            if self
                .secondary_controls()
                .contains(SecondaryControls::TSC_SCALING)
            {
                tsc.multiplier = get!(self.vmcs12, TSC_MULTIPLIER);
            }
        }
        tsc
    }

    /// L2's TSC when L1's is `l1`: for L0's own answers, exactly what L1 asks
    /// for.
    pub fn l2_tsc_at(&self, l1: u64) -> u64 {
        self.l2_tsc().read(l1)
    }

    /// Writes what L2's TSC is of the machine's to VMCS 02, which is current.
    /// Returns how many fields that is, and whether L0 has to answer L2's reads
    /// because nothing that VMCS 02 could hold would.
    pub fn merge_tsc<V: Vmcs>(&self, vmcs02: &mut V, policy: &L0Policy) -> (u32, bool) {
        let composed = policy.tsc.compose(&self.l2_tsc());
        let tsc = composed.unwrap_or(VmcsTsc {
            multiplier: ONE,
            offset: 0,
        });
        vmcs02.write(Field::TSC_OFFSET, tsc.offset);
        let secondary = self.secondary_controls() | policy.secondary;
        let mut fields = 1;
        if secondary.contains(SecondaryControls::TSC_SCALING) {
            vmcs02.write(Field::TSC_MULTIPLIER, tsc.multiplier);
            fields += 1;
        }
        (fields, composed.is_none())
    }
}

#[cfg(test)]
mod tests;
