//! The capability MSRs.

use ::vmx::{SecondaryControls, msr};

use crate::rt::cpu;
use crate::rt::fault::Fault;
use crate::rt::harness::Check;
use crate::vm::operation;

/// Each can be read where it is to exist, and none written.
pub fn msrs(check: &Check) {
    let caps = operation::capabilities();
    for index in msr::FIRST..=msr::LAST {
        let exists = match index {
            msr::VMX_VMFUNC => {
                caps.secondary
                    .missing(SecondaryControls::ENABLE_VMFUNC.bits())
                    == 0
            }
            _ => true,
        };
        let value = cpu::rdmsr(index);
        if exists {
            check.that(
                format_args!("rdmsr {index:#x}"),
                value.is_ok(),
                format_args!("{value:?}"),
            );
        }
        if let Ok(value) = value {
            check.note(format_args!("{index:#x} = {value:#018x}"));
        }
        for written in [0, value.unwrap_or(0), u64::MAX] {
            check.equal(
                format_args!("wrmsr {index:#x}, {written:#x}"),
                cpu::wrmsr(index, written),
                Err(Fault::GP),
            );
        }
    }
    if cpu::is_virtual() {
        // Bochs ignores accesses to MSRs that it does not know.
        check.equal("rdmsr behind the last", cpu::rdmsr(0x494), Err(Fault::GP));
    }
    check.equal(
        "feature control is locked, VMX allowed",
        cpu::msr(0x3a) & 5,
        5,
    );
    check.equal(
        "feature control cannot be written",
        cpu::wrmsr(0x3a, 0),
        Err(Fault::GP),
    );
    check.equal("CPUID shows VMX", cpu::cpuid(1, 0)[2] >> 5 & 1, 1);
}

/// What the MSRs say agrees with itself.
pub fn consistency(check: &Check) {
    let caps = operation::capabilities();
    let basic = caps.basic;
    check.equal("BASIC bit 31", basic >> 31 & 1, 0);
    check.that(
        "the region's size",
        (0x400..=0x1000).contains(&caps.vmcs_size()),
        format_args!("{:#x}", caps.vmcs_size()),
    );
    check.equal("64-bit addresses", basic >> 48 & 1, 0);
    check.equal("write-back regions", basic >> 50 & 15, 6);
    let words = [
        ("pin", caps.pin, caps.true_pin, 0x16),
        ("primary", caps.primary, caps.true_primary, 0x0401_e172),
        ("exit", caps.exit, caps.true_exit, 0x0003_6dff),
        ("entry", caps.entry, caps.true_entry, 0x0000_11ff),
    ];
    for (name, plain, with_true, default1) in words {
        check.equal(
            format_args!("{name}: default1 must be 1"),
            plain.must_be_one(),
            default1,
        );
        check.equal(
            format_args!("{name}: both say the same may be 1"),
            plain.may_be_one(),
            with_true.may_be_one(),
        );
        check.equal(
            format_args!("{name}: what must be 1 may be 1"),
            with_true.must_be_one() & !with_true.may_be_one(),
            0,
        );
        check.equal(
            format_args!("{name}: TRUE only relaxes"),
            with_true.must_be_one() & !plain.must_be_one(),
            0,
        );
    }
    check.equal("secondary: none must be 1", caps.secondary.must_be_one(), 0);
    check.equal(
        "CR0: fixed to 1 is allowed to be 1",
        caps.cr0_fixed0 & !caps.cr0_fixed1,
        0,
    );
    check.equal(
        "CR4: fixed to 1 is allowed to be 1",
        caps.cr4_fixed0 & !caps.cr4_fixed1,
        0,
    );
    check.equal(
        "CR4.VMXE must be 1",
        caps.cr4_fixed0 & cpu::CR4_VMXE,
        cpu::CR4_VMXE,
    );
    // Each CR4 bit that L1 itself can set outside VMX operation may be set in it.
    let _ = cpu::set_cr4(cpu::cr4() & !cpu::CR4_VMXE);
    let cr4 = cpu::cr4();
    // Without those that want other state first: LA57, PCIDE, CET, and SMEP and SMAP, which would
    // forbid what runs here, in pages that ring 3 may use.
    for bit in (0..12).chain([16, 18, 22]) {
        let settable = cpu::set_cr4(cr4 | 1 << bit).is_ok();
        let _ = cpu::set_cr4(cr4);
        check.equal(
            format_args!("CR4 bit {bit}: settable and allowed in VMX operation"),
            settable,
            caps.cr4_fixed1 >> bit & 1 != 0,
        );
    }
}
