//! The capability MSRs, 0x480-0x491 (SDM Vol. 3, Appendix A).

use crate::{EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls};
use serde::{Deserialize, Serialize};

/// Numbers of the capability MSRs.
pub mod msr {
    /// IA32_VMX_BASIC.
    pub const VMX_BASIC: u32 = 0x480;
    /// IA32_VMX_PINBASED_CTLS.
    pub const VMX_PINBASED_CTLS: u32 = 0x481;
    /// IA32_VMX_PROCBASED_CTLS.
    pub const VMX_PROCBASED_CTLS: u32 = 0x482;
    /// IA32_VMX_EXIT_CTLS.
    pub const VMX_EXIT_CTLS: u32 = 0x483;
    /// IA32_VMX_ENTRY_CTLS.
    pub const VMX_ENTRY_CTLS: u32 = 0x484;
    /// IA32_VMX_MISC.
    pub const VMX_MISC: u32 = 0x485;
    /// IA32_VMX_CR0_FIXED0.
    pub const VMX_CR0_FIXED0: u32 = 0x486;
    /// IA32_VMX_CR0_FIXED1.
    pub const VMX_CR0_FIXED1: u32 = 0x487;
    /// IA32_VMX_CR4_FIXED0.
    pub const VMX_CR4_FIXED0: u32 = 0x488;
    /// IA32_VMX_CR4_FIXED1.
    pub const VMX_CR4_FIXED1: u32 = 0x489;
    /// IA32_VMX_VMCS_ENUM.
    pub const VMX_VMCS_ENUM: u32 = 0x48a;
    /// IA32_VMX_PROCBASED_CTLS2.
    pub const VMX_PROCBASED_CTLS2: u32 = 0x48b;
    /// IA32_VMX_EPT_VPID_CAP.
    pub const VMX_EPT_VPID_CAP: u32 = 0x48c;
    /// IA32_VMX_TRUE_PINBASED_CTLS.
    pub const VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
    /// IA32_VMX_TRUE_PROCBASED_CTLS.
    pub const VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
    /// IA32_VMX_TRUE_EXIT_CTLS.
    pub const VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
    /// IA32_VMX_TRUE_ENTRY_CTLS.
    pub const VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
    /// IA32_VMX_VMFUNC.
    pub const VMX_VMFUNC: u32 = 0x491;
    /// The first capability MSR.
    pub const FIRST: u32 = VMX_BASIC;
    /// The last capability MSR that [`super::Capabilities`] holds.
    pub const LAST: u32 = VMX_VMFUNC;
}

/// Bits of IA32_VMX_EPT_VPID_CAP (SDM A.10).
pub mod ept_vpid {
    /// Execute-only EPT translations.
    pub const EXECUTE_ONLY: u64 = 1 << 0;
    /// Page walks of length 4.
    pub const WALK_LENGTH_4: u64 = 1 << 6;
    /// Page walks of length 5.
    pub const WALK_LENGTH_5: u64 = 1 << 7;
    /// EPT structures may be uncacheable.
    pub const MEMORY_TYPE_UC: u64 = 1 << 8;
    /// EPT structures may be write-back.
    pub const MEMORY_TYPE_WB: u64 = 1 << 14;
    /// 2 MiB pages.
    pub const PAGE_2M: u64 = 1 << 16;
    /// 1 GiB pages.
    pub const PAGE_1G: u64 = 1 << 17;
    /// INVEPT exists.
    pub const INVEPT: u64 = 1 << 20;
    /// Accessed and dirty flags.
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    /// Advanced exit information for EPT violations.
    pub const ADVANCED_EXIT_INFO: u64 = 1 << 22;
    /// Single-context INVEPT.
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    /// All-context INVEPT.
    pub const INVEPT_ALL: u64 = 1 << 26;
    /// INVVPID exists.
    pub const INVVPID: u64 = 1 << 32;
    /// Individual-address INVVPID.
    pub const INVVPID_ADDRESS: u64 = 1 << 40;
    /// Single-context INVVPID.
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    /// All-context INVVPID.
    pub const INVVPID_ALL: u64 = 1 << 42;
    /// Single-context-retaining-globals INVVPID.
    pub const INVVPID_SINGLE_NON_GLOBAL: u64 = 1 << 43;
}

/// Which settings of a control word are allowed: bits that must be 1 in the
/// low half, bits that may be 1 in the high half.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Allowed(u64);

impl Allowed {
    /// Wraps the MSR's value.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Composes the MSR's value.
    #[inline]
    pub const fn new(must_be_one: u32, may_be_one: u32) -> Self {
        Self((may_be_one as u64) << 32 | must_be_one as u64)
    }

    /// The MSR's value.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Bits that must be 1 (the "allowed 0-settings" half).
    #[inline]
    pub const fn must_be_one(self) -> u32 {
        self.0 as u32
    }

    /// Bits that may be 1 (the "allowed 1-settings" half).
    #[inline]
    pub const fn may_be_one(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether `value` respects both halves.
    #[inline]
    pub const fn permits(self, value: u32) -> bool {
        value & self.must_be_one() == self.must_be_one() && value & !self.may_be_one() == 0
    }

    /// `wanted` with the bits that must be 1, without those that may not be.
    #[inline]
    pub const fn adjust(self, wanted: u32) -> u32 {
        (wanted | self.must_be_one()) & self.may_be_one()
    }

    /// The bits of `wanted` that may not be 1.
    #[inline]
    pub const fn missing(self, wanted: u32) -> u32 {
        wanted & !self.may_be_one()
    }
}

/// The values of the capability MSRs 0x480-0x491 of a processor, or of the
/// processor that a guest hypervisor is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_PINBASED_CTLS.
    pub pin: Allowed,
    /// IA32_VMX_PROCBASED_CTLS.
    pub primary: Allowed,
    /// IA32_VMX_EXIT_CTLS.
    pub exit: Allowed,
    /// IA32_VMX_ENTRY_CTLS.
    pub entry: Allowed,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0: bits of CR0 that must be 1.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1: bits of CR0 that may be 1.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0: bits of CR4 that must be 1.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1: bits of CR4 that may be 1.
    pub cr4_fixed1: u64,
    /// IA32_VMX_VMCS_ENUM.
    pub vmcs_enum: u64,
    /// IA32_VMX_PROCBASED_CTLS2; zero where it does not exist.
    pub secondary: Allowed,
    /// IA32_VMX_EPT_VPID_CAP; zero where it does not exist.
    pub ept_vpid: u64,
    /// IA32_VMX_TRUE_PINBASED_CTLS; the plain one where it does not exist.
    pub true_pin: Allowed,
    /// IA32_VMX_TRUE_PROCBASED_CTLS; the plain one where it does not exist.
    pub true_primary: Allowed,
    /// IA32_VMX_TRUE_EXIT_CTLS; the plain one where it does not exist.
    pub true_exit: Allowed,
    /// IA32_VMX_TRUE_ENTRY_CTLS; the plain one where it does not exist.
    pub true_entry: Allowed,
    /// IA32_VMX_VMFUNC; zero where it does not exist.
    pub vmfunc: u64,
}

/// A capability that one processor has and another lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapabilityMissing {
    /// The capability MSR.
    pub msr: u32,
    /// Its bits that are in the way.
    pub bits: u64,
}

impl core::fmt::Display for CapabilityMissing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "this processor lacks a VMX capability of the partition's: MSR {:#x}, bits {:#x}",
            self.msr, self.bits
        )
    }
}

impl core::error::Error for CapabilityMissing {}

/// IA32_VMX_BASIC: the TRUE capability MSRs exist.
const TRUE_CONTROLS: u64 = 1 << 55;

impl Capabilities {
    /// Reads the MSRs through `rdmsr`, asking only for those that exist
    /// (a read of another would raise #GP).
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let basic = rdmsr(msr::VMX_BASIC);
        let pin = Allowed(rdmsr(msr::VMX_PINBASED_CTLS));
        let primary = Allowed(rdmsr(msr::VMX_PROCBASED_CTLS));
        let exit = Allowed(rdmsr(msr::VMX_EXIT_CTLS));
        let entry = Allowed(rdmsr(msr::VMX_ENTRY_CTLS));
        let has_true = basic & TRUE_CONTROLS != 0;
        let (true_pin, true_primary, true_exit, true_entry) = if has_true {
            (
                Allowed(rdmsr(msr::VMX_TRUE_PINBASED_CTLS)),
                Allowed(rdmsr(msr::VMX_TRUE_PROCBASED_CTLS)),
                Allowed(rdmsr(msr::VMX_TRUE_EXIT_CTLS)),
                Allowed(rdmsr(msr::VMX_TRUE_ENTRY_CTLS)),
            )
        } else {
            (pin, primary, exit, entry)
        };
        let mut caps = Self {
            basic,
            pin,
            primary,
            exit,
            entry,
            misc: rdmsr(msr::VMX_MISC),
            cr0_fixed0: rdmsr(msr::VMX_CR0_FIXED0),
            cr0_fixed1: rdmsr(msr::VMX_CR0_FIXED1),
            cr4_fixed0: rdmsr(msr::VMX_CR4_FIXED0),
            cr4_fixed1: rdmsr(msr::VMX_CR4_FIXED1),
            vmcs_enum: rdmsr(msr::VMX_VMCS_ENUM),
            true_pin,
            true_primary,
            true_exit,
            true_entry,
            ..Self::default()
        };
        if true_primary.may_be_one() & PrimaryControls::ACTIVATE_SECONDARY.bits() != 0 {
            caps.secondary = Allowed(rdmsr(msr::VMX_PROCBASED_CTLS2));
            let secondary = SecondaryControls::from_bits_retain(caps.secondary.may_be_one());
            if secondary.intersects(SecondaryControls::ENABLE_EPT | SecondaryControls::ENABLE_VPID)
            {
                caps.ept_vpid = rdmsr(msr::VMX_EPT_VPID_CAP);
            }
            if secondary.contains(SecondaryControls::ENABLE_VMFUNC) {
                caps.vmfunc = rdmsr(msr::VMX_VMFUNC);
            }
        }
        caps
    }

    /// Whether all that these capabilities promise is there where `here` can be promised.
    ///
    /// # Errors
    ///
    /// The first capability MSR that promises more, or permits less to be left out.
    pub fn fits(&self, here: &Self) -> Result<(), CapabilityMissing> {
        let controls = |saved: Allowed, here: Allowed| {
            // What may be 1 must be permitted here too, what may be 0 not be demanded.
            let denied = saved.may_be_one() & !here.may_be_one();
            let demanded = here.must_be_one() & !saved.must_be_one();
            u64::from(denied) << 32 | u64::from(demanded)
        };
        let (more, other) = (|a: u64, b: u64| a & !b, |a: u64, b: u64| a ^ b);
        /// Of IA32_VMX_MISC: the activity states and the rest that is a bit for a feature.
        const MISC_FEATURES: u64 = 0xE000_01E0;
        let misc = |of: &Self| (of.misc & MISC_FEATURES, of.misc & !MISC_FEATURES);
        let words = [
            (msr::VMX_BASIC, other(self.basic, here.basic)),
            (msr::VMX_PINBASED_CTLS, controls(self.pin, here.pin)),
            (
                msr::VMX_PROCBASED_CTLS,
                controls(self.primary, here.primary),
            ),
            (msr::VMX_EXIT_CTLS, controls(self.exit, here.exit)),
            (msr::VMX_ENTRY_CTLS, controls(self.entry, here.entry)),
            (
                msr::VMX_MISC,
                more(misc(self).0, misc(here).0) | other(misc(self).1, misc(here).1),
            ),
            (msr::VMX_CR0_FIXED0, more(here.cr0_fixed0, self.cr0_fixed0)),
            (msr::VMX_CR0_FIXED1, more(self.cr0_fixed1, here.cr0_fixed1)),
            (msr::VMX_CR4_FIXED0, more(here.cr4_fixed0, self.cr4_fixed0)),
            (msr::VMX_CR4_FIXED1, more(self.cr4_fixed1, here.cr4_fixed1)),
            (msr::VMX_VMCS_ENUM, more(self.vmcs_enum, here.vmcs_enum)),
            (
                msr::VMX_PROCBASED_CTLS2,
                controls(self.secondary, here.secondary),
            ),
            (msr::VMX_EPT_VPID_CAP, more(self.ept_vpid, here.ept_vpid)),
            (
                msr::VMX_TRUE_PINBASED_CTLS,
                controls(self.true_pin, here.true_pin),
            ),
            (
                msr::VMX_TRUE_PROCBASED_CTLS,
                controls(self.true_primary, here.true_primary),
            ),
            (
                msr::VMX_TRUE_EXIT_CTLS,
                controls(self.true_exit, here.true_exit),
            ),
            (
                msr::VMX_TRUE_ENTRY_CTLS,
                controls(self.true_entry, here.true_entry),
            ),
            (msr::VMX_VMFUNC, more(self.vmfunc, here.vmfunc)),
        ];
        match words.into_iter().find(|(_, bits)| *bits != 0) {
            Some((msr, bits)) => Err(CapabilityMissing { msr, bits }),
            None => Ok(()),
        }
    }

    /// Whether a processor with these capabilities has MSR `index` (SDM A.2, A.3.3, A.10, A.11).
    fn has_msr(&self, index: u32) -> bool {
        let secondary = SecondaryControls::from_bits_retain(self.secondary.may_be_one());
        let has_secondary =
            self.true_primary.may_be_one() & PrimaryControls::ACTIVATE_SECONDARY.bits() != 0;
        match index {
            msr::VMX_BASIC..=msr::VMX_VMCS_ENUM => true,
            msr::VMX_PROCBASED_CTLS2 => has_secondary,
            msr::VMX_EPT_VPID_CAP => {
                secondary.intersects(SecondaryControls::ENABLE_EPT | SecondaryControls::ENABLE_VPID)
            }
            msr::VMX_TRUE_PINBASED_CTLS..=msr::VMX_TRUE_ENTRY_CTLS => {
                self.basic & TRUE_CONTROLS != 0
            }
            msr::VMX_VMFUNC => secondary.contains(SecondaryControls::ENABLE_VMFUNC),
            _ => false,
        }
    }

    /// The value of capability MSR `index`; `None` for one that a processor with these
    /// capabilities does not have.
    pub fn msr(&self, index: u32) -> Option<u64> {
        if !self.has_msr(index) {
            return None;
        }
        Some(match index {
            msr::VMX_BASIC => self.basic,
            msr::VMX_PINBASED_CTLS => self.pin.raw(),
            msr::VMX_PROCBASED_CTLS => self.primary.raw(),
            msr::VMX_EXIT_CTLS => self.exit.raw(),
            msr::VMX_ENTRY_CTLS => self.entry.raw(),
            msr::VMX_MISC => self.misc,
            msr::VMX_CR0_FIXED0 => self.cr0_fixed0,
            msr::VMX_CR0_FIXED1 => self.cr0_fixed1,
            msr::VMX_CR4_FIXED0 => self.cr4_fixed0,
            msr::VMX_CR4_FIXED1 => self.cr4_fixed1,
            msr::VMX_VMCS_ENUM => self.vmcs_enum,
            msr::VMX_PROCBASED_CTLS2 => self.secondary.raw(),
            msr::VMX_EPT_VPID_CAP => self.ept_vpid,
            msr::VMX_TRUE_PINBASED_CTLS => self.true_pin.raw(),
            msr::VMX_TRUE_PROCBASED_CTLS => self.true_primary.raw(),
            msr::VMX_TRUE_EXIT_CTLS => self.true_exit.raw(),
            msr::VMX_TRUE_ENTRY_CTLS => self.true_entry.raw(),
            msr::VMX_VMFUNC => self.vmfunc,
            _ => return None,
        })
    }

    /// The VMCS revision identifier (IA32_VMX_BASIC bits 30:0).
    #[inline]
    pub const fn revision(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }

    /// Bytes of a VMXON region or VMCS (IA32_VMX_BASIC bits 44:32).
    #[inline]
    pub const fn vmcs_size(&self) -> u32 {
        (self.basic >> 32) as u32 & 0x1fff
    }

    /// Pin-based controls as near to `wanted` as the processor allows.
    pub fn adjust_pin(&self, wanted: PinControls) -> PinControls {
        PinControls::from_bits_retain(self.true_pin.adjust(wanted.bits()))
    }

    /// Primary controls as near to `wanted` as the processor allows.
    pub fn adjust_primary(&self, wanted: PrimaryControls) -> PrimaryControls {
        PrimaryControls::from_bits_retain(self.true_primary.adjust(wanted.bits()))
    }

    /// Secondary controls as near to `wanted` as the processor allows.
    pub fn adjust_secondary(&self, wanted: SecondaryControls) -> SecondaryControls {
        SecondaryControls::from_bits_retain(self.secondary.adjust(wanted.bits()))
    }

    /// Exit controls as near to `wanted` as the processor allows.
    pub fn adjust_exit(&self, wanted: ExitControls) -> ExitControls {
        ExitControls::from_bits_retain(self.true_exit.adjust(wanted.bits()))
    }

    /// Entry controls as near to `wanted` as the processor allows.
    pub fn adjust_entry(&self, wanted: EntryControls) -> EntryControls {
        EntryControls::from_bits_retain(self.true_entry.adjust(wanted.bits()))
    }

    /// CR0 as VMX operation wants it: fixed bits set and cleared.
    #[inline]
    pub const fn adjust_cr0(&self, cr0: u64) -> u64 {
        (cr0 | self.cr0_fixed0) & self.cr0_fixed1
    }

    /// Whether VMWRITE may store to every field, exit information among them (IA32_VMX_MISC).
    #[inline]
    pub const fn writes_any_field(&self) -> bool {
        self.misc >> 29 & 1 != 0
    }

    /// CR4 as VMX operation wants it: fixed bits set and cleared.
    #[inline]
    pub const fn adjust_cr4(&self, cr4: u64) -> u64 {
        (cr4 | self.cr4_fixed0) & self.cr4_fixed1
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn adjusting_respects_both_halves() {
        let allowed = Allowed::new(0x16, 0x7f);
        assert_eq!(allowed.adjust(0xff01), 0x17);
        assert!(allowed.permits(0x17));
        assert!(!allowed.permits(0x01));
        assert!(!allowed.permits(0x97));
        assert_eq!(allowed.missing(0x81), 0x80);
    }

    #[test]
    fn only_existing_msrs_are_read() {
        // No TRUE controls and no secondary controls: 0x48b and above do not exist.
        let caps = Capabilities::read(|index| {
            assert!(index <= msr::VMX_VMCS_ENUM, "{index:#x}");
            if index == msr::VMX_BASIC {
                0x00da_0400_0000_0011 & !(1 << 55)
            } else {
                0
            }
        });
        assert_eq!(caps.revision(), 0x11);
        assert_eq!(caps.vmcs_size(), 0x400);
        assert_eq!(caps.true_pin, caps.pin);
    }

    #[test]
    fn msrs_of_what_is_not_there_are_none() {
        let every = Capabilities::read(|_| u64::MAX);
        let none = |caps: &Capabilities| -> std::vec::Vec<u32> {
            (msr::FIRST..=msr::LAST)
                .filter(|index| caps.msr(*index).is_none())
                .collect()
        };
        assert_eq!(none(&every), []);
        let without_vmfunc = Capabilities {
            secondary: Allowed::new(0, !SecondaryControls::ENABLE_VMFUNC.bits()),
            ..every
        };
        assert_eq!(none(&without_vmfunc), [msr::VMX_VMFUNC]);
        let without_secondary = Capabilities {
            true_primary: Allowed::new(0, 0),
            secondary: Allowed::default(),
            basic: 0,
            ..every
        };
        let rest: std::vec::Vec<u32> = (msr::VMX_PROCBASED_CTLS2..=msr::LAST).collect();
        assert_eq!(none(&without_secondary), rest);
    }

    #[test]
    fn every_msr_comes_back_as_read() {
        let value = |index: u32| u64::MAX - u64::from(index);
        let caps = Capabilities::read(value);
        for index in msr::FIRST..=msr::LAST {
            assert_eq!(caps.msr(index), Some(value(index)), "{index:#x}");
        }
        assert_eq!(caps.msr(msr::FIRST - 1), None);
        assert_eq!(caps.msr(msr::LAST + 1), None);
    }
}
