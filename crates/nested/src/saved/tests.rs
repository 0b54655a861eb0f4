use super::*;
use crate::access::Page;
use crate::testing::*;
use crate::vmcs12::{LISTS, Place, get, place};
use proptest::prelude::*;
use std::vec::Vec;
use vmx::{ExitReason, Width};

extern crate std;

/// Fields of VMCS 02 that hold what L2 is: an entry that L1 asks for may find any of them changed.
fn registers_of_l2() -> Vec<Field> {
    let guest = ["for_guest_basic", "for_guest_grp1", "for_guest_grp2"];
    let lists = LISTS.iter().filter(|(name, _)| guest.contains(name));
    lists
        .flat_map(|(_, fields)| fields.iter().copied())
        .filter(|field| *field != Field::VMCS_LINK_POINTER)
        .chain([
            Field::GUEST_RIP,
            Field::GUEST_CR3,
            Field::GUEST_DR7,
            Field::GUEST_CR0,
            Field::GUEST_CR4,
        ])
        .collect()
}

/// A value that the field can have while L2 runs.
fn legal(field: Field, value: u64) -> u64 {
    let value = match field.width() {
        Width::U16 => value & 0xffff,
        Width::U32 => value & 0xffff_ffff,
        _ => value,
    };
    match field {
        Field::GUEST_ACTIVITY_STATE => 0,
        // Access rights have reserved bits, which hardware does not give back.
        Field::GUEST_SS_ACCESS_RIGHTS => 0xc093 | value & 0x60,
        // CD and NW are L0's in hardware; L2 keeps its mode.
        Field::GUEST_CR0 => 0x8000_0021 | value & 0x5_0010,
        Field::GUEST_CR4 => 0x2020 | value & 0x3ff,
        Field::GUEST_EFER => 0xd01,
        Field::GUEST_CR3 => value & 0x7f_ffff_ffff,
        Field::GUEST_RIP => (value << 16) as i64 as u64 >> 17,
        _ => value,
    }
}

/// A VP whose L2 is in the middle of its run, with registers made of `values`.
fn running(values: &[u64], event: u64) -> Scene {
    let mut scene = Scene::entered();
    for (field, value) in registers_of_l2().into_iter().zip(values) {
        scene.vmcs02.set(field, legal(field, *value));
    }
    scene.vmcs02.set(Field::ENTRY_INTERRUPTION_INFO, event);
    scene
}

/// The VP on another machine.
fn restored(saved: Saved) -> Scene {
    let mut scene = Scene::new();
    scene.nested = crate::Nested::new(config());
    scene.vmcs02 = FakeVmcs::default();
    let running = scene.nested.restore(saved, &registers(), &scene.memory);
    if let Some(running) = running.unwrap() {
        scene
            .nested
            .merge_running(&running, &mut scene.vmcs02, &policy(), &scene.memory);
    }
    scene
}

/// All that hardware would run L2 with.
fn vmcs02(scene: &Scene) -> Vec<(Field, u64)> {
    let entry = [
        Field::PIN_BASED_CONTROLS,
        Field::PRIMARY_CONTROLS,
        Field::SECONDARY_CONTROLS,
        Field::ENTRY_CONTROLS,
        Field::EXCEPTION_BITMAP,
        Field::TSC_OFFSET,
        Field::CR0_READ_SHADOW,
        Field::CR4_READ_SHADOW,
        Field::CR0_GUEST_HOST_MASK,
        Field::CR4_GUEST_HOST_MASK,
        Field::ENTRY_INTERRUPTION_INFO,
    ];
    let all = registers_of_l2().into_iter().chain(entry);
    let value = |field: Field| match field {
        // Read shadows count where somebody owns the bit.
        Field::CR0_READ_SHADOW => {
            scene.vmcs02.peek(field) & scene.vmcs02.peek(Field::CR0_GUEST_HOST_MASK)
        }
        Field::CR4_READ_SHADOW => {
            scene.vmcs02.peek(field) & scene.vmcs02.peek(Field::CR4_GUEST_HOST_MASK)
        }
        _ => scene.vmcs02.peek(field),
    };
    all.map(|field| (field, value(field))).collect()
}

fn event() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        Just(0x8000_0031u64),
        Just(0x8000_0202u64),
        Just(0x8000_0b0e),
        Just(0x8000_0403),
    ]
}

proptest! {
    /// L2 goes on with the registers it had, and L1 finds the same at the next exit as it would
    /// have: in its page and in VMCS 01.
    #[test]
    fn an_l2_goes_on_elsewhere(
        values in proptest::collection::vec(any::<u64>(), 80),
        event in event(),
        error in any::<u32>(),
        halted in any::<bool>(),
    ) {
        let mut here = running(&values, event);
        here.vmcs02.set(Field::ENTRY_EXCEPTION_ERROR_CODE, error.into());
        here.nested.l2_halted = halted;
        let saved = here.nested.save(&here.vmcs02);
        prop_assert!(saved.is_in_l2());
        prop_assert_eq!(saved.check(39), Ok(()));
        let mut there = restored(saved);
        for (one, other) in vmcs02(&here).into_iter().zip(vmcs02(&there)) {
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(here.nested.in_l2(), there.nested.in_l2());
        prop_assert_eq!(there.nested.l2_halted(), halted);

        // L1's memory came along, VMCS 01 did too.
        for (field, _) in LINUX {
            there.page.store(*field, here.page.peek(*field));
        }
        here.exit(10);
        there.exit(10);
        for list in LISTS {
            for field in list.1 {
                prop_assert_eq!(here.page.peek(*field), there.page.peek(*field), "{:?}", field);
            }
        }
        for field in crate::HOST_FIELDS {
            prop_assert_eq!(here.vmcs01.peek(*field), there.vmcs01.peek(*field), "{:?}", field);
        }
        // And the next entry reads all, whatever the clean fields say.
        prop_assert_eq!(there.nested.stale, Dirty::ALL);
    }

    /// Bytes are no more and no less than the state.
    #[test]
    fn bytes_say_all(values in proptest::collection::vec(any::<u64>(), 80), event in event()) {
        let scene = running(&values, event);
        let saved = scene.nested.save(&scene.vmcs02);
        let bytes = postcard::to_allocvec(&saved).unwrap();
        let read: Saved = postcard::from_bytes(&bytes).unwrap();
        prop_assert_eq!(postcard::to_allocvec(&read).unwrap(), bytes);
        prop_assert_eq!(vmcs02(&restored(read)), vmcs02(&scene));
    }
}

#[test]
fn between_two_runs_only_vmcs_12_is_state() {
    let scene = Scene::reflected();
    let saved = scene.nested.save(&FakeVmcs::default());
    assert!(!saved.is_in_l2());
    let mut there = restored(saved);
    assert_eq!(there.nested.current(), Current::Enlightened(EVMCS));
    assert!(there.nested.in_vmx_operation());
    assert_eq!(there.prepare(&RESUME), Ok(()));
    assert_eq!(there.merge().groups, Dirty::ALL);
}

#[test]
fn a_plain_vmcs_keeps_what_l1_wrote_to_it() {
    // L1's controls save no EFER at exits: what L1 wrote has to be there afterwards.
    let mut scene = Scene::new();
    scene.nested.current = Current::Plain(EVMCS);
    for (field, value) in LINUX {
        let slot = place(field.encoding());
        match slot.width {
            tlfs::evmcs::Width::U16 => scene.nested.vmcs12.write_u16(slot.offset, *value as u16),
            tlfs::evmcs::Width::U32 => scene.nested.vmcs12.write_u32(slot.offset, *value as u32),
            tlfs::evmcs::Width::U64 => scene.nested.vmcs12.write_u64(slot.offset, *value),
        }
    }
    const SAVE_EFER: u64 = 1 << 20;
    put!(scene.nested.vmcs12, EXIT_CONTROLS, 0x000b_efff & !SAVE_EFER);
    put!(scene.nested.vmcs12, GUEST_EFER, 0xd00);
    put!(scene.nested.vmcs12, ENTRY_INTERRUPTION_INFO, 0x8000_0031);
    scene
        .nested
        .prepare_plain(&scene.memory, &LAUNCH, &registers())
        .unwrap();
    scene.merge();
    scene.vmcs02.set(Field::GUEST_EFER, 0xd01);
    scene.vmcs02.set(Field::ENTRY_INTERRUPTION_INFO, 0);
    scene.vmcs02.set(Field::GUEST_RIP, 0x1234);
    let mut there = restored(scene.nested.save(&scene.vmcs02));
    assert_eq!(there.vmcs02.peek(Field::GUEST_EFER), 0xd01);
    assert_eq!(there.vmcs02.peek(Field::ENTRY_INTERRUPTION_INFO), 0);
    let reason = ExitReason::from_raw(10);
    there.nested.reflect_plain(reason, &there.vmcs02);
    assert_eq!(get!(there.nested.vmcs12, GUEST_EFER), 0xd00);
    assert_eq!(get!(there.nested.vmcs12, GUEST_RIP), 0x1234);
    assert_eq!(get!(there.nested.vmcs12, ENTRY_INTERRUPTION_INFO), 0x31);
    assert!(there.nested.vmcs12.is_launched());
}

#[test]
fn impossible_states_are_refused() {
    let scene = Scene::entered();
    let saved = scene.nested.save(&scene.vmcs02);
    let check = |change: &dyn Fn(&mut Saved)| {
        let mut saved = saved.clone();
        change(&mut saved);
        saved.check(39)
    };
    assert_eq!(check(&|_| {}), Ok(()));
    assert_eq!(check(&|s| s.vmxon = None), Err(BadState::NotInVmxOperation));
    assert_eq!(check(&|s| s.current = Current::None), Err(BadState::NoVmcs));
    for at in [0x6001, 1 << 39] {
        let at = Gpa1::new(at);
        assert_eq!(
            check(&|s| s.current = Current::Plain(at)),
            Err(BadState::NoPage(at))
        );
        assert_eq!(check(&|s| s.vmxon = Some(at)), Err(BadState::NoPage(at)));
    }
    let bytes = postcard::to_allocvec(&saved).unwrap();
    for length in [0, 1, 100, bytes.len() - 1] {
        assert!(postcard::from_bytes::<Saved>(&bytes[..length]).is_err());
    }
}

fn store(page: &mut Vmcs12, field: Field, value: u64) {
    page.write_at(Place::of(&place(field.encoding())), value);
}

/// What a VP says of an L2 in the middle of its run that is changed while it is saved.
fn refused(change: impl FnOnce(&mut Saved)) -> Option<Violation> {
    let scene = running(&[0x1000; 80], 0);
    let mut saved = scene.nested.save(&scene.vmcs02);
    change(&mut saved);
    let mut there = Scene::new();
    there.nested = crate::Nested::new(config());
    let result = there.nested.restore(saved, &registers(), &there.memory);
    result.err()
}

#[test]
fn an_l2_that_l1_could_not_have_entered_is_refused() {
    fn of_l1(field: Field, value: u64) -> Option<Violation> {
        refused(|saved| store(&mut saved.vmcs12, field, value))
    }
    fn of_l2(field: Field, value: u64) -> Option<Violation> {
        refused(|saved| store(&mut saved.running.as_mut().unwrap().state, field, value))
    }
    assert_eq!(refused(|_| ()), None);
    type Change = fn(Field, u64) -> Option<Violation>;
    let cases: [(Change, Field, u64, Rule); 6] = [
        // Beyond L1's memory: L2's CR8 would be there.
        (
            of_l1,
            Field::VIRTUAL_APIC_ADDRESS,
            0x7f_0000_0000,
            Rule::Unbacked,
        ),
        // L0 enters L1 with these at the next exit.
        (of_l1, Field::HOST_CR4, 0x20, Rule::AllowedBits),
        (of_l1, Field::HOST_RIP, 1 << 63, Rule::Canonical),
        (of_l2, Field::GUEST_ACTIVITY_STATE, 3, Rule::Reserved),
        (of_l2, Field::GUEST_CR4, 0x20, Rule::AllowedBits),
        (of_l2, Field::GUEST_RIP, 1 << 63, Rule::Canonical),
    ];
    for (change, field, value, rule) in cases {
        assert_eq!(change(field, value), Some(Violation { field, rule }));
    }
}

#[test]
fn an_l2_goes_on_under_the_controls_that_its_exits_are_judged_by() {
    let here = running(&[0x1000; 80], 0);
    let mut saved = here.nested.save(&here.vmcs02);
    let state = &mut saved.running.as_mut().unwrap().state;
    for field in [
        Field::PIN_BASED_CONTROLS,
        Field::PRIMARY_CONTROLS,
        Field::SECONDARY_CONTROLS,
        Field::EXCEPTION_BITMAP,
        Field::VIRTUAL_APIC_ADDRESS,
        Field::TSC_OFFSET,
    ] {
        store(state, field, !0);
    }
    assert_eq!(vmcs02(&restored(saved)), vmcs02(&here));
}
