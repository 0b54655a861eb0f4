//! L1 changes its page between two looks of L0's.

use tlfs::evmcs::CLEAN_FIELDS;
use vmx::{Field, PrimaryControls};

use super::{Resume, steady_scene};
use crate::access::Page;
use crate::testing::*;

/// A control that nobody checks.
const PAUSE: u64 = PrimaryControls::PAUSE_EXITING.bits() as u64;

/// L1 has changed [`PAUSE`] and injects an NMI, which takes the long way; the short one was tried, and
/// now L1 declares everything clean.
fn refused() -> Scene {
    let mut scene = steady_scene();
    assert!(scene.reflect_shortly(10));
    let primary = scene.page.peek(Field::PRIMARY_CONTROLS);
    scene.page.store(Field::PRIMARY_CONTROLS, primary ^ PAUSE);
    scene
        .page
        .store(Field::ENTRY_INTERRUPTION_INFO, 0x8000_0202);
    assert!(!scene.resume_lightly());
    scene.page.write_u32(CLEAN_FIELDS, 0xffff);
    scene
}

/// What L2 runs with is what L0 takes L1's controls to be: an exit that nobody seems to have asked
/// for would have no owner.
#[test]
fn what_was_copied_is_not_taken_for_clean() {
    let mut scene = refused();
    scene.prepare(&RESUME).unwrap();
    scene.merge();
    assert_eq!(
        scene.vmcs02.peek(Field::PRIMARY_CONTROLS) & PAUSE,
        u64::from(scene.nested.primary_controls().bits()) & PAUSE
    );
    assert_eq!(
        scene.vmcs02.peek(Field::ENTRY_INTERRUPTION_INFO),
        u64::from(scene.nested.event().raw())
    );
}

/// And what the checks would have refused is refused.
#[test]
fn what_was_found_wanting_is_refused() {
    let mut scene = steady_scene();
    assert!(scene.reflect_shortly(10));
    scene.page.store(Field::PRIMARY_CONTROLS, 0xb5a0_6dfa & !2);
    assert!(!scene.resume_lightly());
    scene.page.write_u32(CLEAN_FIELDS, 0xffff);
    assert!(scene.prepare(&RESUME).is_err());
}

/// L1 gets no further than a fault, because it takes the enlightened VMCS away meanwhile, and comes
/// back with everything declared clean: VMCS 02 does not have what was copied.
#[test]
fn what_was_copied_and_never_merged_is_no_steady_state() {
    let mut scene = refused();
    assert_eq!(scene.resume_clean(), Resume::InFull);
    assert!(!scene.resume_lightly());
}
