//! Write-back, host state and events.

use vmx::BasicExitReason;

use super::*;
use crate::events;
use crate::testing::*;

/// Every guest field that L2 may change without an exit.
fn l2_fields() -> impl Iterator<Item = Field> {
    crate::vmcs12::LISTS
        .iter()
        .filter(|(name, _)| ["for_guest_basic", "for_guest_grp2"].contains(name))
        .flat_map(|(_, list)| list.iter().copied())
        .chain([
            Field::GUEST_RIP,
            Field::GUEST_CR3,
            Field::GUEST_PENDING_DEBUG_EXCEPTIONS,
            Field::GUEST_SYSENTER_CS,
            Field::GUEST_SYSENTER_ESP,
            Field::GUEST_SYSENTER_EIP,
            Field::GUEST_DR7,
            Field::GUEST_DEBUGCTL,
        ])
}

#[test]
fn l1_sees_what_l2_left() {
    let mut scene = Scene::entered();
    for (n, field) in l2_fields().enumerate() {
        let value = scene.vmcs02.peek(field) ^ (n as u64 + 1);
        scene.vmcs02.set(
            field,
            value & (u64::MAX >> (64 - 8 * field.width().bytes())),
        );
    }
    scene.vmcs02.set(Field::EXIT_QUALIFICATION, 0x123);
    scene.vmcs02.set(Field::EXIT_INSTRUCTION_LENGTH, 2);
    scene.exit(10);
    for field in l2_fields() {
        assert_eq!(
            scene.page.peek(field),
            scene.vmcs02.peek(field),
            "{field:?}"
        );
    }
    assert_eq!(scene.page.peek(Field::EXIT_REASON), 10);
    assert_eq!(scene.page.peek(Field::EXIT_QUALIFICATION), 0x123);
    assert_eq!(scene.page.peek(Field::EXIT_INSTRUCTION_LENGTH), 2);
    assert!(!scene.nested.in_l2());
}

#[test]
fn an_exit_costs_what_it_must() {
    let mut scene = Scene::entered();
    scene.exit(10);
    let (_, writes) = scene.page.take_counts();
    let reads = scene.vmcs02.take_reads();
    // Guest state: 36 of segments, 15 others. Exit information: qualification,
    // two events, instruction length. EFER and PAT, which this
    // exit leaves to L1 (Linux here loads PAT only).
    assert_eq!(reads, 36 + 15 + 4 + 2);
    assert!(writes <= reads, "{writes} writes to L1's page");
    assert!(scene.vmcs02.take_written().is_empty());
    let skipped = UNDEFINED_FIELD_COUNT;
    let written = scene.vmcs01.take_written().len();
    assert_eq!(written, HOST_FIELDS.len() - skipped + 2);
    assert_eq!(scene.vmcs01.take_reads(), 0);
}

use crate::{HOST_FIELDS, UNDEFINED_FIELD_COUNT};

#[test]
fn controls_and_host_state_of_l1_stay() {
    let mut scene = Scene::entered();
    scene.exit(10);
    for (field, value) in LINUX {
        if matches!(field.kind(), vmx::Kind::Host | vmx::Kind::Control) {
            assert_eq!(scene.page.peek(*field), *value, "{field:?}");
        }
    }
}

#[test]
fn host_state_arrives_in_vmcs_01() {
    let mut scene = Scene::entered();
    for field in HOST_FIELDS {
        scene.vmcs01.set(*field, 0x5555);
    }
    scene.vmcs01.set(Field::CR0_READ_SHADOW, 0);
    scene.exit(10);
    let at = |field| scene.vmcs01.peek(field);
    assert_eq!(at(Field::GUEST_RIP), 0xffff_ffff_c050_0000);
    assert_eq!(at(Field::GUEST_RSP), 0xffff_c900_0040_0000);
    assert_eq!(at(Field::GUEST_RFLAGS), 2);
    assert_eq!(at(Field::GUEST_CR0), 0x8005_0033);
    assert_eq!(at(Field::GUEST_CR3), 0x2_0000);
    assert_eq!(at(Field::GUEST_CR4), 0x26f0);
    assert_eq!(at(Field::CR4_READ_SHADOW), 0x26f0);
    assert_eq!(at(Field::GUEST_CS_SELECTOR), 0x10);
    assert_eq!(at(Field::GUEST_CS_ACCESS_RIGHTS), 0xa09b);
    assert_eq!(at(Field::GUEST_SS_SELECTOR), 0x18);
    assert_eq!(at(Field::GUEST_SS_ACCESS_RIGHTS), 0xc093);
    assert_eq!(at(Field::GUEST_DS_ACCESS_RIGHTS), 0x1_0000);
    assert_eq!(at(Field::GUEST_LDTR_SELECTOR), 0);
    assert_eq!(at(Field::GUEST_LDTR_ACCESS_RIGHTS), 0x1_0000);
    assert_eq!(at(Field::GUEST_TR_SELECTOR), 0x40);
    assert_eq!(at(Field::GUEST_TR_ACCESS_RIGHTS), 0x8b);
    assert_eq!(at(Field::GUEST_TR_LIMIT), 0x67);
    assert_eq!(at(Field::GUEST_TR_BASE), 0xffff_fe00_0000_3000);
    assert_eq!(at(Field::GUEST_FS_BASE), 0x7fff_0000_1000);
    assert_eq!(at(Field::GUEST_GS_BASE), 0xffff_8880_0f00_0000);
    assert_eq!(at(Field::GUEST_GDTR_BASE), 0xffff_fe00_0000_1000);
    assert_eq!(at(Field::GUEST_IDTR_BASE), 0xffff_fe00_0000_0000);
    assert_eq!(at(Field::GUEST_IDTR_LIMIT), 0xffff);
    assert_eq!(at(Field::GUEST_DR7), 0x400);
    assert_eq!(at(Field::GUEST_DEBUGCTL), 0);
    assert_eq!(at(Field::GUEST_INTERRUPTIBILITY), 0);
    assert_eq!(at(Field::GUEST_ACTIVITY_STATE), 0);
    assert_eq!(at(Field::GUEST_PAT), 0x0007_0406_0007_0406);
    // Not loaded: L2's EFER in L1's mode.
    assert_eq!(at(Field::GUEST_EFER), 0xd01);
    assert_eq!(at(Field::GUEST_SYSENTER_CS), 0x10);
    let defined = HOST_FIELDS.len() - UNDEFINED_FIELD_COUNT;
    for field in &HOST_FIELDS[..defined] {
        assert_ne!(at(*field), 0x5555, "{field:?}");
    }
}

#[test]
fn usable_data_segments_are_loaded_whole() {
    for selector in [
        Field::HOST_DS_SELECTOR,
        Field::HOST_ES_SELECTOR,
        Field::HOST_FS_SELECTOR,
        Field::HOST_GS_SELECTOR,
    ] {
        let mut scene = Scene::new();
        scene.page.store(selector, 0x18);
        scene.prepare(&LAUNCH).unwrap();
        scene.merge();
        for field in HOST_FIELDS {
            scene.vmcs01.set(*field, 0x5555);
        }
        scene.exit(10);
        for field in HOST_FIELDS {
            assert_ne!(scene.vmcs01.peek(*field), 0x5555, "{field:?}");
        }
        assert_eq!(scene.vmcs01.peek(Field::GUEST_DS_LIMIT), 0xffff_ffff);
        assert_eq!(scene.vmcs01.peek(Field::GUEST_ES_BASE), 0);
    }
}

#[test]
fn operands_are_described_where_there_are_any() {
    let mut scene = Scene::entered();
    scene.vmcs02.set(Field::EXIT_INSTRUCTION_INFO, 0x1234);
    scene.vmcs02.set(Field::GUEST_LINEAR_ADDRESS, 0x7000);
    scene.vmcs02.set(Field::EXIT_QUALIFICATION, 0x03f8_0010);
    for reason in [30, 46, 50, 63, 64] {
        let mut scene = Scene::entered();
        scene.vmcs02.set(Field::EXIT_INSTRUCTION_INFO, 0x1234);
        scene.vmcs02.set(Field::GUEST_LINEAR_ADDRESS, 0x7000);
        scene.vmcs02.set(Field::EXIT_QUALIFICATION, 0x03f8_0010);
        scene.exit(reason);
        assert_eq!(scene.page.peek(Field::EXIT_INSTRUCTION_INFO), 0x1234);
        assert_eq!(scene.page.peek(Field::GUEST_LINEAR_ADDRESS), 0x7000);
        assert_eq!(scene.page.peek(Field::EXIT_QUALIFICATION), 0x03f8_0010);
        assert_eq!(scene.page.peek(Field::EXIT_REASON), reason);
    }
    scene.exit(10);
    assert_eq!(scene.page.peek(Field::GUEST_LINEAR_ADDRESS), 0);
}

#[test]
fn an_nmi_blocks_nmis_and_cache_bits_stay() {
    let mut scene = Scene::entered();
    scene.nested.set_cache_bits(CD);
    scene
        .nested
        .reflect_enlightened(scene.reason(), &scene.vmcs02, &mut scene.page);
    let _ = scene.nested.load_host(&mut scene.vmcs01, true);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_INTERRUPTIBILITY), 8);
    assert_eq!(scene.vmcs01.peek(Field::CR0_READ_SHADOW), 0x8005_0033 | CD);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_CR0), 0x8005_0033);
    // Whatever host state L1 gives next.
    scene.prepare(&RESUME).unwrap();
    scene.nested.forget();
    scene.merge();
    scene.exit(10);
    assert_eq!(scene.vmcs01.peek(Field::CR0_READ_SHADOW), 0x8005_0033 | CD);
    scene.nested.set_cache_bits(0);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    scene.exit(10);
    assert_eq!(scene.vmcs01.peek(Field::CR0_READ_SHADOW), 0x8005_0033);
}

#[test]
fn an_l1_in_pae_paging_has_its_pdptes_loaded() {
    const HOST_64_BIT: u64 = 1 << 9;
    const PAE: u64 = 1 << 5;
    for (exit, cr4, pae) in [(HOST_64_BIT, PAE, false), (0, PAE, true), (0, 0, false)] {
        let mut scene = Scene::entered();
        let host = (
            scene.page.peek(Field::EXIT_CONTROLS),
            scene.page.peek(Field::HOST_CR4),
        );
        scene
            .nested
            .reflect_enlightened(scene.reason(), &scene.vmcs02, &mut scene.page);
        // Straight to the host state: that L1 is 32-bit all over is for the checks.
        scene
            .nested
            .prepare_host(host.0 & !HOST_64_BIT | exit, host.1 & !PAE | cr4);
        assert_eq!(scene.nested.load_host(&mut scene.vmcs01, false), pae);
    }
}

const CD: u64 = crate::cr::CR0_CD;

#[test]
fn a_host_load_of_efer_wins() {
    let mut scene = Scene::new();
    scene
        .page
        .store(Field::EXIT_CONTROLS, 0x000b_efff | 1 << 21);
    scene.page.store(Field::HOST_EFER, 0x501);
    scene.prepare(&LAUNCH).unwrap();
    scene.merge();
    scene.vmcs02.set(Field::GUEST_EFER, 0xd01);
    scene.exit(10);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_EFER), 0x501);
}

#[test]
fn saved_only_when_asked() {
    let mut scene = Scene::entered();
    scene.vmcs02.set(Field::GUEST_PAT, 0x1111);
    scene.vmcs02.set(Field::GUEST_EFER, 0xd00);
    scene.exit(10);
    assert_eq!(scene.page.peek(Field::GUEST_EFER), 0xd01);
    assert_ne!(scene.page.peek(Field::GUEST_PAT), 0x1111);
    let save = ExitControls::SAVE_EFER | ExitControls::SAVE_PAT;
    let exit = 0x000b_efff | u64::from(save.bits());
    scene.page.store(Field::EXIT_CONTROLS, exit);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    scene.vmcs02.set(Field::GUEST_PAT, 0x1111);
    scene.vmcs02.set(Field::GUEST_EFER, 0xd00);
    scene.exit(10);
    assert_eq!(scene.page.peek(Field::GUEST_EFER), 0xd00);
    assert_eq!(scene.page.peek(Field::GUEST_PAT), 0x1111);
}

#[test]
fn pdptes_belong_to_pae_paging() {
    let mut scene = Scene::entered();
    scene.vmcs02.set(Field::GUEST_PDPTE2, 0x3001);
    scene.exit(10);
    assert_eq!(scene.page.peek(Field::GUEST_PDPTE2), 0);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    scene.vmcs02.set(Field::ENTRY_CONTROLS, 0x51ff);
    scene.exit(10);
    assert_eq!(scene.page.peek(Field::GUEST_PDPTE2), 0x3001);
    // And the mode L2 is in now is in L1's entry controls.
    assert_eq!(scene.page.peek(Field::ENTRY_CONTROLS), 0x51ff);
}

#[test]
fn bits_that_l0_alone_owns_read_as_l2_wrote_them() {
    let mut scene = Scene::new();
    // L1 leaves CD to L2; L0 does not.
    scene.page.store(Field::CR0_GUEST_HOST_MASK, 0);
    scene.prepare(&LAUNCH).unwrap();
    scene.merge();
    assert_eq!(scene.nested.cr0_l0_only & CD, CD);
    let (hardware, shadow) = cr::emulate_write(
        0x8005_0033 | CD,
        scene.vmcs02.peek(Field::GUEST_CR0),
        scene.vmcs02.peek(Field::CR0_READ_SHADOW),
        0,
        (0, CD),
    );
    scene.vmcs02.set(Field::GUEST_CR0, hardware);
    scene.vmcs02.set(Field::CR0_READ_SHADOW, shadow);
    assert_eq!(hardware & CD, 0);
    scene.exit(10);
    assert_eq!(scene.page.peek(Field::GUEST_CR0), 0x8005_0033 | CD);
}

#[test]
fn an_exit_of_l0s_making_carries_what_was_interrupted() {
    let mut scene = Scene::entered();
    events::inject(&mut scene.vmcs02, InterruptionInfo::exception(14), 6, 0);
    let mut info = ExitInfo::new(ExitReason::new(BasicExitReason::ExternalInterrupt));
    info.interruption = InterruptionInfo::external_interrupt(0x31);
    events::take_interrupted(&mut scene.vmcs02, &mut info);
    scene
        .nested
        .reflect_enlightened_as(&scene.vmcs02, &mut scene.page, &info);
    assert_eq!(scene.page.peek(Field::EXIT_REASON), 1);
    assert_eq!(scene.page.peek(Field::EXIT_INTERRUPTION_INFO), 0x8000_0031);
    assert_eq!(scene.page.peek(Field::IDT_VECTORING_INFO), 0x8000_0b0e);
    assert_eq!(scene.page.peek(Field::IDT_VECTORING_ERROR_CODE), 6);
    assert_eq!(scene.vmcs02.peek(Field::ENTRY_INTERRUPTION_INFO), 0);
}

#[test]
fn an_interrupted_event_is_delivered_again() {
    let mut vmcs = FakeVmcs::default();
    // INT 0x80, two bytes, interrupted by an EPT violation; bit 12 is undefined.
    vmcs.set(Field::IDT_VECTORING_INFO, 0x8000_1480);
    vmcs.set(Field::EXIT_INSTRUCTION_LENGTH, 2);
    events::requeue(&mut vmcs, false);
    assert_eq!(vmcs.peek(Field::ENTRY_INTERRUPTION_INFO), 0x8000_0480);
    assert_eq!(vmcs.peek(Field::ENTRY_INSTRUCTION_LENGTH), 2);
    // Nothing interrupted, nothing queued; but an IRET had unblocked NMIs.
    let mut vmcs = FakeVmcs::default();
    events::requeue(&mut vmcs, true);
    assert_eq!(vmcs.peek(Field::ENTRY_INTERRUPTION_INFO), 0);
    assert_eq!(vmcs.peek(Field::GUEST_INTERRUPTIBILITY), 8);
    // An interrupted NMI blocks again by itself.
    vmcs.set(Field::IDT_VECTORING_INFO, 0x8000_0202);
    events::requeue(&mut vmcs, true);
    assert_eq!(vmcs.peek(Field::GUEST_INTERRUPTIBILITY), 0);
    assert_eq!(vmcs.peek(Field::ENTRY_INTERRUPTION_INFO), 0x8000_0202);
}

#[test]
fn a_plain_vmcs_gets_the_same_and_is_launched() {
    let mut scene = Scene::entered();
    scene.nested.current = crate::Current::Plain(addr::Gpa1::new(0x7000));
    scene.vmcs02.set(Field::EXIT_REASON, 12);
    scene.vmcs02.set(Field::GUEST_RSP, 0x1230);
    scene.nested.reflect_plain(scene.reason(), &scene.vmcs02);
    assert_eq!(get!(scene.nested.vmcs12, EXIT_REASON), 12);
    assert_eq!(get!(scene.nested.vmcs12, GUEST_RSP), 0x1230);
    assert!(scene.nested.vmcs12.is_launched());
}
