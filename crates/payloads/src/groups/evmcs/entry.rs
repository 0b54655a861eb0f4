//! Entering, failing to enter, leaving, and doing so with several.

use ::vmx::{BasicExitReason as Reason, Field};
use tlfs::cpuid;
use tlfs::msr::Msr;
use tlfs::page::assist as page;

use super::RUNS;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, assist, instruction, select_door};

/// VMLAUNCH and VMRESUME are both legal, in any order.
pub fn launch_and_resume(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    for (i, launch) in [false, true, true, false, false, true]
        .into_iter()
        .enumerate()
    {
        check.equal(
            format_args!(
                "entry {i}, {}",
                if launch { "vmlaunch" } else { "vmresume" }
            ),
            l2.enter(launch),
            RUNS,
        );
    }
    check.equal(
        "capabilities hide what has no field",
        l2.caps.pin.may_be_one() & (1 << 6 | 1 << 7),
        0,
    );
    check.that(
        "the region is large enough",
        l2.caps.vmcs_size() >= 0x400,
        "it is not",
    );
    let leaf = cpu::cpuid(cpuid::HYPERVISOR_RANGE_FIRST + 10, 0)[0];
    check.equal("versions", (leaf & 0xff, leaf >> 8 & 0xff), (1, 1));
}

/// Version 1 and the VMCS revision are accepted, others are VMfailInvalid.
pub fn revision(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    memory::write(l2.page, 2u32);
    check.equal("version 2", l2.enter(true), Outcome::FailInvalid);
    memory::write(l2.page, 0u32);
    check.equal("version 0", l2.enter(true), Outcome::FailInvalid);
    memory::write(l2.page, 0x8000_0001u32);
    check.equal(
        "version 1 with bit 31",
        l2.enter(true),
        Outcome::FailInvalid,
    );
    memory::write(l2.page, l2.caps.revision());
    check.equal("the VMCS revision", l2.enter(true), RUNS);
    memory::write(l2.page, 1u32);
    check.equal("version 1", l2.enter(true), RUNS);
}

/// One that is refused takes nothing from the one that was entered before.
pub fn refused_page(check: &Check) {
    let code = code!("2: inc rbx", "vmcall", "jmp 2b");
    let mut l2 = L2::new(code);
    let mut refused = L2::new(code);
    check.equal("runs", l2.enter(true), RUNS);
    l2.skip_instruction();
    memory::write(refused.page, 2u32);
    check.equal(
        "another version",
        refused.enter(false),
        Outcome::FailInvalid,
    );
    check.equal("resumed", l2.enter(false), RUNS);
    l2.skip_instruction();
    check.equal(
        "another version",
        refused.enter(false),
        Outcome::FailInvalid,
    );
    memory::write(refused.page, 1u32);
    check.equal("resumed again", l2.enter(false), RUNS);
    check.equal("its counter", l2.registers[reg::RBX], 3);
    check.equal("version 1", refused.enter(false), RUNS);
    check.equal("its own counter", refused.registers[reg::RBX], 1);
}

/// Pointers that lead nowhere.
pub fn pointer(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    let good = l2.page;
    check.equal("in order", l2.run(), RUNS);
    for at in [
        0xffff_ff00_0000_0000,
        1 << cpu::physical_bits(),
        0xfee0_0000,
        0xc000_0000,
        0x7fff_ffff_f000,
    ] {
        assist::select(at);
        let outcome = enter_raw();
        check.equal(format_args!("{at:#x}"), outcome, Outcome::UD);
    }
    assist::select(good + 8);
    let outcome = enter_raw();
    check.that(
        "unaligned",
        !matches!(outcome, Outcome::Exit(_) | Outcome::Success),
        format_args!("{outcome:?}"),
    );
    assist::select(good);
    check.equal("in order again", l2.run(), RUNS);
}

/// VMRESUME that is not to enter, without choosing an L2.
fn enter_raw() -> Outcome {
    instruction::vmresume()
}

/// Failures are told in the page.
pub fn failures(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    check.equal("in order", l2.run(), RUNS);
    let cr3 = l2.get(Field::HOST_CR3);
    l2.set(Field::CR3_TARGET_COUNT, 0xffff);
    check.equal("bad control", l2.run(), Outcome::FailValid(7));
    check.equal("in the page", memory::read::<u32>(l2.page + 0x2b0), 7);
    l2.set(Field::CR3_TARGET_COUNT, 0);
    l2.set(Field::HOST_CR3, 1 << 60);
    check.equal("bad host state", l2.run(), Outcome::FailValid(8));
    check.equal("in the page", memory::read::<u32>(l2.page + 0x2b0), 8);
    l2.set(Field::HOST_CR3, cr3);
    l2.set(Field::GUEST_RFLAGS, 0);
    check.equal(
        "bad guest state",
        l2.run(),
        Outcome::entry_failure(Reason::InvalidGuestState),
    );
    check.equal(
        "in the page",
        memory::read::<u32>(l2.page + 0x2b4),
        0x8000_0021,
    );
    check.equal("qualification", memory::read::<u64>(l2.page + 0x2d0), 0);
    l2.set(Field::GUEST_RFLAGS, 2);
    l2.set(Field::VMCS_LINK_POINTER, 0x123);
    check.equal(
        "bad link pointer",
        l2.run(),
        Outcome::entry_failure(Reason::InvalidGuestState),
    );
    check.equal("qualification", memory::read::<u64>(l2.page + 0x2d0), 4);
    l2.set(Field::VMCS_LINK_POINTER, u64::MAX);
    check.equal("in order again", l2.run(), RUNS);
}

/// What an exit writes, and what it leaves alone.
pub fn write_back(check: &Check) {
    let mut l2 = L2::new(code!("mov rsp, 0x7000", "stc", "vmcall"));
    memory::write(l2.clean_fields(), 0u32);
    // Everything that is not in the structure, and what only L1 writes.
    let mut before = [0u8; 4096];
    for (i, byte) in before.iter_mut().enumerate().skip(0x400) {
        *byte = i as u8;
        memory::write(l2.page + i as u64, *byte);
    }
    for i in (0..0x400).step_by(1) {
        before[i] = memory::read(l2.page + i as u64);
    }
    check.equal("runs", l2.run(), RUNS);
    check.equal("RSP", memory::read::<u64>(l2.page + 0x300), 0x7000);
    check.equal("CF", memory::read::<u64>(l2.page + 0x308) & 1, 1);
    check.equal("reason", memory::read::<u32>(l2.page + 0x2b4), 18);
    check.equal("length", memory::read::<u32>(l2.page + 0x2c8), 3);
    for (name, range) in [
        ("version and abort", 0..8),
        ("host state", 0x8..0x5c),
        ("bitmap addresses", 0x68..0x80),
        ("MSR lists, targets, error-code masks", 0x140..0x190),
        ("TSC offset and APIC page", 0x190..0x1a8),
        ("masks and shadows", 0x200..0x220),
        ("host pointers", 0x240..0x270),
        ("EPT root and VPID", 0x270..0x27a),
        ("enlightenments", 0x340..0x360),
        ("behind the structure", 0x400..0x1000),
    ] {
        let changed = range
            .clone()
            .find(|&i| memory::read::<u8>(l2.page + i as u64) != before[i]);
        check.that(
            format_args!("{name} stay"),
            changed.is_none(),
            format_args!("{changed:x?} changed"),
        );
    }
}

/// VMCLEAR does not write into the page while enlightened entry is on.
pub fn vmclear(check: &Check) {
    let mut l2 = L2::new(code!("mov eax, 5", "vmcall"));
    check.equal("runs", l2.run(), RUNS);
    let sum = |page: u64| {
        (0..4096).step_by(8).fold(0u64, |sum, i| {
            sum.rotate_left(5) ^ memory::read::<u64>(page + i)
        })
    };
    let before = sum(l2.page);
    check.equal("vmclear", instruction::vmclear(l2.page), Outcome::Success);
    check.equal("the page is as it was", sum(l2.page), before);
    let other = memory::page();
    memory::fill(other, 4096, 0x1111_1111_1111_1111);
    let before = sum(other);
    check.equal(
        "vmclear of another page",
        instruction::vmclear(other),
        Outcome::Success,
    );
    check.equal("that page is as it was", sum(other), before);
    // The enlightened VMCS that was current is gone, so there is none to hold a number.
    check.equal(
        "vmclear, unaligned",
        instruction::vmclear(other + 1),
        Outcome::FailInvalid,
    );
    l2.set_code(code!("mov eax, 5", "vmcall"));
    check.equal("runs after vmclear", l2.enter(true), RUNS);
    // The contents may change freely after VMCLEAR.
    l2.clear();
    memory::write(l2.page + 0x300, 0x1234_0000u64);
    memory::write(l2.clean_fields(), 0xffffu32);
    l2.set_code(code!("mov rax, rsp", "vmcall"));
    memory::write(l2.page + 0x300, 0x1234_0000u64);
    memory::write(l2.clean_fields(), 0xffffu32);
    check.equal("runs", l2.enter(true), RUNS);
    check.equal(
        "with the new RSP, whatever the clean bits say",
        l2.registers[reg::RAX],
        0x1234_0000,
    );
}

/// Several enlightened and plain VMCSs in turn.
pub fn switching(check: &Check) {
    let code = code!("2: inc rbx", "vmcall", "jmp 2b");
    let mut enlightened: [L2; 3] = core::array::from_fn(|_| L2::new(code));
    select_door(Some("plain"));
    let mut plain: [L2; 2] = core::array::from_fn(|_| L2::new(code));
    select_door(Some("enlightened"));
    for (i, l2) in enlightened.iter_mut().chain(plain.iter_mut()).enumerate() {
        l2.set(Field::GUEST_SYSENTER_EIP, 0x1000 * i as u64);
    }
    for round in 0..6u64 {
        for (i, l2) in enlightened.iter_mut().chain(plain.iter_mut()).enumerate() {
            let outcome = if l2.is_enlightened() {
                l2.enter(round % 2 == 0)
            } else {
                l2.run()
            };
            check.equal(format_args!("round {round}, L2 {i}"), outcome, RUNS);
            check.equal("its counter", l2.registers[reg::RBX], round + 1);
            check.equal(
                "its SYSENTER EIP",
                l2.get(Field::GUEST_SYSENTER_EIP),
                0x1000 * i as u64,
            );
            l2.skip_instruction();
        }
    }
}

/// Without EnlightenVmEntry, or without the page, VM entries mean the current VMCS.
pub fn disabled(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    check.equal("runs", l2.run(), RUNS);
    let at = assist::page();
    memory::write(at + page::ENLIGHTEN_VM_ENTRY, 0u8);
    check.equal("EnlightenVmEntry clear", enter_raw(), Outcome::FailInvalid);
    memory::write(at + page::ENLIGHTEN_VM_ENTRY, 1u8);
    check.equal("set again", l2.run(), RUNS);
    let _ = cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, at);
    check.equal("page disabled", enter_raw(), Outcome::FailInvalid);
    let _ = cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, at | 1);
    check.equal("enabled again", l2.run(), RUNS);
}
