//! The usual form against the decoder.

use super::*;
use crate::partition::MAX_VPS;
use proptest::prelude::*;
use std::vec::Vec;

fn control() -> impl Strategy<Value = u64> {
    let code = prop::sample::select(&[2u64, 3, 2, 3, 0x13, 0x14, 1, 0][..]);
    let count = prop_oneof![Just(0u64), 0u64..3, 500u64..520, 0u64..4096];
    let start = prop_oneof![Just(0u64), 0u64..3, 0u64..4096];
    let bit = prop_oneof![8 => Just(0u64), 1 => (0u32..64).prop_map(|bit| 1 << bit)];
    (code, count, start, bit)
        .prop_map(|(code, count, start, bit)| (code | count << 32 | start << 48) ^ bit)
}

proptest! {
    #[test]
    fn it_is_what_the_decoder_finds(
        control in control(),
        at in prop_oneof![Just(AT), Just(AT + 0xFE8), 0u64..0x1800, any::<u64>()],
        flags in prop_oneof![4 => 0u64..16, 1 => any::<u64>()],
        mask in prop_oneof![Just(0u64), any::<u64>(), (0u32..64).prop_map(|bit| 1 << bit)],
        seed in any::<u64>(),
    ) {
        let ram = Ram::new(0x3000);
        let header = [seed, flags, mask];
        let place = at & !7;
        if place < 0x2000 {
            ram.put(place, &header);
        }
        let decoded = call(control, at, seed, &ram);
        let Some(flush) = UsualFlush::<Gpa1>::of(control, at) else {
            return Ok(());
        };
        prop_assert_eq!(flush.input(), Gpa1::new(at));
        let mut words = [0; 3];
        if ram.read_words(flush.input(), &mut words).is_err() {
            return Ok(());
        }
        prop_assert_eq!(words, header);
        match (flush.targets(words), decoded) {
            (Some(targets), Outcome::Perform(Request::FlushVirtual(request), reply)) => {
                prop_assert_eq!(flush.success(), reply.success().into_bits());
                for vp in (0..MAX_VPS + 2).chain([4095, u32::MAX]) {
                    prop_assert_eq!(targets.contains(vp), request.targets.contains(vp), "{}", vp);
                }
            }
            (None, Outcome::Done(_)) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn the_usual_is_found() {
    let found: Vec<bool> = [
        (2u64, AT),
        (3 | 1 << 32, AT),
        (3 | 509 << 32 | 508 << 48, AT),
        (3 | 510 << 32, AT),
        (3, AT),
        (2 | 1 << 16, AT),
        (2, AT + 4),
        (2, AT + 0xFE8),
        (2, AT + 0xFF0),
        (0x13, AT),
    ]
    .iter()
    .map(|&(control, at)| UsualFlush::<Gpa1>::of(control, at).is_some())
    .collect();
    let expected = [
        true, true, true, false, false, false, false, true, false, false,
    ];
    assert_eq!(found, expected);
}
