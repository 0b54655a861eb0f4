//! The VMX capabilities that L1 is shown.
//!
//! An allow-list: a control is offered when the processor has it, hynest
//! merges it and handles its exits, and version 1 of the enlightened VMCS can
//! carry its fields (Linux as L1 does not filter, so whatever is offered is
//! used). Everything else reads as absent, and [`crate::checks`] refuses it.

use vmx::{
    Allowed, Capabilities, EntryControls, ExitControls, PinControls, PrimaryControls,
    SecondaryControls, ept_vpid,
};

use crate::vmcs12;

/// Pin-based controls offered.
pub const PIN: PinControls = PinControls::EXTERNAL_INTERRUPT_EXITING
    .union(PinControls::NMI_EXITING)
    .union(PinControls::VIRTUAL_NMIS);

/// Primary processor-based controls offered.
pub const PRIMARY: PrimaryControls = PrimaryControls::INTERRUPT_WINDOW_EXITING
    .union(PrimaryControls::USE_TSC_OFFSETTING)
    .union(PrimaryControls::HLT_EXITING)
    .union(PrimaryControls::INVLPG_EXITING)
    .union(PrimaryControls::MWAIT_EXITING)
    .union(PrimaryControls::RDPMC_EXITING)
    .union(PrimaryControls::RDTSC_EXITING)
    .union(PrimaryControls::CR3_LOAD_EXITING)
    .union(PrimaryControls::CR3_STORE_EXITING)
    .union(PrimaryControls::CR8_LOAD_EXITING)
    .union(PrimaryControls::CR8_STORE_EXITING)
    .union(PrimaryControls::USE_TPR_SHADOW)
    .union(PrimaryControls::NMI_WINDOW_EXITING)
    .union(PrimaryControls::MOV_DR_EXITING)
    .union(PrimaryControls::UNCONDITIONAL_IO_EXITING)
    .union(PrimaryControls::USE_IO_BITMAPS)
    .union(PrimaryControls::USE_MSR_BITMAPS)
    .union(PrimaryControls::MONITOR_EXITING)
    .union(PrimaryControls::PAUSE_EXITING)
    .union(PrimaryControls::ACTIVATE_SECONDARY);

/// Secondary processor-based controls offered.
pub const SECONDARY: SecondaryControls = SecondaryControls::ENABLE_EPT
    .union(SecondaryControls::DESCRIPTOR_TABLE_EXITING)
    .union(SecondaryControls::ENABLE_RDTSCP)
    .union(SecondaryControls::VIRTUALIZE_X2APIC_MODE)
    .union(SecondaryControls::ENABLE_VPID)
    .union(SecondaryControls::WBINVD_EXITING)
    .union(SecondaryControls::UNRESTRICTED_GUEST)
    .union(SecondaryControls::RDRAND_EXITING)
    .union(SecondaryControls::ENABLE_INVPCID)
    .union(SecondaryControls::RDSEED_EXITING)
    .union(SecondaryControls::ENABLE_XSAVES)
    .union(SecondaryControls::TSC_SCALING);

/// Exit controls offered.
pub const EXIT: ExitControls = ExitControls::SAVE_DEBUG_CONTROLS
    .union(ExitControls::HOST_64_BIT)
    .union(ExitControls::ACK_INTERRUPT)
    .union(ExitControls::SAVE_PAT)
    .union(ExitControls::LOAD_PAT)
    .union(ExitControls::SAVE_EFER)
    .union(ExitControls::LOAD_EFER);

/// Entry controls offered.
pub const ENTRY: EntryControls = EntryControls::LOAD_DEBUG_CONTROLS
    .union(EntryControls::IA32E_MODE_GUEST)
    .union(EntryControls::LOAD_PAT)
    .union(EntryControls::LOAD_EFER);

/// The default1 class of each control word (SDM A.3-A.5): 1 unless the TRUE
/// capability MSR allows 0.
pub mod default1 {
    /// Pin-based controls.
    pub const PIN: u32 = 0x16;
    /// Primary processor-based controls.
    pub const PRIMARY: u32 = 0x0401_e172;
    /// Exit controls.
    pub const EXIT: u32 = 0x0003_6dff;
    /// Entry controls.
    pub const ENTRY: u32 = 0x11ff;
}

/// Bits of IA32_VMX_BASIC.
mod basic {
    /// Write-back memory for the regions.
    pub const WRITE_BACK: u64 = 6 << 50;
    /// INS and OUTS exits report their operands.
    pub const INS_OUTS_INFO: u64 = 1 << 54;
    /// The TRUE capability MSRs exist.
    pub const TRUE_CONTROLS: u64 = 1 << 55;
}

/// Bits of IA32_VMX_MISC.
mod misc {
    /// Exits store EFER.LMA in the IA-32e-mode-guest control.
    pub const STORES_LMA: u64 = 1 << 5;
    /// Activity state HLT.
    pub const ACTIVITY_HLT: u64 = 1 << 6;
    /// Software events may be injected with instruction length 0.
    pub const ZERO_LENGTH_INJECTION: u64 = 1 << 30;
}

/// Bits of IA32_VMX_EPT_VPID_CAP that depend on the processor.
const EPT_FROM_PROCESSOR: u64 = ept_vpid::EXECUTE_ONLY;

/// Those that the shadow EPT and the emulated INVEPT give on any processor.
const EPT_ALWAYS: u64 = ept_vpid::WALK_LENGTH_4
    | ept_vpid::MEMORY_TYPE_WB
    | ept_vpid::PAGE_2M
    | ept_vpid::PAGE_1G
    | ept_vpid::INVEPT
    | ept_vpid::INVEPT_SINGLE
    | ept_vpid::INVEPT_ALL;

/// Those that the emulated INVVPID gives on any processor.
const VPID_ALWAYS: u64 = ept_vpid::INVVPID
    | ept_vpid::INVVPID_ADDRESS
    | ept_vpid::INVVPID_SINGLE
    | ept_vpid::INVVPID_ALL
    | ept_vpid::INVVPID_SINGLE_NON_GLOBAL;

/// What L1 is shown on a processor with the capabilities `hardware`.
///
/// `cr4_offered` are the CR4 bits that L1's CPUID allows it to set; others are
/// fixed to 0. The result is the same on all VPs of a partition as long as
/// `hardware` is.
pub fn offer(hardware: &Capabilities, cr4_offered: u64) -> Capabilities {
    let (pin, true_pin) = words(hardware.pin, hardware.true_pin, PIN.bits(), default1::PIN);
    let (primary, true_primary) = words(
        hardware.primary,
        hardware.true_primary,
        PRIMARY.bits(),
        default1::PRIMARY,
    );
    let (exit, true_exit) = words(
        hardware.exit,
        hardware.true_exit,
        EXIT.bits(),
        default1::EXIT,
    );
    let (entry, true_entry) = words(
        hardware.entry,
        hardware.true_entry,
        ENTRY.bits(),
        default1::ENTRY,
    );
    let secondary = Allowed::new(0, hardware.secondary.may_be_one() & SECONDARY.bits());
    let has = |control: SecondaryControls| secondary.may_be_one() & control.bits() != 0;
    let mut caps = Capabilities {
        basic: u64::from(vmcs12::REVISION)
            | (vmcs12::SIZE as u64) << 32
            | basic::WRITE_BACK
            | hardware.basic & basic::INS_OUTS_INFO
            | basic::TRUE_CONTROLS,
        pin,
        primary,
        exit,
        entry,
        misc: hardware.misc & (misc::STORES_LMA | misc::ZERO_LENGTH_INJECTION) | misc::ACTIVITY_HLT,
        cr0_fixed0: hardware.cr0_fixed0,
        cr0_fixed1: hardware.cr0_fixed1,
        cr4_fixed0: hardware.cr4_fixed0,
        cr4_fixed1: hardware.cr4_fixed1 & (cr4_offered | hardware.cr4_fixed0),
        vmcs_enum: u64::from(vmcs12::HIGHEST_INDEX) << 1,
        secondary,
        ept_vpid: 0,
        true_pin,
        true_primary,
        true_exit,
        true_entry,
        vmfunc: 0,
    };
    if has(SecondaryControls::ENABLE_EPT) {
        caps.ept_vpid |= EPT_ALWAYS | hardware.ept_vpid & EPT_FROM_PROCESSOR;
    }
    if has(SecondaryControls::ENABLE_VPID) {
        caps.ept_vpid |= VPID_ALWAYS;
    }
    caps
}

/// A control word's plain and TRUE capability: `offered` where the processor
/// has it, and the default1 class.
fn words(plain: Allowed, with_true: Allowed, offered: u32, default1: u32) -> (Allowed, Allowed) {
    let may = with_true.may_be_one() & plain.may_be_one() & offered | default1;
    (
        Allowed::new(default1, may),
        Allowed::new(with_true.must_be_one() & default1, may),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tlfs::evmcs;
    use vmx::Field;

    fn capable() -> Capabilities {
        crate::testing::capable_processor()
    }

    #[test]
    fn nothing_the_enlightened_vmcs_cannot_carry_is_offered() {
        let caps = offer(&capable(), u64::MAX);
        // Each control and a field it needs that version 1 has no place for.
        let inexpressible = [
            (caps.pin, PinControls::PREEMPTION_TIMER.bits(), 0x482e),
            (caps.pin, PinControls::POSTED_INTERRUPTS.bits(), 0x2016),
            (
                caps.secondary,
                SecondaryControls::VIRTUALIZE_APIC_ACCESSES.bits(),
                0x2014,
            ),
            (
                caps.secondary,
                SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY.bits(),
                0x201c,
            ),
            (
                caps.secondary,
                SecondaryControls::PAUSE_LOOP_EXITING.bits(),
                0x4020,
            ),
            (
                caps.secondary,
                SecondaryControls::ENABLE_VMFUNC.bits(),
                0x2018,
            ),
            (
                caps.secondary,
                SecondaryControls::VMCS_SHADOWING.bits(),
                0x2026,
            ),
            (caps.secondary, SecondaryControls::ENABLE_PML.bits(), 0x200e),
            (
                caps.secondary,
                SecondaryControls::NOTIFY_EXITING.bits(),
                0x4024,
            ),
            (
                caps.exit,
                ExitControls::SAVE_PREEMPTION_TIMER.bits(),
                0x482e,
            ),
            (caps.entry, EntryControls::LOAD_RTIT_CTL.bits(), 0x2814),
        ];
        for (word, bit, encoding) in inexpressible {
            assert_eq!(evmcs::slot(encoding), None);
            assert_eq!(word.may_be_one() & bit, 0, "{encoding:#x}");
        }
        assert_eq!(caps.primary.may_be_one() & (1 << 17), 0);
        assert_eq!(caps.exit.may_be_one() & (1 << 31), 0);
        assert_eq!(caps.vmfunc, 0);
        assert_eq!(caps.basic & (1 << 48), 0);
    }

    #[test]
    fn linux_finds_what_it_needs() {
        let caps = offer(&capable(), u64::MAX);
        let bits = |list: &[u32]| list.iter().fold(0, |word, bit| word | 1 << bit);
        assert_eq!(caps.pin.missing(bits(&[0, 3, 5])), 0);
        let primary = bits(&[
            2, 3, 7, 9, 10, 11, 15, 16, 19, 20, 21, 22, 23, 24, 25, 28, 29, 30, 31,
        ]);
        assert_eq!(caps.primary.missing(primary), 0);
        let secondary = bits(&[1, 2, 3, 4, 5, 6, 7, 11, 12, 16, 20, 25]);
        assert_eq!(caps.secondary.missing(secondary), 0);
        assert_eq!(caps.exit.missing(bits(&[2, 9, 15, 19, 21])), 0);
        assert_eq!(caps.entry.missing(bits(&[2, 9, 14, 15])), 0);
        // Pairs of entry and exit controls are offered together.
        assert_eq!(
            caps.entry.may_be_one() >> 13 & 1,
            caps.exit.may_be_one() >> 12 & 1
        );
        assert_eq!(
            caps.entry.may_be_one() >> 16 & 1,
            caps.exit.may_be_one() >> 23 & 1
        );
        assert_eq!(caps.vmcs_size(), 0x1000);
        assert_eq!((caps.basic >> 50) & 15, 6);
        assert_eq!(caps.basic as u32 & 1 << 31, 0);
        // VMCS_ENUM covers every offered field.
        for encoding in 0..0x1_0000 {
            let field = Field::from_encoding(encoding);
            if vmcs12::offered(field).is_some() {
                assert!(u64::from(field.index()) <= caps.vmcs_enum >> 1);
            }
        }
    }

    #[test]
    fn no_ept_no_ept_capabilities() {
        let mut hardware = capable();
        hardware.secondary = Allowed::new(0, SecondaryControls::ENABLE_VPID.bits());
        let caps = offer(&hardware, u64::MAX);
        assert_eq!(caps.ept_vpid as u32, 0);
        assert_ne!(caps.ept_vpid >> 32, 0);
    }

    #[test]
    fn cr4_follows_cpuid() {
        let caps = offer(&capable(), 0x20);
        assert_eq!(caps.cr4_fixed1, 0x2020);
        assert_eq!(caps.cr4_fixed0, 0x2000);
    }

    proptest! {
        #[test]
        fn nothing_beyond_processor_and_list(
            may in any::<[u32; 5]>(),
            must in any::<u32>(),
        ) {
            let mut hardware = capable();
            hardware.true_pin = Allowed::new(must & default1::PIN, may[0] | default1::PIN);
            hardware.true_primary = Allowed::new(0, may[1] | default1::PRIMARY);
            hardware.true_exit = Allowed::new(0, may[2] | default1::EXIT);
            hardware.true_entry = Allowed::new(0, may[3] | default1::ENTRY);
            hardware.secondary = Allowed::new(0, may[4]);
            let caps = offer(&hardware, u64::MAX);
            let words = [
                (caps.true_pin, hardware.true_pin, PIN.bits(), default1::PIN),
                (caps.true_primary, hardware.true_primary, PRIMARY.bits(), default1::PRIMARY),
                (caps.true_exit, hardware.true_exit, EXIT.bits(), default1::EXIT),
                (caps.true_entry, hardware.true_entry, ENTRY.bits(), default1::ENTRY),
                (caps.secondary, hardware.secondary, SECONDARY.bits(), 0),
            ];
            for (shown, real, list, fixed) in words {
                let extra = shown.may_be_one() & !fixed;
                prop_assert_eq!(extra & !list, 0);
                prop_assert_eq!(extra & !real.may_be_one(), 0);
                prop_assert_eq!(shown.must_be_one() & !shown.may_be_one(), 0);
            }
            prop_assert_eq!(caps.pin.may_be_one(), caps.true_pin.may_be_one());
        }
    }
}
