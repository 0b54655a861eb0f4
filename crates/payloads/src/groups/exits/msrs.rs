//! RDMSR and WRMSR in L2.

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};

use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome};

/// Where the bit of `msr` lies in the bitmap: byte and bit. `None` outside of both ranges.
fn bit_of(msr: u32, write: bool) -> Option<(u64, u8)> {
    let base = match msr {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 0x400,
        _ => return None,
    };
    let index = u64::from(msr & 0x1fff);
    Some((
        base + u64::from(write) * 0x800 + index / 8,
        (index % 8) as u8,
    ))
}

fn access(l2: &mut L2, msr: u32, write: bool, value: u64) -> Outcome {
    let code = if write {
        code!("wrmsr", "vmcall")
    } else {
        code!("rdmsr", "vmcall")
    };
    l2.set_code(code);
    l2.registers[reg::RAX] = value & 0xffff_ffff;
    l2.registers[reg::RDX] = value >> 32;
    l2.registers[reg::RCX] = u64::from(msr);
    l2.run()
}

fn with_bitmap(fill: u64) -> (L2, u64) {
    let l2 = L2::new(code!("vmcall"));
    let bitmap = memory::page();
    memory::fill(bitmap, memory::PAGE, fill);
    l2.set(Field::MSR_BITMAP, bitmap);
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    (l2, bitmap)
}

/// The bitmap's edges: what lies in its ranges exits by its bit, what does not always.
pub fn bitmap(check: &Check) {
    let (mut l2, bitmap) = with_bitmap(0);
    for write in [false, true] {
        let verb = if write { "wrmsr" } else { "rdmsr" };
        let reason = if write { Reason::Wrmsr } else { Reason::Rdmsr };
        for msr in [0x2000, 0xbfff_ffff, 0xc000_2000, 0x4000_0000, 0xffff_ffff] {
            check.equal(
                format_args!("{verb} {msr:#x}, in no range"),
                access(&mut l2, msr, write, 0),
                Outcome::exit(reason),
            );
        }
        for msr in [
            0,
            0x10,
            0x174,
            0x1fff,
            0xc000_0000,
            0xc000_0102,
            0xc000_1fff,
        ] {
            let Some((byte, bit)) = bit_of(msr, write) else {
                continue;
            };
            memory::write(bitmap + byte, 1u8 << bit);
            dirty(&l2);
            check.equal(
                format_args!("{verb} {msr:#x}, bit set"),
                access(&mut l2, msr, write, 0),
                Outcome::exit(reason),
            );
            memory::write(bitmap + byte, 0u8);
            dirty(&l2);
        }
    }
    // Everything set but one bit: an MSR that L2 may access freely.
    let (mut l2, bitmap) = with_bitmap(u64::MAX);
    for msr in [
        cpu::MSR_SYSENTER_CS,
        cpu::MSR_KERNEL_GS_BASE,
        cpu::MSR_EFER,
        cpu::MSR_STAR,
    ] {
        for write in [false, true] {
            let verb = if write { "wrmsr" } else { "rdmsr" };
            let (byte, bit) = bit_of(msr, write).unwrap_or_default();
            let value = cpu::msr(msr);
            memory::write(bitmap + byte, !(1u8 << bit));
            dirty(&l2);
            check.equal(
                format_args!("{verb} {msr:#x}, bit clear"),
                access(&mut l2, msr, write, value),
                Outcome::exit(Reason::Vmcall),
            );
            check.equal(
                format_args!("the other direction of {msr:#x}"),
                access(&mut l2, msr, !write, value),
                Outcome::exit(if write { Reason::Rdmsr } else { Reason::Wrmsr }),
            );
            memory::write(bitmap + byte, u8::MAX);
            dirty(&l2);
        }
    }
}

/// Says that the bitmap's contents changed, where that has to be said.
fn dirty(l2: &L2) {
    if l2.is_enlightened() {
        l2.set(Field::MSR_BITMAP, l2.get(Field::MSR_BITMAP));
    }
}

/// Without bitmaps every access exits, and L2's registers are as they were.
pub fn without_bitmap(check: &Check) {
    let mut l2 = L2::new(code!("vmcall"));
    for msr in [0x10, cpu::MSR_EFER, cpu::MSR_FS_BASE, 0x1234_5678] {
        check.equal(
            format_args!("rdmsr {msr:#x}"),
            access(&mut l2, msr, false, 0),
            Outcome::exit(Reason::Rdmsr),
        );
        check.equal("ECX", l2.registers[reg::RCX], u64::from(msr));
        check.equal("length", l2.get(Field::EXIT_INSTRUCTION_LENGTH), 2);
        check.equal(
            format_args!("wrmsr {msr:#x}"),
            access(&mut l2, msr, true, 0x1234_5678_9abc_def0),
            Outcome::exit(Reason::Wrmsr),
        );
        check.equal("EAX", l2.registers[reg::RAX], 0x9abc_def0);
        check.equal("EDX", l2.registers[reg::RDX], 0x1234_5678);
    }
}

/// MSRs that L2 may access are its own where an entry loads them, and L1's where not.
pub fn values(check: &Check) {
    let (mut l2, _) = with_bitmap(0);
    let value = |l2: &L2| (l2.registers[reg::RAX] & 0xffff_ffff) | l2.registers[reg::RDX] << 32;
    l2.set(Field::GUEST_SYSENTER_EIP, 0x1357_2468_0000);
    check.equal(
        "runs",
        access(&mut l2, cpu::MSR_SYSENTER_EIP, false, 0),
        Outcome::exit(Reason::Vmcall),
    );
    check.equal("SYSENTER_EIP is L2's", value(&l2), 0x1357_2468_0000);
    l2.set(Field::GUEST_GS_BASE, 0x7fff_1234_0000);
    let _ = access(&mut l2, cpu::MSR_GS_BASE, false, 0);
    check.equal("GS base is L2's", value(&l2), 0x7fff_1234_0000);
    let saved = cpu::msr(cpu::MSR_KERNEL_GS_BASE);
    let _ = cpu::wrmsr(cpu::MSR_KERNEL_GS_BASE, 0x4242_0000);
    let _ = access(&mut l2, cpu::MSR_KERNEL_GS_BASE, false, 0);
    check.equal("KERNEL_GS_BASE is L1's", value(&l2), 0x4242_0000);
    let _ = access(&mut l2, cpu::MSR_KERNEL_GS_BASE, true, 0x2424_0000);
    check.equal(
        "L2 changed it for L1",
        cpu::msr(cpu::MSR_KERNEL_GS_BASE),
        0x2424_0000,
    );
    let _ = cpu::wrmsr(cpu::MSR_KERNEL_GS_BASE, saved);
    // IA32_APIC_BASE is L1's: L0 must serve or refuse it, not give the machine's.
    let _ = access(&mut l2, cpu::MSR_APIC_BASE, false, 0);
    check.equal(
        "APIC_BASE is L1's",
        value(&l2),
        cpu::msr(cpu::MSR_APIC_BASE),
    );
}
