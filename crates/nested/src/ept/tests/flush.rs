//! What flushes remove, and what they leave.

use addr::{Gpa1, Gpa2};
use vmx::ept::{Access, Level, PageSize};

use super::super::Gpa2Range;
use super::machine::{G1, L1, M2, Machine, Outcome};

/// A machine whose L1 maps 16 pages of 4 KiB at 0, at 2 MiB and at 1 GiB, and
/// one 2 MiB page at 512 GiB; L2 on VP 0 has touched them all.
fn machine(vps: usize) -> (Machine, Gpa1) {
    let mut machine = Machine::new(64, 8, vps);
    let root = machine.l1.new_table();
    for at in pages() {
        let to = Gpa1::new(G1 + (at & (G1 - 1)));
        machine
            .l1
            .map(root, Gpa2::new(at), to, PageSize::Size4K, Access::RWX);
    }
    machine.l1.map(
        root,
        Gpa2::new(512 * G1),
        Gpa1::new(2 * G1),
        PageSize::Size2M,
        Access::RWX,
    );
    machine.enter(0, root);
    for at in pages().chain([512 * G1]) {
        let outcome = machine.touch(0, Gpa2::new(at), Access::READ);
        assert!(matches!(outcome, Outcome::Reached(_)));
    }
    (machine, root)
}

fn pages() -> impl Iterator<Item = u64> {
    [0, M2, G1]
        .into_iter()
        .flat_map(|base| (0..16).map(move |n| base + n * 0x1000))
}

fn present(machine: &Machine) -> alloc::vec::Vec<u64> {
    pages()
        .chain([512 * G1])
        .filter(|&at| machine.shadow(0, Gpa2::new(at)).is_some())
        .collect()
}

#[test]
fn a_range_takes_its_pages_and_leaves_the_others() {
    let (mut machine, root) = machine(1);
    let before = machine.set.generation(root).unwrap();
    let range = Gpa2Range::pages(Gpa2::new(0x4000), 3);
    let retired = machine.set.flush_ranges(root, [range]);
    assert_eq!((retired.dropped(), retired.frames()), (3, 0));
    assert!(retired.needs_shootdown());
    machine.complete(retired);
    assert_eq!(machine.set.generation(root), Some(before + 1));
    let left = present(&machine);
    assert_eq!(left.len(), 49 - 3);
    assert!(!left.iter().any(|at| (0x4000..0x7000).contains(at)));
}

#[test]
fn several_ranges_are_one_flush() {
    let (mut machine, root) = machine(1);
    let before = machine.set.generation(root).unwrap();
    let ranges = [
        Gpa2Range::pages(Gpa2::new(0x1000), 1),
        Gpa2Range::pages(Gpa2::new(M2 + 0x2000), 2),
        Gpa2Range::new(Gpa2::new(512 * G1 + 0x5000), 1),
    ];
    let retired = machine.set.flush_ranges(root, ranges);
    assert_eq!(retired.dropped(), 4, "the large page goes as a whole");
    machine.complete(retired);
    assert_eq!(machine.set.generation(root), Some(before + 1));
    assert_eq!(present(&machine).len(), 49 - 4);
}

#[test]
fn a_range_over_whole_tables_retires_them() {
    let (mut machine, root) = machine(1);
    let used = machine.frames.used();
    let retired = machine
        .set
        .flush_ranges(root, [Gpa2Range::new(Gpa2::new(0), G1)]);
    // A page directory with the page tables of 0 and of 2 MiB.
    assert_eq!((retired.dropped(), retired.frames()), (1, 3));
    assert_eq!(machine.frames.used(), used, "kept until the shoot-down");
    machine.complete(retired);
    assert_eq!(machine.frames.used(), used - 3);
    assert_eq!(present(&machine).len(), 49 - 32);
}

#[test]
fn a_table_stays_for_a_single_page_outside_the_range() {
    let (mut machine, root) = machine(1);
    let all_but_first = Gpa2Range::new(Gpa2::new(0x1000), M2 - 0x1000);
    let retired = machine.set.flush_ranges(root, [all_but_first]);
    assert_eq!((retired.dropped(), retired.frames()), (15, 0));
    machine.complete(retired);
    let all_but_last = Gpa2Range::new(Gpa2::new(M2), 15 * 0x1000);
    let retired = machine.set.flush_ranges(root, [all_but_last]);
    assert_eq!((retired.dropped(), retired.frames()), (15, 0));
    machine.complete(retired);
    let left = present(&machine);
    assert_eq!(left[..3], [0, M2 + 0xf000, G1]);
    assert_eq!(left.len(), 49 - 30);
}

/// A root frame that served another EPT 12 before is a new address space, but
/// not to a processor that remembers the old one.
#[test]
fn a_reused_root_brings_no_memories() {
    let mut machine = Machine::new(4, 1, 1);
    let roots: [Gpa1; 2] = core::array::from_fn(|_| machine.l1.new_table());
    for (root, to) in roots.into_iter().zip([G1, 2 * G1]) {
        let to = Gpa1::new(to);
        machine
            .l1
            .map(root, Gpa2::new(0), to, PageSize::Size4K, Access::RWX);
    }
    let mut used = alloc::vec![];
    for round in 0..8 {
        let which = round % 2;
        machine.enter(0, roots[which]);
        let eptp = machine.vps[0].view.attachment().unwrap().eptp();
        used.push((eptp.root(), which));
        assert_eq!(
            machine.touch(0, Gpa2::new(0), Access::READ),
            Outcome::Reached(addr::Spa::new((66 + which as u64) * G1))
        );
    }
    let shared = |(root, which): &(u64, usize)| used.contains(&(*root, 1 - which));
    assert!(used.iter().any(shared), "the case at hand");
}

#[test]
fn an_unmapped_range_costs_no_shootdown() {
    let (mut machine, root) = machine(1);
    let before = machine.set.generation(root);
    let nothing = [
        Gpa2Range::new(Gpa2::new(2 * G1), 500 * G1),
        Gpa2Range::pages(Gpa2::new(0x10000), 400),
        Gpa2Range::pages(Gpa2::new(1 << 50), 1),
    ];
    let retired = machine.set.flush_ranges(root, nothing);
    assert_eq!((retired.dropped(), retired.frames()), (0, 0));
    assert!(!retired.needs_shootdown());
    machine.complete(retired);
    assert_eq!(machine.set.generation(root), before);
    let unknown = machine.flush_space(Gpa1::new(0xdead_b000));
    assert!(!unknown.needs_shootdown());
    machine.complete(unknown);
}

#[test]
fn one_space_is_flushed_by_its_root_page_alone() {
    let (mut machine, root) = machine(1);
    let other = machine.l1.new_table();
    machine.l1.map(
        other,
        Gpa2::new(0),
        Gpa1::new(G1),
        PageSize::Size4K,
        Access::RWX,
    );
    machine.enter(0, other);
    machine.touch(0, Gpa2::new(0), Access::READ);
    let generation = machine.set.generation(other);
    // L1 takes the whole space away.
    for index in 0..2 {
        machine.l1.write(Gpa1::new(root.raw() + 8 * index), 0);
    }
    // Attribute bits in the operand do not matter.
    let retired = machine.flush_space(Gpa1::new(root.raw() | 0x5e));
    assert!(retired.dropped() > 0);
    assert!(!retired.needs_shootdown(), "nobody runs on it");
    machine.complete(retired);
    assert!(machine.shadow(0, Gpa2::new(0)).is_some());
    assert_eq!(machine.set.generation(other), generation);
    // The VP that comes back to it must forget all the same.
    let vp = &mut machine.vps[0].view;
    machine.set.attach(vp, 0, L1::eptp(root)).unwrap();
    let eptp = vp.attachment().unwrap().eptp();
    assert_eq!(vp.take_invalidation(), Some(eptp));
    assert_eq!(vp.take_invalidation(), None);
    assert_eq!(present(&machine).len(), 0);
}

#[test]
fn everything_goes_with_an_all_context_flush() {
    let (mut machine, root) = machine(2);
    let other = machine.l1.new_table();
    machine.l1.map(
        other,
        Gpa2::new(0),
        Gpa1::new(G1),
        PageSize::Size4K,
        Access::RWX,
    );
    machine.enter(1, other);
    machine.touch(1, Gpa2::new(0), Access::READ);
    let generations = |machine: &Machine| [root, other].map(|r| machine.set.generation(r));
    let before = generations(&machine);
    let retired = machine.set.flush_all();
    machine.complete(retired);
    assert_eq!(machine.vps[0].shot + machine.vps[1].shot, 2);
    assert_eq!(generations(&machine), before.map(|g| g.map(|g| g + 1)));
    assert_eq!(machine.frames.used(), 2, "the roots");
    assert_eq!(present(&machine).len(), 0);
}

#[test]
fn only_vps_on_the_shadow_are_shot() {
    let (mut machine, root) = machine(3);
    let other = machine.l1.new_table();
    machine.enter(1, root);
    machine.enter(2, other);
    let slot = machine.l1.entry(root, Gpa2::new(0x3000), Level::Pt);
    machine.l1.write(slot, 0);
    let retired = machine.flush_space(root);
    machine.complete(retired);
    let shot: alloc::vec::Vec<_> = machine.vps.iter().map(|vp| vp.shot).collect();
    assert_eq!(shot, [1, 1, 0]);
}

/// L1 replaces a large page by small ones; L2 faults one of these in, which
/// removes the large page from the tables but not from the processors. The
/// flush of another part of it then finds nothing, and must reach them still.
#[test]
fn a_replaced_page_is_flushed_though_the_tables_forgot_it() {
    let (mut machine, root) = machine(2);
    let at = |offset| Gpa2::new(512 * G1 + offset);
    machine.enter(1, root);
    let stale = machine.touch(1, at(0x9000), Access::WRITE);
    machine.l1.map(
        root,
        at(0x1000),
        Gpa1::new(2 * G1 + 0x1000),
        PageSize::Size4K,
        Access::RWX,
    );
    machine.l1.map(
        root,
        at(0x9000),
        Gpa1::new(2 * G1 + 0x1000),
        PageSize::Size4K,
        Access::READ,
    );
    // As after a violation that the large page did not cover.
    machine.vps[0].in_l2 = false;
    let on = machine.vps[0].view.attachment().unwrap();
    let _ = machine.set.fill(on, &machine.l1, at(0x1000), Access::WRITE);
    assert_eq!(machine.touch(1, at(0x9000), Access::WRITE), stale);
    let retired = machine
        .set
        .flush_ranges(root, [Gpa2Range::pages(at(0x9000), 1)]);
    assert_eq!(retired.dropped(), 0);
    assert!(retired.needs_shootdown());
    machine.complete(retired);
    assert!(matches!(
        machine.touch(1, at(0x9000), Access::WRITE),
        Outcome::Stopped(_)
    ));
}
