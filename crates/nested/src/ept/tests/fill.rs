//! What a fill installs.

use addr::{Gpa1, Gpa2, Spa};
use vmx::ept::{Access, EptCapabilities, PageSize};

use super::super::{Fill, Policy};
use super::machine::{CAPABILITIES, G1, M2, Machine, Outcome, POLICY};

fn machine(policy: Policy) -> (Machine, Gpa1) {
    let mut machine = Machine::with_policy(64, 4, 1, policy);
    let root = machine.l1.new_table();
    machine.enter(0, root);
    (machine, root)
}

fn fill(machine: &mut Machine, at: u64, access: Access) -> Fill {
    let on = machine.vps[0].view.attachment().unwrap();
    machine.set.fill(on, &machine.l1, Gpa2::new(at), access)
}

/// (size of EPT 12's leaf, where it leads, size of the shadow's leaf).
#[test]
fn the_page_is_the_smaller_of_both_sides() {
    use PageSize::{Size1G, Size2M, Size4K};
    let without_1g = EptCapabilities {
        page_1g: false,
        ..CAPABILITIES
    };
    let without_large = EptCapabilities {
        page_2m: false,
        ..without_1g
    };
    let cases = [
        (CAPABILITIES, Size1G, G1, Size1G),
        (CAPABILITIES, Size2M, G1 + M2, Size2M),
        (CAPABILITIES, Size4K, G1, Size4K),
        (CAPABILITIES, Size2M, 4 * G1, Size2M),
        (CAPABILITIES, Size1G, 4 * G1, Size2M),
        (CAPABILITIES, Size2M, 5 * G1, Size4K),
        (CAPABILITIES, Size1G, 5 * G1, Size4K),
        (without_1g, Size1G, G1, Size2M),
        (without_large, Size1G, G1, Size4K),
    ];
    for (hardware, size12, to, want) in cases {
        let (mut machine, root) = machine(Policy { hardware, ..POLICY });
        let at = 2 * G1;
        machine
            .l1
            .map(root, Gpa2::new(at), Gpa1::new(to), size12, Access::RW);
        let case = alloc::format!("{size12:?} to {to:#x}");
        let offset = to & (size12.bytes() - 1);
        let touched = at + offset + 0x456;
        assert_eq!(
            fill(&mut machine, touched, Access::WRITE),
            Fill::Filled(want),
            "{case}"
        );
        let leaf = machine.shadow(0, Gpa2::new(touched)).unwrap();
        assert_eq!(leaf.size, want, "{case}");
        assert_eq!(leaf.access, Access::RW, "{case}");
        let byte = Gpa1::new((to & !(size12.bytes() - 1)) + offset + 0x456);
        let region = machine.l1.regions.iter().find_map(|r| r.translate(byte));
        assert_eq!(Some(leaf.address), region, "{case}");
    }
}

#[test]
fn an_address_without_memory_is_l0s_to_decide() {
    let (mut machine, root) = machine(POLICY);
    // A gigabyte of EPT 12 of which L1 has only 4 MiB of memory.
    machine.l1.map(
        root,
        Gpa2::new(0),
        Gpa1::new(4 * G1),
        PageSize::Size1G,
        Access::RWX,
    );
    assert_eq!(
        fill(&mut machine, 2 * M2 + 0x18, Access::READ),
        Fill::NotBacked(Gpa1::new(4 * G1 + 2 * M2 + 0x18))
    );
    assert_eq!(machine.shadow(0, Gpa2::new(2 * M2)), None);
    assert_eq!(
        fill(&mut machine, 2 * M2 - 1, Access::READ),
        Fill::Filled(PageSize::Size2M)
    );
}

#[test]
fn l0s_own_restriction_is_not_blamed_on_l1() {
    let (mut machine, root) = machine(POLICY);
    machine.l1.map(
        root,
        Gpa2::new(0),
        Gpa1::new(6 * G1),
        PageSize::Size2M,
        Access::RWX,
    );
    assert_eq!(
        fill(&mut machine, 0x10, Access::WRITE),
        Fill::Protected(Gpa1::new(6 * G1 + 0x10))
    );
    assert_eq!(
        fill(&mut machine, 0x10, Access::EXECUTE),
        Fill::Filled(PageSize::Size2M)
    );
    let leaf = machine.shadow(0, Gpa2::new(0)).unwrap();
    assert_eq!(leaf.access, Access::READ | Access::EXECUTE);
}

#[test]
fn execute_only_is_kept() {
    let (mut machine, root) = machine(POLICY);
    machine.l1.map(
        root,
        Gpa2::new(0),
        Gpa1::new(G1),
        PageSize::Size4K,
        Access::EXECUTE,
    );
    assert_eq!(
        fill(&mut machine, 0, Access::EXECUTE),
        Fill::Filled(PageSize::Size4K)
    );
    let leaf = machine.shadow(0, Gpa2::new(0)).unwrap();
    assert_eq!(leaf.access, Access::EXECUTE);
    assert!(matches!(
        fill(&mut machine, 0, Access::READ),
        Fill::Violation(v) if v.permitted == Access::EXECUTE
    ));
}

#[test]
fn readable_by_none_but_writable_memory_is_not_mapped() {
    // EPT 12 executes only, L0 reads only: they share nothing.
    let (mut machine, root) = machine(POLICY);
    machine.l1.regions[4].access = Access::READ;
    machine.l1.map(
        root,
        Gpa2::new(0),
        Gpa1::new(6 * G1),
        PageSize::Size4K,
        Access::EXECUTE,
    );
    assert_eq!(
        fill(&mut machine, 0, Access::EXECUTE),
        Fill::Protected(Gpa1::new(6 * G1))
    );
    assert_eq!(machine.shadow(0, Gpa2::new(0)), None);
}

#[test]
fn more_rights_need_no_flush() {
    let (mut machine, root) = machine(POLICY);
    let at = Gpa2::new(M2);
    let to = Gpa1::new(G1);
    machine.l1.map(root, at, to, PageSize::Size4K, Access::READ);
    assert_eq!(
        machine.touch(0, at, Access::READ),
        Outcome::Reached(Spa::new(66 * G1))
    );
    machine.l1.map(root, at, to, PageSize::Size4K, Access::RW);
    assert_eq!(
        machine.touch(0, at, Access::WRITE),
        Outcome::Reached(Spa::new(66 * G1))
    );
    // Nothing was removed, so a flush elsewhere finds nothing to do.
    let elsewhere = super::super::Gpa2Range::pages(Gpa2::new(2 * M2), 1);
    let retired = machine.set.flush_ranges(root, [elsewhere]);
    assert!(!retired.needs_shootdown());
    machine.complete(retired);
}

#[test]
fn a_large_page_gives_way_to_small_ones_and_comes_back_after_a_flush() {
    let (mut machine, root) = machine(POLICY);
    let whole = |machine: &mut Machine| {
        machine.l1.map(
            root,
            Gpa2::new(0),
            Gpa1::new(G1),
            PageSize::Size2M,
            Access::RWX,
        );
    };
    whole(&mut machine);
    assert_eq!(
        fill(&mut machine, 0, Access::READ),
        Fill::Filled(PageSize::Size2M)
    );
    // L1 splits the page and takes rights away from one part.
    machine.l1.map(
        root,
        Gpa2::new(0x3000),
        Gpa1::new(G1 + 0x3000),
        PageSize::Size4K,
        Access::READ,
    );
    machine.l1.map(
        root,
        Gpa2::new(0x4000),
        Gpa1::new(G1 + 0x4000),
        PageSize::Size4K,
        Access::RWX,
    );
    let retired = machine.flush_space(root);
    machine.complete(retired);
    assert_eq!(
        fill(&mut machine, 0x4000, Access::WRITE),
        Fill::Filled(PageSize::Size4K)
    );
    assert!(matches!(
        fill(&mut machine, 0x3000, Access::WRITE),
        Fill::Violation(_)
    ));
    // Back to a large page: while the table is there, small pages serve.
    whole(&mut machine);
    assert_eq!(
        fill(&mut machine, 0x8000, Access::WRITE),
        Fill::Filled(PageSize::Size4K)
    );
    let range = super::super::Gpa2Range::new(Gpa2::new(0), M2);
    let retired = machine.set.flush_ranges(root, [range]);
    assert_eq!(retired.frames(), 1);
    machine.complete(retired);
    assert_eq!(
        fill(&mut machine, 0x8000, Access::WRITE),
        Fill::Filled(PageSize::Size2M)
    );
}
