//! #DB and #AC of L1 itself, which L0 may take to itself and must give back whole.

use core::arch::asm;

use crate::rt::cpu::{self, CR0_AM};
use crate::rt::fault::{self, Fault, attempt, in_ring3};
use crate::rt::harness::Check;

/// #DB.
const DEBUG: Fault = Fault::new(1, 0);
/// DR6 with no condition met.
const DR6_NONE: u64 = 0xffff_0ff0;

/// Steps over an instruction. Gives the outcome, and where the step should end.
type Step = fn() -> (Result<(), Fault>, u64);

macro_rules! step_over {
    ($($instruction:literal),*) => {
        || {
            let mut after = 0u64;
            let place = &raw mut after;
            // SAFETY: the step faults into `attempt` behind the instruction, or behind the NOPs if
            // it is missed; RBX, which the compiler keeps to itself, is restored either way.
            let outcome = attempt(|| unsafe {
                asm!(
                    "push rbx",
                    "lea rax, [rip + 2f]",
                    "mov [{place}], rax",
                    "pushfq",
                    "or qword ptr [rsp], 0x100",
                    "xor eax, eax",
                    "mov ecx, 0x1b",
                    "mov edx, 0x60",
                    "popfq",
                    $($instruction,)*
                    "2:",
                    "nop",
                    "nop",
                    "pop rbx",
                    place = in(reg) place,
                    out("rax") _, out("rcx") _, out("rdx") _,
                )
            });
            // SAFETY: the local is alive; it was written behind the compiler's back.
            (outcome, unsafe { place.read_volatile() })
        }
    };
}

/// A step over an instruction ends behind it, whoever executes the instruction.
pub fn single_steps(check: &Check) {
    let cases: [(&str, Step); 4] = [
        ("NOP", step_over!("nop")),
        ("CPUID", step_over!("cpuid")),
        ("IN", step_over!("in al, dx")),
        ("RDMSR", step_over!("rdmsr")),
    ];
    for (name, step) in cases {
        let _ = cpu::set_dr6(DR6_NONE);
        let (outcome, after) = step();
        check.equal(format_args!("{name}: #DB"), outcome, Err(DEBUG));
        check.equal(format_args!("{name}: behind it"), fault::last_rip(), after);
        check.equal(format_args!("{name}: DR6"), cpu::dr6(), DR6_NONE | 1 << 14);
    }
    let _ = cpu::set_dr6(DR6_NONE);
}

/// A data breakpoint, and an access to a debug register that is guarded.
pub fn registers(check: &Check) {
    static WATCHED: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
    let _ = cpu::set_dr0((&raw const WATCHED) as u64);
    // L0 enabled, writes of four bytes.
    let _ = cpu::set_dr7(0x400 | 1 | 1 << 16 | 3 << 18);
    let store = || WATCHED.store(1, core::sync::atomic::Ordering::SeqCst);
    check.equal("breakpoint on a store", attempt(store), Err(DEBUG));
    check.equal("its DR6", cpu::dr6() & 0xf, 1);
    let _ = cpu::set_dr7(0x400);
    check.equal("no breakpoint any more", attempt(store), Ok(()));

    let _ = cpu::set_dr6(DR6_NONE);
    let _ = cpu::set_dr7(0x400 | 1 << 13);
    check.equal("guarded register", cpu::set_dr0(0), Err(DEBUG));
    check.equal("its DR6", cpu::dr6(), DR6_NONE | 1 << 13);
    check.equal("DR7.GD is clear", cpu::dr7(), 0x400);
    check.equal("INT1", attempt(int1), Err(DEBUG));
    check.equal("its DR6", cpu::dr6(), DR6_NONE | 1 << 13);
    let _ = cpu::set_dr6(DR6_NONE);
    let _ = cpu::set_dr0(0);
}

fn int1() {
    // SAFETY: faults into `attempt`.
    unsafe { asm!(".byte 0xf1") }
}

unsafe extern "C" fn misaligned() {
    // SAFETY: in ring 3 on a stack of its own; the load faults.
    unsafe {
        asm!(
            "pushfq",
            "or dword ptr [rsp], 0x40000",
            "popfq",
            "mov rax, [rsp - 33]",
            "int 0x80",
            options(noreturn)
        )
    }
}

/// #AC in ring 3.
pub fn alignment_check(check: &Check) {
    let cr0 = cpu::cr0();
    let _ = cpu::set_cr0(cr0 | CR0_AM);
    check.equal("#AC", in_ring3(misaligned), Err(Fault::new(17, 0)));
    let _ = cpu::set_cr0(cr0 & !CR0_AM);
    check.equal("none without AM", in_ring3(misaligned), Ok(()));
    let _ = cpu::set_cr0(cr0);
}
