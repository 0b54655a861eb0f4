//! Memory stays within the pool, whatever L1 does.

use addr::{Gpa1, Gpa2};
use vmx::ept::{Access, PageSize};

use super::super::MIN_FRAMES;
use super::machine::{G1, M2, Machine, Outcome};

/// L1 maps one page at each of `count` addresses that share no table of EPT 02
/// below the PML4.
fn scatter(machine: &mut Machine, root: Gpa1, count: u64) {
    for n in 0..count {
        machine.l1.map(
            root,
            Gpa2::new(n * 512 * G1),
            Gpa1::new(G1 + n * 0x1000),
            PageSize::Size4K,
            Access::RWX,
        );
    }
}

fn reach(machine: &mut Machine, vp: usize, at: u64) {
    let outcome = machine.touch(vp, Gpa2::new(at), Access::WRITE);
    assert!(matches!(outcome, Outcome::Reached(_)), "{outcome:?}");
}

#[test]
fn endless_roots_share_few_slots() {
    let mut machine = Machine::new(24, 4, 1);
    let tables = machine.l1.new_table();
    scatter(&mut machine, tables, 1);
    let entry = crate::ept::L1Space::read_u64(&machine.l1, tables).unwrap();
    for _ in 0..2000 {
        // Another root over the same tables.
        let root = machine.l1.new_table();
        machine.l1.write(root, entry);
        machine.enter(0, root);
        reach(&mut machine, 0, 0);
        assert!(machine.frames.used() <= 4 * 4);
    }
    let statistics = machine.set.statistics();
    assert_eq!(statistics.created, 2000);
    assert_eq!(statistics.evicted, 1996);
    assert_eq!(statistics.reclaimed, 0);
}

#[test]
fn one_shadow_larger_than_the_pool_empties_itself() {
    let mut machine = Machine::new(10, 4, 1);
    let root = machine.l1.new_table();
    scatter(&mut machine, root, 20);
    machine.enter(0, root);
    for round in 0..3 {
        for n in 0..20 {
            reach(&mut machine, 0, n * 512 * G1);
            let _ = round;
        }
    }
    assert!(machine.set.statistics().reclaimed > 10);
}

#[test]
fn idle_shadows_go_before_those_in_use() {
    let mut machine = Machine::new(16, 8, 2);
    let roots: [Gpa1; 4] = core::array::from_fn(|_| machine.l1.new_table());
    for root in roots {
        scatter(&mut machine, root, 4);
    }
    // Two shadows with four frames each, left idle, the first used last.
    for root in [roots[0], roots[1], roots[0]] {
        machine.enter(0, root);
        reach(&mut machine, 0, 0);
    }
    machine.enter(0, roots[2]);
    machine.enter(1, roots[3]);
    reach(&mut machine, 0, 0);
    assert!(machine.set.generation(roots[1]).is_some());
    reach(&mut machine, 1, 0);
    // 16 frames are in use. The next three come from the older idle shadow,
    reach(&mut machine, 1, 512 * G1);
    assert_eq!(machine.set.generation(roots[1]), None);
    assert!(machine.set.generation(roots[0]).is_some());
    // then from the other, and only then from the VPs'.
    reach(&mut machine, 1, 2 * 512 * G1);
    assert_eq!(machine.set.generation(roots[0]), None);
    assert_eq!(machine.set.statistics().reclaimed, 0);
    reach(&mut machine, 1, 3 * 512 * G1);
    assert_eq!(machine.set.statistics().reclaimed, 1);
    // VP 0 was the one to lose: VP 1 has all four pages.
    for n in 0..4 {
        let at = Gpa2::new(n * 512 * G1);
        assert!(machine.shadow(1, at).is_some());
        assert!(machine.shadow(0, at).is_none());
    }
    reach(&mut machine, 0, 0);
}

#[test]
fn a_vp_is_given_a_root_at_the_cost_of_others() {
    let mut machine = Machine::new(5, 4, 2);
    let [first, second] = core::array::from_fn(|_| machine.l1.new_table());
    scatter(&mut machine, first, 1);
    machine.enter(0, first);
    reach(&mut machine, 0, 0);
    reach(&mut machine, 0, 0);
    machine.enter(1, second);
    assert_eq!(machine.set.statistics().reclaimed, 0);
    // All five frames are taken; a third root for VP 1 replaces its second.
    let third = machine.l1.new_table();
    machine.enter(1, third);
    assert_eq!(machine.set.generation(second), None);
    assert_eq!(machine.set.statistics().evicted, 1);
}

/// The worst single instruction the constant accounts for.
#[test]
fn the_minimum_suffices_for_one_instruction() {
    let mut machine = Machine::new(MIN_FRAMES, 2, 1);
    let root = machine.l1.new_table();
    let count = 50;
    scatter(&mut machine, root, count);
    machine.enter(0, root);
    for n in 0..count {
        reach(&mut machine, 0, n * 512 * G1);
    }
    assert_eq!(machine.set.statistics().reclaimed, 0);
    for n in 0..count {
        assert!(machine.shadow(0, Gpa2::new(n * 512 * G1)).is_some());
    }
}

#[test]
fn all_frames_come_back() {
    let mut machine = Machine::new(64, 8, 2);
    for n in 0..6 {
        let root = machine.l1.new_table();
        scatter(&mut machine, root, 3);
        let large = Gpa2::new(3 * 512 * G1 + M2);
        let to = Gpa1::new(G1);
        machine
            .l1
            .map(root, large, to, PageSize::Size2M, Access::RWX);
        machine.enter(n % 2, root);
        reach(&mut machine, n % 2, 512 * G1);
        reach(&mut machine, n % 2, large.raw());
    }
    let roots = 6;
    assert_eq!(machine.frames.used(), roots + roots * (3 + 2));
    let retired = machine.set.flush_all();
    assert_eq!(retired.frames(), roots * (3 + 2));
    machine.complete(retired);
    assert_eq!(machine.frames.used(), roots);
}
