//! What is reported, under which name, and what is not.

extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::access::Memory;
use crate::testing::*;
use crate::vmcs12::place;

/// Every field that a clean bit covers, or all of them together.
fn covered() -> Vec<Slot> {
    let all = TABLE.iter().copied();
    all.filter(|slot| is_declared_clean(slot.group, CleanFields::ALL))
        .collect()
}

/// The page of L1's memory at an address, as words.
fn bitmap(scene: &Scene, at: Gpa1) -> Option<Vmcs12> {
    let mut page = Vmcs12::new();
    scene.memory.read(at, page.bytes_mut()).ok()?;
    Some(page)
}

fn look(auditor: &mut Auditor, scene: &Scene, is_launch: bool) -> Vec<Stale> {
    let mut found = Vec::new();
    auditor.look(
        &scene.nested,
        EVMCS,
        is_launch,
        &scene.page,
        |at| bitmap(scene, at),
        |stale| found.push(stale),
    );
    found
}

/// An auditor that has seen L1's first entry and its exit.
fn audited() -> (Scene, Auditor) {
    let (mut scene, mut auditor) = (Scene::new(), Auditor::new());
    assert_eq!(look(&mut auditor, &scene, true), []);
    scene.prepare(&LAUNCH).unwrap();
    scene.merge();
    scene.exit(10);
    auditor.follow(&scene.page);
    (scene, auditor)
}

fn flip(page: &mut FakePage, slot: &Slot) -> Stale {
    let known = load(page, slot);
    store(page, slot, known ^ 1);
    Stale {
        subject: Subject::Field(*slot),
        known,
        found: known ^ 1,
    }
}

#[test]
fn a_field_of_each_group_is_covered() {
    let covered = covered();
    for bit in 0..15 {
        let group = |slot: &Slot| slot.group as u32 == bit;
        assert!(covered.iter().any(group), "clean bit {bit}");
    }
    assert!(covered.iter().any(|slot| slot.group == Group::Ungrouped));
    assert!(covered.iter().all(|slot| slot.name != "GuestRip"));
}

#[test]
fn one_changed_field_is_reported_until_it_is_declared_or_as_it_was() {
    for slot in covered() {
        let (mut scene, mut auditor) = audited();
        let stale = flip(&mut scene.page, &slot);
        assert_eq!(look(&mut auditor, &scene, false), [stale], "{}", slot.name);
        assert_eq!(look(&mut auditor, &scene, false), [stale], "{}", slot.name);
        flip(&mut scene.page, &slot);
        assert_eq!(look(&mut auditor, &scene, false), [], "{}", slot.name);
        flip(&mut scene.page, &slot);
        let dirty = CleanFields::ALL.without(slot.group.dirtied());
        scene.page.write_u32(evmcs::CLEAN_FIELDS, dirty.raw());
        assert_eq!(look(&mut auditor, &scene, false), [], "{}", slot.name);
        scene.page.write_u32(evmcs::CLEAN_FIELDS, 0xffff);
        assert_eq!(look(&mut auditor, &scene, false), [], "{}", slot.name);
    }
}

#[test]
fn a_page_that_is_read_whole_may_change() {
    let (mut scene, mut auditor) = audited();
    for slot in covered() {
        flip(&mut scene.page, &slot);
    }
    assert_eq!(look(&mut auditor.clone(), &scene, true), [], "VMLAUNCH");
    assert_eq!(look(&mut auditor, &scene, false).len(), covered().len());
    // L0 has dropped it: VMCLEAR, or another one was entered meanwhile.
    scene.nested.current = crate::Current::None;
    assert_eq!(look(&mut auditor, &scene, false), []);
}

#[test]
fn a_page_of_another_version_is_not_entered_and_not_looked_at() {
    let (mut scene, mut auditor) = audited();
    flip(&mut scene.page, &covered()[0]);
    scene.page.write_u32(evmcs::REVISION, 2);
    assert_eq!(look(&mut auditor, &scene, false), []);
    scene.page.write_u32(evmcs::REVISION, evmcs::VERSION);
    assert_eq!(look(&mut auditor, &scene, false).len(), 1);
}

#[test]
fn a_store_while_l2_runs_is_found_where_no_exit_covers_it() {
    let (mut scene, mut auditor) = audited();
    assert_eq!(look(&mut auditor, &scene, false), []);
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    let control = flip(&mut scene.page, &place(Field::EXCEPTION_BITMAP.encoding()));
    let guest = place(Field::GUEST_RSP.encoding());
    flip(&mut scene.page, &guest);
    scene.exit(10);
    auditor.follow(&scene.page);
    assert_eq!(look(&mut auditor, &scene, false), [control]);
}

#[test]
fn the_bitmaps_contents_count_where_its_clean_bit_covers_them() {
    let bitmap = 0x3000;
    for enlightened in [false, true] {
        let (mut scene, mut auditor) = audited();
        let control = u32::from(enlightened) * EnlightenmentsControl::MSR_BITMAP;
        scene.page.write_u32(evmcs::ENLIGHTENMENTS_CONTROL, control);
        assert_eq!(look(&mut auditor, &scene, false), []);
        scene.memory.0[bitmap + 0x803] = 1;
        scene.memory.0[bitmap + 0x900] = 1;
        let found = look(&mut auditor, &scene, false);
        if !enlightened {
            assert_eq!(found, []);
            continue;
        }
        let stale = Stale {
            subject: Subject::MsrBitmap(0x800),
            known: 0,
            found: 1 << 24,
        };
        assert_eq!(found, [stale]);
        scene.page.write_u32(evmcs::CLEAN_FIELDS, 0xfffd);
        assert_eq!(look(&mut auditor, &scene, false), []);
        scene.page.write_u32(evmcs::CLEAN_FIELDS, 0xffff);
        assert_eq!(look(&mut auditor, &scene, false), []);
        // A bitmap where there is no memory says nothing.
        scene.page.store(Field::MSR_BITMAP, 0xffff_f000);
        assert_eq!(look(&mut auditor, &scene, false), []);
    }
}

proptest! {
    /// Whatever changes under whatever clean word: the fields of clean groups, and no other.
    #[test]
    fn what_changed_and_is_declared_clean_is_reported(
        changes in prop::collection::btree_map(0..TABLE.len(), any::<u64>(), 0..40),
        clean in any::<u32>(),
    ) {
        let (mut scene, mut auditor) = audited();
        let mut expected = Vec::new();
        for (index, value) in &changes {
            let slot = &TABLE[*index];
            let known = load(&scene.page, slot);
            store(&mut scene.page, slot, *value);
            let found = load(&scene.page, slot);
            if found != known && is_declared_clean(slot.group, CleanFields::from_raw(clean)) {
                expected.push(Stale { subject: Subject::Field(*slot), known, found });
            }
        }
        scene.page.write_u32(evmcs::CLEAN_FIELDS, clean);
        prop_assert_eq!(look(&mut auditor, &scene, false), expected);
    }

    /// Whatever state L2 leaves behind, and whatever of it the exit saves: L1 changed nothing.
    #[test]
    fn what_an_exit_writes_is_not_l1s_doing(
        state in prop::collection::vec(any::<u64>(), TABLE.len()),
        exit_controls in any::<u32>(),
        reason in 0..64u64,
    ) {
        let (mut scene, mut auditor) = audited();
        scene.page.store(Field::EXIT_CONTROLS, (exit_controls & 0x0014_0004 | 0x000b_efff).into());
        prop_assert_eq!(look(&mut auditor, &scene, false), []);
        scene.prepare(&RESUME).unwrap();
        scene.merge();
        for (slot, value) in TABLE.iter().zip(&state) {
            let field = Field::from_encoding(slot.encoding);
            if field.kind() == vmx::Kind::Guest || slot.group == Group::ExitInfo {
                scene.vmcs02.set(field, value & (u64::MAX >> (64 - 8 * slot.width.bytes())));
            }
        }
        scene.exit(reason);
        auditor.follow(&scene.page);
        prop_assert_eq!(scene.page.read_u32(evmcs::CLEAN_FIELDS), 0xffff);
        prop_assert_eq!(look(&mut auditor, &scene, false), []);
    }
}
