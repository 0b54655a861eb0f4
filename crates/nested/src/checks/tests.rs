//! Each class of bad field, and what it ends in.

use tlfs::evmcs::Width;
use vmx::Field;

use super::*;
use crate::access::Page;
use crate::state::Config;
use crate::testing::{FakeMemory, LINUX, config};
use crate::{Vmcs12, vmcs12};

mod guest_state;

/// Linux's VMCS 12 with changes.
fn with(changes: &[(Field, u64)]) -> Vmcs12 {
    let mut page = Vmcs12::new();
    for (field, value) in LINUX.iter().chain(changes) {
        let slot = vmcs12::place(field.encoding());
        match slot.width {
            Width::U16 => page.write_u16(slot.offset, *value as u16),
            Width::U32 => page.write_u32(slot.offset, *value as u32),
            Width::U64 => page.write_u64(slot.offset, *value),
        }
    }
    page
}

fn memory() -> FakeMemory {
    FakeMemory::new(0x1_0000)
}

fn linux(field: Field) -> u64 {
    LINUX
        .iter()
        .find(|(f, _)| *f == field)
        .map_or(0, |(_, v)| *v)
}

#[track_caller]
fn bad_controls(changes: &[(Field, u64)], field: Field, rule: Rule) {
    let result = controls(&with(changes), &config(), &memory());
    assert_eq!(result, Err(Violation { field, rule }));
}

#[track_caller]
fn good_controls(changes: &[(Field, u64)]) {
    let result = controls(&with(changes), &config(), &memory());
    assert_eq!(result, Ok(()));
}

#[track_caller]
fn bad_host(changes: &[(Field, u64)], field: Field, rule: Rule) {
    let result = host(&with(changes), &config());
    assert_eq!(result, Err(Violation { field, rule }));
}

#[track_caller]
fn bad_guest(changes: &[(Field, u64)], field: Field, rule: Rule, qualification: u64) {
    let result = guest(&with(changes), &config(), &memory(), Dirty::ALL);
    assert_eq!(result, Err((Violation { field, rule }, qualification)));
}

#[test]
fn linux_passes() {
    good_controls(&[]);
    assert_eq!(host(&with(&[]), &config()), Ok(()));
    assert_eq!(guest(&with(&[]), &config(), &memory(), Dirty::ALL), Ok(()));
    assert_eq!(guest_rip(&with(&[])), Ok(()));
}

#[test]
fn control_words_obey_the_capabilities() {
    let caps = config().caps;
    for (field, allowed) in [
        (Field::PIN_BASED_CONTROLS, caps.true_pin),
        (Field::PRIMARY_CONTROLS, caps.true_primary),
        (Field::SECONDARY_CONTROLS, caps.secondary),
        (Field::EXIT_CONTROLS, caps.true_exit),
        (Field::ENTRY_CONTROLS, caps.true_entry),
    ] {
        let good = linux(field);
        for bit in 0..32 {
            let mask = 1u64 << bit;
            if allowed.must_be_one() as u64 & mask != 0 {
                bad_controls(&[(field, good & !mask)], field, Rule::AllowedBits);
            }
            if allowed.may_be_one() as u64 & mask == 0 {
                bad_controls(&[(field, good | mask)], field, Rule::AllowedBits);
            }
        }
    }
}

#[test]
fn addresses_are_pages_of_l1() {
    let io = linux(Field::PRIMARY_CONTROLS) | 1 << 25;
    for bad in [0x3001, 0x80_0000_0000] {
        bad_controls(
            &[(Field::MSR_BITMAP, bad)],
            Field::MSR_BITMAP,
            Rule::Address,
        );
        let field = Field::VIRTUAL_APIC_ADDRESS;
        bad_controls(&[(field, bad)], field, Rule::Address);
        for field in [Field::IO_BITMAP_A, Field::IO_BITMAP_B] {
            bad_controls(
                &[(Field::PRIMARY_CONTROLS, io), (field, bad)],
                field,
                Rule::Address,
            );
            // Without the control they mean nothing.
            good_controls(&[(field, bad)]);
        }
    }
    bad_controls(
        &[(Field::VIRTUAL_APIC_ADDRESS, 0x10_0000)],
        Field::VIRTUAL_APIC_ADDRESS,
        Rule::Unbacked,
    );
    // A bitmap in a hole intercepts everything; that is no error.
    good_controls(&[(Field::MSR_BITMAP, 0x10_0000)]);
}

#[test]
fn the_tpr_threshold() {
    let field = Field::TPR_THRESHOLD;
    bad_controls(&[(field, 0x10)], field, Rule::Reserved);
    bad_controls(&[(field, 1)], field, Rule::TooLarge);
    let mut memory = memory();
    memory.0[0x4080] = 0x30;
    assert!(controls(&with(&[(field, 3)]), &config(), &memory).is_ok());
    assert!(controls(&with(&[(field, 4)]), &config(), &memory).is_err());
    // x2APIC virtualization needs the TPR shadow.
    bad_controls(
        &[
            (
                Field::PRIMARY_CONTROLS,
                linux(Field::PRIMARY_CONTROLS) & !(1 << 21),
            ),
            (
                Field::SECONDARY_CONTROLS,
                linux(Field::SECONDARY_CONTROLS) | 1 << 4,
            ),
        ],
        Field::SECONDARY_CONTROLS,
        Rule::Requires(Field::PRIMARY_CONTROLS),
    );
}

#[test]
fn nmi_controls_need_each_other() {
    let pin = linux(Field::PIN_BASED_CONTROLS);
    bad_controls(
        &[(Field::PIN_BASED_CONTROLS, pin & !(1 << 3))],
        Field::PIN_BASED_CONTROLS,
        Rule::Requires(Field::PIN_BASED_CONTROLS),
    );
    let window = linux(Field::PRIMARY_CONTROLS) | 1 << 22;
    good_controls(&[(Field::PRIMARY_CONTROLS, window)]);
    bad_controls(
        &[
            (Field::PRIMARY_CONTROLS, window),
            (Field::PIN_BASED_CONTROLS, pin & !(1 << 5)),
        ],
        Field::PRIMARY_CONTROLS,
        Rule::Requires(Field::PIN_BASED_CONTROLS),
    );
}

#[test]
fn a_scale_is_not_zero() {
    let zero = (Field::TSC_MULTIPLIER, 0);
    good_controls(&[zero]);
    let scaling = linux(Field::SECONDARY_CONTROLS) | 1 << 25;
    let scaling = (Field::SECONDARY_CONTROLS, scaling);
    good_controls(&[scaling]);
    good_controls(&[scaling, (Field::TSC_MULTIPLIER, 1)]);
    bad_controls(&[scaling, zero], Field::TSC_MULTIPLIER, Rule::Zero);
    // Whether or not it is used.
    let primary = linux(Field::PRIMARY_CONTROLS) & !(1 << 3);
    let primary = (Field::PRIMARY_CONTROLS, primary);
    bad_controls(&[scaling, primary, zero], Field::TSC_MULTIPLIER, Rule::Zero);
}

#[test]
fn translation() {
    bad_controls(&[(Field::VPID, 0)], Field::VPID, Rule::Zero);
    for eptp in [
        0x5018,         // uncacheable
        0x5006,         // walk length 1
        0x5026,         // walk length 5
        0x505e,         // accessed and dirty flags
        0x509e,         // reserved
        0x80_0000_501e, // beyond the address width
    ] {
        bad_controls(
            &[(Field::EPT_POINTER, eptp)],
            Field::EPT_POINTER,
            Rule::Reserved,
        );
    }
    let secondary = linux(Field::SECONDARY_CONTROLS) & !2;
    bad_controls(
        &[(Field::SECONDARY_CONTROLS, secondary)],
        Field::SECONDARY_CONTROLS,
        Rule::Requires(Field::SECONDARY_CONTROLS),
    );
    good_controls(&[
        (Field::SECONDARY_CONTROLS, secondary & !(1 << 7)),
        (Field::EPT_POINTER, 0),
    ]);
    bad_controls(
        &[(Field::CR3_TARGET_COUNT, 1)],
        Field::CR3_TARGET_COUNT,
        Rule::TooLarge,
    );
}

#[test]
fn msr_lists() {
    for (count, address) in [
        (Field::EXIT_MSR_STORE_COUNT, Field::EXIT_MSR_STORE_ADDRESS),
        (Field::EXIT_MSR_LOAD_COUNT, Field::EXIT_MSR_LOAD_ADDRESS),
        (Field::ENTRY_MSR_LOAD_COUNT, Field::ENTRY_MSR_LOAD_ADDRESS),
    ] {
        good_controls(&[(address, 0x7)]);
        good_controls(&[(count, 512), (address, 0x1000)]);
        bad_controls(&[(count, 513), (address, 0x1000)], address, Rule::TooLarge);
        bad_controls(&[(count, 1), (address, 0x1008)], address, Rule::Address);
        good_controls(&[(count, 1), (address, 0x7f_ffff_fff0)]);
        bad_controls(
            &[(count, 2), (address, 0x7f_ffff_fff0)],
            address,
            Rule::Address,
        );
        bad_controls(&[(count, 1), (address, !15)], address, Rule::Address);
    }
}

#[test]
fn events() {
    let info = Field::ENTRY_INTERRUPTION_INFO;
    for good in [0, 0x30e, 0x8000_0020, 0x8000_0202, 0x8000_0306, 0x8000_0b0e] {
        good_controls(&[(info, good)]);
    }
    for bad in [
        0x8000_0120, // type 1
        0x8000_0700, // a pending MTF
        0x8000_0203, // an NMI with another vector
        0x8000_0320, // an exception above 31
        0x8000_1020, // reserved bit 12
        0xc000_0020, // reserved bit 30
    ] {
        bad_controls(&[(info, bad)], info, Rule::Reserved);
    }
    let pe = Rule::Requires(Field::GUEST_CR0);
    bad_controls(&[(info, 0x8000_030e)], info, pe); // #PF without error code
    bad_controls(&[(info, 0x8000_0b06)], info, pe); // #UD with one
    bad_controls(&[(info, 0x8000_0820)], info, pe); // an interrupt with one
    // In real mode no exception has one.
    good_controls(&[(info, 0x8000_030d), (Field::GUEST_CR0, 0x30)]);
    bad_controls(&[(info, 0x8000_0b0d), (Field::GUEST_CR0, 0x30)], info, pe);
    let code = Field::ENTRY_EXCEPTION_ERROR_CODE;
    bad_controls(&[(info, 0x8000_0b0e), (code, 0x8000)], code, Rule::Reserved);
    let length = Field::ENTRY_INSTRUCTION_LENGTH;
    for software in [0x8000_0480, 0x8000_0501, 0x8000_0603] {
        good_controls(&[(info, software), (length, 15)]);
        good_controls(&[(info, software), (length, 0)]);
        bad_controls(&[(info, software), (length, 16)], length, Rule::Reserved);
    }
    let mut no_zero_length = config();
    no_zero_length.caps.misc &= !(1 << 30);
    let page = with(&[(info, 0x8000_0480), (length, 0)]);
    assert!(controls(&page, &no_zero_length, &memory()).is_err());
}

#[test]
fn the_light_checks_find_what_they_look_at() {
    let light = |changes: &[(Field, u64)]| light_controls(&with(changes), &config());
    let primary = linux(Field::PRIMARY_CONTROLS);
    assert_eq!(light(&[]), Ok(()));
    assert_eq!(light(&[(Field::PRIMARY_CONTROLS, primary | 4)]), Ok(()));
    for (field, value) in [
        (Field::PRIMARY_CONTROLS, primary | 1 << 17),
        (Field::PRIMARY_CONTROLS, primary & !2),
        (Field::ENTRY_INTERRUPTION_INFO, 0x8000_0203),
    ] {
        let changes = [(field, value)];
        let found = controls(&with(&changes), &config(), &memory());
        assert!(found.is_err());
        assert_eq!(light(&changes), found);
    }
    let window = [
        (Field::PRIMARY_CONTROLS, primary | 1 << 22),
        (
            Field::PIN_BASED_CONTROLS,
            linux(Field::PIN_BASED_CONTROLS) & !(1 << 5),
        ),
    ];
    assert!(light(&window).is_err());
}

#[test]
fn host_registers() {
    let cr0 = Field::HOST_CR0;
    bad_host(&[(cr0, 0x8005_0013)], cr0, Rule::AllowedBits);
    bad_host(&[(cr0, 0x1_8005_0033)], cr0, Rule::AllowedBits);
    let cr4 = Field::HOST_CR4;
    bad_host(&[(cr4, 0x6f0)], cr4, Rule::AllowedBits);
    bad_host(&[(cr4, 0x8000_26f0)], cr4, Rule::AllowedBits);
    let needs_exit = Rule::Requires(Field::EXIT_CONTROLS);
    bad_host(&[(cr4, 0x26d0)], cr4, needs_exit);
    bad_host(
        &[(Field::HOST_CR3, 1 << 39)],
        Field::HOST_CR3,
        Rule::Address,
    );
    for field in [
        Field::HOST_SYSENTER_ESP,
        Field::HOST_SYSENTER_EIP,
        Field::HOST_FS_BASE,
        Field::HOST_GS_BASE,
        Field::HOST_TR_BASE,
        Field::HOST_GDTR_BASE,
        Field::HOST_IDTR_BASE,
        Field::HOST_RIP,
    ] {
        bad_host(&[(field, 1 << 47)], field, Rule::Canonical);
    }
    bad_host(&[(Field::HOST_PAT, 2)], Field::HOST_PAT, Rule::Reserved);
    let load_efer = (Field::EXIT_CONTROLS, linux(Field::EXIT_CONTROLS) | 1 << 21);
    let efer = Field::HOST_EFER;
    assert!(host(&with(&[load_efer, (efer, 0xd01)]), &config()).is_ok());
    bad_host(&[load_efer, (efer, 0x2d01)], efer, Rule::Reserved);
    for bad in [0x901, 0x801, 0xc01] {
        bad_host(&[load_efer, (efer, bad)], efer, needs_exit);
    }
}

#[test]
fn host_selectors() {
    for field in [
        Field::HOST_ES_SELECTOR,
        Field::HOST_CS_SELECTOR,
        Field::HOST_SS_SELECTOR,
        Field::HOST_DS_SELECTOR,
        Field::HOST_FS_SELECTOR,
        Field::HOST_GS_SELECTOR,
        Field::HOST_TR_SELECTOR,
    ] {
        bad_host(&[(field, 0x13)], field, Rule::Reserved);
        bad_host(&[(field, 0x14)], field, Rule::Reserved);
    }
    for field in [Field::HOST_CS_SELECTOR, Field::HOST_TR_SELECTOR] {
        bad_host(&[(field, 0)], field, Rule::Zero);
    }
    assert!(host(&with(&[(Field::HOST_SS_SELECTOR, 0)]), &config()).is_ok());
}

#[test]
fn a_host_outside_64_bit_mode() {
    let legacy = [
        (
            Field::EXIT_CONTROLS,
            linux(Field::EXIT_CONTROLS) & !(1 << 9),
        ),
        (
            Field::ENTRY_CONTROLS,
            linux(Field::ENTRY_CONTROLS) & !(1 << 9),
        ),
        (Field::HOST_RIP, 0x8000_0000),
    ];
    let check = |more: &[(Field, u64)]| host(&with(&[&legacy, more].concat()), &config());
    assert_eq!(check(&[]), Ok(()));
    let failed = |more: &[(Field, u64)]| check(more).unwrap_err().field;
    assert_eq!(
        failed(&[(Field::HOST_SS_SELECTOR, 0)]),
        Field::HOST_SS_SELECTOR
    );
    assert_eq!(failed(&[(Field::HOST_RIP, 1 << 32)]), Field::HOST_RIP);
    assert_eq!(failed(&[(Field::HOST_CR4, 0x2_26f0)]), Field::HOST_CR4);
    let entry = (Field::ENTRY_CONTROLS, linux(Field::ENTRY_CONTROLS));
    assert_eq!(failed(&[entry]), Field::ENTRY_CONTROLS);
}

mod short {
    //! The checks of the short way against those that name what is wrong.

    extern crate std;

    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            any::<u64>().prop_map(|value| ((value as i64) >> 17) as u64),
            (0u64..4, any::<bool>()).prop_map(|(n, up)| {
                let edge = if up { 1u64 << 47 } else { !0 << 47 };
                edge.wrapping_add(n).wrapping_sub(2)
            }),
        ]
    }

    proptest! {
        #[test]
        fn of_host_pointers(addresses in any::<[u8; 5]>(), values in prop::array::uniform5(address())) {
            let fields = [
                Field::HOST_FS_BASE,
                Field::HOST_GS_BASE,
                Field::HOST_GDTR_BASE,
                Field::HOST_IDTR_BASE,
                Field::HOST_TR_BASE,
            ];
            let changes: std::vec::Vec<_> = fields
                .into_iter()
                .zip(values)
                .zip(addresses)
                .filter(|(_, pick)| pick % 3 == 0)
                .map(|(change, _)| change)
                .collect();
            let vmcs12 = with(&changes);
            prop_assert_eq!(are_host_pointers_canonical(&vmcs12), host_pointers(&vmcs12).is_ok());
        }

        #[test]
        fn of_controls(
            event in prop_oneof![
                any::<u32>(),
                any::<u8>().prop_map(|vector| 1 << 31 | u32::from(vector)),
                any::<u16>().prop_map(|low| 1 << 31 | u32::from(low)),
            ],
            bit in 0u32..64,
        ) {
            let primary = linux(Field::PRIMARY_CONTROLS) ^ 1u64.wrapping_shl(bit) & 0xffff_ffff;
            let vmcs12 = with(&[
                (Field::ENTRY_INTERRUPTION_INFO, event.into()),
                (Field::PRIMARY_CONTROLS, primary),
            ]);
            let full = light_controls(&vmcs12, &config()).is_ok();
            let is_simple = is_simple_event(vmx::InterruptionInfo::from_raw(event));
            prop_assert_eq!(simple_controls(&vmcs12, &config()), full && is_simple);
        }
    }
}
