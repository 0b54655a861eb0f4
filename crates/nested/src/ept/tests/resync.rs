//! A flush of a space compares what the shadow has with EPT 12.

use addr::{Gpa1, Gpa2, Spa};
use vmx::ept::{Access, EptEntry, Level, PageSize};

use super::super::leaves::CAPACITY;
use super::super::{Fill, Gpa2Range, L1Space};
use super::machine::{G1, HardwareLeaf, M2, Machine, Outcome};

const PAGES: u64 = 8;

/// Two VPs on a space whose first pages L1 maps and VP 0 has touched.
fn machine() -> (Machine, Gpa1) {
    let mut machine = Machine::new(64, 4, 2);
    let root = machine.l1.new_table();
    for page in 0..PAGES {
        map(&mut machine, root, page, Access::RWX);
    }
    machine.enter(0, root);
    machine.enter(1, root);
    for page in 0..PAGES {
        let outcome = machine.touch(0, at(page), Access::WRITE);
        assert_eq!(outcome, Outcome::Reached(backing(page)));
    }
    (machine, root)
}

fn at(page: u64) -> Gpa2 {
    Gpa2::new(page << 12)
}

fn backing(page: u64) -> Spa {
    Spa::new(66 * G1 + (page << 12))
}

fn map(machine: &mut Machine, root: Gpa1, page: u64, access: Access) {
    let to = Gpa1::new(G1 + (page << 12));
    machine.l1.map(root, at(page), to, PageSize::Size4K, access);
}

fn unmap(machine: &mut Machine, root: Gpa1, page: u64) {
    let slot = machine.l1.entry(root, at(page), Level::Pt);
    machine.l1.write(slot, 0);
}

/// Flushes the space; how many entries were taken away or made less, and how
/// many VPs had to leave L2.
fn flush(machine: &mut Machine, root: Gpa1) -> (u64, u64) {
    for vp in 0..2 {
        machine.resume(vp);
    }
    let before: u64 = machine.vps.iter().map(|vp| vp.shot).sum();
    let retired = machine.flush_space(root);
    let dropped = retired.dropped();
    machine.complete(retired);
    let after: u64 = machine.vps.iter().map(|vp| vp.shot).sum();
    (dropped, after - before)
}

fn present(machine: &Machine) -> alloc::vec::Vec<u64> {
    (0..PAGES)
        .filter(|&page| machine.shadow(0, at(page)).is_some())
        .collect()
}

#[test]
fn what_agrees_stays_and_disturbs_nobody() {
    let (mut machine, root) = machine();
    let generation = machine.set.generation(root);
    let fills = machine.set.statistics().fills;
    assert_eq!(flush(&mut machine, root), (0, 0));
    assert_eq!(machine.set.generation(root), generation);
    for page in 0..PAGES {
        machine.touch(1, at(page), Access::WRITE);
    }
    assert_eq!(machine.set.statistics().fills, fills);
}

#[test]
fn a_page_taken_away_goes_alone() {
    let (mut machine, root) = machine();
    unmap(&mut machine, root, 3);
    let used = machine.frames.used();
    assert_eq!(flush(&mut machine, root), (1, 2));
    assert_eq!(present(&machine), [0, 1, 2, 4, 5, 6, 7]);
    assert_eq!(machine.frames.used(), used);
    for vp in 0..2 {
        let outcome = machine.touch(vp, at(3), Access::READ);
        assert!(matches!(outcome, Outcome::Stopped(Fill::Violation(_))));
    }
    map(&mut machine, root, 3, Access::RWX);
    assert_eq!(
        machine.touch(1, at(3), Access::READ),
        Outcome::Reached(backing(3))
    );
    assert_eq!(flush(&mut machine, root), (0, 0));
}

#[test]
fn fewer_rights_take_effect_and_more_need_nobody() {
    let (mut machine, root) = machine();
    map(&mut machine, root, 2, Access::READ);
    assert_eq!(flush(&mut machine, root), (1, 2));
    assert_eq!(machine.shadow(1, at(2)).unwrap().access, Access::READ);
    let outcome = machine.touch(0, at(2), Access::WRITE);
    assert!(matches!(outcome, Outcome::Stopped(Fill::Violation(_))));
    map(&mut machine, root, 2, Access::RW);
    assert_eq!(flush(&mut machine, root), (0, 0));
    assert_eq!(machine.shadow(1, at(2)).unwrap().access, Access::RW);
}

#[test]
fn another_target_takes_the_place() {
    let (mut machine, root) = machine();
    let to = Gpa1::new(2 * G1);
    machine
        .l1
        .map(root, at(5), to, PageSize::Size4K, Access::RWX);
    assert_eq!(flush(&mut machine, root), (1, 2));
    assert_eq!(
        machine.touch(0, at(5), Access::WRITE),
        Outcome::Reached(Spa::new(67 * G1))
    );
}

/// The tables above the leaves count as much as the leaves.
#[test]
fn every_level_is_looked_at() {
    for level in [Level::Pd, Level::Pdpt, Level::Pml4] {
        let (mut machine, root) = machine();
        let slot = machine.l1.entry(root, at(0), level);
        let word = machine.l1.read_u64(slot).unwrap();
        let change = |machine: &mut Machine, word| {
            machine.l1.write(slot, word);
            flush(machine, root)
        };
        // Rights that the reference takes from all below.
        let read_only = word & !7 | 1;
        assert_eq!(change(&mut machine, read_only), (PAGES, 2));
        for page in 0..PAGES {
            let leaf = machine.shadow(0, at(page)).unwrap();
            assert_eq!(leaf.access, Access::READ);
        }
        // A misconfiguration.
        assert!(change(&mut machine, word | 0x40).0 >= PAGES);
        assert_eq!(present(&machine), []);
        // An empty shadow needs no tables.
        assert_eq!(machine.frames.used(), 1, "the root");
        assert_eq!(change(&mut machine, 0), (0, 0));
    }
}

/// A table that takes the place of another may hold other pages.
#[test]
fn another_table_is_followed() {
    let (mut machine, root) = machine();
    let table = machine.l1.new_table();
    let leaf = |page: u64, to: u64| {
        let leaf = EptEntry::leaf(
            to,
            PageSize::Size4K,
            Access::RWX,
            vmx::ept::MemoryType::WriteBack,
            true,
        );
        (Gpa1::new(table.raw() + 8 * page), leaf.raw())
    };
    for (slot, word) in [leaf(0, G1), leaf(1, 2 * G1)] {
        machine.l1.write(slot, word);
    }
    let slot = machine.l1.entry(root, at(0), Level::Pd);
    let reference = EptEntry::table(table.raw());
    machine.l1.write(slot, reference.raw());
    assert_eq!(flush(&mut machine, root), (PAGES - 1, 2));
    assert_eq!(present(&machine), [0, 1]);
    let moved = machine.shadow(0, at(1)).map(|leaf| leaf.address);
    assert_eq!(moved, Some(Spa::new(67 * G1)));
}

#[test]
fn small_pages_give_way_to_a_large_one() {
    let (mut machine, root) = machine();
    let far = Gpa2::new(G1);
    let to = Gpa1::new(2 * G1);
    machine.l1.map(root, far, to, PageSize::Size4K, Access::RW);
    machine.touch(0, far, Access::READ);
    let to = Gpa1::new(G1);
    machine
        .l1
        .map(root, at(0), to, PageSize::Size2M, Access::RWX);
    let used = machine.frames.used();
    assert_eq!(flush(&mut machine, root), (1, 2));
    assert_eq!(machine.frames.used(), used - 1, "the page table");
    assert_eq!(present(&machine), []);
    assert!(machine.shadow(0, far).is_some());
    machine.touch(0, at(1), Access::WRITE);
    let size = |machine: &Machine| machine.shadow(0, at(7)).map(|leaf| leaf.size);
    assert_eq!(size(&machine), Some(PageSize::Size2M));
    assert_eq!(flush(&mut machine, root), (0, 0));
    assert_eq!(size(&machine), Some(PageSize::Size2M));
    // And back: the large page agrees with no part of a table.
    map(&mut machine, root, 1, Access::RWX);
    assert_eq!(flush(&mut machine, root), (1, 2));
    assert_eq!(machine.shadow(0, at(1)), None);
}

/// As for ranges: processors may hold what the tables have forgotten.
#[test]
fn a_page_replaced_before_is_flushed_though_all_agrees() {
    let (mut machine, root) = machine();
    assert_eq!(
        machine.touch(1, at(4), Access::WRITE),
        Outcome::Reached(backing(4))
    );
    let to = Gpa1::new(2 * G1);
    machine
        .l1
        .map(root, at(4), to, PageSize::Size4K, Access::RWX);
    machine.vps[0].in_l2 = false;
    let on = machine.vps[0].view.attachment().unwrap();
    let fill = machine.set.fill(on, &machine.l1, at(4), Access::WRITE);
    assert_eq!(fill, Fill::Filled(PageSize::Size4K));
    assert_eq!(
        machine.touch(1, at(4), Access::WRITE),
        Outcome::Reached(backing(4)),
        "its processor remembers"
    );
    assert_eq!(flush(&mut machine, root), (0, 2));
    assert_eq!(
        machine.touch(1, at(4), Access::WRITE),
        Outcome::Reached(Spa::new(67 * G1))
    );
    assert_eq!(flush(&mut machine, root), (0, 0));
}

/// What the list says of a leaf's origin is not believed once the leaf was
/// filled anew.
#[test]
fn a_page_that_came_back_is_compared_with_the_leaf_as_it_is() {
    let (mut machine, root) = machine();
    let to = |machine: &mut Machine, to| {
        let to = Gpa1::new(to);
        machine
            .l1
            .map(root, at(4), to, PageSize::Size4K, Access::RWX);
    };
    to(&mut machine, 2 * G1);
    let on = machine.vps[0].view.attachment().unwrap();
    let fill = machine.set.fill(on, &machine.l1, at(4), Access::WRITE);
    assert_eq!(fill, Fill::Filled(PageSize::Size4K));
    to(&mut machine, G1 + 0x4000);
    assert_eq!(flush(&mut machine, root), (1, 2));
    for vp in 0..2 {
        assert_eq!(
            machine.touch(vp, at(4), Access::WRITE),
            Outcome::Reached(backing(4))
        );
    }
}

/// More leaves than are listed: everything goes, and then the list is whole
/// again.
#[test]
fn a_large_shadow_is_dropped() {
    let (mut machine, root) = machine();
    let touch = |machine: &mut Machine, page| {
        map(machine, root, page, Access::RWX);
        machine.touch(0, at(page), Access::READ);
    };
    for page in PAGES..CAPACITY as u64 {
        touch(&mut machine, page);
    }
    assert_eq!(flush(&mut machine, root), (0, 0));
    touch(&mut machine, CAPACITY as u64);
    unmap(&mut machine, root, CAPACITY as u64);
    assert_eq!(flush(&mut machine, root), (1, 2));
    assert_eq!(present(&machine), []);
    assert_eq!(machine.shadow(0, at(CAPACITY as u64)), None);
    assert_eq!(machine.frames.used(), 1, "the root");
    touch(&mut machine, 0);
    assert_eq!(flush(&mut machine, root), (0, 0));
    assert_eq!(present(&machine), [0]);
}

/// What is flushed by range or split leaves the list with the tables.
#[test]
fn the_list_follows_what_else_changes_the_shadow() {
    let (mut machine, root) = machine();
    let range = Gpa2Range::pages(at(2), 3);
    let retired = machine.set.flush_ranges(root, [range]);
    machine.complete(retired);
    assert_eq!(flush(&mut machine, root), (0, 0));
    assert_eq!(present(&machine), [0, 1, 5, 6, 7]);
    machine.touch(0, at(3), Access::READ);
    unmap(&mut machine, root, 3);
    assert_eq!(flush(&mut machine, root), (1, 2));
    let retired = machine
        .set
        .flush_ranges(root, [Gpa2Range::new(at(0), 2 * M2)]);
    machine.complete(retired);
    assert_eq!(machine.frames.used(), 3, "a page directory is left");
    assert_eq!(flush(&mut machine, root), (1, 2), "and goes");
    // A large page whose place a table takes, at the next violation.
    let to = Gpa1::new(G1);
    machine
        .l1
        .map(root, at(0), to, PageSize::Size2M, Access::READ);
    machine.touch(0, at(0), Access::READ);
    map(&mut machine, root, 1, Access::RWX);
    machine.touch(0, at(1), Access::WRITE);
    assert_eq!(present(&machine), [1]);
    assert_eq!(flush(&mut machine, root), (0, 2));
    let leaf = HardwareLeaf {
        address: backing(1),
        size: PageSize::Size4K,
        access: Access::RWX,
    };
    assert_eq!(machine.shadow(0, at(1)), Some(leaf));
}

/// The violation that L1 was told of, from one entry to the next.
#[test]
fn a_reflected_violation_is_remembered_once() {
    let (mut machine, root) = machine();
    let view = &mut machine.vps[0].view;
    assert_eq!(view.take_reflected(), None);
    view.note_reflected(at(1), Access::READ);
    view.note_reflected(at(2), Access::WRITE);
    assert_eq!(view.take_reflected(), Some((at(2), Access::WRITE)));
    assert_eq!(view.take_reflected(), None);
    view.note_reflected(at(2), Access::WRITE);
    let other = machine.l1.new_table();
    machine.enter(0, root);
    machine.enter(0, other);
    assert_eq!(machine.vps[0].view.take_reflected(), None);
}
