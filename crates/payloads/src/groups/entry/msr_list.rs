//! The VM-entry MSR-load list (SDM 27.4): a failed entry, reason 34, qualified by the entry.

use ::vmx::{BasicExitReason, Field};

use crate::rt::harness::Check;
use crate::rt::{cpu, memory, paging};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, operation};

/// An entry: index, reserved word, value.
type Entry = (u32, u32, u64);

fn put(list: u64, entries: &[Entry]) {
    for (i, (index, reserved, value)) in entries.iter().enumerate() {
        let at = list + 16 * i as u64;
        memory::write(at, *index);
        memory::write(at + 4, *reserved);
        memory::write(at + 8, *value);
    }
}

/// Lists that load, and lists that fail at the entry named.
pub fn load(check: &Check) {
    const KGS: u32 = cpu::MSR_KERNEL_GS_BASE;
    let good = (KGS, 0, 0x1234_5000);
    let cases: [(&str, &[Entry], u64); 9] = [
        ("FS base", &[good, (cpu::MSR_FS_BASE, 0, 0)], 2),
        ("GS base", &[(cpu::MSR_GS_BASE, 0, 0)], 1),
        ("reserved word", &[good, good, (KGS, 1, 0)], 3),
        ("value not canonical", &[(KGS, 0, paging::NON_CANONICAL)], 1),
        ("a read-only MSR", &[good, (::vmx::msr::VMX_BASIC, 0, 0)], 2),
        ("x2APIC range in x2APIC mode", &[(0x80b, 0, 0)], 1),
        (
            "EFER reserved bit",
            &[(cpu::MSR_EFER, 0, 1 << 9 | 0x500)],
            1,
        ),
        ("an unknown MSR", &[good, (0x1234_5678, 0, 0)], 2),
        ("the SMM monitor", &[(0x9b, 0, 0)], 1),
    ];
    let mark = memory::mark();
    let saved = cpu::msr(KGS);
    for (name, entries, failing) in cases {
        // Bochs ignores unknown MSRs, and has the x2APIC's only in that mode.
        if !cpu::is_virtual() && matches!(entries[entries.len() - 1].0, 0x1234_5678 | 0x80b | 0x9b)
        {
            check.skip(name, "the emulator ignores it");
            continue;
        }
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
        let list = memory::page();
        put(list, entries);
        l2.set(Field::ENTRY_MSR_LOAD_ADDRESS, list);
        l2.set(Field::ENTRY_MSR_LOAD_COUNT, entries.len() as u64);
        let outcome = l2.run();
        check.equal(
            name,
            outcome,
            Outcome::entry_failure(BasicExitReason::MsrLoading),
        );
        if outcome == Outcome::entry_failure(BasicExitReason::MsrLoading) {
            check.equal(
                format_args!("{name}: qualification"),
                l2.get(Field::EXIT_QUALIFICATION),
                failing,
            );
        }
    }
    memory::release(mark);
    operation::leave();
    let mut l2 = L2::new(code!("mov ecx, 0xC0000102", "rdmsr", "vmcall"));
    let list = memory::page();
    put(list, &[(KGS, 0, 1), (KGS, 0, 0x7766_5544)]);
    l2.set(Field::ENTRY_MSR_LOAD_ADDRESS, list);
    l2.set(Field::ENTRY_MSR_LOAD_COUNT, 2);
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(::vmx::PrimaryControls::USE_MSR_BITMAPS);
    check.equal(
        "a good list",
        l2.run(),
        Outcome::exit(BasicExitReason::Vmcall),
    );
    check.equal(
        "its last entry counts",
        l2.registers[reg::RAX] as u32,
        0x7766_5544,
    );
    check.equal("L1 sees the value too", cpu::msr(KGS), 0x7766_5544);
    let _ = cpu::wrmsr(KGS, saved);
}
