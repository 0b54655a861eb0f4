//! Entry by clean groups: what is read, when, and what a failure leaves.

use tlfs::evmcs::{CLEAN_FIELDS, Group};
use vmx::{ExitReason, Field, VmInstructionError as E};

use super::*;
use crate::testing::*;
use crate::vmcs12::Place;

fn clean_word(page: &FakePage) -> u32 {
    page.read_u32(CLEAN_FIELDS)
}

#[test]
fn the_first_entry_takes_everything_and_cleans_it() {
    let mut scene = Scene::new();
    assert_eq!(scene.prepare(&LAUNCH), Ok(()));
    assert_eq!(clean_word(&scene.page), 0xffff);
    let merged = scene.merge();
    assert!(merged.groups.contains(Dirty::of(Group::GuestGrp2)));
    assert!(merged.ept && merged.msr_bitmap && merged.flush_vpid && !merged.halt);
    for (field, value) in LINUX {
        if field.kind() == vmx::Kind::Guest && *field != Field::VMCS_LINK_POINTER {
            assert_eq!(scene.vmcs02.peek(*field), *value, "{field:?}");
        }
    }
    assert!(scene.nested.in_l2());
}

#[test]
fn with_everything_clean_only_the_uncovered_words_are_read() {
    let mut scene = Scene::reflected();
    scene.page.write_u64(0x330, 0xffff_ffff_8100_0002);
    scene.reset();
    assert_eq!(scene.prepare(&RESUME), Ok(()));
    // Version, clean fields, RIP, TPR threshold, and the four words from 0x340.
    assert_eq!(scene.page.take_counts(), (8, 0));
    let merged = scene.merge();
    assert_eq!(merged.groups, Dirty::NONE);
    assert!(!merged.ept && !merged.flush_vpid && !merged.halt);
    // EFER is not among Linux's load controls here, so L1's goes along.
    let written = scene.vmcs02.take_written();
    assert_eq!(
        written,
        [Field::GUEST_RIP, Field::TPR_THRESHOLD, Field::GUEST_EFER]
    );
    assert_eq!(merged.fields as usize, written.len());
    assert_eq!(scene.vmcs02.peek(Field::GUEST_RIP), 0xffff_ffff_8100_0002);
    assert_eq!(
        (scene.vmcs01.take_reads(), scene.vmcs02.take_reads()),
        (1, 0)
    );
}

#[test]
fn a_dirty_group_is_read_whole_and_no_other() {
    for (group, field, reads) in [
        (Dirty::GUEST_BASIC, Field::GUEST_RSP, 3),
        (Dirty::CRDR, Field::GUEST_CR3, 8),
        (Dirty::CONTROL_EVENT, Field::ENTRY_INSTRUCTION_LENGTH, 3),
        (Dirty::GUEST_GRP2, Field::GUEST_TR_BASE, 36),
        (Dirty::HOST_POINTER, Field::HOST_RSP, 6),
    ] {
        let mut scene = Scene::reflected();
        let value = scene.page.peek(field);
        scene.page.store(field, value);
        scene.reset();
        assert_eq!(scene.prepare(&RESUME), Ok(()), "{field:?}");
        // Eight as always, nine ungrouped words to compare, the group.
        assert_eq!(scene.page.take_counts(), (8 + 9 + reads, 1), "{field:?}");
        assert_eq!(scene.merge().groups, group);
    }
}

#[test]
fn every_store_of_l1_reaches_vmcs_02_or_l0() {
    // A changed field in any group is seen by the next entry's copy.
    for slot in tlfs::evmcs::TABLE {
        let field = Field::from_encoding(slot.encoding);
        let withheld = vmcs12::offered(field).is_none();
        let cr3_target = (Field::CR3_TARGET_VALUE_0..=Field::CR3_TARGET_VALUE_3).contains(&field);
        if withheld || cr3_target || slot.group == Group::ExitInfo {
            continue;
        }
        let mut scene = Scene::reflected();
        let value = scene.page.peek(field) ^ 0x10;
        scene.page.store(field, value);
        // Whether it passes the checks is another matter.
        let _ = scene.prepare(&RESUME);
        assert_eq!(vmcs12::load(&scene.nested.vmcs12, slot), value, "{field:?}");
    }
}

#[test]
fn ungrouped_fields_are_noticed_by_their_value() {
    let mut scene = Scene::reflected();
    // L1 changes one and clears the bit of an unrelated group only.
    scene.page.write_u32(0x178, 3);
    let rsp = scene.page.peek(Field::GUEST_RSP);
    scene.page.store(Field::GUEST_RSP, rsp);
    assert_eq!(scene.prepare(&RESUME), Ok(()));
    let groups = scene.merge().groups;
    assert_eq!(groups, Dirty::GUEST_BASIC.union(Dirty::UNGROUPED));
    assert_eq!(scene.vmcs02.peek(Field::PAGE_FAULT_ERROR_CODE_MASK), 3);
}

#[test]
fn another_vmcs_or_vmlaunch_trusts_no_clean_bit() {
    let mut scene = Scene::reflected();
    scene.prepare(&LAUNCH).unwrap();
    assert_eq!(scene.merge().groups, Dirty::ALL);
    scene.exit(10);
    scene
        .nested
        .prepare_enlightened(
            Gpa1::new(0x9000),
            &mut scene.page,
            &scene.memory,
            &RESUME,
            &registers(),
        )
        .unwrap();
    assert_eq!(scene.merge().groups, Dirty::ALL);
}

#[test]
fn what_was_forgotten_is_read_again_from_the_page() {
    let mut scene = Scene::reflected();
    // L2 changed a segment; L1's page has it, the copy has not.
    scene.page.write_u64(0xf8, 0x1234_5000);
    scene.nested.forget_groups(Dirty::GUEST_GRP2);
    assert_eq!(scene.prepare(&RESUME), Ok(()));
    assert_eq!(scene.merge().groups, Dirty::GUEST_GRP2);
    assert_eq!(scene.vmcs02.peek(Field::GUEST_FS_BASE), 0x1234_5000);
}

#[test]
fn a_wrong_version_fails_and_both_right_ones_do_not() {
    for (version, ok) in [(0, false), (1, true), (2, false), (vmcs12::REVISION, true)] {
        let mut scene = Scene::new();
        scene.page.write_u32(0, version);
        assert_eq!(scene.prepare(&LAUNCH).is_ok(), ok, "{version:#x}");
    }
}

#[test]
fn failures_are_reported_where_l1_looks() {
    let mut scene = Scene::reflected();
    scene.page.store(Field::HOST_CR3, 1 << 40);
    let failure = scene.prepare(&RESUME);
    let Err(EntryFailure::Valid(E::EntryInvalidHostState, Some(why))) = failure else {
        panic!("{failure:?}");
    };
    assert_eq!(why.field, Field::HOST_CR3);
    assert_eq!(scene.page.peek(Field::INSTRUCTION_ERROR), 8);
    // Linux marks everything clean after a failed entry too; the bad value
    // must not slip through.
    assert_eq!(clean_word(&scene.page), 0xffff);
    assert_eq!(scene.prepare(&RESUME), failure);
    scene.page.store(Field::HOST_CR3, 0x2_0000);
    assert_eq!(scene.prepare(&RESUME), Ok(()));
}

#[test]
fn invalid_guest_state_is_an_exit() {
    let mut scene = Scene::reflected();
    scene.page.store(Field::GUEST_RIP, 0x8000_0000_0000);
    let failure = scene.prepare(&RESUME).unwrap_err();
    let EntryFailure::Exit {
        reason,
        qualification,
        ..
    } = failure
    else {
        panic!("{failure:?}");
    };
    assert_eq!(
        (reason, qualification),
        (ExitReason::from_raw(0x8000_0021), 0)
    );
    assert_eq!(scene.page.peek(Field::EXIT_REASON), 0x8000_0021);
    assert!(!scene.nested.in_l2());
}

#[test]
fn mov_ss_and_mode_come_before_guest_state() {
    let mut scene = Scene::reflected();
    scene.page.store(Field::GUEST_RIP, 0x8000_0000_0000);
    let blocked = EntryContext {
        blocked_by_mov_ss: true,
        ..RESUME
    };
    assert_eq!(
        scene.prepare(&blocked),
        Err(EntryFailure::Valid(E::EntryBlockedByMovSs, None))
    );
    let legacy = EntryContext {
        is_long_mode: false,
        ..RESUME
    };
    assert_eq!(
        scene.prepare(&legacy),
        Err(EntryFailure::Valid(
            E::EntryInvalidHostState,
            Some(Violation::HOST_MODE)
        ))
    );
}

fn plain() -> Scene {
    let mut scene = Scene::new();
    scene.nested.current = Current::Plain(Gpa1::new(0x7000));
    for (field, value) in LINUX {
        let slot = crate::vmcs12::place(field.encoding());
        scene.nested.vmcs12.write_at(Place::of(&slot), *value);
    }
    scene
}

#[test]
fn a_plain_vmcs_obeys_its_launch_state() {
    let mut scene = plain();
    let prepare = |scene: &mut Scene, context| {
        scene
            .nested
            .prepare_plain(&scene.memory, context, &registers())
    };
    assert_eq!(
        prepare(&mut scene, &RESUME),
        Err(EntryFailure::Valid(E::VmresumeNotLaunched, None))
    );
    assert_eq!(get!(scene.nested.vmcs12, INSTRUCTION_ERROR), 5);
    assert_eq!(prepare(&mut scene, &LAUNCH), Ok(()));
    scene.merge();
    scene.vmcs02.set(Field::EXIT_REASON, 10);
    scene.nested.reflect_plain(scene.reason(), &scene.vmcs02);
    assert_eq!(
        prepare(&mut scene, &LAUNCH),
        Err(EntryFailure::Valid(E::VmlaunchNotClear, None))
    );
    assert_eq!(prepare(&mut scene, &RESUME), Ok(()));
    // Nothing was written since: nothing but RIP and its like is carried.
    assert_eq!(scene.merge().groups, Dirty::NONE);
    scene.nested.current = Current::None;
    assert_eq!(prepare(&mut scene, &RESUME), Err(EntryFailure::Invalid));
}

#[test]
fn a_trapped_vmwrite_dirties_its_group_only() {
    let mut scene = plain();
    scene
        .nested
        .prepare_plain(&scene.memory, &LAUNCH, &registers())
        .unwrap();
    scene.merge();
    scene.nested.reflect_plain(scene.reason(), &scene.vmcs02);
    let slot = crate::vmcs12::place(Field::GUEST_RSP.encoding());
    scene.nested.vmcs12.write_at(Place::of(&slot), 0x4000);
    scene
        .nested
        .prepare_plain(&scene.memory, &RESUME, &registers())
        .unwrap();
    assert_eq!(scene.merge().groups, Dirty::GUEST_BASIC);
    assert_eq!(scene.vmcs02.peek(Field::GUEST_RSP), 0x4000);
}

#[test]
fn clean_guest_state_is_read_with_what_depends_on_it() {
    // What L2 did is in L1's page and not in the copy.
    let blocked_nmi = || {
        let mut scene = Scene::reflected();
        scene.page.write_u32(0x310, 8);
        scene
            .page
            .store(Field::ENTRY_INTERRUPTION_INFO, 0x8000_0202);
        scene
    };
    assert!(blocked_nmi().prepare(&RESUME).is_err());
    let mut scene = blocked_nmi();
    let pin = scene.page.peek(Field::PIN_BASED_CONTROLS) & !(1 << 5);
    scene.page.store(Field::PIN_BASED_CONTROLS, pin);
    assert_eq!(scene.prepare(&RESUME), Ok(()));
    assert!(scene.merge().groups.contains(Dirty::GUEST_BASIC));
    // An interrupt asks for nothing more.
    let mut scene = Scene::reflected();
    scene
        .page
        .store(Field::ENTRY_INTERRUPTION_INFO, 0x8000_0040);
    assert_eq!(scene.prepare(&RESUME), Ok(()));
    assert_eq!(scene.merge().groups, Dirty::CONTROL_EVENT);
    // A shadow needs the pending debug exceptions, HLT both of them.
    for (field, value) in [
        (Field::GUEST_INTERRUPTIBILITY, 2),
        (Field::GUEST_ACTIVITY_STATE, 1),
    ] {
        let mut scene = Scene::reflected();
        scene.page.store(field, value);
        scene.page.write_u64(0x308, 0x102);
        scene.page.write_u64(0x1e0, 0x4000);
        assert_eq!(scene.prepare(&RESUME), Ok(()), "{field:?}");
        let both = Dirty::GUEST_BASIC.union(Dirty::GUEST_GRP1);
        assert_eq!(scene.merge().groups, both, "{field:?}");
        assert_eq!(scene.vmcs02.peek(Field::GUEST_RFLAGS), 0x102);
    }
}
