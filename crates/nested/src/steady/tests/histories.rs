//! Whole histories: a VP that tries the short ways wherever it can, and one that never does.

extern crate std;

use proptest::prelude::*;
use std::vec::Vec;
use tlfs::evmcs::CLEAN_FIELDS;
use vmx::{ExitReason, Field};

use super::super::Resume;
use super::steady_scene;
use crate::access::Page;
use crate::sequences::{L2, assert_same_l1, assert_same_l2, bits, fields, l2, run, switch_mode};
use crate::testing::*;
use crate::{Dirty, EntryFailure, ExitInfo};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// L1 stores to a field: its first value with some bits changed.
    Store(usize, u64),
    /// L1's TSC gets another offset.
    Tsc,
    /// L1 asks for an entry.
    Enter { is_launch: bool, l2: L2, end: End },
}

/// How an entry ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By an exit of L2, as hardware reports it.
    Exit,
    /// By an exit of L0's making.
    MadeUp,
    /// Hardware finds L2's state wrong.
    Failed,
    /// Hardware finds the controls wrong.
    Refused,
}

fn step() -> impl Strategy<Value = Step> {
    let light = [
        Field::HOST_RSP,
        Field::HOST_FS_BASE,
        Field::GUEST_RSP,
        Field::GUEST_RFLAGS,
        Field::GUEST_INTERRUPTIBILITY,
        Field::ENTRY_INTERRUPTION_INFO,
        Field::PRIMARY_CONTROLS,
        Field::GUEST_RIP,
    ]
    .map(|field| fields().iter().position(|f| *f == field).unwrap());
    let event = fields()
        .iter()
        .position(|f| *f == Field::ENTRY_INTERRUPTION_INFO)
        .unwrap();
    let events = [0x8000_0040u64, 0x8000_0202, 0x8000_0b0e];
    let end = prop_oneof![
        12 => Just(End::Exit),
        2 => Just(End::MadeUp),
        1 => Just(End::Failed),
        1 => Just(End::Refused),
    ];
    prop_oneof![
        1 => (0..fields().len(), bits()).prop_map(|(n, bits)| Step::Store(n, bits)),
        3 => (prop::sample::select(light.to_vec()), bits())
            .prop_map(|(n, bits)| Step::Store(n, bits)),
        1 => prop::sample::select(events.to_vec()).prop_map(move |bits| Step::Store(event, bits)),
        1 => Just(Step::Tsc),
        8 => (prop::bool::weighted(0.05), l2(), end)
            .prop_map(|(is_launch, l2, end)| Step::Enter { is_launch, l2, end }),
    ]
}

/// Enters by the shortest way that there is. Whether L2 halts at once.
fn enter_shortly(scene: &mut Scene) -> Result<bool, EntryFailure> {
    if scene.resume_clean() == Resume::Entered || scene.resume_lightly() {
        return Ok(false);
    }
    enter(scene, false)
}

fn enter(scene: &mut Scene, is_launch: bool) -> Result<bool, EntryFailure> {
    scene.prepare(if is_launch { &LAUNCH } else { &RESUME })?;
    Ok(scene.merge().halt)
}

fn leave(scene: &mut Scene, end: End, reason: u64, is_short: bool) {
    let page = &mut scene.page;
    match end {
        End::Exit => {
            if !(is_short && scene.reflect_shortly(reason as u32)) {
                scene.exit(reason);
            }
            return;
        }
        End::MadeUp => {
            let info = ExitInfo::new(ExitReason::from_raw(1));
            scene
                .nested
                .reflect_enlightened_as(&scene.vmcs02, page, &info);
        }
        End::Failed => {
            scene.vmcs02.set(Field::EXIT_REASON, 0x8000_0021);
            scene.nested.reflect_failed_entry(&scene.vmcs02, Some(page));
        }
        End::Refused => {
            scene.nested.refuse_entry(Some(page));
            return;
        }
    }
    let _ = scene.nested.load_host(&mut scene.vmcs01, false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_short_ways_only_save_work(steps in prop::collection::vec(step(), 1..48)) {
        let mut short = steady_scene();
        let mut long = steady_scene();
        let first: Vec<u64> = fields().iter().map(|field| long.page.peek(*field)).collect();
        for scene in [&mut short, &mut long] {
            scene.exit(10);
            // The virtual TPR permits any threshold.
            let apic = scene.page.peek(Field::VIRTUAL_APIC_ADDRESS) as usize;
            scene.memory.0[apic + 0x80] = 0xf0;
        }
        for step in steps {
            match step {
                Step::Store(n, bits) => {
                    let field = fields()[n];
                    let value = match field {
                        // Checked by hardware when nothing else changed.
                        Field::TPR_THRESHOLD => bits & 0xf,
                        _ => first[n] ^ bits,
                    };
                    short.page.store(field, value);
                    long.page.store(field, value);
                }
                Step::Tsc => {
                    short.nested.forget_groups(Dirty::CONTROL_GRP2);
                    long.nested.forget_groups(Dirty::CONTROL_GRP2);
                }
                Step::Enter { is_launch, l2, end } => {
                    let ways = if is_launch {
                        (enter(&mut short, true), enter(&mut long, true))
                    } else {
                        (enter_shortly(&mut short), enter(&mut long, false))
                    };
                    prop_assert_eq!(ways.0, ways.1);
                    let cleans = [&short, &long].map(|s| s.page.read_u32(CLEAN_FIELDS));
                    prop_assert_eq!(cleans[0], cleans[1]);
                    match ways.0 {
                        Ok(is_halted) => {
                            assert_same_l2(&short, &long)?;
                            let end = if is_halted { End::MadeUp } else { end };
                            for (scene, is_short) in [(&mut short, true), (&mut long, false)] {
                                if !is_halted && !matches!(end, End::Failed | End::Refused) {
                                    run(scene, &l2);
                                    if l2.switches {
                                        switch_mode(scene);
                                    }
                                }
                                leave(scene, end, l2.reason, is_short);
                            }
                        }
                        Err(failure) => {
                            for scene in [&mut short, &mut long] {
                                if matches!(failure, EntryFailure::Exit { .. }) {
                                    let _ = scene.nested.load_host(&mut scene.vmcs01, false);
                                }
                                // L1 tries again with what it knows to work.
                                for (field, value) in fields().into_iter().zip(&first) {
                                    scene.page.store(field, *value);
                                }
                            }
                        }
                    }
                    assert_same_l1(&short, &long)?;
                }
            }
        }
    }
}

#[test]
fn l2_leaves_long_mode_and_comes_back() {
    let mut scene = steady_scene();
    let in_long_mode = |scene: &Scene| scene.page.peek(Field::ENTRY_CONTROLS) >> 9 & 1;
    for expected in [0, 1, 1, 0, 1] {
        let is_long = scene.vmcs02.peek(Field::ENTRY_CONTROLS) >> 9 & 1;
        if is_long != expected {
            switch_mode(&mut scene);
        }
        leave(&mut scene, End::Exit, 10, true);
        assert_eq!(in_long_mode(&scene), expected);
        assert_eq!(enter_shortly(&mut scene), Ok(false));
    }
    // By then it goes the short way again.
    assert!(scene.is_steady());
}
