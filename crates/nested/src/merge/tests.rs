//! Each group of VMCS 12 in VMCS 02.

use super::*;
use crate::access::Page;
use crate::testing::*;
use crate::tsc::ONE;
use proptest::prelude::*;

/// The scene after L1 changed `fields` and entered again.
fn changed(fields: &[(Field, u64)]) -> (Scene, Merged) {
    let mut scene = Scene::reflected();
    for (field, value) in fields {
        scene.page.store(*field, *value);
    }
    scene.prepare(&RESUME).unwrap();
    let merged = scene.merge();
    (scene, merged)
}

#[test]
fn controls_are_both_levels() {
    let (mut scene, merged) = changed(&[(Field::PRIMARY_CONTROLS, 0xb5a0_6dfe)]);
    // A window is one bit of one field.
    assert!(!merged.ept && merged.groups == Dirty::CONTROL_PROC);
    let written = scene.vmcs02.take_written();
    assert!(written.contains(&Field::PRIMARY_CONTROLS));
    assert!(!written.contains(&Field::SECONDARY_CONTROLS));
    let primary = scene.vmcs02.peek(Field::PRIMARY_CONTROLS) as u32;
    let primary = PrimaryControls::from_bits_retain(primary);
    assert!(primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING));
    assert!(primary.contains(PrimaryControls::USE_TPR_SHADOW));
    assert!(primary.contains(PrimaryControls::UNCONDITIONAL_IO_EXITING));
    assert!(!primary.contains(PrimaryControls::USE_IO_BITMAPS));
    let pin = scene.vmcs02.peek(Field::PIN_BASED_CONTROLS) as u32;
    assert_eq!(pin, 0x29 & 0x3f | 0x9);
    let secondary = scene.vmcs02.peek(Field::SECONDARY_CONTROLS) as u32;
    assert_eq!(secondary, 0x0010_10aa | 0x22);
    assert_eq!(scene.vmcs02.peek(Field::MSR_BITMAP), 0x7_7000);
}

#[test]
fn primary_controls_that_others_depend_on_are_merged_with_them() {
    for bit in PRIMARY_STRUCTURE.difference(PrimaryControls::USE_IO_BITMAPS) {
        let mut scene = Scene::reflected();
        let primary = u64::from(0xb5a0_6dfa ^ bit.bits());
        scene.page.store(Field::PRIMARY_CONTROLS, primary);
        scene.reset();
        scene.prepare(&RESUME).unwrap();
        let merged = scene.merge();
        let uses_bitmap = bit != PrimaryControls::USE_MSR_BITMAPS;
        assert!(merged.ept && merged.msr_bitmap == uses_bitmap, "{bit:?}");
        let written = scene.vmcs02.take_written();
        for field in [
            Field::PRIMARY_CONTROLS,
            Field::SECONDARY_CONTROLS,
            Field::TSC_OFFSET,
        ] {
            assert!(written.contains(&field), "{bit:?} {field:?}");
        }
        // And once they are, a window is a window again.
        scene.exit(10);
        scene.page.store(Field::PRIMARY_CONTROLS, primary | 4);
        scene.prepare(&RESUME).unwrap();
        assert!(!scene.merge().ept);
    }
}

#[test]
fn a_forgotten_vmcs_02_gets_all_controls() {
    let mut scene = Scene::reflected();
    scene.nested.forget_groups(Dirty::CONTROL_PROC);
    scene.prepare(&RESUME).unwrap();
    assert!(scene.merge().ept);
    assert!(
        scene
            .vmcs02
            .take_written()
            .contains(&Field::PIN_BASED_CONTROLS)
    );
}

#[test]
fn without_a_tpr_shadow_cr8_belongs_to_l1() {
    let primary = 0xb5a0_6dfa & !PrimaryControls::USE_TPR_SHADOW.bits();
    let (mut scene, _) = changed(&[(Field::PRIMARY_CONTROLS, primary.into())]);
    let both = PrimaryControls::CR8_LOAD_EXITING | PrimaryControls::CR8_STORE_EXITING;
    let merged = scene.vmcs02.peek(Field::PRIMARY_CONTROLS) as u32;
    assert!(PrimaryControls::from_bits_retain(merged).contains(both));
    assert!(!scene.vmcs02.take_written().contains(&Field::TPR_THRESHOLD));
}

#[test]
fn secondary_controls_count_only_when_activated() {
    let primary = 0xb5a0_6dfa & !PrimaryControls::ACTIVATE_SECONDARY.bits();
    let (scene, merged) = changed(&[(Field::PRIMARY_CONTROLS, primary.into())]);
    assert_eq!(scene.vmcs02.peek(Field::SECONDARY_CONTROLS), 0x22);
    assert_eq!(scene.nested.ept_pointer(), None);
    assert!(merged.flush_vpid);
    // An L1 without VPIDs flushes at every entry.
    let mut scene = scene;
    scene.exit(10);
    scene.prepare(&RESUME).unwrap();
    assert!(scene.merge().flush_vpid);
}

#[test]
fn offsets_add_up() {
    let (scene, merged) = changed(&[(Field::TSC_OFFSET, u64::MAX)]);
    assert_eq!(scene.vmcs02.peek(Field::TSC_OFFSET), 0xfff);
    assert_eq!(merged.groups, Dirty::CONTROL_GRP2);
    assert_eq!(
        scene.vmcs02.peek(Field::VIRTUAL_APIC_ADDRESS),
        0x1_0000_4000
    );
    let primary = 0xb5a0_6dfa & !PrimaryControls::USE_TSC_OFFSETTING.bits();
    let (scene, _) = changed(&[(Field::PRIMARY_CONTROLS, primary.into())]);
    assert_eq!(scene.vmcs02.peek(Field::TSC_OFFSET), 0x1000);
}

/// Linux's controls with TSC scaling.
const SCALING: (Field, u64) = (
    Field::SECONDARY_CONTROLS,
    0x0010_10aa | SecondaryControls::TSC_SCALING.bits() as u64,
);

#[test]
fn scales_multiply() {
    let half = ONE / 2;
    let (scene, merged) = changed(&[SCALING, (Field::TSC_MULTIPLIER, half)]);
    assert_eq!(scene.vmcs02.peek(Field::TSC_MULTIPLIER), half);
    assert_eq!(
        scene.vmcs02.peek(Field::TSC_OFFSET),
        0xffff_ffff_0000_0000 + 0x800
    );
    assert!(!merged.tsc_out_of_reach);
    let secondary = scene.vmcs02.peek(Field::SECONDARY_CONTROLS) as u32;
    assert!(
        SecondaryControls::from_bits_retain(secondary).contains(SecondaryControls::TSC_SCALING)
    );
    // Without the offset there is no scale either; the control stays as L1 has it.
    let primary = 0xb5a0_6dfa & !PrimaryControls::USE_TSC_OFFSETTING.bits();
    let (scene, _) = changed(&[
        SCALING,
        (Field::TSC_MULTIPLIER, half),
        (Field::PRIMARY_CONTROLS, primary.into()),
    ]);
    assert_eq!(scene.vmcs02.peek(Field::TSC_MULTIPLIER), ONE);
    assert_eq!(scene.vmcs02.peek(Field::TSC_OFFSET), 0x1000);
    // Nor without its own control, whatever the field says.
    let (mut scene, _) = changed(&[(Field::TSC_MULTIPLIER, half)]);
    assert_eq!(scene.vmcs02.peek(Field::TSC_OFFSET), 0xffff_ffff_0000_1000);
    assert!(!scene.vmcs02.take_written().contains(&Field::TSC_MULTIPLIER));
}

#[test]
fn l0s_scale_is_under_l1s() {
    let mut scene = Scene::reflected();
    let mut l0 = policy();
    l0.secondary |= SecondaryControls::TSC_SCALING;
    l0.tsc.multiplier = 3 * ONE;
    scene
        .nested
        .forget_groups(Dirty::CONTROL_GRP1.union(Dirty::CONTROL_GRP2));
    scene.prepare(&RESUME).unwrap();
    scene.merge_with(&l0);
    // L1 scales nothing: the control and the multiplier are L0's.
    assert_eq!(scene.vmcs02.peek(Field::TSC_MULTIPLIER), 3 * ONE);
    let secondary = scene.vmcs02.peek(Field::SECONDARY_CONTROLS) as u32;
    assert!(
        SecondaryControls::from_bits_retain(secondary).contains(SecondaryControls::TSC_SCALING)
    );
    scene.exit(10);
    for (multiplier, expected) in [(ONE / 2, Some(ONE / 2 * 3)), (u64::MAX, None)] {
        for (field, value) in [SCALING, (Field::TSC_MULTIPLIER, multiplier)] {
            scene.page.store(field, value);
        }
        scene.prepare(&RESUME).unwrap();
        assert_eq!(scene.merge_with(&l0).tsc_out_of_reach, expected.is_none());
        if let Some(expected) = expected {
            assert_eq!(scene.vmcs02.peek(Field::TSC_MULTIPLIER), expected);
        }
        assert_ne!(scene.vmcs02.peek(Field::TSC_MULTIPLIER), 0);
        assert_eq!(
            scene.nested.l2_tsc_at(1 << 20),
            crate::tsc::scale(1 << 20, multiplier).wrapping_add(0xffff_ffff_0000_0000)
        );
        // It stays so for an entry that does not touch the TSC.
        scene.exit(10);
        scene.prepare(&RESUME).unwrap();
        assert_eq!(scene.merge_with(&l0).tsc_out_of_reach, expected.is_none());
        scene.exit(10);
    }
}

#[test]
fn exceptions_are_ored_and_page_fault_codes_are_l1s() {
    let (scene, merged) = changed(&[
        (Field::EXCEPTION_BITMAP, 1 << 6 | 1 << 14),
        (Field::PAGE_FAULT_ERROR_CODE_MASK, 5),
        (Field::PAGE_FAULT_ERROR_CODE_MATCH, 4),
    ]);
    assert!(merged.groups.contains(Dirty::UNGROUPED));
    let bitmap = scene.vmcs02.peek(Field::EXCEPTION_BITMAP);
    assert_eq!(bitmap, 1 << 6 | 1 << 14 | 1 << 18);
    assert_eq!(scene.vmcs02.peek(Field::PAGE_FAULT_ERROR_CODE_MASK), 5);
    assert_eq!(scene.vmcs02.peek(Field::PAGE_FAULT_ERROR_CODE_MATCH), 4);
}

#[test]
fn an_l0_that_wants_page_faults_gets_all_of_them() {
    let mut vmcs12 = Vmcs12::new();
    put!(vmcs12, PAGE_FAULT_ERROR_CODE_MASK, 1);
    let mut l0 = policy();
    l0.exception_bitmap = 1 << 14;
    let mut vmcs02 = FakeVmcs::default();
    let mut merged = Scene::entered().merge();
    merge_exceptions(&vmcs12, &mut vmcs02, &l0, &mut merged);
    assert_eq!(vmcs02.peek(Field::EXCEPTION_BITMAP), 1 << 14);
    assert_eq!(vmcs02.peek(Field::PAGE_FAULT_ERROR_CODE_MASK), 0);
}

#[test]
fn control_registers_under_masks() {
    let (scene, merged) = changed(&[
        (Field::CR0_GUEST_HOST_MASK, 0xffff_ffff_9fff_fff7),
        (Field::CR0_READ_SHADOW, 0x8005_003b),
        (Field::GUEST_CR0, 0x8005_0033),
    ]);
    assert_eq!(merged.groups, Dirty::CRDR);
    let mask = scene.vmcs02.peek(Field::CR0_GUEST_HOST_MASK);
    assert_eq!(mask, 0xffff_ffff_ffff_fff7);
    // TS is L2's own: the shadow's bit does not count.
    assert_eq!(scene.vmcs02.peek(Field::CR0_READ_SHADOW), 0x8005_0033);
    assert_eq!(scene.nested.cr0_l0_only, 0x6000_0000);
}

#[test]
fn an_event_takes_what_it_needs_along() {
    let (mut scene, merged) = changed(&[(Field::ENTRY_INTERRUPTION_INFO, 0x8000_00ec)]);
    assert_eq!(merged.groups, Dirty::CONTROL_EVENT);
    assert_eq!(
        scene.vmcs02.peek(Field::ENTRY_INTERRUPTION_INFO),
        0x8000_00ec
    );
    let written = scene.vmcs02.take_written();
    assert!(!written.contains(&Field::ENTRY_EXCEPTION_ERROR_CODE));
    let (mut scene, _) = changed(&[
        (Field::ENTRY_INTERRUPTION_INFO, 0x8000_0b0e),
        (Field::ENTRY_EXCEPTION_ERROR_CODE, 6),
    ]);
    assert_eq!(scene.vmcs02.peek(Field::ENTRY_EXCEPTION_ERROR_CODE), 6);
    // It is gone at the exit, in L1's eyes too, and not injected again.
    scene.exit(10);
    assert_eq!(scene.page.peek(Field::ENTRY_INTERRUPTION_INFO), 0xb0e);
    scene.reset();
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    let written = scene.vmcs02.take_written();
    assert!(!written.contains(&Field::ENTRY_INTERRUPTION_INFO));
}

#[test]
fn a_halted_l2_waits_in_l0_unless_an_event_wakes_it() {
    let (scene, merged) = changed(&[(Field::GUEST_ACTIVITY_STATE, 1)]);
    assert!(merged.halt && scene.nested.l2_halted());
    assert_eq!(scene.vmcs02.peek(Field::GUEST_ACTIVITY_STATE), 0);
    let (mut scene, merged) = changed(&[
        (Field::GUEST_ACTIVITY_STATE, 1),
        (Field::ENTRY_INTERRUPTION_INFO, 0x8000_0020),
    ]);
    assert!(!merged.halt && !scene.nested.l2_halted());
    scene.exit(1);
    assert_eq!(scene.page.peek(Field::GUEST_ACTIVITY_STATE), 0);
    let (mut scene, _) = changed(&[(Field::GUEST_ACTIVITY_STATE, 1)]);
    scene.exit(1);
    assert_eq!(scene.page.peek(Field::GUEST_ACTIVITY_STATE), 1);
}

#[test]
fn a_halted_l2_is_halted_again_without_l1_saying_so() {
    let (mut scene, _) = changed(&[(Field::GUEST_ACTIVITY_STATE, 1)]);
    scene.exit(1);
    // L1 goes back to it with everything clean.
    scene.prepare(&RESUME).unwrap();
    assert!(scene.merge().halt);
}

#[test]
fn a_new_vpid_flushes_and_the_same_does_not() {
    let (mut scene, merged) = changed(&[(Field::VPID, 2)]);
    assert!(merged.flush_vpid && merged.ept);
    scene.exit(10);
    scene.page.store(Field::VPID, 2);
    scene.prepare(&RESUME).unwrap();
    assert!(!scene.merge().flush_vpid);
}

#[test]
fn the_enlightened_msr_bitmap_is_merged_when_it_changed() {
    let mut scene = Scene::new();
    scene.page.write_u32(0x344, 2);
    scene.prepare(&LAUNCH).unwrap();
    assert!(scene.merge().msr_bitmap);
    scene.exit(10);
    scene.prepare(&RESUME).unwrap();
    assert!(!scene.merge().msr_bitmap);
    scene.exit(10);
    scene.page.store(Field::MSR_BITMAP, 0x3000);
    scene.prepare(&RESUME).unwrap();
    assert!(scene.merge().msr_bitmap);
    // Without the enlightenment at every entry.
    let (_, merged) = changed(&[]);
    assert!(merged.msr_bitmap);
}

#[test]
fn enlightenments_that_are_not_offered_mean_nothing() {
    let mut scene = Scene::new();
    scene.nested.config.enlightenments = 1;
    scene.page.write_u32(0x344, 3);
    scene.prepare(&LAUNCH).unwrap();
    scene.merge();
    scene.exit(10);
    scene.prepare(&RESUME).unwrap();
    assert!(scene.merge().msr_bitmap);
    assert!(
        scene
            .nested
            .enlightenments()
            .control
            .nested_flush_hypercall()
    );
}

fn linux_vpid() -> u64 {
    let row = LINUX.iter().find(|(field, _)| *field == Field::VPID);
    row.map_or(0, |(_, vpid)| *vpid)
}

/// VPIDs of L1 whose translations VPID 02 may still hold.
#[derive(Default)]
struct Tlb(alloc::collections::BTreeSet<u64>);

proptest! {
    /// All of L1's VPIDs share one of hardware's: L2 meets no translations but
    /// those of its own VPID since L1's last INVVPID, of whatever VPID, after
    /// which L0 flushes them all.
    #[test]
    fn no_vpid_sees_anothers_translations(
        steps in prop::collection::vec((0u64..4, any::<bool>(), prop::bool::weighted(0.2)), 1..24),
    ) {
        let mut scene = Scene::reflected();
        let mut tlb = Tlb::default();
        tlb.0.insert(linux_vpid());
        for (vpid, other_vmcs, invvpid) in steps {
            if invvpid {
                tlb.0.clear();
            }
            let secondary = 0x0010_10aa & !(u64::from(vpid == 0) << 5);
            scene.page.store(Field::SECONDARY_CONTROLS, secondary);
            scene.page.store(Field::VPID, vpid);
            let at = if other_vmcs { Gpa1::new(0x9000) } else { EVMCS };
            scene
                .nested
                .prepare_enlightened(at, &mut scene.page, &scene.memory, &RESUME, &registers())
                .unwrap();
            if scene.merge().flush_vpid {
                tlb.0.clear();
            }
            // Without VPIDs every entry and exit flushes.
            prop_assert!(tlb.0.iter().all(|v| *v == vpid && vpid != 0));
            tlb.0.insert(vpid);
            scene.exit(10);
        }
    }

    /// Whatever passes the checks keeps L0's own bits and adds none that are
    /// not offered.
    #[test]
    fn l0_keeps_what_it_needs(pin: u32, primary: u32, secondary: u32) {
        let caps = config().caps;
        let mut scene = Scene::reflected();
        scene.page.store(Field::PIN_BASED_CONTROLS, caps.true_pin.adjust(pin).into());
        scene.page.store(Field::PRIMARY_CONTROLS, caps.true_primary.adjust(primary).into());
        scene.page.store(Field::SECONDARY_CONTROLS, caps.secondary.adjust(secondary).into());
        if scene.prepare(&RESUME).is_err() {
            return Ok(());
        }
        scene.merge();
        let l0 = policy();
        let word = |field| scene.vmcs02.peek(field) as u32;
        let pin02 = word(Field::PIN_BASED_CONTROLS);
        prop_assert_eq!(pin02 & l0.pin.bits(), l0.pin.bits());
        prop_assert_eq!(pin02 & !(crate::caps::PIN | l0.pin).bits(), 0);
        let primary02 = word(Field::PRIMARY_CONTROLS);
        prop_assert_eq!(primary02 & l0.primary.bits(), l0.primary.bits());
        prop_assert_eq!(primary02 & !(crate::caps::PRIMARY | l0.primary).bits(), 0);
        prop_assert_eq!(primary02 >> 24 & 3, 1);
        let secondary02 = word(Field::SECONDARY_CONTROLS);
        prop_assert_eq!(secondary02 & l0.secondary.bits(), l0.secondary.bits());
        prop_assert_eq!(secondary02 & !(crate::caps::SECONDARY | l0.secondary).bits(), 0);
    }
}
