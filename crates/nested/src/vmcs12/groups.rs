//! The fields of each clean group, as lists that unroll.
//!
//! `for_crdr!(transfer!(a, b))` expands to `transfer!(a, b; GUEST_CR0, ...)`.
//! Offsets and widths come from the table; a test holds each list against the
//! table's groups, less what hynest does not offer.

macro_rules! groups {
    ($dollar:tt $($list:ident: $($field:ident)*;)*) => {
        $(
            macro_rules! $list {
                ($dollar apply:ident!($dollar($dollar args:tt)*)) => {
                    $dollar apply!($dollar($dollar args)*; $($field),*)
                };
            }
            #[allow(unused_imports)]
            pub(crate) use $list;
        )*

        #[cfg(test)]
        pub(crate) const LISTS: &[(&str, &[vmx::Field])] =
            &[$((stringify!($list), &[$(vmx::Field::$field),*])),*];
    };
}

groups! { $
    for_io_bitmap: IO_BITMAP_A IO_BITMAP_B;
    for_control_grp1: PIN_BASED_CONTROLS EXIT_CONTROLS SECONDARY_CONTROLS;
    for_control_grp2: TSC_OFFSET VIRTUAL_APIC_ADDRESS XSS_EXITING_BITMAP
        TSC_MULTIPLIER;
    for_control_event: ENTRY_INTERRUPTION_INFO ENTRY_EXCEPTION_ERROR_CODE
        ENTRY_INSTRUCTION_LENGTH;
    for_crdr: CR0_GUEST_HOST_MASK CR4_GUEST_HOST_MASK CR0_READ_SHADOW CR4_READ_SHADOW
        GUEST_CR0 GUEST_CR3 GUEST_CR4 GUEST_DR7;
    for_control_xlat: EPT_POINTER VPID;
    for_guest_basic: GUEST_RSP GUEST_RFLAGS GUEST_INTERRUPTIBILITY;
    for_guest_grp1: VMCS_LINK_POINTER GUEST_DEBUGCTL GUEST_PAT GUEST_EFER
        GUEST_PDPTE0 GUEST_PDPTE1 GUEST_PDPTE2 GUEST_PDPTE3
        GUEST_PENDING_DEBUG_EXCEPTIONS GUEST_SYSENTER_ESP GUEST_SYSENTER_EIP
        GUEST_ACTIVITY_STATE GUEST_SYSENTER_CS;
    for_guest_grp2: GUEST_ES_SELECTOR GUEST_CS_SELECTOR GUEST_SS_SELECTOR GUEST_DS_SELECTOR
        GUEST_FS_SELECTOR GUEST_GS_SELECTOR GUEST_LDTR_SELECTOR GUEST_TR_SELECTOR
        GUEST_ES_LIMIT GUEST_CS_LIMIT GUEST_SS_LIMIT GUEST_DS_LIMIT
        GUEST_FS_LIMIT GUEST_GS_LIMIT GUEST_LDTR_LIMIT GUEST_TR_LIMIT
        GUEST_GDTR_LIMIT GUEST_IDTR_LIMIT
        GUEST_ES_ACCESS_RIGHTS GUEST_CS_ACCESS_RIGHTS GUEST_SS_ACCESS_RIGHTS
        GUEST_DS_ACCESS_RIGHTS GUEST_FS_ACCESS_RIGHTS GUEST_GS_ACCESS_RIGHTS
        GUEST_LDTR_ACCESS_RIGHTS GUEST_TR_ACCESS_RIGHTS
        GUEST_ES_BASE GUEST_CS_BASE GUEST_SS_BASE GUEST_DS_BASE
        GUEST_FS_BASE GUEST_GS_BASE GUEST_LDTR_BASE GUEST_TR_BASE
        GUEST_GDTR_BASE GUEST_IDTR_BASE;
    for_host_pointer: HOST_FS_BASE HOST_GS_BASE HOST_TR_BASE HOST_GDTR_BASE HOST_IDTR_BASE
        HOST_RSP;
    for_host_grp1: HOST_ES_SELECTOR HOST_CS_SELECTOR HOST_SS_SELECTOR HOST_DS_SELECTOR
        HOST_FS_SELECTOR HOST_GS_SELECTOR HOST_TR_SELECTOR HOST_PAT HOST_EFER
        HOST_CR0 HOST_CR3 HOST_CR4 HOST_SYSENTER_ESP HOST_SYSENTER_EIP HOST_RIP
        HOST_SYSENTER_CS;
    for_ungrouped: EXIT_MSR_STORE_ADDRESS EXIT_MSR_LOAD_ADDRESS ENTRY_MSR_LOAD_ADDRESS
        PAGE_FAULT_ERROR_CODE_MASK PAGE_FAULT_ERROR_CODE_MATCH CR3_TARGET_COUNT
        EXIT_MSR_STORE_COUNT EXIT_MSR_LOAD_COUNT ENTRY_MSR_LOAD_COUNT;
}

#[cfg(test)]
mod tests {
    use super::LISTS;
    use tlfs::evmcs::{Group, TABLE};
    use vmx::Field;

    use crate::vmcs12::{is_withheld, place};

    #[test]
    fn lists_are_the_tables_groups() {
        for (name, list) in LISTS {
            let group = place(list[0].encoding()).group;
            let expected = TABLE
                .iter()
                .filter(|s| s.group == group)
                .map(|s| Field::from_encoding(s.encoding))
                .filter(|f| !is_withheld(*f))
                // No CR3-target value is ever used: IA32_VMX_MISC offers none.
                .filter(|f| !(Field::CR3_TARGET_VALUE_0..=Field::CR3_TARGET_VALUE_3).contains(f));
            let mut count = 0;
            for field in expected {
                assert!(list.contains(&field), "{name} lacks {field:?}");
                count += 1;
            }
            assert_eq!(count, list.len(), "{name}");
        }
    }

    #[test]
    fn segments_ascend_without_gaps_up_to_64_bit_fields() {
        // Write-back stores eight bytes for each of them, in this order.
        let list = LISTS.iter().find(|(name, _)| *name == "for_guest_grp2");
        let places = list.unwrap().1.iter().map(|f| place(f.encoding()));
        let mut end = 0x80;
        for slot in places {
            assert_eq!(slot.offset, end, "{}", slot.name);
            end = slot.offset + slot.width.bytes();
        }
        assert_eq!(end, 0x128);
    }

    #[test]
    fn groups_without_a_list_have_one_field_or_none() {
        for row in TABLE {
            let listed = LISTS
                .iter()
                .any(|(_, list)| place(list[0].encoding()).group == row.group);
            let single = matches!(
                row.group,
                Group::MsrBitmap | Group::ControlProc | Group::ControlEntry | Group::ControlExcpn
            );
            let apart = matches!(row.group, Group::Always | Group::ExitInfo);
            assert!(listed || single || apart, "{}", row.name);
        }
    }
}
