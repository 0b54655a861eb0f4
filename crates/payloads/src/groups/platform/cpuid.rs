//! CPUID against what can be done, and MSRs that are none.

use crate::rt::cpu::{self, CR4_OSXSAVE};
use crate::rt::fault::Fault;
use crate::rt::harness::Check;

/// Leaves that must agree with each other and with control registers.
pub fn consistency(check: &Check) {
    let highest = cpu::cpuid(0, 0)[0];
    check.that(
        "leaf 0xd is there",
        highest >= 0xd,
        format_args!("{highest:#x}"),
    );
    let one = cpu::cpuid(1, 0);
    check.equal(
        "OSXSAVE follows CR4",
        one[2] >> 27 & 1,
        (cpu::cr4() >> 18 & 1) as u32,
    );
    if one[2] >> 26 & 1 != 0 {
        let _ = cpu::set_cr4(cpu::cr4() | CR4_OSXSAVE);
        check.equal("and again", cpu::cpuid(1, 0)[2] >> 27 & 1, 1);
        let _ = cpu::set_cr4(cpu::cr4() & !CR4_OSXSAVE);
    }
    check.equal(
        "APIC identifiers agree",
        cpu::cpuid(0xb, 0)[3] & 0xff,
        one[1] >> 24,
    );
    // Each CR4 bit can be set if and only if CPUID shows its feature.
    let seven = cpu::cpuid(7, 0);
    let features = [
        ("VME", 0, one[3] >> 1),
        ("DE", 3, one[3] >> 2),
        ("PGE", 7, one[3] >> 13),
        ("OSFXSR", 9, one[3] >> 24),
        ("UMIP", 11, seven[2] >> 2),
        ("LA57", 12, 0),
        ("VMXE", 13, one[2] >> 5),
        ("SMXE", 14, one[2] >> 6),
        ("FSGSBASE", 16, seven[1]),
        ("OSXSAVE", 18, one[2] >> 26),
        ("PKE", 22, seven[2] >> 3),
        ("CET", 23, 0),
    ];
    let cr4 = cpu::cr4();
    for (name, bit, feature) in features {
        let settable = cpu::set_cr4(cr4 | 1 << bit).is_ok();
        let _ = cpu::set_cr4(cr4);
        // LA57 and CET cannot be set in this mode in any case.
        check.equal(format_args!("CR4.{name}"), settable, feature & 1 != 0);
    }
    check.equal("CR4 bit 30", cpu::set_cr4(cr4 | 1 << 30), Err(Fault::GP));
    check.equal("CR4 bit 40", cpu::set_cr4(cr4 | 1 << 40), Err(Fault::GP));
    let efer = cpu::msr(cpu::MSR_EFER);
    let extended = cpu::cpuid(0x8000_0001, 0)[3];
    let nxe = cpu::wrmsr(cpu::MSR_EFER, efer | 1 << 11).is_ok();
    let _ = cpu::wrmsr(cpu::MSR_EFER, efer);
    check.equal("EFER.NXE", nxe, extended >> 20 & 1 != 0);
    check.equal(
        "EFER reserved bit",
        cpu::wrmsr(cpu::MSR_EFER, efer | 1 << 9),
        Err(Fault::GP),
    );
    check.equal(
        "EFER.LME while paging",
        cpu::wrmsr(cpu::MSR_EFER, efer & !(1 << 8)),
        Err(Fault::GP),
    );
    check.equal("EFER as it was", cpu::msr(cpu::MSR_EFER), efer);
    check.equal(
        "CR0 bit 32",
        cpu::set_cr0(cpu::cr0() | 1 << 32),
        Err(Fault::GP),
    );
    check.equal(
        "CR0.NW without CD",
        cpu::set_cr0(cpu::cr0() | 1 << 29),
        Err(Fault::GP),
    );
    check.equal(
        "CR0.PG without PE",
        cpu::set_cr0(cpu::cr0() & !1),
        Err(Fault::GP),
    );
    let cr0 = cpu::cr0();
    check.equal("CR0.CD", cpu::set_cr0(cr0 | 1 << 30), Ok(()));
    check.equal("reads back", cpu::cr0(), cr0 | 1 << 30);
    check.equal("CR0.CD clear", cpu::set_cr0(cr0), Ok(()));
    check.equal("reads back", cpu::cr0(), cr0);
    check.equal("DR7 bit 32", cpu::set_dr7(1 << 32), Err(Fault::GP));
    if cpu::is_virtual() {
        check.equal(
            "CR3 beyond memory",
            cpu::set_cr3(cpu::cr3() | 1 << 51),
            Err(Fault::GP),
        );
    }
}

/// MSRs that are none give #GP, for reading and writing.
pub fn msrs(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "the emulator answers to any");
    }
    for msr in [
        0x5,
        0x1234,
        0x2000,
        0x4000_01ff,
        0x4b56_4d00,
        0xc000_1234,
        0xc001_0015,
        0xffff_ffff,
    ] {
        check.equal(
            format_args!("rdmsr {msr:#x}"),
            cpu::rdmsr(msr),
            Err(Fault::GP),
        );
        check.equal(
            format_args!("wrmsr {msr:#x}"),
            cpu::wrmsr(msr, 0),
            Err(Fault::GP),
        );
    }
    for msr in [
        cpu::MSR_FS_BASE,
        cpu::MSR_GS_BASE,
        cpu::MSR_KERNEL_GS_BASE,
        cpu::MSR_SYSENTER_ESP,
    ] {
        check.equal(
            format_args!("wrmsr {msr:#x}, not canonical"),
            cpu::wrmsr(msr, 1 << 47),
            Err(Fault::GP),
        );
    }
    check.equal("PAT of type 2", cpu::wrmsr(cpu::MSR_PAT, 2), Err(Fault::GP));
    let pat = cpu::msr(cpu::MSR_PAT);
    check.equal(
        "PAT",
        cpu::wrmsr(cpu::MSR_PAT, 0x0007_0406_0107_0406),
        Ok(()),
    );
    check.equal("reads back", cpu::msr(cpu::MSR_PAT), 0x0007_0406_0107_0406);
    let _ = cpu::wrmsr(cpu::MSR_PAT, pat);
}
