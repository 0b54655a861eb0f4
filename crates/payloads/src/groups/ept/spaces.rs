//! Several address spaces.

use ::vmx::Field;
use ::vmx::ept::Access;
use ::vmx::ept_vpid;

use super::{RUNS, SPOT, Touch, VIOLATION, flush, numbered_page, touch, with_page};
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::L2;
use crate::vm::ept::Ept;
use crate::vm::guest::code;
use crate::vm::l2::reg;

/// Two L2s on one root share what they see, and one INVEPT is for both.
pub fn same_root(check: &Check) {
    let (mut a, page) = with_page(0x31);
    a.ept.map(SPOT, page, Access::RWX);
    flush(&a.ept);
    let mut b = L2::with_ept(code!("vmcall"), a.ept);
    if a.caps.ept_vpid & ept_vpid::ACCESSED_DIRTY != 0 {
        // The same root by another EPTP.
        b.set(Field::EPT_POINTER, a.ept.eptp() | 1 << 6);
    }
    check.equal("the first", touch(&mut a, SPOT, Touch::Read), RUNS);
    check.equal("the second", touch(&mut b, SPOT, Touch::Read), RUNS);
    let other = numbered_page(0x32);
    a.ept.map(SPOT, other, Access::READ);
    flush(&a.ept);
    for (name, l2) in [("first", &mut a), ("second", &mut b)] {
        check.equal(
            format_args!("the {name} reads"),
            touch(l2, SPOT, Touch::Read),
            RUNS,
        );
        check.equal("the new page", l2.registers[reg::RAX], 0x32 << 8 | 0xc3);
        check.equal(
            format_args!("the {name} may not write"),
            touch(l2, SPOT, Touch::Write),
            VIOLATION,
        );
    }
}

/// More address spaces than anyone caches, in turn, each with its own page.
pub fn many(check: &Check) {
    const COUNT: usize = 40;
    let mut l2 = L2::new(code!("vmcall"));
    let spaces: [Ept; COUNT] = core::array::from_fn(|i| {
        let ept = Ept::empty();
        // They share all but the spot's gibibyte.
        let root = l2.ept.root();
        memory::write(ept.root(), memory::read::<u64>(root));
        let pdpt = memory::page();
        let shared = memory::read::<u64>(root) & !0xfff;
        for entry in (0..4096).step_by(8) {
            memory::write(pdpt + entry, memory::read::<u64>(shared + entry));
        }
        memory::write(pdpt + (SPOT >> 30) * 8, 0u64);
        memory::write(ept.root(), pdpt | 7);
        ept.map(SPOT, numbered_page(0x1000 + i as u64), Access::RWX);
        ept
    });
    for round in 0..3 {
        let mut good = 0;
        for (i, ept) in spaces.iter().enumerate() {
            l2.set(Field::EPT_POINTER, ept.eptp());
            let ran = touch(&mut l2, SPOT, Touch::Read) == RUNS;
            good += usize::from(ran && l2.registers[reg::RAX] == (0x1000 + i as u64) << 8 | 0xc3);
        }
        check.equal(
            format_args!("round {round}: spaces that are right"),
            good,
            COUNT,
        );
    }
    // One of them changes.
    let page = numbered_page(0x9999);
    spaces[3].map(SPOT, page, Access::RWX);
    flush(&spaces[3]);
    l2.set(Field::EPT_POINTER, spaces[3].eptp());
    check.equal("the changed one", touch(&mut l2, SPOT, Touch::Read), RUNS);
    check.equal("its value", l2.registers[reg::RAX], 0x9999 << 8 | 0xc3);
    l2.set(Field::EPT_POINTER, spaces[4].eptp());
    check.equal("its neighbour", touch(&mut l2, SPOT, Touch::Read), RUNS);
    check.equal("its value", l2.registers[reg::RAX], 0x1004 << 8 | 0xc3);
}

/// A root that is freed and used for other tables, after INVEPT.
pub fn changed_eptp(check: &Check) {
    let (mut l2, page) = with_page(0x51);
    l2.ept.map(SPOT, page, Access::RWX);
    flush(&l2.ept);
    check.equal("before", touch(&mut l2, SPOT, Touch::Read), RUNS);
    let other = Ept::identity();
    other.map(SPOT, numbered_page(0x52), Access::RWX);
    // The old root takes the other's contents.
    memory::write(l2.ept.root(), memory::read::<u64>(other.root()));
    flush(&l2.ept);
    check.equal("after", touch(&mut l2, SPOT, Touch::Read), RUNS);
    check.equal("its value", l2.registers[reg::RAX], 0x52 << 8 | 0xc3);
}

/// Without EPT, L2's physical addresses are L1's; and back.
pub fn without(check: &Check) {
    let (mut l2, page) = with_page(0x61);
    let secondary = l2.get(Field::SECONDARY_CONTROLS);
    for round in 0..2 {
        l2.set(Field::SECONDARY_CONTROLS, secondary & !2);
        check.equal(
            format_args!("off, round {round}"),
            touch(&mut l2, page, Touch::Read),
            RUNS,
        );
        check.equal("its value", l2.registers[reg::RAX], 0x61 << 8 | 0xc3);
        l2.set(Field::SECONDARY_CONTROLS, secondary);
        l2.ept.map(page, numbered_page(0x62), Access::RWX);
        flush(&l2.ept);
        check.equal(
            format_args!("on, round {round}"),
            touch(&mut l2, page, Touch::Read),
            RUNS,
        );
        check.equal("its value", l2.registers[reg::RAX], 0x62 << 8 | 0xc3);
    }
}
