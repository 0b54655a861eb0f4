//! The walk of EPT 12, case by case.

use addr::{Gpa1, Gpa2};
use vmx::EptViolation;
use vmx::ept::{Access, EptCapabilities, EptEntry, Level, MemoryType, Misconfiguration, PageSize};

use super::super::{Misconfigured, Translation, Violation, WalkError, walk};
use super::machine::{CAPABILITIES, G1, L1, M2};

const AT: Gpa2 = Gpa2::new(3 * G1 + 5 * M2 + 0x7000);

fn l1() -> (L1, Gpa1) {
    let mut l1 = L1::new();
    let root = l1.new_table();
    (l1, root)
}

fn translate(l1: &L1, root: Gpa1, at: Gpa2, access: Access) -> Result<Translation, WalkError> {
    walk(L1::eptp(root), &CAPABILITIES, l1, at, access)
}

#[test]
fn pages_of_every_size() {
    for size in PageSize::DESCENDING {
        let (mut l1, root) = l1();
        l1.map(root, AT, Gpa1::new(2 * G1), size, Access::RW);
        let offset = (AT.raw() & (size.bytes() - 1)) + 0x123;
        let at = Gpa2::new(AT.raw() + 0x123);
        assert_eq!(
            translate(&l1, root, at, Access::WRITE),
            Ok(Translation {
                address: Gpa1::new(2 * G1 + offset),
                size,
                access: Access::RW,
                memory_type: MemoryType::WriteBack,
                ignore_pat: true,
            })
        );
    }
}

#[test]
fn an_absent_entry_permits_nothing_at_any_level() {
    for level in [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt] {
        let (mut l1, root) = l1();
        let slot = l1.entry(root, AT, level);
        l1.write(slot, 0xffff_ffff_ffff_fff8);
        assert_eq!(
            translate(&l1, root, AT, Access::READ),
            Err(WalkError::Violation(Violation {
                access: Access::READ,
                permitted: Access::empty(),
            }))
        );
    }
}

#[test]
fn permissions_are_those_all_levels_share() {
    let (mut l1, root) = l1();
    l1.map(root, AT, Gpa1::new(G1), PageSize::Size4K, Access::RWX);
    let restrict = |l1: &mut L1, level, access: Access| {
        let slot = l1.entry(root, AT, level);
        let entry = crate::ept::L1Space::read_u64(l1, slot).unwrap();
        l1.write(slot, entry & !7 | u64::from(access.bits()));
    };
    restrict(&mut l1, Level::Pdpt, Access::READ | Access::EXECUTE);
    restrict(&mut l1, Level::Pd, Access::RW);
    let ok = translate(&l1, root, AT, Access::READ).unwrap();
    assert_eq!(ok.access, Access::READ);
    for access in [Access::WRITE, Access::EXECUTE, Access::RW] {
        assert_eq!(
            translate(&l1, root, AT, access),
            Err(WalkError::Violation(Violation {
                access,
                permitted: Access::READ,
            }))
        );
    }
    restrict(&mut l1, Level::Pt, Access::EXECUTE);
    assert_eq!(
        translate(&l1, root, AT, Access::empty()).map(|t| t.access),
        Ok(Access::empty())
    );
}

#[test]
fn a_misconfiguration_below_precedes_missing_permissions_above() {
    let (mut l1, root) = l1();
    let slot = l1.entry(root, AT, Level::Pd);
    let bad = EptEntry::from_raw(0x87 | 3 << 3);
    l1.write(slot, bad.raw());
    let top = l1.entry(root, AT, Level::Pml4);
    let entry = crate::ept::L1Space::read_u64(&l1, top).unwrap();
    l1.write(top, entry & !7 | 1);
    assert_eq!(
        translate(&l1, root, AT, Access::WRITE),
        Err(WalkError::Misconfigured(Misconfigured {
            level: Level::Pd,
            entry: bad,
            rule: Misconfiguration::MemoryType,
        }))
    );
}

#[test]
fn every_rule_reaches_l1_from_every_level() {
    let without_x_only = EptCapabilities {
        execute_only: false,
        ..CAPABILITIES
    };
    let above_width = 1 << 46;
    for level in [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt] {
        let cases = [
            (2, Misconfiguration::WriteWithoutRead),
            (6, Misconfiguration::WriteWithoutRead),
            (4, Misconfiguration::ExecuteOnly),
            (7 | above_width, Misconfiguration::Reserved(above_width)),
        ];
        for (raw, rule) in cases {
            let (mut l1, root) = l1();
            let slot = l1.entry(root, AT, level);
            l1.write(slot, raw);
            assert_eq!(
                walk(L1::eptp(root), &without_x_only, &l1, AT, Access::READ),
                Err(WalkError::Misconfigured(Misconfigured {
                    level,
                    entry: EptEntry::from_raw(raw),
                    rule,
                }))
            );
        }
    }
}

#[test]
fn a_table_outside_memory_is_misconfigured() {
    let (mut l1, root) = l1();
    let slot = l1.entry(root, AT, Level::Pdpt);
    l1.write(slot, EptEntry::table(0x3f_0000_0000).raw());
    let Err(WalkError::Misconfigured(what)) = translate(&l1, root, AT, Access::READ) else {
        panic!("not a misconfiguration");
    };
    assert_eq!(what.level, Level::Pd);
    assert_eq!(what.entry.raw(), u64::MAX);
    let outside = Gpa1::new(0x3f_0000_0000);
    assert!(matches!(
        translate(&l1, outside, AT, Access::READ),
        Err(WalkError::Misconfigured(_))
    ));
}

#[test]
fn addresses_beyond_four_levels_violate() {
    let (mut l1, root) = l1();
    l1.map(
        root,
        Gpa2::new(0),
        Gpa1::new(G1),
        PageSize::Size1G,
        Access::RWX,
    );
    for at in [1 << 48, 1 << 51, 1 << 63] {
        assert_eq!(
            translate(&l1, root, Gpa2::new(at), Access::READ),
            Err(WalkError::Violation(Violation {
                access: Access::READ,
                permitted: Access::empty(),
            }))
        );
    }
}

#[test]
fn the_qualification_is_ept12s_with_the_hardwares_context() {
    let violation = Violation {
        access: Access::WRITE,
        permitted: Access::READ | Access::EXECUTE,
    };
    // The hardware saw a read-write access to an absent EPT 02 entry, with a
    // valid linear address, final translation and NMI unblocking, and a bit
    // that is not passed on (6).
    let hardware = EptViolation::from_qualification(0x11c3);
    assert_eq!(violation.qualification(hardware).raw(), 0x11aa);
}
