//! L0's own exceptions and interrupts.
//!
//! L0 runs with interrupts off. Three things may arrive all the same: an NMI, which is a
//! kick by another processor; the wake-up vector, while idle; and an exception, which is
//! a bug of L0 and ends in a report.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use super::descriptor::{CODE, TablePointer};
use super::{apic, idle, per_cpu, probe, register};
use crate::fatal;

/// Vector of the local timer that ends an idle sleep.
pub const WAKE_VECTOR: u8 = 0x20;
/// Vector on which the local APIC reports spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xFF;

/// What the stubs push, lowest address first.
#[repr(C)]
pub struct Frame {
    /// R15, R14, R13, R12, R11, R10, R9, R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    pub registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// The error code, or 0 where there is none.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    /// CS.
    pub cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RSP before.
    pub rsp: u64,
    /// SS.
    pub ss: u64,
}

global_asm!(
    r#"
    .text
    .altmacro
    .macro STUB vector
    .balign 16
    // Vectors 8, 10-14, 17, 21, 29 and 30 push an error code themselves.
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21) || (\vector == 29) || (\vector == 30)
    .else
    push 0
    .endif
    push \vector
    jmp interrupt_common
    .endm

    .balign 16
    interrupt_stubs:
    .set vector_number, 0
    .rept 256
    STUB %vector_number
    .set vector_number, vector_number + 1
    .endr

    interrupt_common:
    cld
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    mov rbp, rsp
    and rsp, -16
    call {handler}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
    "#,
    handler = sym handle,
);

unsafe extern "C" {
    static interrupt_stubs: [u8; 0];
    static vp_entry_start: [u8; 0];
    static vp_entry_end: [u8; 0];
    static vp_entry_kicked: [u8; 0];
}

#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once by the boot processor before any other runs, then only read.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

/// Fills the IDT. Every vector runs on a stack of its own (IST 1, NMI on IST 2): L0's code
/// is compiled without a red zone, but the precompiled core library's is not.
///
/// # Safety
/// Called once, before any processor loads the table.
pub unsafe fn initialise() {
    // SAFETY: no one else looks at the table yet.
    let table = unsafe { &mut *IDT.0.get() };
    let stubs = (&raw const interrupt_stubs) as u64;
    for (vector, gate) in table.iter_mut().enumerate() {
        let target = stubs + vector as u64 * 16;
        let ist = if vector == 2 { 2 } else { 1 };
        gate[0] = target & 0xFFFF
            | u64::from(CODE) << 16
            | ist << 32
            | 0x8E << 40
            | (target >> 16 & 0xFFFF) << 48;
        gate[1] = target >> 32;
    }
}

/// What LIDT takes.
pub fn table() -> TablePointer {
    TablePointer {
        limit: 256 * 16 - 1,
        base: IDT.0.get() as u64,
    }
}

extern "C" fn handle(frame: &mut Frame) {
    match frame.vector {
        2 => handle_nmi(frame),
        v if v == u64::from(WAKE_VECTOR) => apic::end_of_interrupt(),
        v if v == u64::from(SPURIOUS_VECTOR) => {}
        13 if probe::recover(&mut frame.rip) => {}
        v if v < 32 => fatal::exception(frame, register::cr2()),
        // The firmware's interrupt controller is masked; a stray line is nothing to stop for.
        _ => apic::end_of_interrupt(),
    }
}

/// A kick. Its reason is in the mailbox, so all that is left to do is to make sure that it is
/// looked at: if the processor was between its last look and the guest (or the HLT), it is sent
/// back to look again.
fn handle_nmi(frame: &mut Frame) {
    if fatal::stopping() {
        fatal::stop();
    }
    let entry = (&raw const vp_entry_start) as u64..(&raw const vp_entry_end) as u64;
    if entry.contains(&frame.rip) && per_cpu::this().kick_pending() {
        frame.rip = (&raw const vp_entry_kicked) as u64;
    }
    idle::leave(&mut frame.rip);
}

/// Masks the legacy interrupt controllers, which firmware leaves with the timer's line open, on a
/// vector that is an exception's.
pub fn mask_legacy_controllers() {
    // SAFETY: the two mask registers belong to L0, and L0 uses no legacy interrupt.
    unsafe {
        super::port::outb(0x21, 0xFF);
        super::port::outb(0xA1, 0xFF);
    }
}
