//! The shadow against a reference, over random histories of an L1.
//!
//! L1 changes its tables as it likes, flushes what it likes, and L2 touches
//! memory on two VPs whose processors remember translations until INVEPT.
//! For every address the test keeps what EPT 12 said at some time since that
//! address was last flushed. An access may use any of these, and nothing else.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use addr::{Gpa1, Gpa2, Spa};
use proptest::prelude::*;
use vmx::ept::{Access, EptEntry, Level, PageSize};

use super::super::{Fill, Gpa2Range};
use super::machine::{G1, L1, M2, Machine, Outcome};

/// What EPT 12 with the memory map says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Memory(Spa, Access),
    NoMemory,
    Absent,
    Misconfigured,
}

/// The reference, on raw words and by the manual's tables: nothing here is
/// shared with the code under test but the access to L1's memory.
fn reference(l1: &L1, root: Gpa1, at: u64) -> Answer {
    let read = |at| crate::ept::L1Space::read_u64(l1, Gpa1::new(at)).unwrap_or(!0);
    let mut rights = 7;
    let mut table = root.raw();
    for shift in [39, 30, 21, 12] {
        let word = read(table + (at >> shift & 511) * 8);
        if word & 7 == 0 {
            return Answer::Absent;
        }
        let leaf = shift == 12 || shift != 39 && word & 0x80 != 0;
        let address = word & 0xf_ffff_ffff_f000;
        let low = (1 << shift) - 1;
        let wrong = word & 3 == 2
            || word & 0xf_c000_0000_0000 != 0
            || (leaf && (matches!(word >> 3 & 7, 2 | 3 | 7) || address & low != 0))
            || (!leaf && word & 0x78 != 0)
            || (shift == 39 && word & 0x80 != 0);
        if wrong {
            return Answer::Misconfigured;
        }
        rights &= word & 7;
        if leaf {
            let target = address | at & low;
            let memory = |r: &super::super::Region| {
                let inside = (r.start.raw()..r.start.raw() + r.bytes).contains(&target);
                inside.then(|| (r.backing.raw() + target - r.start.raw(), r.access))
            };
            return match l1.regions.iter().find_map(memory) {
                Some((to, access)) => {
                    let rights = rights & u64::from(access.bits());
                    Answer::Memory(Spa::new(to), Access::from_bits_truncate(rights as u8))
                }
                None => Answer::NoMemory,
            };
        }
        table = address;
    }
    unreachable!("the last level always ends the walk")
}

/// The addresses watched: around table and page edges, far apart and close.
const WATCHED: [u64; 14] = [
    0,
    0x1000,
    0x1f_f000,
    M2,
    M2 + 0x3000,
    2 * M2,
    G1 - 0x1000,
    G1,
    G1 + M2,
    2 * G1 + 0x5000,
    511 * G1,
    512 * G1,
    512 * G1 + M2 + 0x1000,
    (1 << 48) - 0x1000,
];

/// L1's addresses that pages are mapped to: memory of every kind, and none.
const TARGETS: [u64; 9] = [
    G1,
    G1 + M2,
    2 * G1,
    2 * G1 + 0x1000,
    4 * G1,
    4 * G1 + M2,
    5 * G1,
    6 * G1,
    8 * G1,
];

const SPACES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Map(usize, usize, usize, PageSize, u8),
    Entry(usize, usize, Level, u64),
    Rights(usize, usize, Level, u8),
    FlushSpace(usize),
    FlushAll,
    FlushRange(usize, usize, u64),
    Enter(usize, usize),
    Touch(usize, usize, Access),
}

fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(alloc::vec![Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4])
}

/// What L2 may ask for.
const EVERY: [Access; 4] = [Access::READ, Access::WRITE, Access::EXECUTE, Access::RW];

fn access() -> impl Strategy<Value = Access> {
    prop::sample::select(EVERY.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    let space = 0..SPACES;
    let at = 0..WATCHED.len();
    let size = prop::sample::select(PageSize::DESCENDING.to_vec());
    let rights = prop::sample::select(alloc::vec![7u8, 7, 7, 5, 3, 1, 4]);
    let bytes = prop::sample::select(alloc::vec![0x1000, 0x3000, M2, 3 * M2, G1, 600 * G1]);
    // Words that misconfigure, or take an entry away.
    let word = prop::sample::select(alloc::vec![
        0u64,
        0x8,
        0x2,
        0x6,
        1 << 47 | 7,
        0x3f,
        0x9f,
        !0
    ]);
    prop_oneof![
        6 => (space.clone(), at.clone(), 0..TARGETS.len(), size, rights.clone())
            .prop_map(|(s, a, t, z, r)| Step::Map(s, a, t, z, r)),
        1 => (space.clone(), at.clone(), level(), word)
            .prop_map(|(s, a, l, w)| Step::Entry(s, a, l, w)),
        2 => (space.clone(), at.clone(), level(), rights)
            .prop_map(|(s, a, l, r)| Step::Rights(s, a, l, r)),
        1 => space.clone().prop_map(Step::FlushSpace),
        1 => Just(Step::FlushAll),
        3 => (space.clone(), at.clone(), bytes)
            .prop_map(|(s, a, b)| Step::FlushRange(s, a, b)),
        2 => (0..2usize, space).prop_map(|(v, s)| Step::Enter(v, s)),
        20 => (0..2usize, at, access()).prop_map(|(v, a, x)| Step::Touch(v, a, x)),
    ]
}

struct Model {
    machine: Machine,
    roots: [Gpa1; SPACES],
    /// By space and address: the answers since the last flush.
    history: BTreeMap<(usize, u64), Vec<Answer>>,
    on: [usize; 2],
}

impl Model {
    fn new(frames: usize, slots: usize) -> Self {
        let mut machine = Machine::new(frames, slots, 2);
        let roots = core::array::from_fn(|_| machine.l1.new_table());
        machine.enter(0, roots[0]);
        machine.enter(1, roots[0]);
        let mut model = Self {
            machine,
            roots,
            history: BTreeMap::new(),
            on: [0, 0],
        };
        model.observe();
        model
    }

    fn now(&self, space: usize, at: u64) -> Answer {
        reference(&self.machine.l1, self.roots[space], at)
    }

    /// Records what EPT 12 says now.
    fn observe(&mut self) {
        for space in 0..SPACES {
            for at in WATCHED {
                let now = self.now(space, at);
                let answers = self.history.entry((space, at)).or_default();
                if answers.last() != Some(&now) {
                    answers.push(now);
                }
            }
        }
    }

    /// Records that a part of a space was flushed.
    fn flushed(&mut self, space: usize, range: Gpa2Range) {
        for at in WATCHED {
            if range.contains(Gpa2::new(at)) {
                let now = self.now(space, at);
                self.history.insert((space, at), alloc::vec![now]);
            }
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Map(space, at, to, size, rights) => {
                let to = Gpa1::new(TARGETS[to]);
                let access = Access::from_bits_truncate(rights);
                let at = Gpa2::new(WATCHED[at]);
                self.machine.l1.map(self.roots[space], at, to, size, access);
                self.observe();
            }
            Step::Entry(space, at, level, word) => {
                let at = Gpa2::new(WATCHED[at]);
                let slot = self.machine.l1.entry(self.roots[space], at, level);
                self.machine.l1.write(slot, word);
                self.observe();
            }
            Step::Rights(space, at, level, rights) => {
                let at = Gpa2::new(WATCHED[at]);
                let slot = self.machine.l1.entry(self.roots[space], at, level);
                let word = crate::ept::L1Space::read_u64(&self.machine.l1, slot).unwrap();
                if EptEntry::from_raw(word).is_present() {
                    self.machine.l1.write(slot, word & !7 | u64::from(rights));
                }
                self.observe();
            }
            Step::FlushSpace(space) => {
                let retired = self.machine.flush_space(self.roots[space]);
                self.machine.complete(retired);
                self.flushed(space, Gpa2Range::ALL);
                self.check_shadow(space);
            }
            Step::FlushAll => {
                let retired = self.machine.set.flush_all();
                self.machine.complete(retired);
                for space in 0..SPACES {
                    self.flushed(space, Gpa2Range::ALL);
                }
            }
            Step::FlushRange(space, at, bytes) => {
                let range = Gpa2Range::new(Gpa2::new(WATCHED[at]), bytes);
                let retired = self.machine.set.flush_ranges(self.roots[space], [range]);
                self.machine.complete(retired);
                self.flushed(space, range);
            }
            Step::Enter(vp, space) => {
                self.machine.enter(vp, self.roots[space]);
                self.on[vp] = space;
            }
            Step::Touch(vp, at, access) => self.touch(vp, WATCHED[at], access),
        }
    }

    /// After a flush, the whole shadow says what EPT 12 says, or nothing.
    fn check_shadow(&self, space: usize) {
        let Some(vp) = (0..2).find(|&vp| self.on[vp] == space) else {
            return;
        };
        for (at, leaf) in self.machine.leaves(vp) {
            let last = leaf.size.bytes() - 1;
            for offset in [0, last / 2 + 0x555, last] {
                let offset = offset & last;
                let now = self.now(space, at.raw() + offset);
                let Answer::Memory(to, rights) = now else {
                    panic!("{leaf:?} at {at:?}, EPT 12 says {now:?}");
                };
                assert_eq!(to.raw(), leaf.address.raw() + offset, "{at:?}");
                assert_eq!(leaf.access, rights.expressible(true), "{at:?}");
            }
        }
    }

    fn touch(&mut self, vp: usize, at: u64, access: Access) {
        let space = self.on[vp];
        let now = self.now(space, at);
        let outcome = self.machine.touch(vp, Gpa2::new(at), access);
        match outcome {
            Outcome::Reached(to) => {
                let history = &self.history[&(space, at)];
                let permits = |answer: &Answer| {
                    matches!(answer, Answer::Memory(a, rights)
                        if *a == to && rights.contains(access))
                };
                assert!(
                    history.iter().any(permits),
                    "{access:?} at {at:#x} reached {to:?}, EPT 12 said {history:?}"
                );
            }
            // What L1 is told comes from its tables as they are.
            Outcome::Stopped(Fill::Violation(violation)) => match now {
                Answer::Absent => assert!(violation.permitted.is_empty()),
                Answer::Memory(..) | Answer::NoMemory => {
                    assert!(!violation.permitted.contains(access));
                }
                Answer::Misconfigured => panic!("a violation for a misconfiguration"),
            },
            Outcome::Stopped(Fill::Misconfigured(_)) => assert_eq!(now, Answer::Misconfigured),
            Outcome::Stopped(Fill::NotBacked(_)) => assert_eq!(now, Answer::NoMemory),
            Outcome::Stopped(Fill::Protected(_)) => {
                assert!(matches!(now, Answer::Memory(_, rights) if !rights.contains(access)));
            }
            Outcome::Stopped(other) => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn nothing_flushed_is_ever_served(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new(200, 5);
        for step in steps {
            model.run(step);
        }
    }

    /// A flush that keeps what agrees is not to be told from one that drops
    /// everything.
    #[test]
    fn resynchronising_equals_dropping(steps in prop::collection::vec(step(), 1..100)) {
        let mut kept = Model::new(200, 5);
        let mut dropped = Model::new(200, 5);
        for step in steps {
            kept.run(step.clone());
            dropped.run(step);
        }
        for space in 0..SPACES {
            let retired = kept.machine.flush_space(kept.roots[space]);
            kept.machine.complete(retired);
            let root = dropped.roots[space];
            let retired = dropped.machine.set.flush_ranges(root, [Gpa2Range::ALL]);
            dropped.machine.complete(retired);
        }
        for vp in 0..2 {
            for (at, access) in WATCHED.into_iter().flat_map(|at| EVERY.map(|x| (at, x))) {
                let at = Gpa2::new(at);
                let want = dropped.machine.touch(vp, at, access);
                prop_assert_eq!(kept.machine.touch(vp, at, access), want);
            }
        }
    }

    /// The same with fewer places than address spaces.
    #[test]
    fn few_places_change_nothing(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new(200, 2);
        for step in steps {
            model.run(step);
        }
    }

    /// The same with so little memory that shadows are evicted and reclaimed
    /// all the time: it must change nothing but the cost.
    #[test]
    fn scarcity_changes_nothing(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new(7, 3);
        for step in steps {
            model.run(step);
            prop_assert!(model.machine.frames.used() <= 7);
        }
    }
}
