//! Tables that change under L2.

use core::sync::atomic::{AtomicU32, Ordering};

use ::vmx::Field;
use ::vmx::ept::{Access, Level};

use super::{RUNS, SPOT, Touch, VIOLATION, flush, numbered_page, touch, with_page};
use crate::rt::harness::Check;
use crate::rt::{memory, smp};
use crate::vm::ept::{self, SIZE_2M};
use crate::vm::guest::code;
use crate::vm::instruction;
use crate::vm::l2::reg;
use crate::vm::{L2, operation};

/// Not present to present needs no INVEPT.
pub fn appear(check: &Check) {
    let (mut l2, page) = with_page(0x77);
    l2.ept.unmap(SPOT);
    flush(&l2.ept);
    for round in 0..4 {
        let at = SPOT + round * 0x1000;
        l2.ept.unmap(at);
        flush(&l2.ept);
        check.equal("a hole", touch(&mut l2, at, Touch::Read), VIOLATION);
        l2.ept.map(at, page, Access::RWX);
        check.equal("mapped, no INVEPT", touch(&mut l2, at, Touch::Read), RUNS);
        check.equal("its value", l2.registers[reg::RAX], 0x77 << 8 | 0xc3);
    }
    // After a violation even more rights need none: the violation itself forgets.
    l2.ept.map(SPOT, page, Access::READ);
    flush(&l2.ept);
    check.equal(
        "a write to a read-only page",
        touch(&mut l2, SPOT, Touch::Write),
        VIOLATION,
    );
    l2.ept.map(SPOT, page, Access::RW);
    check.equal(
        "writable, no INVEPT",
        touch(&mut l2, SPOT, Touch::Write),
        RUNS,
    );
}

/// Less rights, and none, after INVEPT.
pub fn downgrade(check: &Check) {
    let (mut l2, page) = with_page(1);
    l2.ept.map(SPOT, page, Access::RWX);
    flush(&l2.ept);
    check.equal("write", touch(&mut l2, SPOT, Touch::Write), RUNS);
    l2.ept.map(SPOT, page, Access::READ | Access::EXECUTE);
    flush(&l2.ept);
    check.equal(
        "read-only: write",
        touch(&mut l2, SPOT, Touch::Write),
        VIOLATION,
    );
    check.equal("read-only: read", touch(&mut l2, SPOT, Touch::Read), RUNS);
    l2.ept.map(SPOT, page, Access::READ);
    let _ = instruction::invept(2, 0);
    memory::write(page, 0xc3u8);
    check.equal(
        "no execution: fetch",
        touch(&mut l2, SPOT, Touch::Fetch),
        VIOLATION,
    );
    l2.ept.unmap(SPOT);
    flush(&l2.ept);
    check.equal("gone: read", touch(&mut l2, SPOT, Touch::Read), VIOLATION);
    check.equal(
        "without rights",
        l2.get(Field::EXIT_QUALIFICATION) >> 3 & 7,
        0,
    );
}

/// Another page at the same address, after INVEPT, again and again.
pub fn moved(check: &Check) {
    let (mut l2, _) = with_page(0);
    let pages: [u64; 4] = core::array::from_fn(|i| numbered_page(0x100 + i as u64));
    for round in 0..12 {
        l2.ept.map(SPOT, pages[round % 4], Access::RWX);
        if round % 2 == 0 {
            flush(&l2.ept);
        } else {
            let _ = instruction::invept(2, 0);
        }
        check.equal("read", touch(&mut l2, SPOT, Touch::Read), RUNS);
        let expected = (0x100 + round as u64 % 4) << 8 | 0xc3;
        check.equal(
            format_args!("round {round}"),
            l2.registers[reg::RAX],
            expected,
        );
    }
}

/// A large page becomes a table and a table a large page.
pub fn split_and_merge(check: &Check) {
    let (mut l2, page) = with_page(0xaa);
    let start = page & !(SIZE_2M - 1);
    let offset = page - start;
    l2.ept
        .set(SPOT, Level::Pd, ept::leaf(start, Access::RWX, Level::Pd));
    flush(&l2.ept);
    check.equal("2 MiB", touch(&mut l2, SPOT + offset, Touch::Read), RUNS);
    let other = numbered_page(0xbb);
    // Splits the page.
    l2.ept.map(SPOT + offset, other, Access::READ);
    flush(&l2.ept);
    check.equal(
        "one page of it moved",
        touch(&mut l2, SPOT + offset, Touch::Read),
        RUNS,
    );
    check.equal("its value", l2.registers[reg::RAX], 0xbb << 8 | 0xc3);
    check.equal(
        "it is read-only",
        touch(&mut l2, SPOT + offset, Touch::Write),
        VIOLATION,
    );
    // A neighbour that nothing lives in: the end of the pool's next page.
    let spare = memory::page();
    if spare & !(SIZE_2M - 1) == start {
        check.equal(
            "a neighbour",
            touch(&mut l2, SPOT + (spare - start), Touch::Write),
            RUNS,
        );
        check.equal("is where it was", memory::read::<u64>(spare) >> 48, 0x7e57);
    }
    l2.ept
        .set(SPOT, Level::Pd, ept::leaf(start, Access::RWX, Level::Pd));
    flush(&l2.ept);
    check.equal(
        "2 MiB again",
        touch(&mut l2, SPOT + offset, Touch::Read),
        RUNS,
    );
    check.equal("its value", l2.registers[reg::RAX], 0xaa << 8 | 0xc3);
}

/// How far the other processor has come.
static STAGE: AtomicU32 = AtomicU32::new(0);

/// INVEPT on one processor is for that processor; once both have done it, both see the change.
pub fn second_processor(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let (mut l2, page) = with_page(0x11);
    l2.ept.map(SPOT, page, Access::RWX);
    flush(&l2.ept);
    STAGE.store(0, Ordering::SeqCst);
    smp::begin(on_second, l2.ept.root());
    check.that(
        "the second processor's L2 runs",
        smp::wait_for(|| STAGE.load(Ordering::SeqCst) >= 1),
        "it does not",
    );
    check.equal("the first's too", touch(&mut l2, SPOT, Touch::Write), RUNS);
    let other = numbered_page(0x22);
    l2.ept.map(SPOT, other, Access::READ);
    flush(&l2.ept);
    check.equal(
        "the first sees the change",
        touch(&mut l2, SPOT, Touch::Write),
        VIOLATION,
    );
    check.equal(
        "and the new page",
        (touch(&mut l2, SPOT, Touch::Read), l2.registers[reg::RAX]),
        (RUNS, 0x22 << 8 | 0xc3),
    );
    STAGE.store(2, Ordering::SeqCst);
    check.equal("the second ends", smp::finish(), Some(Ok(())));
    check.equal(
        "the second saw the change after its INVEPT",
        STAGE.load(Ordering::SeqCst),
        3,
    );
    // And the other way round: the second changes and flushes, then the first.
    let outcome = smp::run(change_on_second, l2.ept.root());
    check.equal("the second changes the table", outcome, Some(Ok(())));
    flush(&l2.ept);
    check.equal(
        "the first sees it",
        touch(&mut l2, SPOT, Touch::Read),
        VIOLATION,
    );
}

fn on_second(root: u64) {
    let ept = ept::Ept::at(root);
    let mut l2 = L2::with_ept(code!("vmcall"), ept);
    let first = touch(&mut l2, SPOT, Touch::Write);
    STAGE.store(u32::from(first == RUNS), Ordering::SeqCst);
    if first == RUNS && smp::wait_for(|| STAGE.load(Ordering::SeqCst) == 2) {
        flush(&ept);
        let write = touch(&mut l2, SPOT, Touch::Write);
        let read = touch(&mut l2, SPOT, Touch::Read);
        if write == VIOLATION && read == RUNS && l2.registers[reg::RAX] == 0x22 << 8 | 0xc3 {
            STAGE.store(3, Ordering::SeqCst);
        }
    }
    operation::leave();
}

fn change_on_second(root: u64) {
    let ept = ept::Ept::at(root);
    ept.unmap(SPOT);
    operation::enter();
    flush(&ept);
    operation::leave();
}
