//! Whole sequences of stores, entries and exits: an L1 that marks what it
//! changed gets the same L2 as one that marks everything.

extern crate std;

use proptest::prelude::*;
use std::vec::Vec;
use tlfs::evmcs::{CLEAN_FIELDS, Group, TABLE};
use vmx::{
    EntryControls, ExitControls, Field, InterruptionInfo, PrimaryControls, SecondaryControls,
};

use crate::access::Page;
use crate::cr::{CR0_PG, CR4_PAE, EFER_LMA};
use crate::testing::*;
use crate::{EntryFailure, ExitInfo, vmcs12};

/// Fields that L1 may store to.
pub(crate) fn fields() -> Vec<Field> {
    TABLE
        .iter()
        .filter(|slot| slot.group != Group::ExitInfo)
        .map(|slot| Field::from_encoding(slot.encoding))
        .filter(|field| vmcs12::offered(*field).is_some())
        .collect()
}

fn linux(field: Field) -> u64 {
    let row = LINUX.iter().find(|(f, _)| *f == field);
    row.map_or(0, |(_, value)| *value)
}

/// Guest state that L2 changes without an exit, whatever the controls.
const FREE: &[Field] = &[
    Field::GUEST_RSP,
    Field::GUEST_RIP,
    Field::GUEST_CR3,
    Field::GUEST_CS_SELECTOR,
    Field::GUEST_FS_BASE,
    Field::GUEST_GDTR_LIMIT,
    Field::GUEST_SYSENTER_EIP,
    Field::GUEST_SYSENTER_CS,
];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// L1 stores to a field: its value in [`LINUX`] with some bits changed.
    Store(usize, u64),
    /// L1 enters L2, which then does this.
    Enter(L2),
}

/// What L2 does before it leaves.
#[derive(Clone, Debug)]
pub(crate) struct L2 {
    pub(crate) reason: u64,
    writes: Vec<(usize, u64)>,
    rflags: u64,
    interruptibility: u64,
    debug: u64,
    pat: u64,
    /// Leaves or enters IA-32e mode.
    pub(crate) switches: bool,
}

pub(crate) fn bits() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(0u64),
        4 => (0u32..64).prop_map(|bit| 1 << bit),
        2 => (0u64..16).prop_map(|n| n << 12),
        1 => any::<u64>(),
    ]
}

pub(crate) fn l2() -> impl Strategy<Value = L2> {
    (
        prop::sample::select(std::vec![0u64, 1, 10, 12, 18, 30, 48]),
        prop::collection::vec((0..FREE.len(), 0u64..0x1_0000), 0..4),
        prop::sample::select(std::vec![2u64, 0x202, 0x102]),
        prop::sample::select(std::vec![0u64, 0, 1, 2, 8]),
        0u64..4,
        prop::sample::select(std::vec![0x0606_0606_0606_0606u64, 0x0007_0406_0007_0406]),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(reason, writes, rflags, interruptibility, debug, pat, switches)| L2 {
                reason,
                writes,
                rflags,
                interruptibility,
                debug,
                pat,
                switches,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    // Fields that are worth a look more often than the others.
    let favourites: Vec<usize> = [
        Field::ENTRY_INTERRUPTION_INFO,
        Field::GUEST_INTERRUPTIBILITY,
        Field::GUEST_ACTIVITY_STATE,
        Field::PRIMARY_CONTROLS,
        Field::SECONDARY_CONTROLS,
        Field::ENTRY_CONTROLS,
        Field::EXIT_CONTROLS,
        Field::GUEST_CR0,
    ]
    .iter()
    .map(|field| fields().iter().position(|f| f == field).unwrap())
    .collect();
    prop_oneof![
        3 => (0..fields().len(), bits()).prop_map(|(n, bits)| Step::Store(n, bits)),
        2 => (prop::sample::select(favourites), bits()).prop_map(|(n, bits)| Step::Store(n, bits)),
        1 => prop::sample::select(std::vec![0x8000_0040u64, 0x8000_0202, 0x8000_0b0e])
            .prop_map(|event| {
                let info = Field::ENTRY_INTERRUPTION_INFO;
                let n = fields().iter().position(|f| *f == info).unwrap();
                Step::Store(n, event)
            }),
        4 => l2().prop_map(Step::Enter),
    ]
}

/// Fields whose value in VMCS 02 means something at this entry, and their bits.
fn relevant(scene: &Scene, field: Field) -> u64 {
    let primary = scene.nested.primary_controls();
    let event = scene.vmcs02.peek(Field::ENTRY_INTERRUPTION_INFO) as u32;
    let event = InterruptionInfo::from_raw(event);
    let all_if = |condition: bool| if condition { u64::MAX } else { 0 };
    match field {
        Field::ENTRY_INTERRUPTION_INFO => {
            all_if(event.is_valid()) | u64::from(InterruptionInfo::VALID)
        }
        Field::ENTRY_EXCEPTION_ERROR_CODE => all_if(event.is_valid() && event.has_error_code()),
        Field::ENTRY_INSTRUCTION_LENGTH => {
            all_if(event.is_valid() && event.event_type().is_software())
        }
        Field::TPR_THRESHOLD | Field::VIRTUAL_APIC_ADDRESS => {
            all_if(primary.contains(PrimaryControls::USE_TPR_SHADOW))
        }
        Field::TSC_MULTIPLIER => all_if(
            scene
                .nested
                .secondary_controls()
                .contains(SecondaryControls::TSC_SCALING),
        ),
        Field::XSS_EXITING_BITMAP => all_if(
            scene
                .nested
                .secondary_controls()
                .contains(SecondaryControls::ENABLE_XSAVES),
        ),
        // Bits that L2 reads from the shadow; VM entry does not load CD and NW.
        Field::GUEST_CR0 => !scene.nested.cr0_l0_only,
        Field::CR0_READ_SHADOW => scene.vmcs02.peek(Field::CR0_GUEST_HOST_MASK),
        Field::CR4_READ_SHADOW => scene.vmcs02.peek(Field::CR4_GUEST_HOST_MASK),
        _ => u64::MAX,
    }
}

pub(crate) fn assert_same_l2(a: &Scene, b: &Scene) -> Result<(), TestCaseError> {
    for field in Field::ALL {
        let bits = relevant(b, *field);
        prop_assert_eq!(
            a.vmcs02.peek(*field) & bits,
            b.vmcs02.peek(*field) & bits,
            "{:?}",
            field
        );
    }
    Ok(())
}

pub(crate) fn assert_same_l1(a: &Scene, b: &Scene) -> Result<(), TestCaseError> {
    for offset in (0..0x400).step_by(4).filter(|o| *o != CLEAN_FIELDS) {
        let words = (a.page.read_u32(offset), b.page.read_u32(offset));
        prop_assert_eq!(words.0, words.1, "at {:#x}", offset);
    }
    for field in Field::ALL {
        let values = (a.vmcs01.peek(*field), b.vmcs01.peek(*field));
        prop_assert_eq!(values.0, values.1, "{:?}", field);
    }
    Ok(())
}

/// L2 runs on hardware: what the exit saves in VMCS 02.
pub(crate) fn run(scene: &mut Scene, l2: &L2) {
    for (n, value) in &l2.writes {
        scene.vmcs02.set(FREE[*n], *value);
    }
    scene.vmcs02.set(Field::GUEST_RFLAGS, l2.rflags);
    scene
        .vmcs02
        .set(Field::GUEST_INTERRUPTIBILITY, l2.interruptibility);
    let info = scene.vmcs02.peek(Field::ENTRY_INTERRUPTION_INFO);
    let delivered = info & !u64::from(InterruptionInfo::VALID);
    scene.vmcs02.set(Field::ENTRY_INTERRUPTION_INFO, delivered);
    let exit = scene.nested.exit_controls();
    if exit.contains(ExitControls::SAVE_PAT) {
        scene.vmcs02.set(Field::GUEST_PAT, l2.pat);
    }
    if exit.contains(ExitControls::SAVE_DEBUG_CONTROLS) {
        scene.vmcs02.set(Field::GUEST_DEBUGCTL, l2.rflags >> 8 & 2);
        scene.vmcs02.set(Field::GUEST_DR7, 0x400 | l2.debug);
    }
    // As hardware does it: a single step is pending behind a shadow.
    let steps = l2.rflags & 0x100 != 0
        && l2.interruptibility & 3 != 0
        && scene.vmcs02.peek(Field::GUEST_DEBUGCTL) & 2 == 0;
    let debug = u64::from(steps) << 14;
    scene
        .vmcs02
        .set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, debug);
}

/// Whether EFER goes with L2's mode from an exit to the next entry.
fn keeps_mode(scene: &Scene) -> bool {
    let loads = EntryControls::LOAD_EFER;
    let nested = &scene.nested;
    (nested.exit_controls().contains(ExitControls::SAVE_EFER)
        || !nested.entry_controls().contains(loads))
        && nested
            .secondary_controls()
            .contains(SecondaryControls::UNRESTRICTED_GUEST)
}

/// L2 leaves or enters IA-32e mode.
pub(crate) fn switch_mode(scene: &mut Scene) {
    let long = u64::from(EntryControls::IA32E_MODE_GUEST.bits());
    let was_long = scene.vmcs02.peek(Field::ENTRY_CONTROLS) & long != 0;
    for (field, bits) in [
        (Field::ENTRY_CONTROLS, long),
        (Field::GUEST_CR0, CR0_PG),
        (Field::GUEST_EFER, EFER_LMA),
    ] {
        let old = scene.vmcs02.peek(field);
        let new = if was_long { old & !bits } else { old | bits };
        scene.vmcs02.set(field, new);
    }
    let cr4 = scene.vmcs02.peek(Field::GUEST_CR4);
    scene.vmcs02.set(Field::GUEST_CR4, cr4 | CR4_PAE);
}

fn enter(scene: &mut Scene, l2: &L2) -> Result<bool, EntryFailure> {
    scene.prepare(&RESUME)?;
    let merged = scene.merge();
    if !merged.halt {
        run(scene, l2);
        if l2.switches && keeps_mode(scene) {
            switch_mode(scene);
        }
    }
    Ok(merged.halt)
}

fn leave(scene: &mut Scene, l2: &L2, halted: bool) {
    if halted {
        let reason = vmx::ExitReason::from_raw(1);
        scene
            .nested
            .reflect_enlightened_as(&scene.vmcs02, &mut scene.page, &ExitInfo::new(reason));
        let _ = scene.nested.load_host(&mut scene.vmcs01, false);
    } else {
        scene.exit(l2.reason);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn clean_bits_only_save_work(steps in prop::collection::vec(step(), 1..48)) {
        let mut honest = Scene::reflected();
        let mut cautious = Scene::reflected();
        for scene in [&mut honest, &mut cautious] {
            // The virtual TPR permits any threshold.
            scene.memory.0[linux(Field::VIRTUAL_APIC_ADDRESS) as usize + 0x80] = 0xf0;
        }
        for step in steps {
            match step {
                Step::Store(n, bits) => {
                    let field = fields()[n];
                    let value = match field {
                        // Checked by hardware when nothing else changed.
                        Field::TPR_THRESHOLD => bits & 0xf,
                        _ => linux(field) ^ bits,
                    };
                    honest.page.store(field, value);
                    cautious.page.store(field, value);
                }
                Step::Enter(l2) => {
                    cautious.page.write_u32(CLEAN_FIELDS, 0);
                    let a = enter(&mut honest, &l2);
                    let b = enter(&mut cautious, &l2);
                    prop_assert_eq!(a, b);
                    match a {
                        Ok(halted) => {
                            assert_same_l2(&honest, &cautious)?;
                            leave(&mut honest, &l2, halted);
                            leave(&mut cautious, &l2, halted);
                        }
                        Err(failure) => {
                            for scene in [&mut honest, &mut cautious] {
                                if matches!(failure, EntryFailure::Exit { .. }) {
                                    let _ = scene.nested.load_host(&mut scene.vmcs01, false);
                                }
                                // L1 tries again with what it knows to work.
                                for field in fields() {
                                    scene.page.store(field, linux(field));
                                }
                            }
                        }
                    }
                    assert_same_l1(&honest, &cautious)?;
                }
            }
        }
    }

    /// The interface's other side: what L1 calls clean is not looked at.
    #[test]
    fn a_wrong_clean_bit_leaves_the_old_value(n in 0..vmcs12::LISTS.len(), bits in 1u64..16) {
        let (_, list) = vmcs12::LISTS[n];
        let mut scene = Scene::reflected();
        let before: Vec<u64> = Field::ALL.iter().map(|f| scene.vmcs02.peek(*f)).collect();
        for field in list {
            let clean = scene.page.read_u32(CLEAN_FIELDS);
            scene.page.store(*field, linux(*field) ^ bits << 4);
            scene.page.write_u32(CLEAN_FIELDS, clean);
        }
        prop_assert_eq!(scene.prepare(&RESUME), Ok(()));
        scene.merge();
        let after: Vec<u64> = Field::ALL.iter().map(|f| scene.vmcs02.peek(*f)).collect();
        prop_assert_eq!(before, after);
    }
}
