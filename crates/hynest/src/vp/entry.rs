//! Into the guest and back: the assembly around VM entry and VM exit.
//!
//! A VP's processor spends its life in this loop. The host stack holds one word, the VP's
//! address, at the address that HOST_RSP names; a VM exit starts there, stores the guest's
//! general registers into the VP and calls Rust on the rest of the stack. Nothing of the host's
//! is kept in registers across a guest's run, so nothing needs saving for it.
//!
//! VMCS 01 and VMCS 02 have a HOST_RIP each, so that where an exit arrives says whose it is.
//!
//! Every entry is a VMRESUME. A VMCS that has not been launched yet refuses it (VMfail 5) and is
//! launched then: the one time that costs an instruction more is the first.

use core::arch::global_asm;

use super::{exits, nested};
use crate::cpu::per_cpu::KICKED_OFFSET;

/// What comes after an entry that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Retry {
    /// Another VMRESUME.
    Resume = 0,
    /// VMLAUNCH: the VMCS has not been launched.
    Launch = 1,
}

global_asm!(
    r#"
    .text
    .global vp_entry_start
    .global vp_entry_end
    .global vp_entry_kicked
    .global vp_exit_l1
    .global vp_exit_l2
    .global vp_exit_l1_audited
    .global vp_exit_l2_audited

    .macro SAVE_GUEST
    push rdi
    mov rdi, [rsp + 8]
    mov [rdi + 0], rax
    mov [rdi + 8], rcx
    mov [rdi + 16], rdx
    mov [rdi + 24], rbx
    mov [rdi + 40], rbp
    mov [rdi + 48], rsi
    mov [rdi + 64], r8
    mov [rdi + 72], r9
    mov [rdi + 80], r10
    mov [rdi + 88], r11
    mov [rdi + 96], r12
    mov [rdi + 104], r13
    mov [rdi + 112], r14
    mov [rdi + 120], r15
    pop qword ptr [rdi + 56]
    .endm

    .macro LOAD_GUEST
    mov rdi, [rsp]
    mov rax, [rdi + 0]
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 40]
    mov rsi, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 56]
    .endm

    // vp_enter(vp, stack): puts the VP's address at `stack` and goes on from there.
    vp_enter:
    mov rsp, rsi
    mov [rsp], rdi
    jmp vp_entry_start

    .balign 64
    vp_exit_l1:
    SAVE_GUEST
    call {l1_exited}
    jmp vp_entry_start

    .balign 64
    vp_exit_l2:
    SAVE_GUEST
    call {l2_exited}

    // A kick that arrives from here on sends the processor to vp_entry_kicked: by the test, or
    // by the NMI handler where the test has been passed already.
    vp_entry_start:
    cmp byte ptr gs:[{kicked}], 0
    jne vp_entry_kicked
    LOAD_GUEST
    vmresume
    jmp vp_entry_end

    vp_entry_launch:
    cmp byte ptr gs:[{kicked}], 0
    jne vp_entry_kicked
    LOAD_GUEST
    vmlaunch
    vp_entry_end:
    // Only a VMfail comes here.
    mov rdi, [rsp]
    call {failed}
    test eax, eax
    jnz vp_entry_launch
    jmp vp_entry_start

    vp_entry_kicked:
    mov rdi, [rsp]
    call {kicked_handler}
    jmp vp_entry_start

    // The same where the clean-field auditor looks on, so that elsewhere nothing asks for it.
    .balign 64
    vp_exit_l1_audited:
    SAVE_GUEST
    call {audit_entry}
    mov rdi, [rsp]
    call {l1_exited}
    mov rdi, [rsp]
    call {audit_end}
    jmp vp_entry_start

    .balign 64
    vp_exit_l2_audited:
    SAVE_GUEST
    call {l2_exited}
    mov rdi, [rsp]
    call {audit_end}
    jmp vp_entry_start
    "#,
    l1_exited = sym exits::l1_exited,
    l2_exited = sym exits::l2_exited,
    audit_entry = sym nested::audit_entry,
    audit_end = sym nested::audit_end,
    failed = sym exits::entry_failed,
    kicked_handler = sym exits::kicked,
    kicked = const KICKED_OFFSET,
);

unsafe extern "C" {
    /// Enters the VP's guest, never to return.
    ///
    /// # Safety
    /// `vp` is this processor's, for good; `stack` is the HOST_RSP of its VMCSs, 16-byte
    /// aligned, with room above for one word; the current VMCS is ready to be entered.
    pub fn vp_enter(vp: *mut core::ffi::c_void, stack: u64) -> !;

    static vp_exit_l1: [u8; 0];
    static vp_exit_l2: [u8; 0];
    static vp_exit_l1_audited: [u8; 0];
    static vp_exit_l2_audited: [u8; 0];
}

/// Where exits of VMCS 01 arrive, of a VP that is audited or another: its HOST_RIP.
pub fn l1_exit_address(is_audited: bool) -> *const [u8; 0] {
    if is_audited {
        &raw const vp_exit_l1_audited
    } else {
        &raw const vp_exit_l1
    }
}

/// Where exits of VMCS 02 arrive.
pub fn l2_exit_address(is_audited: bool) -> *const [u8; 0] {
    if is_audited {
        &raw const vp_exit_l2_audited
    } else {
        &raw const vp_exit_l2
    }
}
