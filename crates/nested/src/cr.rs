//! CR0 and CR4 under two owners: guest/host masks and read shadows (SDM 25.6.6).
//!
//! Each bit of L2's CR0 or CR4 belongs to L1 (set in mask 12), or to L0 alone
//! (set in L0's mask only), or to L2. L2 reads L1's shadow where L1 owns the
//! bit and its own value elsewhere; where L0 alone owns it, that value is kept
//! in the read shadow of VMCS 02.

/// CR0.PE.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.TS.
pub const CR0_TS: u64 = 1 << 3;
/// CR0.NW.
pub const CR0_NW: u64 = 1 << 29;
/// CR0.CD.
pub const CR0_CD: u64 = 1 << 30;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.VMXE.
pub const CR4_VMXE: u64 = 1 << 13;
/// CR4.PCIDE.
pub const CR4_PCIDE: u64 = 1 << 17;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;

/// What L2 reads: L1's shadow where L1 owns the bit, else L2's value.
#[inline(always)]
pub const fn shadow02(guest12: u64, mask12: u64, shadow12: u64) -> u64 {
    guest12 & !mask12 | shadow12 & mask12
}

/// L1's view of the register at an exit: the hardware's value, and where L0
/// alone owns the bit (`l0_only`) what L2 believes it wrote.
#[inline(always)]
pub const fn guest12_at_exit(hardware: u64, shadow02: u64, l0_only: u64) -> u64 {
    hardware & !l0_only | shadow02 & l0_only
}

/// L2's MOV to CR0 or CR4 that L1 does not want, done by L0: the new hardware
/// value and read shadow. `set` and `clear` are bits L0 forces in hardware.
///
/// L1's bits keep their values: L2 wrote what it reads, or L1 would have got
/// the exit.
#[inline]
pub const fn emulate_write(
    value: u64,
    hardware: u64,
    shadow02: u64,
    mask12: u64,
    (set, clear): (u64, u64),
) -> (u64, u64) {
    let new_hardware = hardware & mask12 | (value & !clear | set) & !mask12;
    let new_shadow = shadow02 & mask12 | value & !mask12;
    (new_hardware, new_shadow)
}

/// Whether L1 wants an L2's MOV of `value` to CR0 or CR4.
#[inline(always)]
pub const fn write_wanted(value: u64, mask12: u64, shadow12: u64) -> bool {
    (value ^ shadow12) & mask12 != 0
}

/// Whether L1 wants an L2's LMSW of `source` (SDM 26.1.3): PE counts only when
/// it would be set, the other three when they would change.
#[inline]
pub const fn lmsw_wanted(source: u16, mask12: u64, shadow12: u64) -> bool {
    let source = source as u64;
    mask12 & CR0_PE & source & !shadow12 != 0 || mask12 & 0xe & (source ^ shadow12) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A bit at a time against the definition.
        #[test]
        fn composition_by_bits(
            guest: u64, mask12: u64, shadow12: u64, mask0: u64, written: u64, set: u64,
        ) {
            let shadow = shadow02(guest, mask12, shadow12);
            let mask02 = mask12 | mask0;
            let l0_only = mask0 & !mask12;
            // L2 reads through mask02.
            let seen = guest & !mask02 | shadow & mask02;
            for bit in 0..64 {
                let b = 1u64 << bit;
                let expected = if mask12 & b != 0 { shadow12 & b } else { guest & b };
                prop_assert_eq!(seen & b, expected);
            }
            // L2 writes a value that L1 does not want to know of.
            let value = written & !mask12 | shadow12 & mask12;
            prop_assert!(!write_wanted(value, mask12, shadow12));
            let set = set & mask0;
            let (hardware, shadow) = emulate_write(value, guest | set & !mask12, shadow, mask12, (set, 0));
            prop_assert_eq!(shadow & mask02 | hardware & !mask02, value);
            // L1 finds L2's bits written, its own untouched.
            let found = guest12_at_exit(hardware, shadow, l0_only);
            prop_assert_eq!(found & !mask12, value & !mask12);
            prop_assert_eq!(found & mask12, guest & mask12);
        }
    }

    #[test]
    fn lmsw() {
        assert!(lmsw_wanted(1, 1, 0));
        assert!(!lmsw_wanted(0, 1, 1));
        assert!(lmsw_wanted(8, 8, 0));
        assert!(lmsw_wanted(0, 8, 8));
        assert!(!lmsw_wanted(0xffff, 0x10, 0));
    }
}
