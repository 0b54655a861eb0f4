//! Memory and register operands of VMX instructions, and the faults of the former.

use core::arch::asm;

use ::vmx::Field;

use crate::rt::fault::{Fault, attempt};
use crate::rt::harness::Check;
use crate::rt::paging::{self, NON_CANONICAL, PRESENT, UNMAPPED, USER, WINDOW, WRITE};
use crate::rt::{cpu, memory};
use crate::vm::instruction::{self as vmx};
use crate::vm::{Outcome, operation};

const VALUE: u64 = 0x0123_4567_89ab_cdef;

fn with_current_vmcs() -> u64 {
    operation::enter();
    let region = operation::region();
    let _ = vmx::vmclear(region);
    let _ = vmx::vmptrld(region);
    let _ = vmx::vmwrite(Field::GUEST_RSP, VALUE);
    region
}

/// VMREAD of GUEST_RSP to a memory operand that comes to `page + 0x100`, in one addressing form.
macro_rules! form {
    ($check:expr, $page:expr, $name:literal, $operand:literal $(, $reg:tt = $value:expr)*) => {{
        memory::write($page + 0x100, 0u64);
        let result = attempt(|| {
            // SAFETY: stores into a page of ours.
            unsafe {
                asm!(
                    concat!("vmread qword ptr ", $operand, ", r15"),
                    in("r15") u64::from(Field::GUEST_RSP.encoding()),
                    $(in($reg) $value,)*
                )
            }
        });
        let got = (result, memory::read::<u64>($page + 0x100));
        $check.equal($name, got, (Ok(()), VALUE));
    }};
}

/// Every way to address memory.
pub fn addressing(check: &Check) {
    let region = with_current_vmcs();
    let page = memory::page();
    form!(check, page, "base", "[rax]", "rax" = page + 0x100);
    form!(
        check,
        page,
        "base and displacement",
        "[rcx + 0x80]",
        "rcx" = page + 0x80
    );
    form!(
        check,
        page,
        "negative displacement",
        "[rdx - 0x80]",
        "rdx" = page + 0x180
    );
    form!(
        check,
        page,
        "index by 8",
        "[rax + rcx * 8]",
        "rax" = page,
        "rcx" = 0x20u64
    );
    form!(
        check,
        page,
        "index by 4",
        "[r8 + r9 * 4 + 0x40]",
        "r8" = page,
        "r9" = 0x30u64
    );
    form!(
        check,
        page,
        "index by 2",
        "[r13 + r12 * 2]",
        "r13" = page,
        "r12" = 0x80u64
    );
    form!(
        check,
        page,
        "negative index",
        "[rax + rdx]",
        "rax" = page + 0x200,
        "rdx" = 0xffff_ffff_ffff_ff00u64
    );
    form!(
        check,
        page,
        "index alone",
        "[rcx * 8]",
        "rcx" = (page + 0x100) / 8
    );
    form!(check, page, "base R12", "[r12]", "r12" = page + 0x100);
    form!(
        check,
        page,
        "base RDI, index RSI",
        "[rdi + rsi]",
        "rdi" = page,
        "rsi" = 0x100u64
    );
    form!(
        check,
        page,
        "32-bit address",
        "[eax + ecx]",
        "rax" = 0xdead_0000_0000_0000 | page,
        "rcx" = 0xbeef_0000_0000_0100u64
    );
    form!(
        check,
        page,
        "32-bit address wraps",
        "[eax + 0x200]",
        "rax" = (page + 0x100).wrapping_sub(0x200) & 0xffff_ffff
    );
    let (fs, gs) = (cpu::msr(cpu::MSR_FS_BASE), cpu::msr(cpu::MSR_GS_BASE));
    let _ = cpu::wrmsr(cpu::MSR_FS_BASE, page);
    let _ = cpu::wrmsr(cpu::MSR_GS_BASE, page + 0x80);
    form!(check, page, "FS base", "fs:[rax]", "rax" = 0x100u64);
    form!(check, page, "GS base", "gs:[rax + 0x40]", "rax" = 0x40u64);
    let _ = cpu::wrmsr(cpu::MSR_FS_BASE, fs);
    let _ = cpu::wrmsr(cpu::MSR_GS_BASE, gs);

    // The DS segment's base does not count in 64-bit mode, and VMPTRLD reads through the forms too.
    memory::write(page + 0x100, region);
    let result = attempt(|| {
        // SAFETY: reloads the VMCS that is current.
        unsafe { asm!("vmptrld [rax + rcx * 8]", in("rax") page, in("rcx") 0x20u64) }
    });
    check.equal(
        "vmptrld with an index",
        (result, vmx::vmptrst()),
        (Ok(()), Ok(region)),
    );

    // Across a page border whose pages lie apart.
    let (a, b) = (memory::page(), memory::page());
    paging::map(WINDOW, b, PRESENT | WRITE);
    paging::map(WINDOW + 0x1000, a, PRESENT | WRITE);
    let result = attempt(|| {
        // SAFETY: stores into two pages of ours.
        unsafe {
            asm!("vmread qword ptr [rax], rcx", in("rax") WINDOW + 0xffd,
                in("rcx") u64::from(Field::GUEST_RSP.encoding()))
        }
    });
    let low = memory::read::<[u8; 3]>(b + 0xffd);
    let high = memory::read::<[u8; 5]>(a);
    let expected = VALUE.to_le_bytes();
    check.equal("across a page border", result, Ok(()));
    check.equal(
        "its first page",
        low,
        [expected[0], expected[1], expected[2]],
    );
    check.equal(
        "its second page",
        high,
        [
            expected[3],
            expected[4],
            expected[5],
            expected[6],
            expected[7],
        ],
    );
}

/// VMREAD into and VMWRITE out of each general register.
pub fn registers(check: &Check) {
    with_current_vmcs();
    macro_rules! each {
        ($($name:tt)*) => {$(
            let value: u64;
            // SAFETY: registers only.
            unsafe {
                asm!(concat!("vmread ", $name, ", {encoding}"), concat!("mov {value}, ", $name),
                    encoding = in(reg) u64::from(Field::GUEST_RSP.encoding()),
                    value = lateout(reg) value, out($name) _);
            }
            check.equal(concat!("vmread to ", $name), value, VALUE);
            // SAFETY: as above.
            unsafe {
                asm!(concat!("vmwrite ", $name, ", {value}"),
                    value = in(reg) !VALUE, in($name) u64::from(Field::GUEST_SYSENTER_EIP.encoding()));
                asm!(concat!("vmwrite {encoding}, ", $name),
                    encoding = in(reg) u64::from(Field::GUEST_SYSENTER_ESP.encoding()), in($name) !VALUE);
            }
            check.equal(concat!("vmwrite, field in ", $name), vmx::vmread(Field::GUEST_SYSENTER_EIP), Ok(!VALUE));
            check.equal(concat!("vmwrite from ", $name), vmx::vmread(Field::GUEST_SYSENTER_ESP), Ok(!VALUE));
            let _ = vmx::vmwrite(Field::GUEST_SYSENTER_EIP, 0);
            let _ = vmx::vmwrite(Field::GUEST_SYSENTER_ESP, 0);
        )*};
    }
    each!("rax" "rcx" "rdx" "rsi" "rdi" "r8" "r9" "r10" "r11" "r12" "r13" "r14" "r15");
}

/// Faults of memory operands: not mapped, read-only, not canonical; and none before permission.
pub fn faults(check: &Check) {
    let region = with_current_vmcs();
    let page = memory::page();
    memory::write(page, region);
    paging::map(WINDOW, page, PRESENT);
    paging::map(WINDOW + 0x1000, page, PRESENT | USER);
    let read = Outcome::Fault(Fault::page(0));
    let write = Outcome::Fault(Fault::page(2));
    let protected = Outcome::Fault(Fault::page(3));
    check.equal("vmclear, unmapped", vmx::vmclear_at(UNMAPPED), read);
    check.equal("CR2", cpu::cr2(), UNMAPPED);
    check.equal("vmptrld, unmapped", vmx::vmptrld_at(UNMAPPED + 8), read);
    check.equal("CR2", cpu::cr2(), UNMAPPED + 8);
    check.equal(
        "vmxon, unmapped",
        vmx::vmxon_at(UNMAPPED),
        Outcome::FailValid(15),
    );
    check.equal("vmptrst, unmapped", vmx::vmptrst_at(UNMAPPED), write);
    check.equal(
        "vmptrst, read-only",
        vmx::vmptrst_at(WINDOW + 0x10),
        protected,
    );
    check.equal("CR2", cpu::cr2(), WINDOW + 0x10);
    check.equal("the page is as it was", memory::read::<u64>(page + 0x10), 0);
    check.equal(
        "vmptrld, read-only",
        vmx::vmptrld_at(WINDOW),
        Outcome::Success,
    );
    check.equal(
        "vmptrld, a user's page",
        vmx::vmptrld_at(WINDOW + 0x1000),
        Outcome::Success,
    );
    check.equal("invept, unmapped", vmx::invept_at(2, UNMAPPED), read);
    check.equal("invvpid, unmapped", vmx::invvpid_at(2, UNMAPPED), read);
    let field = u64::from(Field::GUEST_RSP.encoding());
    check.equal("vmread, unmapped", vmread_to(UNMAPPED, field), write);
    check.equal("vmread, read-only", vmread_to(WINDOW, field), protected);
    check.equal("vmwrite, unmapped", vmwrite_from(field, UNMAPPED), read);
    check.equal(
        "vmwrite, read-only",
        vmwrite_from(field, WINDOW),
        Outcome::Success,
    );
    check.equal(
        "vmwrite took the value",
        vmx::vmread(Field::GUEST_RSP),
        Ok(region),
    );
    for (name, outcome) in [
        ("vmptrld", vmx::vmptrld_at(NON_CANONICAL)),
        ("vmclear", vmx::vmclear_at(NON_CANONICAL)),
        ("vmptrst", vmx::vmptrst_at(NON_CANONICAL)),
        ("vmread", vmread_to(NON_CANONICAL, field)),
        ("vmwrite", vmwrite_from(field, NON_CANONICAL)),
        ("invept", vmx::invept_at(2, NON_CANONICAL)),
        ("invvpid", vmx::invvpid_at(2, NON_CANONICAL)),
    ] {
        check.equal(format_args!("{name}, not canonical"), outcome, Outcome::GP);
    }
    let stack = attempt(|| {
        // SAFETY: faults; RBP is restored in any case.
        unsafe {
            asm!("xchg rbp, {at}", "vmptrst [rbp]", "xchg rbp, {at}", at = inout(reg) NON_CANONICAL => _)
        }
    });
    check.equal("not canonical, by RBP", stack, Err(Fault::SS));
    // The second page of an operand that straddles two.
    check.equal(
        "vmptrst into a missing second page",
        vmx::vmptrst_at(0xffff_fffc),
        write,
    );
    check.equal("CR2 is the second page", cpu::cr2(), 0x1_0000_0000);
}

fn vmread_to(at: u64, field: u64) -> Outcome {
    match attempt(|| {
        // SAFETY: a fault ends up in `attempt`.
        unsafe { asm!("vmread qword ptr [{at}], {field}", at = in(reg) at, field = in(reg) field) }
    }) {
        Ok(()) => Outcome::Success,
        Err(fault) => fault.into(),
    }
}

fn vmwrite_from(field: u64, at: u64) -> Outcome {
    match attempt(|| {
        // SAFETY: as above.
        unsafe { asm!("vmwrite {field}, qword ptr [{at}]", at = in(reg) at, field = in(reg) field) }
    }) {
        Ok(()) => Outcome::Success,
        Err(fault) => fault.into(),
    }
}
