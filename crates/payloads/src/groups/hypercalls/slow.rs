//! L1's calls with their input in memory.

use crate::rt::fault::{self, Fault};
use crate::rt::harness::Check;
use crate::rt::{cpu, memory, smp};

use super::call::{banks, call, done, features, reps};

const VECTOR: u8 = 0x58;

fn put(words: &[u64]) -> u64 {
    let page = memory::page();
    for (at, word) in (page..).step_by(8).zip(words) {
        memory::write(at, *word);
    }
    page
}

/// Codes, control words and addresses that are none.
pub fn convention(check: &Check) {
    let input = put(&[0, 1, 0, 0]);
    let status = |control, at| call(control, at, 0);
    check.equal("in order", status(2, input), Ok(0));
    check.equal("no such code", status(0x7777, input), Ok(2));
    check.equal("a list without elements", status(3, input), Ok(3));
    check.equal("elements without a list", status(2 | reps(1), input), Ok(3));
    check.equal("reserved bits", status(2 | 1 << 60, input), Ok(3));
    check.equal("a variable header", status(2 | banks(1), input), Ok(3));
    check.equal(
        "for a hypervisor in between",
        status(2 | 1 << 31, input),
        Ok(3),
    );
    check.equal("unaligned", status(2, input + 4), Ok(4));
    check.equal("across a page", status(2, input + 0xff0), Ok(4));
    check.equal("where no memory is", status(2, 0xfee0_0000), Ok(3));
    check.equal("beyond all memory", status(2, !0xfff), Ok(3));
    check.equal("a long spin wait", status(8, input), Ok(0));
    check.equal(
        "GUEST_OS_ID 0",
        cpu::wrmsr(tlfs::msr::Msr::GUEST_OS_ID.0, 0),
        Ok(()),
    );
    check.equal("no hypercalls then", status(2, input), Err(Fault::UD));
}

/// FlushVirtualAddressSpace, -List and their Ex forms.
pub fn flush_virtual(check: &Check) {
    let space = |flags, mask| call(2, put(&[cpu::cr3(), flags, mask]), 0);
    check.equal("one VP", space(0, 1), Ok(0));
    check.equal("all", space(7, 0), Ok(0));
    check.equal("an unknown flag", space(16, 1), Ok(5));
    let list = put(&[cpu::cr3(), 0, 1, 0x10_0000, 0x20_0fff]);
    check.equal("a list", call(3 | reps(2), list, 0), done(2));
    check.equal(
        "its second half",
        call(3 | reps(2) | 1 << 48, list, 0),
        done(2),
    );
    check.equal(
        "started past its end",
        call(3 | reps(2) | 2 << 48, list, 0),
        Ok(3),
    );
    check.equal(
        "as long as a page",
        call(3 | reps(509), put(&[cpu::cr3(), 0, 1]), 0),
        done(509),
    );
    check.equal("longer", call(3 | reps(510), list, 0), Ok(4));
    let sparse = |words: &[u64]| call(0x13 | banks(words.len() as u64 - 4), put(words), 0);
    check.equal("nobody", sparse(&[0, 2, 0, 0]), Ok(0));
    check.equal("banks 0 and 3", sparse(&[0, 2, 0, 0b1001, 3, 1]), Ok(0));
    check.equal("all by the format", sparse(&[0, 2, 1, 0]), Ok(0));
    check.equal("a format that is none", sparse(&[0, 2, 2, 0]), Ok(5));
    check.equal(
        "more banks than the mask says",
        sparse(&[0, 2, 0, 1, 3, 1]),
        Ok(3),
    );
    let listed = put(&[0, 2, 0, 1, 3, 0x10_0000]);
    check.equal(
        "a list and banks",
        call(0x14 | banks(1) | reps(1), listed, 0),
        done(1),
    );
    if features() & 1 << 14 != 0 {
        let large = put(&[
            0,
            2 | 8,
            1,
            0x4000_0000 | 1 << 11,
            0x4020_0000 | 1 << 11 | 7,
        ]);
        check.equal(
            "ranges of large pages",
            call(3 | reps(2), large, 0),
            done(2),
        );
    } else {
        check.equal("extended ranges", space(8, 1), Ok(5));
    }
}

/// FlushGuestPhysicalAddressSpace and -List.
pub fn flush_physical(check: &Check) {
    let root = memory::page();
    check.equal("a space", call(0xaf, put(&[root, 0]), 0), Ok(0));
    check.equal("a flag", call(0xaf, put(&[root, 1]), 0), Ok(5));
    let mut words = [0; 512];
    words[0] = root;
    for (n, word) in words[2..].iter_mut().enumerate() {
        *word = (n as u64) << 21 | 0x7ff;
    }
    check.equal(
        "510 ranges",
        call(0xb0 | reps(510), put(&words), 0),
        done(510),
    );
    check.equal("511 ranges", call(0xb0 | reps(511), put(&words), 0), Ok(4));
    // 2 MiB pages, 1 GiB pages, then one with a reserved bit.
    let large = put(&[
        root,
        0,
        1 << 30 | 1 << 11 | 3,
        1 << 30 | 3 << 11,
        1 << 13 | 1 << 11,
    ]);
    check.equal("large pages", call(0xb0 | reps(2), large, 0), done(2));
    check.equal(
        "a bad one is the end",
        call(0xb0 | reps(3), large, 0),
        Ok(2 << 32 | 5),
    );
    check.equal(
        "begun in the middle",
        call(0xb0 | reps(2) | 1 << 48, large, 0),
        done(2),
    );
}

/// How often `VECTOR` came to this processor, after its interrupts have come in.
pub fn arrived(vector: u8) -> u32 {
    cpu::interrupt_window();
    fault::count_on(0, vector)
}

/// SendSyntheticClusterIpi and its Ex form.
pub fn ipi(check: &Check) {
    let before = arrived(VECTOR);
    let vector = u64::from(VECTOR);
    check.equal("to oneself", call(0xb, put(&[vector, 1]), 0), Ok(0));
    check.equal("came", arrived(VECTOR), before + 1);
    let set = put(&[vector, 0, 1, 1]);
    check.equal("by a set", call(0x15 | banks(1), set, 0), Ok(0));
    check.equal("came", arrived(VECTOR), before + 2);
    check.equal("a bad vector", call(0xb, put(&[15, 1]), 0), Ok(5));
    check.equal(
        "a trust level",
        call(0xb, put(&[vector | 1 << 32, 1]), 0),
        Ok(3),
    );
    check.equal("nobody there", call(0xb, put(&[vector, 1 << 40]), 0), Ok(0));
    check.equal("none came", arrived(VECTOR), before + 2);
    if !smp::ensure() {
        return check.skip("to others", "no second processor");
    }
    fn listen(until: u64) {
        smp::wait_for(|| {
            cpu::interrupt_window();
            u64::from(fault::count_on(1, VECTOR)) >= until
        });
    }
    let there = fault::count_on(1, VECTOR);
    smp::begin(listen, u64::from(there) + 1);
    check.equal("to the other", call(0xb, put(&[vector, 2]), 0), Ok(0));
    check.equal("it listens", smp::finish(), Some(Ok(())));
    check.equal("came there", fault::count_on(1, VECTOR), there + 1);
    check.equal("and not here", arrived(VECTOR), before + 2);
}
