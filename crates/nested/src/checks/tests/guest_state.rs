//! Guest state, register and other.

use super::*;

#[test]
fn guest_registers() {
    let cr0 = Field::GUEST_CR0;
    // Unrestricted: PE and PG may be 0, NE may not.
    let entry = linux(Field::ENTRY_CONTROLS) & !(1 << 9);
    let legacy = (Field::ENTRY_CONTROLS, entry);
    assert_eq!(checked(&[legacy, (cr0, 0x30)]), Ok(()));
    bad_guest(&[(cr0, 0x8005_0013)], cr0, Rule::AllowedBits, 0);
    bad_guest(&[(cr0, 0x8000_0030)], cr0, Rule::Requires(cr0), 0);
    let restricted = linux(Field::SECONDARY_CONTROLS) & !(1 << 7);
    let restricted = (Field::SECONDARY_CONTROLS, restricted);
    bad_guest(&[restricted, (cr0, 0x31)], cr0, Rule::AllowedBits, 0);
    let cr4 = Field::GUEST_CR4;
    bad_guest(&[(cr4, 0x6f0)], cr4, Rule::AllowedBits, 0);
    bad_guest(
        &[(Field::GUEST_CR3, 1 << 39)],
        Field::GUEST_CR3,
        Rule::Address,
        0,
    );
}

#[test]
fn cr4_bits_that_l1_is_not_offered() {
    let narrow = Config {
        caps: crate::caps::offer(&crate::testing::capable_processor(), 0x7ff),
        ..config()
    };
    assert!(guest(&with(&[]), &narrow, &memory(), Dirty::ALL).is_ok());
    let pke = with(&[(Field::GUEST_CR4, 0x26f0 | 1 << 20)]);
    assert!(guest(&pke, &config(), &memory(), Dirty::ALL).is_ok());
    let failed = guest(&pke, &narrow, &memory(), Dirty::ALL).unwrap_err();
    assert_eq!(failed.0.field, Field::GUEST_CR4);
}

#[test]
fn guest_msrs() {
    let entry = linux(Field::ENTRY_CONTROLS);
    let all = (Field::ENTRY_CONTROLS, entry | 1 << 2 | 3 << 14);
    let none = (Field::ENTRY_CONTROLS, entry & !(1 << 2 | 1 << 14 | 1 << 15));
    let mode = Rule::Requires(Field::ENTRY_CONTROLS);
    for (field, bad, rule) in [
        (Field::GUEST_DEBUGCTL, 1 << 63, Rule::Reserved),
        (Field::GUEST_DEBUGCTL, 1 << 3, Rule::Reserved),
        // LBR, TR: bits of processors, but none of L1's.
        (Field::GUEST_DEBUGCTL, 1, Rule::Reserved),
        (Field::GUEST_DEBUGCTL, 0x40, Rule::Reserved),
        (Field::GUEST_PAT, 0x0300, Rule::Reserved),
        (Field::GUEST_PAT, 0x10, Rule::Reserved),
        (Field::GUEST_EFER, 0xf01, Rule::Reserved),
        (Field::GUEST_EFER, 0x901, mode),
        (Field::GUEST_EFER, 0xc01, mode),
    ] {
        bad_guest(&[all, (field, bad)], field, rule, 0);
        // What is not loaded is not looked at.
        assert_eq!(checked(&[none, (field, bad)]), Ok(()), "{field:?}");
    }
    assert_eq!(checked(&[all, (Field::GUEST_DEBUGCTL, 2)]), Ok(()));
    // Without paging LME may wait for it, but not LMA.
    let real = [
        (Field::ENTRY_CONTROLS, all.1 & !(1 << 9)),
        (Field::GUEST_CR0, 0x31),
    ];
    for (efer, ok) in [(0, true), (0x100, true), (0x500, false)] {
        let result = checked(&[real[0], real[1], (Field::GUEST_EFER, efer)]);
        assert_eq!(result.is_ok(), ok, "{efer:#x}");
    }
    // IA-32e mode needs paging.
    bad_guest(&[(Field::GUEST_CR0, 0x31)], Field::GUEST_CR0, mode, 0);
}

fn checked(changes: &[(Field, u64)]) -> Result<(), (Violation, u64)> {
    guest(&with(changes), &config(), &memory(), Dirty::ALL)
}

#[test]
fn activity_states() {
    let field = Field::GUEST_ACTIVITY_STATE;
    assert_eq!(checked(&[(field, 1)]), Ok(()));
    for bad in [2, 3, 4] {
        bad_guest(&[(field, bad)], field, Rule::Reserved, 0);
    }
    let ring3 = (Field::GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
    bad_guest(&[(field, 1), ring3], field, Rule::Reserved, 0);
    let interruptible = Rule::Requires(Field::GUEST_INTERRUPTIBILITY);
    for blocking in [1, 2] {
        let blocking = (Field::GUEST_INTERRUPTIBILITY, blocking);
        bad_guest(&[(field, 1), blocking], field, interruptible, 0);
    }
    let info = Field::ENTRY_INTERRUPTION_INFO;
    for (event, wakes) in [
        (0x8000_0040, true),
        (0x8000_0202, true),
        (0x8000_0301, true),
        (0x8000_0312, true),
        (0x306, true), // not valid
        (0x8000_0306, false),
        (0x8000_0b0e, false),
        (0x8000_0480, false),
        (0x8000_0501, false),
        (0x8000_0603, false),
    ] {
        let result = checked(&[(field, 1), (info, event)]);
        let expected = Violation {
            field,
            rule: Rule::Requires(info),
        };
        let expected = if wakes { Ok(()) } else { Err((expected, 0)) };
        assert_eq!(result, expected, "{event:#x}");
    }
}

#[test]
fn activity_states_that_hynest_does_not_offer() {
    let mut wide = config();
    wide.caps.misc |= 3 << 7;
    let field = Field::GUEST_ACTIVITY_STATE;
    let info = Field::ENTRY_INTERRUPTION_INFO;
    for (state, event, ok) in [
        (2, 0, true),
        (2, 0x8000_0202, true),
        (2, 0x8000_0312, true),
        (2, 0x8000_0040, false),
        (3, 0, true),
        (3, 0x8000_0202, false),
    ] {
        let page = with(&[(field, state), (info, event)]);
        let result = guest(&page, &wide, &memory(), Dirty::ALL);
        assert_eq!(result.is_ok(), ok, "{state} {event:#x}");
    }
}

#[test]
fn what_blocks_events() {
    let field = Field::GUEST_INTERRUPTIBILITY;
    for (state, ok) in [
        (0, true),
        (1, true),
        (2, true),
        (8, true),
        (4, false),
        (0x10, false),
        (0x20, false),
        (1 << 31, false),
    ] {
        assert_eq!(checked(&[(field, state)]).is_ok(), ok, "{state:#x}");
    }
    let nmi = (Field::ENTRY_INTERRUPTION_INFO, 0x8000_0202);
    let rule = Rule::Requires(Field::ENTRY_INTERRUPTION_INFO);
    bad_guest(&[(field, 8), nmi], field, rule, 0);
    let pin = linux(Field::PIN_BASED_CONTROLS) & !(1 << 5);
    let no_virtual_nmis = (Field::PIN_BASED_CONTROLS, pin);
    assert_eq!(checked(&[(field, 8), nmi, no_virtual_nmis]), Ok(()));
    let interrupt = (Field::ENTRY_INTERRUPTION_INFO, 0x8000_0040);
    assert_eq!(checked(&[(field, 8), interrupt]), Ok(()));
}

#[test]
fn debug_exceptions_that_are_held_back() {
    let field = Field::GUEST_PENDING_DEBUG_EXCEPTIONS;
    for bit in [4, 10, 13, 15, 17, 31, 32, 63] {
        bad_guest(&[(field, 1 << bit)], field, Rule::Reserved, 0);
    }
    assert_eq!(checked(&[(field, 0x100f)]), Ok(()));
    let held = [
        (Field::GUEST_INTERRUPTIBILITY, 1),
        (Field::GUEST_INTERRUPTIBILITY, 2),
        (Field::GUEST_ACTIVITY_STATE, 1),
    ];
    for why in held {
        for (flags, debugctl, pending, ok) in [
            (0x002, 0, 0x0000, true),
            (0x002, 0, 0x4000, false),
            (0x102, 0, 0x0000, false),
            (0x102, 0, 0x4000, true),
            (0x102, 2, 0x0000, true),
            (0x102, 2, 0x4000, false),
        ] {
            let result = checked(&[
                why,
                (Field::GUEST_RFLAGS, flags),
                (Field::GUEST_DEBUGCTL, debugctl),
                (field, pending),
            ]);
            assert_eq!(result.is_ok(), ok, "{why:?} {flags:#x} {pending:#x}");
        }
    }
    // Nothing holds it back: it is delivered.
    assert_eq!(checked(&[(field, 0x4000)]), Ok(()));
}

#[test]
fn a_clean_group_is_not_judged_by_its_old_copy() {
    // The copy says what L1 wrote once; L2 has changed the state since.
    let old = with(&[
        (Field::GUEST_EFER, 0),
        (
            Field::ENTRY_CONTROLS,
            linux(Field::ENTRY_CONTROLS) | 1 << 15,
        ),
        (Field::GUEST_ACTIVITY_STATE, 1),
        (Field::GUEST_INTERRUPTIBILITY, 2),
    ]);
    let judged = |pending| guest(&old, &config(), &memory(), pending);
    assert_eq!(judged(Dirty::CRDR), Ok(()));
    assert_eq!(judged(Dirty::GUEST_BASIC), Ok(()));
    assert!(judged(Dirty::GUEST_GRP1.union(Dirty::GUEST_BASIC)).is_err());
}

#[test]
fn link_pointers() {
    let field = Field::VMCS_LINK_POINTER;
    bad_guest(&[(field, 0x1008)], field, Rule::Address, 4);
    bad_guest(&[(field, 1 << 40)], field, Rule::Address, 4);
    bad_guest(&[(field, 0x2000)], field, Rule::NoVmcs, 4);
    bad_guest(&[(field, 0x10_0000)], field, Rule::NoVmcs, 4);
    let mut memory = memory();
    memory.0[0x2000..0x2004].copy_from_slice(&vmcs12::REVISION.to_le_bytes());
    assert!(guest(&with(&[(field, 0x2000)]), &config(), &memory, Dirty::ALL).is_ok());
}

#[test]
fn rip() {
    for (rip, ok) in [
        (0x7fff_ffff_ffff, true),
        (0x8000_0000_0000, false),
        (0xffff_7fff_ffff_ffff, false),
        (0xffff_8000_0000_0000, true),
    ] {
        let result = guest_rip(&with(&[(Field::GUEST_RIP, rip)]));
        assert_eq!(result.is_ok(), ok, "{rip:#x}");
    }
}
