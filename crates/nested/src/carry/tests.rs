//! What goes along, and what L1's fields load.

use super::*;
use crate::access::Page;
use crate::testing::*;

#[test]
fn what_vm_entry_does_not_load_stays_l1s() {
    let loads = EntryControls::LOAD_PAT | EntryControls::LOAD_DEBUG_CONTROLS;
    let mut scene = Scene::reflected();
    scene.vmcs01.set(Field::GUEST_PAT, 0x77);
    scene.vmcs01.set(Field::GUEST_EFER, 0xd01);
    scene.vmcs01.set(Field::GUEST_DEBUGCTL, 1);
    scene.vmcs01.set(Field::GUEST_DR7, 0x455);
    let entry = 0x53ff & !u64::from(loads.bits());
    scene.page.store(Field::ENTRY_CONTROLS, entry);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    assert_eq!(scene.vmcs02.peek(Field::GUEST_PAT), 0x77);
    assert_eq!(scene.vmcs02.peek(Field::GUEST_EFER), 0xd01);
    assert_eq!(scene.vmcs02.peek(Field::GUEST_DEBUGCTL), 1);
    assert_eq!(scene.vmcs02.peek(Field::GUEST_DR7), 0x455);
    let hardware = scene.vmcs02.peek(Field::ENTRY_CONTROLS) as u32;
    assert_eq!(
        hardware,
        (policy().entry | EntryControls::IA32E_MODE_GUEST).bits()
    );
}

#[test]
fn efer_follows_the_mode() {
    assert_eq!(efer_without_load(0xd01, true, CR0_PG), 0xd01);
    assert_eq!(efer_without_load(0xd01, false, CR0_PG), 0x801);
    assert_eq!(efer_without_load(0xd01, false, 0), 0x901);
}

#[test]
fn entry_controls_load_what_l2_left() {
    let mut scene = Scene::reflected();
    // L2 changed its PAT, and an exit saved it: the group stays clean.
    scene.page.write_u64(0x1b0, 0x0606_0606_0606_0606);
    scene.page.write_u64(0x238, 0x455);
    let entry = scene.page.peek(Field::ENTRY_CONTROLS);
    scene.page.store(Field::ENTRY_CONTROLS, entry);
    assert_eq!(scene.prepare(&RESUME), Ok(()));
    scene.merge();
    let pat = scene.vmcs02.peek(Field::GUEST_PAT);
    assert_eq!(pat, 0x0606_0606_0606_0606);
    assert_eq!(scene.vmcs02.peek(Field::GUEST_DR7), 0x455);
}

#[test]
fn control_registers_do_not_bring_back_an_old_pat() {
    let mut scene = Scene::reflected();
    scene.vmcs02.set(Field::GUEST_PAT, 0x0606_0606_0606_0606);
    let cr3 = scene.page.peek(Field::GUEST_CR3);
    scene.page.store(Field::GUEST_CR3, cr3);
    assert_eq!(scene.prepare(&RESUME), Ok(()));
    scene.merge();
    let pat = scene.vmcs02.peek(Field::GUEST_PAT);
    assert_eq!(pat, 0x0606_0606_0606_0606);
}
