//! The short way against the long one.

use addr::Gpa1;
use alloc::vec::Vec;
use proptest::prelude::*;
use tlfs::evmcs;
use vmx::{ExitReason, Field, Kind};

use super::{Resume, UNGROUPED_WORDS};
use crate::access::Page;
use crate::reflect::{ALWAYS_L1, INSTRUCTIONS, Owner, Registers, is_among};
use crate::testing::*;
use crate::vmcs12::put;
use crate::{HOST_FIELDS, vmcs12};

mod histories;
mod races;

/// What [`LINUX`] lacks to be steady: an exit that loads EFER and saves neither
/// it nor PAT, and the MSR-bitmap enlightenment.
fn steady_scene() -> Scene {
    let mut scene = Scene::new();
    scene.page.store(Field::EXIT_CONTROLS, 0x002b_efff);
    scene.page.store(Field::HOST_EFER, 0xd01);
    scene.page.store(Field::ENTRY_CONTROLS, 0x0000_d3ff);
    scene.page.write_u32(evmcs::ENLIGHTENMENTS_CONTROL, 2);
    scene.prepare(&LAUNCH).unwrap();
    scene.merge();
    scene.vmcs01.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    scene.reset();
    assert!(scene.is_steady());
    scene
}

/// The first of the ways that are tried after [`Nested::resume_clean`](crate::Nested::resume_clean).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tier {
    Light,
    WithEvent,
}

fn tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(&[Tier::Light, Tier::WithEvent][..])
}

impl Scene {
    fn is_steady(&self) -> bool {
        self.nested.steady.is_some()
    }

    fn reflect_shortly(&mut self, reason: u32) -> bool {
        // One object stands for whichever VMCS is current in the image; here they are two.
        self.vmcs02.set(Field::EXIT_REASON, reason.into());
        let reason = ExitReason::from_raw(reason);
        let (page, vmcs01, vmcs02) = (&mut self.page, &mut self.vmcs01, &self.vmcs02);
        if is_among(INSTRUCTIONS, reason) {
            self.nested
                .reflect_steady::<true, _, _>(reason, vmcs02, page, || (), vmcs01)
        } else {
            self.nested
                .reflect_steady::<false, _, _>(reason, vmcs02, page, || (), vmcs01)
        }
    }

    fn resume_clean(&mut self) -> Resume {
        self.resume_at(EVMCS, false)
    }

    fn resume_at(&mut self, at: Gpa1, has_more: bool) -> Resume {
        self.nested.resume_clean(
            at,
            &self.page,
            || has_more,
            &self.vmcs01,
            || (),
            &mut self.vmcs02,
        )
    }

    /// By what comes after [`Scene::resume_clean`].
    fn resume_lightly(&mut self) -> bool {
        self.resume_by(Tier::Light)
    }

    fn resume_by(&mut self, first: Tier) -> bool {
        let Resume::Dirty(mut asked) = self.resume_at(EVMCS, true) else {
            return false;
        };
        let (page, vmcs02) = (&mut self.page, &mut self.vmcs02);
        if first == Tier::Light {
            match self
                .nested
                .resume_lightly(asked, page, &policy(), || (), vmcs02)
            {
                Resume::Entered => return true,
                Resume::InFull => return false,
                Resume::Dirty(same) => {
                    assert_eq!(same, asked);
                    asked = same;
                }
            }
        }
        self.nested
            .resume_with_event(asked, page, &policy(), || (), vmcs02)
    }
}

/// Fields of L2 that it changes by itself, with the bits they have.
fn guest_fields() -> impl Iterator<Item = Field> {
    vmcs12::LISTS
        .iter()
        .flat_map(|(_, list)| list.iter().copied())
        .filter(|field| field.kind() == Kind::Guest)
        .filter(|&field| field != Field::VMCS_LINK_POINTER && field != Field::GUEST_ACTIVITY_STATE)
}

proptest! {
    /// Whatever L2 leaves behind and whatever hardware reports, L1's page and
    /// VMCS 01 come out alike.
    #[test]
    fn an_exit_by_either_way_is_the_same(
        seed in any::<[u64; 8]>(),
        reason in prop::sample::select((0u32..64).filter(|n| (ALWAYS_L1 | INSTRUCTIONS) >> n & 1 != 0 || *n == 48).collect::<Vec<_>>()),
    ) {
        let mut short = steady_scene();
        let mut long = steady_scene();
        for (n, field) in guest_fields()
            .chain([
                Field::EXIT_QUALIFICATION,
                Field::EXIT_INSTRUCTION_LENGTH,
                Field::EXIT_INSTRUCTION_INFO,
                Field::EXIT_INTERRUPTION_INFO,
                Field::EXIT_INTERRUPTION_ERROR_CODE,
                Field::IDT_VECTORING_INFO,
                Field::IDT_VECTORING_ERROR_CODE,
                Field::GUEST_PHYSICAL_ADDRESS,
                Field::GUEST_LINEAR_ADDRESS,
            ])
            .enumerate()
        {
            let value = seed[n % 8].rotate_left(n as u32) >> (64 - 8 * field.width().bytes() as u32);
            short.vmcs02.set(field, value);
            long.vmcs02.set(field, value);
        }
        if INSTRUCTIONS >> reason & 1 != 0 {
            // As hardware has it.
            for scene in [&mut short, &mut long] {
                scene.vmcs02.set(Field::EXIT_INTERRUPTION_INFO, 0);
                scene.vmcs02.set(Field::IDT_VECTORING_INFO, 0);
            }
        }
        prop_assert!(short.reflect_shortly(reason));
        long.exit(reason.into());
        for field in vmcs12::LISTS.iter().flat_map(|(_, list)| list.iter().copied()) {
            prop_assert_eq!(short.page.peek(field), long.page.peek(field), "{:?}", field);
            let copies = [&short, &long].map(|scene| {
                vmcs12::load(scene.nested.vmcs12(), &vmcs12::place(field.encoding()))
            });
            prop_assert_eq!(copies[0], copies[1], "the copy's {:?}", field);
        }
        for field in HOST_FIELDS.iter().chain(&[Field::GUEST_EFER, Field::GUEST_PAT]) {
            prop_assert_eq!(short.vmcs01.peek(*field), long.vmcs01.peek(*field), "{:?}", field);
        }
        prop_assert!(!short.nested.in_l2());

        // And the entry after it.
        for scene in [&mut short, &mut long] {
            scene.page.write_u64(vmcs12::place(Field::GUEST_RIP.encoding()).offset, 0x1234);
            let threshold = vmcs12::place(Field::TPR_THRESHOLD.encoding()).offset;
            scene.page.write_u32(threshold, (seed[0] & 1) as u32);
        }
        prop_assert_eq!(short.resume_clean(), Resume::Entered);
        prop_assert!(long.prepare(&RESUME).is_ok());
        long.merge();
        for field in guest_fields().chain([Field::TPR_THRESHOLD]) {
            prop_assert_eq!(short.vmcs02.peek(field), long.vmcs02.peek(field), "{:?}", field);
        }
        prop_assert!(short.nested.in_l2());
    }
}

/// What L1 may write into the groups that change often, good and bad.
fn light_change() -> impl Strategy<Value = (Field, u64)> {
    let canonical = any::<u64>().prop_map(|value| value >> 17);
    let address = prop_oneof![9 => canonical, 1 => any::<u64>()].boxed();
    let select = |field: &[Field]| prop::sample::select(field.to_vec());
    let pointers = select(&[
        Field::HOST_FS_BASE,
        Field::HOST_GS_BASE,
        Field::HOST_TR_BASE,
        Field::HOST_GDTR_BASE,
        Field::HOST_IDTR_BASE,
        Field::HOST_RSP,
        Field::GUEST_RSP,
        Field::GUEST_RFLAGS,
    ]);
    let event = prop_oneof![
        Just(0x8000_0020u64),
        Just(0x8000_0202),
        Just(0x8000_030d),
        Just(0x8000_0b0d),
        Just(0x8000_0403),
        Just(0),
        any::<u32>().prop_map(u64::from),
    ];
    // Windows; I/O bitmaps; what is not allowed.
    let primary = prop_oneof![
        Just(0xb5a0_6dfau64),
        Just(0xb5a0_6dfa | 1 << 2),
        Just(0xb5a0_6dfa | 1 << 22),
        Just(0xb7a0_6dfa),
        any::<u32>().prop_map(u64::from),
    ];
    prop_oneof![
        6 => (pointers, address),
        1 => (Just(Field::GUEST_INTERRUPTIBILITY), 0u64..10),
        2 => (Just(Field::ENTRY_INTERRUPTION_INFO), event),
        1 => (Just(Field::ENTRY_EXCEPTION_ERROR_CODE), any::<u16>().prop_map(u64::from)),
        1 => (Just(Field::ENTRY_INSTRUCTION_LENGTH), 0u64..18),
        2 => (Just(Field::PRIMARY_CONTROLS), primary),
        1 => (Just(Field::PAGE_FAULT_ERROR_CODE_MASK), 0u64..3),
        1 => (Just(Field::EXCEPTION_BITMAP), any::<u32>().prop_map(u64::from)),
    ]
}

proptest! {
    /// Trying the short way first changes nothing: not what is refused, not what VMCS 02 holds,
    /// not what L1 finds after the exit.
    #[test]
    fn an_entry_by_either_way_is_the_same(
        rounds in prop::collection::vec((prop::collection::vec(light_change(), 0..4), tier()), 1..6),
    ) {
        let mut short = steady_scene();
        let mut long = steady_scene();
        for (changes, tier) in rounds {
            if !short.reflect_shortly(10) {
                short.exit(10);
            }
            long.exit(10);
            for (field, value) in changes {
                short.page.store(field, value);
                long.page.store(field, value);
            }
            let result = if short.resume_by(tier) {
                Ok(())
            } else {
                short.prepare(&RESUME)
            };
            prop_assert_eq!(&result, &long.prepare(&RESUME));
            if result.is_err() {
                return Ok(());
            }
            if !short.nested.in_l2() {
                short.merge();
            }
            long.merge();
            for field in vmcs12::LISTS.iter().flat_map(|(_, list)| list.iter().copied()) {
                if vmcs12::is_writable(field) {
                    prop_assert_eq!(short.vmcs02.peek(field), long.vmcs02.peek(field), "{:?}", field);
                }
                prop_assert_eq!(short.page.peek(field), long.page.peek(field), "{:?}", field);
            }
            for field in HOST_FIELDS {
                prop_assert_eq!(short.vmcs01.peek(*field), long.vmcs01.peek(*field), "{:?}", field);
            }
        }
    }
}

#[test]
fn entries_that_change_little_go_the_short_way() {
    for (field, value) in [
        (Field::HOST_RSP, 0xffff_c900_0040_0100),
        (Field::GUEST_RFLAGS, 0x202),
        (Field::ENTRY_INTERRUPTION_INFO, 0x8000_0020),
        (Field::ENTRY_INTERRUPTION_INFO, 0x8000_0b0d),
        (Field::PRIMARY_CONTROLS, 0xb5a0_6dfe),
    ] {
        let mut scene = steady_scene();
        assert!(scene.reflect_shortly(10));
        scene.page.store(field, value);
        assert!(
            matches!(scene.resume_clean(), Resume::Dirty(_)),
            "{field:?}"
        );
        assert!(scene.resume_lightly(), "{field:?}");
        // And so does the next, with nothing left of this one.
        assert!(scene.reflect_shortly(10));
        assert_eq!(scene.resume_clean(), Resume::Entered, "{field:?}");
    }
}

#[test]
fn every_field_without_a_group_is_looked_at() {
    for field in vmcs12::LISTS
        .iter()
        .filter(|(name, _)| *name == "for_ungrouped")
        .flat_map(|(_, list)| list.iter())
    {
        let at = vmcs12::place(field.encoding());
        let covered = UNGROUPED_WORDS
            .iter()
            .any(|&word| word <= at.offset && at.offset < word + 8);
        assert!(covered, "{field:?}");
    }
}

#[test]
fn what_changes_ends_the_steady_state() {
    // Each of these between exit and entry, with whether the long way then finds a steady state
    // again.
    type Change = fn(&mut Scene);
    let changes: &[(&str, Change, bool)] = &[
        ("a dirty group", |s| s.page.store(Field::GUEST_RSP, 8), true),
        (
            "an event to inject",
            |s| s.page.store(Field::ENTRY_INTERRUPTION_INFO, 0x8000_0020),
            true,
        ),
        (
            "a plain revision",
            |s| s.page.write_u32(0, vmcs12::REVISION),
            true,
        ),
        ("another VM", |s| s.page.write_u64(evmcs::VM_ID, 77), true),
        (
            "an MSR bitmap without its enlightenment",
            |s| s.page.write_u32(evmcs::ENLIGHTENMENTS_CONTROL, 0),
            false,
        ),
        (
            "a change of L0's",
            |s| s.nested.forget_groups(crate::Dirty::CONTROL_GRP2),
            true,
        ),
        (
            "blocking by MOV SS",
            |s| s.vmcs01.set(Field::GUEST_INTERRUPTIBILITY, 2),
            true,
        ),
        (
            "an L1 that is not in the kernel",
            |s| s.vmcs01.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0fb),
            true,
        ),
        (
            "a RIP that is not canonical",
            |s| {
                let at = vmcs12::place(Field::GUEST_RIP.encoding()).offset;
                s.page.write_u64(at, 1 << 60);
            },
            true,
        ),
    ];
    for (name, change, again) in changes {
        let mut scene = steady_scene();
        assert!(scene.reflect_shortly(10));
        change(&mut scene);
        assert_ne!(scene.resume_clean(), Resume::Entered, "{name}");
        scene.vmcs02.take_written();
        assert!(!scene.nested.in_l2(), "{name}");
        if *name == "a RIP that is not canonical" {
            assert!(scene.prepare(&RESUME).is_err());
            continue;
        }
        scene.prepare(&RESUME).unwrap();
        scene.merge();
        assert_eq!(scene.is_steady(), *again, "{name}");
    }
}

#[test]
fn another_enlightened_vmcs_takes_the_long_way() {
    let mut scene = steady_scene();
    assert!(scene.reflect_shortly(10));
    let other = Gpa1::new(EVMCS.raw() + 0x1000);
    assert_eq!(scene.resume_at(other, false), Resume::InFull);
}

#[test]
fn a_failed_entry_is_not_resumed_by_the_short_way() {
    let mut scene = steady_scene();
    assert!(scene.reflect_shortly(10));
    scene.page.store(Field::PRIMARY_CONTROLS, 0);
    assert!(scene.prepare(&RESUME).is_err());
    // L0 has marked everything clean; the bad control is in its copy all the same.
    assert_eq!(scene.resume_clean(), Resume::InFull);
    assert!(!scene.resume_lightly());
    assert!(scene.prepare(&RESUME).is_err());
}

#[test]
fn a_controls_word_that_needs_more_is_not_steady() {
    for (field, value) in [
        (Field::EXIT_CONTROLS, 0x000b_efff),
        (Field::EXIT_CONTROLS, 0x003b_efff),
        (Field::EXIT_CONTROLS, 0x002f_efff),
        (Field::ENTRY_CONTROLS, 0x0000_53ff),
        (Field::PIN_BASED_CONTROLS, 0x3e),
        (Field::PIN_BASED_CONTROLS, 0x17),
        (Field::SECONDARY_CONTROLS, 0x0010_108a),
        (Field::HOST_FS_SELECTOR, 0x28),
        (Field::EXIT_MSR_LOAD_COUNT, 1),
        (Field::CR0_GUEST_HOST_MASK, 0x8000_0031),
        (Field::GUEST_ACTIVITY_STATE, 1),
    ] {
        let mut scene = steady_scene();
        assert!(scene.reflect_shortly(10));
        scene.page.store(field, value);
        // VPID 0 goes with its control.
        scene
            .prepare(&RESUME)
            .unwrap_or_else(|e| panic!("{field:?}: {e:?}"));
        scene.merge();
        assert!(!scene.is_steady(), "{field:?} = {value:#x}");
    }
}

#[test]
fn l2_outside_of_long_mode_takes_the_long_way() {
    let mut scene = steady_scene();
    let entry = scene.vmcs02.peek(Field::ENTRY_CONTROLS) & !(1 << 9);
    scene.vmcs02.set(Field::ENTRY_CONTROLS, entry);
    scene.reset();
    assert!(!scene.reflect_shortly(10));
    assert!(scene.nested.in_l2());
    assert_eq!(scene.page.take_counts().1, 0);
}

#[test]
fn a_round_trip_costs_what_it_must() {
    let mut scene = steady_scene();
    scene.reset();
    assert!(scene.reflect_shortly(10));
    // Guest state: 36 of segments, 14 others. Exit information: qualification, instruction length.
    // And L2's mode.
    assert_eq!(scene.vmcs02.take_reads(), 36 + 14 + 2 + 1);
    assert_eq!(scene.vmcs01.take_reads(), 0);
    scene.reset();
    assert_eq!(scene.resume_clean(), Resume::Entered);
    assert_eq!(scene.vmcs02.take_written(), [Field::GUEST_RIP]);
    assert_eq!(
        (scene.vmcs01.take_reads(), scene.vmcs02.take_reads()),
        (2, 0)
    );
}

/// Registers of no particular values.
struct Any;

impl Registers for Any {
    fn gpr(&self, number: u8) -> u64 {
        u64::from(number) << 32
    }
}

#[test]
fn what_is_always_l1s_is_so_whatever_the_controls() {
    for reason in (0..64).filter(|n| ALWAYS_L1 >> n & 1 != 0) {
        for controls in [0, u32::MAX] {
            let mut scene = Scene::entered();
            let copy = &mut scene.nested.vmcs12;
            put!(*copy, PRIMARY_CONTROLS, controls.into());
            put!(*copy, SECONDARY_CONTROLS, controls.into());
            put!(*copy, EXCEPTION_BITMAP, controls.into());
            let owner = scene.nested.owner(
                &scene.vmcs02,
                ExitReason::from_raw(reason),
                &scene.memory,
                &Any,
            );
            assert_eq!(owner, Owner::L1, "{reason}");
        }
    }
    // VMCALL has to be looked at.
    assert_eq!(ALWAYS_L1 >> 18 & 1, 0);
}
