//! Into the guest and back: the assembly around VM entry and VM exit.
//!
//! A VP's processor spends its life in this loop. The host stack holds one word, the VP's
//! address, at the address that HOST_RSP names; a VM exit starts there, stores the guest's
//! general registers into the VP and calls Rust on the rest of the stack. Nothing of the host's
//! is kept in registers across a guest's run, so nothing needs saving for it.

use core::arch::global_asm;

use super::exits;
use crate::cpu::per_cpu::KICKED_OFFSET;

/// What is to be executed to enter the guest; the number that the exit handler returns.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Entry {
    /// VMRESUME: the current VMCS has been launched.
    Resume = 0,
    /// VMLAUNCH: it has not.
    Launch = 1,
}

global_asm!(
    r#"
    .text
    .global vp_entry_start
    .global vp_entry_end
    .global vp_entry_kicked
    .global vp_exit

    // vp_enter(vp, stack, entry): puts the VP's address at `stack` and goes on from there.
    vp_enter:
    mov rsp, rsi
    mov [rsp], rdi
    mov rax, rdx
    jmp vp_entry_start

    .balign 64
    vp_exit:
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
    call {exited}

    // A kick that arrives from here on sends the processor to vp_entry_kicked: by the test, or
    // by the NMI handler where the test has been passed already.
    vp_entry_start:
    cmp byte ptr gs:[{kicked}], 0
    jne vp_entry_kicked
    mov rdi, [rsp]
    test eax, eax
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
    jnz 2f
    vmresume
    jmp vp_entry_end
    2:
    vmlaunch
    vp_entry_end:
    // Only a VMfail comes here.
    mov rdi, [rsp]
    call {failed}
    jmp vp_entry_start

    vp_entry_kicked:
    mov rdi, [rsp]
    call {kicked_handler}
    jmp vp_entry_start
    "#,
    exited = sym exits::exited,
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
    pub fn vp_enter(vp: *mut core::ffi::c_void, stack: u64, entry: Entry) -> !;

    /// Where VM exits arrive: HOST_RIP.
    pub static vp_exit: [u8; 0];
}
