//! Sizes, rights, and entries that are wrong.

use ::vmx::ept::{Access, Level};
use ::vmx::{Field, ept_vpid};

use super::{
    MISCONFIGURATION, RUNS, SPOT, Touch, VIOLATION, fault_address, flush, mark, spot_entry, touch,
    with_page,
};
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::L2;
use crate::vm::ept::{self, SIZE_1G, SIZE_2M};
use crate::vm::l2::reg;

/// Pages of 4 KiB, 2 MiB and 1 GiB lead where they say.
pub fn sizes(check: &Check) {
    let (mut l2, page) = with_page(0x4444);
    l2.ept.map(SPOT + 0x5000, page, Access::RWX);
    flush(&l2.ept);
    check.equal("4 KiB", touch(&mut l2, SPOT + 0x5000, Touch::Read), RUNS);
    check.equal("its value", l2.registers[reg::RAX], 0x4444 << 8 | 0xc3);
    check.equal(
        "a fetch from it",
        touch(&mut l2, SPOT + 0x5000, Touch::Fetch),
        RUNS,
    );
    // The 2 MiB page that holds `page`, seen at another address.
    let start = page & !(SIZE_2M - 1);
    l2.ept.set(
        SPOT + SIZE_2M,
        Level::Pd,
        ept::leaf(start, Access::RWX, Level::Pd),
    );
    flush(&l2.ept);
    let seen = SPOT + SIZE_2M + (page - start);
    check.equal("2 MiB", touch(&mut l2, seen, Touch::Read), RUNS);
    check.equal("its value", l2.registers[reg::RAX], 0x4444 << 8 | 0xc3);
    check.equal(
        "2 MiB, written",
        touch(&mut l2, seen + 8, Touch::Write),
        RUNS,
    );
    check.equal("L1 sees it", memory::read::<u64>(page + 8), mark(seen + 8));
    if l2.caps.ept_vpid & ept_vpid::PAGE_1G == 0 {
        return check.skip("1 GiB", "not offered");
    }
    let at = SPOT & !(SIZE_1G - 1);
    l2.ept
        .set(at, Level::Pdpt, ept::leaf(0, Access::RWX, Level::Pdpt));
    flush(&l2.ept);
    check.equal("1 GiB", touch(&mut l2, at + page, Touch::Read), RUNS);
    check.equal("its value", l2.registers[reg::RAX], 0x4444 << 8 | 0xc3);
    check.equal(
        "1 GiB, written",
        touch(&mut l2, at + page + 0x10, Touch::Write),
        RUNS,
    );
    check.equal(
        "L1 sees it",
        memory::read::<u64>(page + 0x10),
        mark(at + page + 0x10),
    );
}

/// Goes through every combination of rights, with every access.
fn each_right(check: &Check, l2: &mut L2, at: u64, set: &dyn Fn(&L2, Access)) {
    let execute_only = l2.caps.ept_vpid & ept_vpid::EXECUTE_ONLY != 0;
    for bits in 0..8u8 {
        let access = Access::from_bits_truncate(bits);
        let writes_only = bits & 3 == 2;
        set(l2, access);
        flush(&l2.ept);
        for how in [Touch::Read, Touch::Write, Touch::Fetch] {
            let name = format_args!("rights {bits}, {how:?}");
            let outcome = touch(l2, at, how);
            if writes_only || (bits == 4 && !execute_only) {
                check.equal(name, outcome, MISCONFIGURATION);
                check.equal("address", fault_address(l2), at);
                continue;
            }
            let allowed = u64::from(bits) & how.bit() != 0;
            check.equal(name, outcome, if allowed { RUNS } else { VIOLATION });
            if !allowed && outcome == VIOLATION {
                let qualification = l2.get(Field::EXIT_QUALIFICATION);
                check.equal(
                    "its qualification",
                    qualification & 0x1bf,
                    0x180 | u64::from(bits) << 3 | how.bit(),
                );
                check.equal("its physical address", fault_address(l2), at);
                check.equal(
                    "its linear address",
                    l2.get(Field::GUEST_LINEAR_ADDRESS),
                    at,
                );
            }
        }
    }
}

/// Rights of a 4 KiB page.
pub fn rights(check: &Check) {
    let (mut l2, page) = with_page(1);
    each_right(check, &mut l2, SPOT, &|l2, access| {
        l2.ept.map(SPOT, page, access)
    });
}

/// Rights of a 2 MiB page, with the address in the middle of it.
pub fn large_rights(check: &Check) {
    let (mut l2, page) = with_page(1);
    let start = page & !(SIZE_2M - 1);
    each_right(check, &mut l2, SPOT + (page - start), &|l2, access| {
        l2.ept
            .set(SPOT, Level::Pd, ept::leaf(start, access, Level::Pd));
    });
}

/// Rights are those of all levels together.
pub fn upper_levels(check: &Check) {
    let (mut l2, page) = with_page(1);
    l2.ept.map(SPOT, page, Access::RWX);
    for level in [Level::Pdpt, Level::Pd] {
        let slot = l2.ept.entry(SPOT, level);
        let entry = memory::read::<u64>(slot);
        memory::write(slot, entry & !2);
        flush(&l2.ept);
        check.equal(
            format_args!("{level:?} read-only, a write"),
            touch(&mut l2, SPOT, Touch::Write),
            VIOLATION,
        );
        check.equal(
            "its qualification",
            l2.get(Field::EXIT_QUALIFICATION) & 0x3f,
            0x2a,
        );
        check.equal("a read", touch(&mut l2, SPOT, Touch::Read), RUNS);
        memory::write(slot, entry & !4);
        flush(&l2.ept);
        // L2's own code and tables lie in other gibibytes than the spot.
        check.equal(
            format_args!("{level:?} without execution, a fetch"),
            touch(&mut l2, SPOT, Touch::Fetch),
            VIOLATION,
        );
        check.equal(
            "its qualification",
            l2.get(Field::EXIT_QUALIFICATION) & 0x3f,
            0x1c,
        );
        memory::write(slot, entry);
        flush(&l2.ept);
    }
    check.equal("all again", touch(&mut l2, SPOT, Touch::Write), RUNS);
}

/// Entries that hardware refuses, each kind.
pub fn misconfiguration(check: &Check) {
    let (mut l2, page) = with_page(1);
    let bits = cpu::physical_bits();
    let good = ept::leaf(page, Access::RWX, Level::Pt);
    let leafs: [(&str, u64); 7] = [
        ("memory type 2", good & !0x38 | 2 << 3),
        ("memory type 3", good & !0x38 | 3 << 3),
        ("memory type 7", good | 7 << 3),
        ("writable, not readable", good & !7 | 2),
        ("writable and executable, not readable", good & !7 | 6),
        ("an address beyond memory", good | 1 << bits),
        ("bit 51", good | 1 << 51),
    ];
    for (name, entry) in leafs {
        memory::write(spot_entry(&l2), entry);
        flush(&l2.ept);
        for how in [Touch::Read, Touch::Write, Touch::Fetch] {
            check.equal(
                format_args!("leaf: {name}, {how:?}"),
                touch(&mut l2, SPOT + 0x18, how),
                MISCONFIGURATION,
            );
            check.equal("address", fault_address(&l2), SPOT + 0x18);
        }
    }
    memory::write(spot_entry(&l2), good);
    let pd = l2.ept.entry(SPOT, Level::Pd);
    let pdpt = l2.ept.entry(SPOT, Level::Pdpt);
    let pml4 = l2.ept.entry(SPOT, Level::Pml4);
    for (name, slot, wrong) in [
        ("PD: reserved bit 3", pd, 1 << 3),
        ("PD: reserved bit 6", pd, 1 << 6),
        ("PD: beyond memory", pd, 1 << bits),
        ("PDPT: reserved bit 5", pdpt, 1 << 5),
        ("PML4: reserved bit 7", pml4, 1 << 7),
        ("PML4: reserved bit 3", pml4, 1 << 3),
    ] {
        let entry = memory::read::<u64>(slot);
        // A bad PML4 or PDPT entry must not take L2's own code with it: SPOT has a PDPT entry of its
        // own, but the PML4 entry is everyone's.
        memory::write(slot, entry | wrong);
        flush(&l2.ept);
        let outcome = touch(&mut l2, SPOT, Touch::Read);
        check.equal(name, outcome, MISCONFIGURATION);
        memory::write(slot, entry);
    }
    let entry = memory::read::<u64>(pd);
    memory::write(
        pd,
        ept::leaf(page & !(SIZE_2M - 1), Access::RWX, Level::Pd) | 1 << 12,
    );
    flush(&l2.ept);
    if cpu::is_virtual() {
        // Bochs ignores these bits.
        check.equal(
            "2 MiB page not aligned",
            touch(&mut l2, SPOT, Touch::Read),
            MISCONFIGURATION,
        );
    }
    memory::write(pd, entry & !7 | 2);
    flush(&l2.ept);
    check.equal(
        "PD: writable, not readable",
        touch(&mut l2, SPOT, Touch::Read),
        MISCONFIGURATION,
    );
    memory::write(pd, entry);
    flush(&l2.ept);
    check.equal("in order again", touch(&mut l2, SPOT, Touch::Read), RUNS);
    // What is ignored.
    memory::write(
        spot_entry(&l2),
        good | 0xfff << 52 & !(1 << 63) | 1 << 10 | 1 << 11,
    );
    flush(&l2.ept);
    check.equal("ignored bits", touch(&mut l2, SPOT, Touch::Read), RUNS);
    memory::write(spot_entry(&l2), 0xffff_ffff_ffff_fff8u64);
    flush(&l2.ept);
    check.equal(
        "not present, all else set",
        touch(&mut l2, SPOT, Touch::Read),
        VIOLATION,
    );
}

/// Nothing mapped, at each level and beyond what is covered.
pub fn holes(check: &Check) {
    let (mut l2, _) = with_page(1);
    for (name, level) in [("PT", Level::Pt), ("PD", Level::Pd), ("PDPT", Level::Pdpt)] {
        let slot = l2.ept.entry(SPOT + 0x1238, level);
        let entry = memory::read::<u64>(slot);
        memory::write(slot, 0u64);
        flush(&l2.ept);
        for how in [Touch::Read, Touch::Write, Touch::Fetch] {
            check.equal(
                format_args!("no {name} entry, {how:?}"),
                touch(&mut l2, SPOT + 0x1238, how),
                VIOLATION,
            );
            let qualification = l2.get(Field::EXIT_QUALIFICATION);
            check.equal(
                "its qualification",
                qualification & 0x1bf,
                0x180 | how.bit(),
            );
            check.equal("its address", fault_address(&l2), SPOT + 0x1238);
        }
        memory::write(slot, entry);
    }
}

/// A hole under L2's own page tables is not the final translation, and reads and writes.
pub fn page_walk(check: &Check) {
    let (mut l2, page) = with_page(1);
    // L2 gets tables of its own for one linear address.
    let linear = crate::rt::paging::WINDOW;
    crate::rt::paging::map(linear, page, 3);
    let pml4 = cpu::cr3() & !0xfff;
    let pdpt = memory::read::<u64>(pml4 + (linear >> 39 & 511) * 8) & !0xfff;
    l2.ept.unmap(pdpt);
    flush(&l2.ept);
    check.equal(
        "hole under the PDPT",
        touch(&mut l2, linear, Touch::Read),
        VIOLATION,
    );
    let qualification = l2.get(Field::EXIT_QUALIFICATION);
    check.equal("not the final translation", qualification & 0x180, 0x80);
    check.equal("no rights", qualification >> 3 & 7, 0);
    check.equal("a read", qualification & 1, 1);
    check.equal("its address", fault_address(&l2) & !7, pdpt);
    check.equal(
        "its linear address",
        l2.get(Field::GUEST_LINEAR_ADDRESS),
        linear,
    );
    l2.ept.protect(pdpt, Access::RWX);
    flush(&l2.ept);
    check.equal("mapped", touch(&mut l2, linear, Touch::Read), RUNS);
}
