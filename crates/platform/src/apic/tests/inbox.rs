//! Messages between VPs: destinations, inboxes.

use super::*;
use crate::interrupt::{DeliveryMode, Destination};

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

    const ROUNDS: u32 = 1000;
    let mut apic = enabled(0);
    let inbox = Inbox::new(apic.address());
    let taken = [const { AtomicU32::new(0) }; 2];
    let give_up = Instant::now() + Duration::from_secs(120);
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
