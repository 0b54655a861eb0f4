use super::*;
use crate::interrupt::{DeliveryMode, Destination};
use proptest::prelude::*;

mod inbox;
mod timer;

const EOI: u16 = 0xB0;
const SVR: u16 = 0xF0;
const ICR_LOW: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_ERROR: u16 = 0x370;
const INITIAL: u16 = 0x380;
const CURRENT: u16 = 0x390;
const DIVIDE: u16 = 0x3E0;
const ESR: u16 = 0x280;

fn clock() -> TimerClock {
    // 10 TSC ticks to one of the timer.
    TimerClock::new(1_000_000_000, 100_000_000).unwrap()
}

fn raw(id: u32) -> LocalApic {
    LocalApic::new(id, id == 0, clock())
}

fn write(apic: &mut LocalApic, offset: u16, value: u32) -> Effect {
    apic.write_page(offset, 4, value, 0)
}

fn read(apic: &mut LocalApic, offset: u16) -> u32 {
    apic.read_page(offset, 4, 0)
}

fn enabled(id: u32) -> LocalApic {
    let mut apic = raw(id);
    assert_eq!(write(&mut apic, SVR, 0x1FF), Effect::Addressing);
    apic
}

fn x2apic(id: u32) -> LocalApic {
    let mut apic = enabled(id);
    let _ = apic.set_base(0xFEE0_0C00).unwrap();
    apic
}

#[test]
fn some_ends_change_nothing() {
    let mut apic = enabled(0);
    let take = |apic: &mut LocalApic, vector, trigger| {
        apic.accept(vector, trigger);
        assert_eq!(apic.acknowledge(), Some(vector));
        apic.ends_unnoticed(vector)
    };
    assert!(take(&mut apic, 0x41, Trigger::Edge));
    // It waits for the end of 0x41.
    apic.accept(0x35, Trigger::Edge);
    assert!(!apic.ends_unnoticed(0x41));
    let _ = apic.end_of_interrupt();
    assert_eq!(apic.acknowledge(), Some(0x35));
    // The IOAPIC waits for the end of 0x60.
    assert!(!take(&mut apic, 0x60, Trigger::Level));
    let _ = apic.end_of_interrupt();
    assert!(
        take(&mut apic, 0x60, Trigger::Edge),
        "an outer one is in service"
    );
}

#[test]
fn priorities_order_delivery() {
    let mut apic = enabled(0);
    apic.accept(0x41, Trigger::Edge);
    apic.accept(0x43, Trigger::Edge);
    apic.accept(0x91, Trigger::Edge);
    assert_eq!(apic.acknowledge(), Some(0x91));
    assert_eq!(apic.pending(), None, "lower classes wait");
    assert_eq!(read(&mut apic, 0xA0), 0x90, "PPR");
    assert_eq!(write(&mut apic, EOI, 0), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0x43));
    assert_eq!(apic.pending(), None, "the same class waits too");
    let _ = write(&mut apic, 0x80, 0x45);
    assert_eq!(read(&mut apic, 0xA0), 0x45);
    let _ = write(&mut apic, EOI, 0);
    assert_eq!(apic.pending(), None, "held by TPR");
    apic.set_task_priority(0x30);
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(apic.acknowledge(), None);
}

#[test]
fn registers_show_the_sets() {
    let mut apic = enabled(0);
    apic.accept(0x30, Trigger::Level);
    apic.accept(0xFF, Trigger::Edge);
    assert_eq!(read(&mut apic, 0x210), 1 << 16);
    assert_eq!(read(&mut apic, 0x270), 1 << 31);
    assert_eq!(read(&mut apic, 0x190), 1 << 16);
    assert_eq!(apic.acknowledge(), Some(0xFF));
    assert_eq!(read(&mut apic, 0x170), 1 << 31);
    assert_eq!(read(&mut apic, 0x270), 0);
    assert_eq!(write(&mut apic, EOI, 0), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0x30));
    assert_eq!(write(&mut apic, EOI, 0), Effect::Eoi(0x30));
    assert_eq!(write(&mut apic, EOI, 0), Effect::None);
}

#[test]
fn a_disabled_apic_takes_nothing_and_masks() {
    let mut apic = raw(0);
    apic.accept(0x40, Trigger::Edge);
    assert_eq!(apic.pending(), None);
    let _ = write(&mut apic, LVT_TIMER, 0x40);
    assert_eq!(read(&mut apic, LVT_TIMER), 0x1_0040);
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x40);
    assert_eq!(read(&mut apic, LVT_TIMER), 0x40);
    assert_eq!(write(&mut apic, SVR, 0xFF), Effect::Addressing);
    assert_eq!(read(&mut apic, LVT_TIMER), 0x1_0040);
}

#[test]
fn base_transitions() {
    const OFF: u64 = 0xFEE0_0000;
    const XAPIC: u64 = 0xFEE0_0800;
    const X2APIC: u64 = 0xFEE0_0C00;
    let legal = [
        (OFF, OFF),
        (OFF, XAPIC),
        (XAPIC, XAPIC),
        (XAPIC, OFF),
        (XAPIC, X2APIC),
        (X2APIC, X2APIC),
        (X2APIC, OFF),
    ];
    for from in [OFF, XAPIC, X2APIC] {
        for to in [OFF, XAPIC, X2APIC, 0xFEE0_0400] {
            let mut apic = enabled(3);
            if from != XAPIC {
                let _ = apic.set_base(from).unwrap();
            }
            assert_eq!(apic.base(), from);
            assert_eq!(apic.set_base(to).is_ok(), legal.contains(&(from, to)));
        }
    }
    let mut apic = enabled(0);
    for bad in [0xFEE0_0801, 0xFEE0_0A00, 0xFEE0_1800, 1 << 52 | XAPIC] {
        assert_eq!(apic.set_base(bad), Err(GeneralProtection));
    }
    assert_eq!(apic.base(), 0xFEE0_0900, "bootstrap flag");
    let _ = apic.set_base(XAPIC).unwrap();
    assert_eq!(
        apic.base(),
        0xFEE0_0900,
        "which is not software's to change"
    );
}

#[test]
fn disabling_resets_and_entering_x2apic_does_not() {
    let mut apic = x2apic(5);
    assert_eq!(apic.read_msr(0x80F, 0), Ok(0x1FF));
    let _ = apic.set_base(0xFEE0_0000).unwrap();
    let _ = apic.set_base(0xFEE0_0800).unwrap();
    assert_eq!(read(&mut apic, SVR), 0xFF);
    assert_eq!(read(&mut apic, 0x20), 5 << 24);
}

#[test]
fn each_door_is_open_in_its_mode_only() {
    let mut apic = enabled(1);
    assert_eq!(apic.read_msr(0x802, 0), Err(GeneralProtection));
    assert_eq!(apic.write_msr(0x80B, 0, 0), Err(GeneralProtection));
    let mut apic = x2apic(1);
    assert_eq!(apic.read_msr(0x802, 0), Ok(1));
    assert_eq!(read(&mut apic, 0x20), 0);
    assert_eq!(write(&mut apic, ICR_LOW, 0x40), Effect::None);
}

/// What each x2APIC MSR allows: SDM vol. 3, table 11-6 for this APIC's registers.
#[test]
fn x2apic_access_rights() {
    let readable = |n: u32| {
        matches!(
            n,
            0x02 | 0x03 | 0x08 | 0x0A | 0x0D | 0x0F | 0x10..=0x28 | 0x30
        ) || matches!(n, 0x32..=0x39 | 0x3E)
    };
    let writable = |n: u32| matches!(n, 0x08 | 0x0B | 0x0F | 0x28 | 0x32..=0x38 | 0x3E | 0x3F);
    for n in 0..0x100 {
        let mut apic = x2apic(1);
        assert_eq!(apic.read_msr(0x800 + n, 0).is_ok(), readable(n), "{n:#x}");
        if n != 0x30 {
            let ok = apic.write_msr(0x800 + n, 0, 0).is_ok();
            assert_eq!(ok, writable(n), "{n:#x}");
        }
        let all_ones = apic.write_msr(0x800 + n, u64::MAX, 0);
        assert_eq!(all_ones, Err(GeneralProtection), "{n:#x}");
    }
    let mut apic = x2apic(1);
    assert!(apic.write_msr(0x80B, 1, 0).is_err());
    assert!(apic.write_msr(0x828, 1, 0).is_err());
    assert!(apic.write_msr(0x808, 0x100, 0).is_err());
    assert!(apic.write_msr(0x80F, 0x1000, 0).is_err());
    assert!(apic.write_msr(0x830, 1 << 20 | 0x40, 0).is_err());
    assert!(apic.write_msr(0x837, 1 << 17, 0).is_err());
}

#[test]
fn x2apic_ids() {
    let mut apic = x2apic(0x25);
    assert_eq!(apic.read_msr(0x802, 0), Ok(0x25));
    assert_eq!(apic.read_msr(0x80D, 0), Ok(0x2_0020));
    assert_eq!(apic.read_msr(0x803, 0), Ok(0x5_0014));
}

#[test]
fn x2apic_command_forms() {
    let mut apic = x2apic(0);
    let message = |mode, vector, destination| {
        Effect::Ipi(Message {
            mode,
            vector,
            trigger: Trigger::Edge,
            destination,
        })
    };
    let mut send = |value| apic.write_msr(0x830, value, 0).unwrap();
    assert_eq!(
        send(3 << 32 | 0xF0),
        message(DeliveryMode::Fixed, 0xF0, Destination::Physical(3))
    );
    assert_eq!(
        send(0x1_0006 << 32 | 0x8F0),
        message(DeliveryMode::Fixed, 0xF0, Destination::Logical(0x1_0006))
    );
    assert_eq!(
        send(0xFFFF_FFFF << 32 | 0x8F0),
        message(DeliveryMode::Fixed, 0xF0, Destination::All)
    );
    assert_eq!(
        send(0xC_0400),
        message(DeliveryMode::Nmi, 0, Destination::AllButSender)
    );
    assert_eq!(
        send(1 << 32 | 0xC500),
        message(DeliveryMode::Init, 0, Destination::Physical(1))
    );
    assert_eq!(send(1 << 32 | 0x8500), Effect::None, "INIT de-assert");
    assert_eq!(
        send(1 << 32 | 0x699),
        message(DeliveryMode::Startup, 0x99, Destination::Physical(1))
    );
    assert_eq!(send(0x4_00EC), Effect::None);
    assert_eq!(apic.pending(), Some(0xEC), "self shorthand");
    assert_eq!(apic.write_msr(0x83F, 0xEE, 0), Ok(Effect::None));
    assert_eq!(apic.acknowledge(), Some(0xEE));
}

#[test]
fn xapic_command_is_two_writes() {
    let mut apic = enabled(0);
    assert_eq!(write(&mut apic, ICR_HIGH, 0x0200_0000), Effect::None);
    let expected = Message {
        mode: DeliveryMode::Fixed,
        vector: 0x33,
        trigger: Trigger::Edge,
        destination: Destination::Logical(2),
    };
    assert_eq!(write(&mut apic, ICR_LOW, 0x833), Effect::Ipi(expected));
    assert_eq!(read(&mut apic, ICR_HIGH), 0x0200_0000);
    assert_eq!(read(&mut apic, ICR_LOW), 0x833);
    let _ = write(&mut apic, ICR_HIGH, 0xFF00_0000);
    let Effect::Ipi(message) = write(&mut apic, ICR_LOW, 0x33) else {
        panic!("no IPI");
    };
    assert_eq!(message.destination, Destination::All);
}

#[test]
fn illegal_vectors_are_errors() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_ERROR, 0xFE);
    assert_eq!(write(&mut apic, ICR_LOW, 0xF), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0xFE));
    let _ = write(&mut apic, EOI, 0);
    assert_eq!(read(&mut apic, ESR), 0, "until written");
    let _ = write(&mut apic, ESR, 0);
    assert_eq!(read(&mut apic, ESR), 1 << 5);
    apic.accept(3, Trigger::Edge);
    assert_eq!(apic.pending(), Some(0xFE));
    read(&mut apic, 0x40);
    let _ = write(&mut apic, ESR, 0);
    assert_eq!(read(&mut apic, ESR), 1 << 6 | 1 << 7);
    let _ = write(&mut apic, ESR, 0);
    assert_eq!(read(&mut apic, ESR), 0);
}

#[test]
fn narrow_and_odd_accesses() {
    let mut apic = enabled(0x12);
    assert_eq!(apic.read_page(0x23, 1, 0), 0x12);
    assert_eq!(apic.read_page(0x22, 2, 0), 0x1200);
    assert_eq!(apic.read_page(0x24, 4, 0), 0);
    assert_eq!(apic.write_page(SVR, 1, 0, 0), Effect::None);
    assert_eq!(apic.write_page(SVR + 4, 4, 0, 0), Effect::None);
    assert_eq!(read(&mut apic, SVR), 0x1FF);
}

#[test]
fn init_keeps_id_and_mode() {
    let mut apic = x2apic(7);
    apic.accept(0x40, Trigger::Edge);
    apic.reset();
    assert_eq!(apic.pending(), None);
    assert_eq!((apic.mode(), apic.id()), (Mode::X2Apic, 7));
    assert_eq!(apic.read_msr(0x80F, 0), Ok(0xFF));
}

proptest! {
    /// The cached answer equals the definition, after any sequence of events.
    #[test]
    fn pending_follows_the_definition(events in prop::collection::vec((0u8..4, any::<u8>()), 0..80)) {
        let mut apic = enabled(0);
        for (kind, value) in events {
            match kind {
                0 => apic.accept(value | 0x10, Trigger::Edge),
                1 => { apic.acknowledge(); }
                2 => { let _ = apic.end_of_interrupt(); }
                _ => apic.set_task_priority(value),
            }
            let highest = |set: &VectorSet| (0..=255u8).rev().find(|&v| set.contains(v));
            let service = highest(apic.in_service()).unwrap_or(0) & 0xF0;
            let class = service.max(apic.task_priority() & 0xF0);
            let expected = highest(apic.requested()).filter(|v| v & 0xF0 > class);
            prop_assert_eq!(apic.pending(), expected);
        }
    }
}
