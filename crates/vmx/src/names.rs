//! The names of single bits of the capability MSRs, for reports.

use bitflags::Flags;

use crate::{EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls};

/// A bit's number and name.
pub type BitName = (u32, &'static str);

/// Bits of IA32_VMX_BASIC (SDM A.1) that are no numbers.
pub const BASIC: &[BitName] = &[
    (48, "32-bit addresses only"),
    (49, "dual-monitor treatment"),
    (54, "INS and OUTS information"),
    (55, "TRUE capability MSRs"),
    (56, "error code optional"),
];

/// Bits of IA32_VMX_MISC (SDM A.6) that are no numbers.
pub const MISC: &[BitName] = &[
    (5, "exits store EFER.LMA"),
    (6, "activity state HLT"),
    (7, "activity state shutdown"),
    (8, "activity state wait-for-SIPI"),
    (14, "Processor Trace in VMX operation"),
    (15, "IA32_SMBASE readable"),
    (28, "blocking of SMIs by VMXOFF"),
    (29, "VMWRITE to any field"),
    (30, "injection with length 0"),
];

/// Bits of IA32_VMX_EPT_VPID_CAP (SDM A.10).
pub const EPT_VPID: &[BitName] = &[
    (0, "EXECUTE_ONLY"),
    (6, "WALK_LENGTH_4"),
    (7, "WALK_LENGTH_5"),
    (8, "MEMORY_TYPE_UC"),
    (14, "MEMORY_TYPE_WB"),
    (16, "PAGE_2M"),
    (17, "PAGE_1G"),
    (20, "INVEPT"),
    (21, "ACCESSED_DIRTY"),
    (22, "ADVANCED_EXIT_INFO"),
    (23, "SUPERVISOR_SHADOW_STACK"),
    (25, "INVEPT_SINGLE"),
    (26, "INVEPT_ALL"),
    (32, "INVVPID"),
    (40, "INVVPID_ADDRESS"),
    (41, "INVVPID_SINGLE"),
    (42, "INVVPID_ALL"),
    (43, "INVVPID_SINGLE_NON_GLOBAL"),
];

/// Bits of IA32_VMX_VMFUNC (SDM A.11).
pub const VMFUNC: &[BitName] = &[(0, "EPTP switching")];

/// Bits of CR0 (SDM 2.5).
pub const CR0: &[BitName] = &[
    (0, "PE"),
    (1, "MP"),
    (2, "EM"),
    (3, "TS"),
    (4, "ET"),
    (5, "NE"),
    (16, "WP"),
    (18, "AM"),
    (29, "NW"),
    (30, "CD"),
    (31, "PG"),
];

/// Bits of CR4 (SDM 2.5).
pub const CR4: &[BitName] = &[
    (0, "VME"),
    (1, "PVI"),
    (2, "TSD"),
    (3, "DE"),
    (4, "PSE"),
    (5, "PAE"),
    (6, "MCE"),
    (7, "PGE"),
    (8, "PCE"),
    (9, "OSFXSR"),
    (10, "OSXMMEXCPT"),
    (11, "UMIP"),
    (12, "LA57"),
    (13, "VMXE"),
    (14, "SMXE"),
    (16, "FSGSBASE"),
    (17, "PCIDE"),
    (18, "OSXSAVE"),
    (19, "KL"),
    (20, "SMEP"),
    (21, "SMAP"),
    (22, "PKE"),
    (23, "CET"),
    (24, "PKS"),
    (25, "UINTR"),
    (27, "LASS"),
    (28, "LAM_SUP"),
];

/// The name of a pin-based control.
pub fn pin(bit: u32) -> Option<&'static str> {
    flag::<PinControls>(bit)
}

/// The name of a primary processor-based control.
pub fn primary(bit: u32) -> Option<&'static str> {
    flag::<PrimaryControls>(bit)
}

/// The name of a secondary processor-based control.
pub fn secondary(bit: u32) -> Option<&'static str> {
    flag::<SecondaryControls>(bit)
}

/// The name of a VM-exit control.
pub fn exit(bit: u32) -> Option<&'static str> {
    flag::<ExitControls>(bit)
}

/// The name of a VM-entry control.
pub fn entry(bit: u32) -> Option<&'static str> {
    flag::<EntryControls>(bit)
}

/// The name that the type has for a bit.
fn flag<F: Flags<Bits = u32>>(bit: u32) -> Option<&'static str> {
    let mask = 1u32.checked_shl(bit)?;
    let of_bit = |flag: &&bitflags::Flag<F>| flag.is_named() && flag.value().bits() == mask;
    F::FLAGS.iter().find(of_bit).map(|flag| flag.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ept_vpid;

    #[test]
    fn controls_have_their_types_names() {
        assert_eq!(pin(3), Some("NMI_EXITING"));
        assert_eq!(primary(31), Some("ACTIVATE_SECONDARY"));
        assert_eq!(secondary(1), Some("ENABLE_EPT"));
        assert_eq!(exit(21), Some("LOAD_EFER"));
        assert_eq!(entry(9), Some("IA32E_MODE_GUEST"));
        assert_eq!(pin(1), None);
        assert_eq!(pin(32), None);
    }

    #[test]
    fn ept_and_vpid_bits_are_where_their_constants_have_them() {
        let constants = [
            ("EXECUTE_ONLY", ept_vpid::EXECUTE_ONLY),
            ("WALK_LENGTH_4", ept_vpid::WALK_LENGTH_4),
            ("WALK_LENGTH_5", ept_vpid::WALK_LENGTH_5),
            ("MEMORY_TYPE_UC", ept_vpid::MEMORY_TYPE_UC),
            ("MEMORY_TYPE_WB", ept_vpid::MEMORY_TYPE_WB),
            ("PAGE_2M", ept_vpid::PAGE_2M),
            ("PAGE_1G", ept_vpid::PAGE_1G),
            ("INVEPT", ept_vpid::INVEPT),
            ("ACCESSED_DIRTY", ept_vpid::ACCESSED_DIRTY),
            ("ADVANCED_EXIT_INFO", ept_vpid::ADVANCED_EXIT_INFO),
            ("INVEPT_SINGLE", ept_vpid::INVEPT_SINGLE),
            ("INVEPT_ALL", ept_vpid::INVEPT_ALL),
            ("INVVPID", ept_vpid::INVVPID),
            ("INVVPID_ADDRESS", ept_vpid::INVVPID_ADDRESS),
            ("INVVPID_SINGLE", ept_vpid::INVVPID_SINGLE),
            ("INVVPID_ALL", ept_vpid::INVVPID_ALL),
            (
                "INVVPID_SINGLE_NON_GLOBAL",
                ept_vpid::INVVPID_SINGLE_NON_GLOBAL,
            ),
        ];
        for (name, mask) in constants {
            let bit = mask.trailing_zeros();
            assert!(EPT_VPID.contains(&(bit, name)), "{name}");
        }
    }

    #[test]
    fn no_bit_has_two_names() {
        for table in [BASIC, MISC, EPT_VPID, VMFUNC, CR0, CR4] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}
