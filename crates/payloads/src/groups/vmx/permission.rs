//! Who may execute VMX instructions: nobody outside VMX operation, in compatibility mode or in
//! ring 3.

use core::arch::naked_asm;

use crate::rt::fault::{Fault, in_compatibility_mode, in_ring3};
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::instruction as vmx;
use crate::vm::{Outcome, operation};

/// One VMX instruction as code for ring 3 and for compatibility mode. The operands address
/// RAX's page; whichever instruction it is, it is to fault before it looks there.
macro_rules! snippets {
    ($($name:literal $ring3:ident $compatibility:ident $text64:literal $bytes32:literal;)*) => {
        $(
            #[unsafe(naked)]
            unsafe extern "C" fn $ring3() {
                naked_asm!("lea rax, [rsp - 64]", $text64, "int 0x80")
            }
            #[unsafe(naked)]
            unsafe extern "C" fn $compatibility() {
                // 32-bit code: lea eax, [esp - 64].
                naked_asm!(".byte 0x8d, 0x44, 0x24, 0xc0", $bytes32, "int 0x80")
            }
        )*

        /// Name, ring 3 code, compatibility mode code.
        const SNIPPETS: &[(&str, unsafe extern "C" fn(), unsafe extern "C" fn())] =
            &[$(($name, $ring3, $compatibility)),*];
    };
}

snippets! {
    "vmxon" user_vmxon compat_vmxon "vmxon [rax]" ".byte 0xf3, 0x0f, 0xc7, 0x30";
    "vmxoff" user_vmxoff compat_vmxoff "vmxoff" ".byte 0x0f, 0x01, 0xc4";
    "vmclear" user_vmclear compat_vmclear "vmclear [rax]" ".byte 0x66, 0x0f, 0xc7, 0x30";
    "vmptrld" user_vmptrld compat_vmptrld "vmptrld [rax]" ".byte 0x0f, 0xc7, 0x30";
    "vmptrst" user_vmptrst compat_vmptrst "vmptrst [rax]" ".byte 0x0f, 0xc7, 0x38";
    "vmread" user_vmread compat_vmread "vmread rcx, rax" ".byte 0x0f, 0x78, 0xc1";
    "vmwrite" user_vmwrite compat_vmwrite "vmwrite rax, rcx" ".byte 0x0f, 0x79, 0xc1";
    "vmlaunch" user_vmlaunch compat_vmlaunch "vmlaunch" ".byte 0x0f, 0x01, 0xc2";
    "vmresume" user_vmresume compat_vmresume "vmresume" ".byte 0x0f, 0x01, 0xc3";
    "invept" user_invept compat_invept "invept rcx, [rax]" ".byte 0x66, 0x0f, 0x38, 0x80, 0x08";
    "invvpid" user_invvpid compat_invvpid "invvpid rcx, [rax]" ".byte 0x66, 0x0f, 0x38, 0x81, 0x08";
}

/// Every instruction but VMXON, in ring 0.
fn each_but_vmxon(check: &Check, when: &str, expected: Outcome) {
    let page = memory::page();
    let descriptor = [0u64; 2];
    let at = &raw const descriptor as u64;
    let outcomes = [
        ("vmxoff", vmx::vmxoff()),
        ("vmclear", vmx::vmclear(page)),
        ("vmptrld", vmx::vmptrld(page)),
        (
            "vmptrst",
            vmx::vmptrst().map_or_else(|e| e, |_| Outcome::Success),
        ),
        (
            "vmread",
            vmx::vmread_raw(0x6800).map_or_else(|e| e, |_| Outcome::Success),
        ),
        ("vmwrite", vmx::vmwrite_raw(0x6800, 0)),
        ("vmlaunch", vmx::vmlaunch()),
        ("vmresume", vmx::vmresume()),
        ("invept", vmx::invept_at(1, at)),
        ("invvpid", vmx::invvpid_at(2, at)),
    ];
    for (name, outcome) in outcomes {
        check.equal(format_args!("{name} {when}"), outcome, expected);
    }
}

/// #UD outside of VMX operation, with CR4.VMXE set or clear.
pub fn outside(check: &Check) {
    let _ = cpu::set_cr4(cpu::cr4() & !cpu::CR4_VMXE);
    let region = operation::region();
    check.equal("vmxon without VMXE", vmx::vmxon(region), Outcome::UD);
    each_but_vmxon(check, "without VMXE", Outcome::UD);
    let _ = cpu::set_cr4(cpu::cr4() | cpu::CR4_VMXE);
    each_but_vmxon(check, "with VMXE", Outcome::UD);
    for (name, user, _) in SNIPPETS {
        let expected = if *name == "vmxon" {
            Fault::GP
        } else {
            Fault::UD
        };
        check.equal(
            format_args!("{name} in ring 3 with VMXE"),
            in_ring3(*user),
            Err(expected),
        );
    }
    let _ = cpu::set_cr4(cpu::cr4() & !cpu::CR4_VMXE);
    check.equal(
        "vmxon in ring 3 without VMXE",
        in_ring3(user_vmxon),
        Err(Fault::UD),
    );
}

/// #UD in compatibility mode, whether in VMX operation or not.
pub fn compatibility(check: &Check) {
    operation::prepare();
    for (name, _, compatibility) in SNIPPETS {
        check.equal(
            format_args!("{name} outside VMX operation"),
            in_compatibility_mode(*compatibility),
            Err(Fault::UD),
        );
    }
    operation::enter();
    for (name, _, compatibility) in SNIPPETS {
        check.equal(
            format_args!("{name} in VMX operation"),
            in_compatibility_mode(*compatibility),
            Err(Fault::UD),
        );
    }
    check.equal("vmxoff after that", vmx::vmxoff(), Outcome::Success);
}

/// #GP(0) in ring 3 in VMX operation, before any operand is looked at.
pub fn ring3(check: &Check) {
    operation::enter();
    for (name, user, _) in SNIPPETS {
        check.equal(*name, in_ring3(*user), Err(Fault::GP));
    }
    check.equal("still in VMX operation", vmx::vmxoff(), Outcome::Success);
}
