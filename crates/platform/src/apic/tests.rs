use super::*;
use crate::interrupt::{DeliveryMode, Destination};
use proptest::prelude::*;

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
fn one_shot_timer() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x40);
    let _ = write(&mut apic, DIVIDE, 0b0011); // by 16
    assert_eq!(apic.write_page(INITIAL, 4, 100, 1000), Effect::Timer);
    assert_eq!(apic.next_deadline_tsc(), Some(1000 + 100 * 16 * 10));
    assert_eq!(apic.read_page(CURRENT, 4, 1000 + 160 * 30), 70);
    assert!(!apic.expire(16_999));
    assert!(apic.expire(17_000));
    assert_eq!(apic.pending(), Some(0x40));
    assert_eq!(apic.next_deadline_tsc(), None);
    assert_eq!(apic.read_page(CURRENT, 4, 20_000), 0);
    assert!(!apic.expire(u64::MAX));
}

#[test]
fn periodic_timer_keeps_its_phase() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x2_0040);
    let _ = write(&mut apic, DIVIDE, 0b1011); // by 1
    let _ = apic.write_page(INITIAL, 4, 100, 500);
    assert_eq!(apic.next_deadline_tsc(), Some(1500));
    assert!(apic.expire(1507));
    assert_eq!(apic.next_deadline_tsc(), Some(2500));
    assert!(apic.expire(10_499), "periods missed are one interrupt");
    assert_eq!(apic.next_deadline_tsc(), Some(10_500));
    assert_eq!(apic.read_page(CURRENT, 4, 10_510), 99);
    let _ = apic.write_page(LVT_TIMER, 4, 0x3_0040, 10_450);
    assert_eq!(apic.next_deadline_tsc(), None, "masked");
    let _ = apic.write_page(LVT_TIMER, 4, 0x2_0040, 20_450);
    assert_eq!(apic.next_deadline_tsc(), Some(20_500));
    let _ = apic.write_page(LVT_TIMER, 4, 0x40, 20_450);
    assert_eq!(apic.next_deadline_tsc(), Some(20_500), "now one-shot");
    let _ = apic.write_page(INITIAL, 4, 0, 20_460);
    assert_eq!(apic.next_deadline_tsc(), None, "stopped");
}

#[test]
fn divider_change_goes_on_from_the_count() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x40);
    let _ = write(&mut apic, DIVIDE, 0b1011);
    let _ = apic.write_page(INITIAL, 4, 1000, 100_000);
    let _ = apic.write_page(DIVIDE, 4, 0b0000, 105_000);
    assert_eq!(apic.read_page(CURRENT, 4, 105_000), 500);
    assert_eq!(apic.next_deadline_tsc(), Some(105_000 + 500 * 2 * 10));
}

#[test]
fn tsc_deadline_timer() {
    let mut apic = x2apic(0);
    assert_eq!(apic.set_tsc_deadline(50), Effect::Timer);
    assert_eq!(apic.tsc_deadline(), 0, "ignored in other modes");
    assert_eq!(apic.write_msr(0x832, 0x4_00EC, 0), Ok(Effect::Timer));
    let _ = apic.set_tsc_deadline(50);
    assert_eq!(
        (apic.tsc_deadline(), apic.next_deadline_tsc()),
        (50, Some(50))
    );
    assert_eq!(apic.write_msr(0x838, 7, 0), Ok(Effect::Timer));
    assert_eq!(apic.next_deadline_tsc(), Some(50), "the count is ignored");
    assert!(!apic.expire(49));
    assert!(apic.expire(60));
    assert_eq!(apic.acknowledge(), Some(0xEC));
    assert_eq!(apic.tsc_deadline(), 0);
    let _ = apic.set_tsc_deadline(100);
    let _ = apic.set_tsc_deadline(0);
    assert_eq!(apic.next_deadline_tsc(), None, "disarmed");
    let _ = apic.set_tsc_deadline(100);
    assert_eq!(apic.write_msr(0x832, 0xEC, 0), Ok(Effect::Timer));
    assert_eq!(apic.next_deadline_tsc(), None, "leaving the mode disarms");
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

fn targets(message: Message, sender: Option<usize>, inboxes: &[Inbox]) -> alloc::vec::Vec<usize> {
    let mut kicked = alloc::vec::Vec::new();
    send(&message, sender, inboxes, |index| kicked.push(index));
    kicked
}

fn fixed(destination: Destination) -> Message {
    Message {
        mode: DeliveryMode::Fixed,
        vector: 0x55,
        trigger: Trigger::Edge,
        destination,
    }
}

#[test]
fn x2apic_destinations() {
    let inboxes = || -> alloc::vec::Vec<Inbox> {
        (0..20).map(|id| Inbox::new(x2apic(id).address())).collect()
    };
    assert_eq!(
        targets(fixed(Destination::Logical(0x1_0006)), None, &inboxes()),
        [17, 18]
    );
    assert_eq!(
        targets(fixed(Destination::Logical(0x3)), None, &inboxes()),
        [0, 1]
    );
    assert_eq!(
        targets(fixed(Destination::Physical(9)), None, &inboxes()),
        [9]
    );
    let but = targets(fixed(Destination::AllButSender), Some(4), &inboxes());
    assert_eq!(but.len(), 19);
    assert!(!but.contains(&4));
}

#[test]
fn xapic_flat_and_cluster_destinations() {
    let with = |ldr: u32, dfr: u32| {
        let mut apic = enabled(0);
        let _ = write(&mut apic, 0xD0, ldr << 24);
        let _ = write(&mut apic, 0xE0, dfr);
        assert_eq!(read(&mut apic, 0xD0), ldr << 24);
        Inbox::new(apic.address())
    };
    let flat = [with(1, !0), with(2, !0), with(0x80, !0)];
    assert_eq!(
        targets(fixed(Destination::Logical(0x82)), None, &flat),
        [1, 2]
    );
    let cluster = 0x0FFF_FFFF;
    let clusters = [
        with(0x11, cluster),
        with(0x12, cluster),
        with(0x22, cluster),
    ];
    assert_eq!(
        targets(fixed(Destination::Logical(0x13)), None, &clusters),
        [0, 1]
    );
    assert_eq!(
        targets(fixed(Destination::Logical(0x22)), None, &clusters),
        [2]
    );
}

#[test]
fn who_takes_what() {
    let inboxes = [
        Inbox::new(raw(0).address()),
        Inbox::new(enabled(1).address()),
    ];
    assert_eq!(targets(fixed(Destination::All), None, &inboxes), [1]);
    let nmi = Message {
        mode: DeliveryMode::Nmi,
        ..fixed(Destination::All)
    };
    assert_eq!(
        targets(nmi, None, &inboxes),
        [0],
        "1 has been kicked already"
    );
    let mut off = raw(2);
    let _ = off.set_base(0xFEE0_0000).unwrap();
    inboxes[0].publish(off.address());
    let init = Message {
        mode: DeliveryMode::Init,
        ..nmi
    };
    assert!(raw(0).drain(&inboxes[0]).nmi);
    assert_eq!(targets(init, None, &inboxes), []);
    let signals = enabled(1).drain(&inboxes[1]);
    assert!(signals.init && signals.nmi && signals.startup.is_none());
}

#[test]
fn lowest_priority_goes_to_one() {
    let inboxes: alloc::vec::Vec<_> = (0..3).map(|id| Inbox::new(enabled(id).address())).collect();
    for vector in 0x30..0x36 {
        let message = Message {
            mode: DeliveryMode::LowestPriority,
            vector,
            ..fixed(Destination::All)
        };
        assert_eq!(targets(message, None, &inboxes), [vector as usize % 3]);
        inboxes.iter().for_each(|inbox| {
            enabled(0).drain(inbox);
        });
    }
}

#[test]
fn inbox_carries_everything() {
    let mut apic = enabled(0);
    let inbox = Inbox::new(apic.address());
    assert!(apic.drain(&inbox).is_empty());
    assert!(inbox.post_vector(0x40, Trigger::Level));
    assert!(!inbox.post_vector(0xEC, Trigger::Edge), "already kicked");
    assert!(apic.drain(&inbox).is_empty());
    assert!(inbox.is_empty());
    assert_eq!(apic.acknowledge(), Some(0xEC));
    assert_eq!(apic.end_of_interrupt(), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0x40));
    assert_eq!(apic.end_of_interrupt(), Effect::Eoi(0x40));

    assert!(inbox.post_startup(0x99));
    assert!(!inbox.post_startup(0x11));
    assert_eq!(
        apic.drain(&inbox).startup,
        Some(0x99),
        "the first one stays"
    );
    inbox.post_startup(0x99);
    inbox.post_init();
    let signals = apic.drain(&inbox);
    assert_eq!((signals.init, signals.startup), (true, None));
    inbox.post_init();
    inbox.post_startup(0);
    let signals = apic.drain(&inbox);
    assert_eq!((signals.init, signals.startup), (true, Some(0)));
}

#[test]
fn no_vector_is_lost_between_threads() {
    extern crate std;
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    const ROUNDS: u32 = 5000;
    let mut apic = enabled(0);
    let inbox = Inbox::new(apic.address());
    let taken = [const { AtomicU32::new(0) }; 2];
    let give_up = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        for (sender, taken) in taken.iter().enumerate() {
            let inbox = &inbox;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    inbox.post_vector(0x40 + sender as u8, Trigger::Edge);
                    while taken.load(Ordering::Acquire) == round && Instant::now() < give_up {
                        std::thread::yield_now();
                    }
                }
            });
        }
        while taken.iter().any(|t| t.load(Ordering::Relaxed) < ROUNDS) {
            apic.drain(&inbox);
            while let Some(vector) = apic.acknowledge() {
                let _ = apic.end_of_interrupt();
                taken[usize::from(vector - 0x40)].fetch_add(1, Ordering::Release);
            }
            assert!(Instant::now() < give_up, "a posted vector never arrived");
            std::thread::yield_now();
        }
    });
    assert!(inbox.is_empty());
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

    /// Reading the count is consistent with the deadline at any rate and divider.
    #[test]
    fn counts_end_at_the_deadline(
        tsc_hz in 1_000_000u64..5_000_000_000, apic_hz in 1_000_000u64..2_000_000_000,
        divide in 0u32..16, initial in 1u32.., start in 0u64..1 << 60, part in 0u64..=1000,
    ) {
        let mut apic = LocalApic::new(0, true, TimerClock::new(tsc_hz, apic_hz).unwrap());
        let _ = write(&mut apic, SVR, 0x1FF);
        let _ = write(&mut apic, LVT_TIMER, 0x40);
        let _ = write(&mut apic, DIVIDE, divide);
        let _ = apic.write_page(INITIAL, 4, initial, start);
        let end = apic.next_deadline_tsc().unwrap();
        prop_assert!(end > start);
        prop_assert_eq!(apic.read_page(CURRENT, 4, start), initial);
        prop_assert_eq!(apic.read_page(CURRENT, 4, end), 0);
        prop_assert!(apic.read_page(CURRENT, 4, end - 1) > 0);
        let middle = start + ((end - start) as u128 * part as u128 / 1000) as u64;
        let count = apic.read_page(CURRENT, 4, middle);
        let exact = initial as f64 * (1.0 - part as f64 / 1000.0);
        // One TSC tick may be several of the timer.
        let grain = 2.0 + 2.0 * apic_hz as f64 / tsc_hz as f64 + exact * 1e-9;
        prop_assert!((count as f64 - exact).abs() <= grain, "{} {}", count, exact);
        prop_assert!(!apic.clone().expire(end - 1));
        prop_assert!(apic.expire(end));
    }
}
