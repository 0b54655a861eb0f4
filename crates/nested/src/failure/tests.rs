//! What a failed entry leaves in VMCS 12 and in VMCS 01.

use super::*;
use crate::Vmcs12;
use crate::testing::*;

#[test]
fn a_failed_entry_says_so_and_touches_nothing_else() {
    let mut scene = Scene::reflected();
    scene.page.store(Field::GUEST_RFLAGS, 0);
    scene
        .page
        .store(Field::ENTRY_INTERRUPTION_INFO, 0x8000_0306);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    scene.vmcs02.set(Field::EXIT_REASON, 0x8000_0021);
    scene.vmcs02.set(Field::EXIT_QUALIFICATION, 0);
    scene.vmcs02.set(Field::GUEST_RSP, 0x999);
    let reason = scene
        .nested
        .reflect_failed_entry(&scene.vmcs02, Some(&mut scene.page));
    assert!(reason.is_entry_failure());
    assert_eq!(scene.page.peek(Field::EXIT_REASON), 0x8000_0021);
    assert_eq!(scene.page.peek(Field::ENTRY_INTERRUPTION_INFO), 0x8000_0306);
    assert_ne!(scene.page.peek(Field::GUEST_RSP), 0x999);
    assert!(!scene.nested.in_l2());
    // The next entry starts over.
    scene.page.store(Field::GUEST_RFLAGS, 2);
    scene.prepare(&RESUME).unwrap();
    assert_eq!(scene.merge().groups.bits() & 0xffff, 0xffff);
    assert_eq!(
        scene.vmcs02.peek(Field::ENTRY_INTERRUPTION_INFO),
        0x8000_0306
    );
}

#[test]
fn refused_controls_are_error_7() {
    let mut scene = Scene::entered();
    let error = scene.nested.refuse_entry(Some(&mut scene.page));
    assert_eq!(error as u32, 7);
    assert_eq!(scene.page.peek(Field::INSTRUCTION_ERROR), 7);
    assert!(!scene.nested.in_l2());
}

const L1_PAT: u64 = 0x0007_0106_0007_0106;
const L1_EFER: u64 = 0xd01;

/// Before an entry whose exit controls load neither PAT nor EFER, and whose
/// entry controls load both.
fn keeping() -> Scene {
    let mut scene = Scene::reflected();
    scene.page.store(Field::EXIT_CONTROLS, 0x0003_efff);
    scene.page.store(Field::ENTRY_CONTROLS, 0xd3ff);
    scene.vmcs01.set(Field::GUEST_PAT, L1_PAT);
    scene.vmcs01.set(Field::GUEST_EFER, L1_EFER);
    scene
}

#[track_caller]
fn assert_l1_keeps_its_own(scene: &mut Scene) {
    scene.vmcs01.set(Field::GUEST_INTERRUPTIBILITY, 9);
    let _ = scene.nested.load_host(&mut scene.vmcs01, false);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_PAT), L1_PAT);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_EFER), L1_EFER);
    // NMIs stay blocked, STI does not.
    assert_eq!(scene.vmcs01.peek(Field::GUEST_INTERRUPTIBILITY), 8);
    assert_eq!(
        scene.vmcs01.peek(Field::GUEST_RIP),
        scene.page.peek(Field::HOST_RIP)
    );
}

#[test]
fn what_hardware_rejects_does_not_reach_l1() {
    let mut scene = keeping();
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    // Hardware finds fault with something that no check in software covers.
    scene.vmcs02.set(Field::GUEST_PAT, 0x0300);
    scene.vmcs02.set(Field::GUEST_EFER, u64::MAX);
    scene.vmcs02.set(Field::EXIT_REASON, 0x8000_0021);
    scene
        .nested
        .reflect_failed_entry(&scene.vmcs02, Some(&mut scene.page));
    assert_l1_keeps_its_own(&mut scene);
}

#[test]
fn what_the_checks_reject_does_not_change_l1() {
    let mut scene = keeping();
    // An earlier exit left values behind.
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    scene.vmcs02.set(Field::GUEST_PAT, 0x0606_0606_0606_0606);
    scene.vmcs02.set(Field::GUEST_EFER, 0x500);
    scene.exit(10);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_PAT), 0x0606_0606_0606_0606);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_EFER), 0x500);
    scene.vmcs01.set(Field::GUEST_PAT, L1_PAT);
    scene.vmcs01.set(Field::GUEST_EFER, L1_EFER);
    scene.page.store(Field::GUEST_RIP, 0x8000_0000_0000);
    assert!(scene.prepare(&RESUME).is_err());
    assert_l1_keeps_its_own(&mut scene);
    // And the first entry of all may fail.
    let mut scene = Scene::new();
    scene.page.store(Field::EXIT_CONTROLS, 0x0003_efff);
    scene.page.store(Field::GUEST_RIP, 0x8000_0000_0000);
    scene.vmcs01.set(Field::GUEST_PAT, L1_PAT);
    assert!(scene.prepare(&LAUNCH).is_err());
    assert_l1_keeps_its_own(&mut scene);
}

#[test]
fn after_l2s_state_is_loaded_l1_finds_it() {
    let mut scene = keeping();
    scene.page.store(Field::GUEST_PAT, 0x0606_0606_0606_0606);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    let reason = ExitReason::entry_failure(vmx::BasicExitReason::MsrLoading);
    scene
        .nested
        .fail_entry(&scene.vmcs02, Some(&mut scene.page), reason, 3);
    let _ = scene.nested.load_host(&mut scene.vmcs01, false);
    assert_eq!(scene.page.peek(Field::EXIT_REASON), 0x8000_0022);
    assert_eq!(scene.page.peek(Field::EXIT_QUALIFICATION), 3);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_PAT), 0x0606_0606_0606_0606);
}

#[test]
fn an_exit_after_a_failed_entry_is_an_exit() {
    let mut scene = keeping();
    scene.page.store(Field::GUEST_RIP, 0x8000_0000_0000);
    assert!(scene.prepare(&RESUME).is_err());
    assert_l1_keeps_its_own(&mut scene);
    scene.page.store(Field::GUEST_RIP, 0x1000);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    scene.exit(10);
    assert_eq!(scene.vmcs01.peek(Field::GUEST_INTERRUPTIBILITY), 0);
}

#[test]
fn a_refusal_is_no_exit() {
    let mut scene = keeping();
    scene.page.store(Field::HOST_CR3, 1 << 40);
    assert!(scene.prepare(&RESUME).is_err());
    assert!(!scene.nested.entry_failed);
    // A plain VMCS keeps the reason in the copy.
    let mut scene = Scene::entered();
    let error = scene.nested.refuse_entry(None::<&mut Vmcs12>);
    assert_eq!(get!(scene.nested.vmcs12, INSTRUCTION_ERROR), error as u64);
}
