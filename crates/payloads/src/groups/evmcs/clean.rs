//! Clean fields: a set bit means that L0 may use what it has, a clear one that it must look.

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};
use tlfs::evmcs::{self, EnlightenmentsControl};

use super::RUNS;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome};

const ALL: u32 = 0xffff;

fn set_clean(l2: &L2, word: u32) {
    memory::write(l2.clean_fields(), word);
}

/// What a test of one group does: a field, a new value, and how L2 shows which value counts.
struct Case {
    name: &'static str,
    field: Field,
    old: u64,
    new: u64,
    /// Code that brings the value to RAX and ends in VMCALL.
    code: u64,
    shown: fn(u64) -> u64,
}

fn cases() -> [Case; 7] {
    [
        Case {
            name: "CRDR: CR0 read shadow",
            field: Field::CR0_READ_SHADOW,
            old: 0,
            new: 1 << 3,
            code: code!("mov rax, cr0", "and eax, 8", "vmcall"),
            shown: |value| value,
        },
        Case {
            name: "GUEST_BASIC: RSP",
            field: Field::GUEST_RSP,
            old: 0x5000,
            new: 0x6000,
            code: code!("mov rax, rsp", "vmcall"),
            shown: |value| value,
        },
        Case {
            name: "GUEST_GRP1: SYSENTER_ESP",
            field: Field::GUEST_SYSENTER_ESP,
            old: 0x1111,
            new: 0x2222,
            code: code!("mov ecx, 0x175", "rdmsr", "vmcall"),
            shown: |value| value,
        },
        Case {
            name: "GUEST_GRP2: ES selector",
            field: Field::GUEST_ES_SELECTOR,
            old: 0x10,
            new: 0x20,
            code: code!("xor eax, eax", "mov ax, es", "vmcall"),
            shown: |value| value,
        },
        Case {
            name: "CONTROL_GRP2: TSC offset",
            field: Field::TSC_OFFSET,
            old: 1 << 50,
            new: 1 << 55,
            code: code!(
                "rdtsc",
                "mov eax, edx",
                "shr eax, 18",
                "shl rax, 50",
                "vmcall"
            ),
            shown: |value| value,
        },
        Case {
            name: "GUEST_GRP2: FS base",
            field: Field::GUEST_FS_BASE,
            old: 0x10000,
            new: 0x20000,
            code: code!("mov ecx, 0xC0000100", "rdmsr", "vmcall"),
            shown: |value| value,
        },
        Case {
            name: "CRDR: CR4 read shadow",
            field: Field::CR4_READ_SHADOW,
            old: 0,
            new: 1 << 2,
            code: code!("mov rax, cr4", "and eax, 4", "vmcall"),
            shown: |value| value,
        },
    ]
}

fn prepared() -> L2 {
    let l2 = L2::new(code!("vmcall"));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS | PrimaryControls::USE_TSC_OFFSETTING);
    l2.set(Field::CR0_GUEST_HOST_MASK, cpu::CR0_TS);
    l2.set(Field::CR4_GUEST_HOST_MASK, cpu::CR4_TSD);
    l2
}

/// For a field of each group: with the bit clear the new value counts; with the bit set, L0
/// remembers the old one. The TLFS allows L0 to look all the same, so the latter is only noted.
pub fn fields(check: &Check) {
    for case in cases() {
        let mut l2 = prepared();
        l2.set(case.field, case.old);
        l2.set(Field::GUEST_RIP, case.code);
        set_clean(&l2, 0);
        check.equal(format_args!("{}: first", case.name), l2.enter(true), RUNS);
        check.equal(
            "shows the value",
            l2.registers[reg::RAX],
            (case.shown)(case.old),
        );
        // L0 (or L1) has set all bits; only this group's is cleared.
        set_clean(&l2, ALL);
        l2.set(case.field, case.new);
        let word: u32 = memory::read(l2.clean_fields());
        check.equal("one bit is clear", word.count_ones(), 15);
        memory::write(l2.page + 0x330, case.code);
        check.equal(format_args!("{}: dirty", case.name), l2.enter(false), RUNS);
        check.equal(
            "shows the new value",
            l2.registers[reg::RAX],
            (case.shown)(case.new),
        );
        // A store behind L0's back.
        set_clean(&l2, ALL);
        l2.store(case.field, case.old);
        memory::write(l2.page + 0x330, case.code);
        check.equal(format_args!("{}: clean", case.name), l2.enter(false), RUNS);
        check.equal(
            "shows what L0 remembers",
            l2.registers[reg::RAX],
            (case.shown)(case.new),
        );
        l2.store(case.field, case.old);
        set_clean(&l2, 0);
        memory::write(l2.page + 0x330, case.code);
        check.equal(
            format_args!("{}: all dirty", case.name),
            l2.enter(false),
            RUNS,
        );
        check.equal(
            "shows the value in the page",
            l2.registers[reg::RAX],
            (case.shown)(case.old),
        );
    }
    // A control: the exception bitmap.
    let mut l2 = prepared();
    let ud = code!("ud2");
    l2.set(Field::GUEST_RIP, ud);
    l2.set(Field::EXCEPTION_BITMAP, 1 << 6);
    set_clean(&l2, 0);
    check.equal(
        "CONTROL_EXCPN: first",
        l2.enter(true),
        Outcome::exit(Reason::ExceptionOrNmi),
    );
    set_clean(&l2, ALL);
    l2.store(Field::EXCEPTION_BITMAP, 0);
    check.equal(
        "CONTROL_EXCPN: clean",
        l2.enter(false),
        Outcome::exit(Reason::ExceptionOrNmi),
    );
    set_clean(&l2, ALL & !(1 << 7));
    check.equal("CONTROL_EXCPN: dirty", l2.enter(false), RUNS);
}

/// Another page, or VMLAUNCH: clean bits do not count.
pub fn after_switch(check: &Check) {
    let code = code!("mov rax, rsp", "vmcall");
    let mut a = prepared();
    let mut b = prepared();
    for l2 in [&mut a, &mut b] {
        l2.set(Field::GUEST_RIP, code);
        set_clean(l2, 0);
        check.equal("first", l2.enter(true), RUNS);
    }
    // `b` is the one that L0 has; `a` has to be read in full.
    a.store(Field::GUEST_RSP, 0xa000);
    set_clean(&a, ALL);
    memory::write(a.page + 0x330, code);
    check.equal("another page", a.enter(false), RUNS);
    check.equal("is read in full", a.registers[reg::RAX], 0xa000);
    a.store(Field::GUEST_RSP, 0xb000);
    set_clean(&a, ALL);
    memory::write(a.page + 0x330, code);
    check.equal("vmlaunch", a.enter(true), RUNS);
    check.equal("reads in full", a.registers[reg::RAX], 0xb000);
}

/// RIP has no clean bit.
pub fn always_read(check: &Check) {
    let mut l2 = prepared();
    l2.set(Field::GUEST_RIP, code!("mov eax, 1", "vmcall"));
    check.equal("first", l2.enter(true), RUNS);
    set_clean(&l2, ALL);
    l2.store(Field::GUEST_RIP, code!("mov eax, 2", "vmcall"));
    check.equal("all clean", l2.enter(false), RUNS);
    check.equal("the new RIP counts", l2.registers[reg::RAX], 2);
    // The enlightenments control is read whatever bit 15 says: without direct hypercalls on, a
    // flush by L2 is L1's exit in any case.
    set_clean(&l2, ALL);
    memory::write(
        l2.page + u64::from(evmcs::ENLIGHTENMENTS_CONTROL),
        EnlightenmentsControl::NESTED_FLUSH_HYPERCALL,
    );
    l2.store(Field::GUEST_RIP, code!("mov ecx, 2", "vmcall"));
    check.equal("a hypercall of L2", l2.enter(false), RUNS);
}

/// The enlightened MSR bitmap: the bit covers the contents, and without it the contents are live.
pub fn msr_bitmap(check: &Check) {
    let rdmsr = code!("mov ecx, 0x174", "rdmsr", "vmcall");
    let exits = Outcome::exit(Reason::Rdmsr);
    let bitmap_byte = 0x174 / 8;
    let bit = 1u8 << (0x174 % 8);
    for enlightened in [false, true] {
        let mut l2 = prepared();
        let bitmap = l2.get(Field::MSR_BITMAP);
        let control = if enlightened {
            EnlightenmentsControl::MSR_BITMAP
        } else {
            0
        };
        memory::write(l2.page + u64::from(evmcs::ENLIGHTENMENTS_CONTROL), control);
        set_clean(&l2, 0);
        l2.store(Field::GUEST_RIP, rdmsr);
        check.equal("open", l2.enter(true), RUNS);
        // A bit that is set without a word.
        set_clean(&l2, ALL);
        memory::write(bitmap + bitmap_byte, bit);
        l2.store(Field::GUEST_RIP, rdmsr);
        let outcome = l2.enter(false);
        if enlightened {
            check.equal("enlightened, changed silently", outcome, RUNS);
        } else {
            check.equal("not enlightened, changed silently", outcome, exits);
        }
        set_clean(&l2, ALL & !2);
        l2.store(Field::GUEST_RIP, rdmsr);
        check.equal("its clean bit clear", l2.enter(false), exits);
        memory::write(bitmap + bitmap_byte, 0u8);
        set_clean(&l2, ALL & !2);
        l2.store(Field::GUEST_RIP, rdmsr);
        check.equal("open again", l2.enter(false), RUNS);
    }
}
