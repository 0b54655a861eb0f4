//! The vector registers, which are the guest's while L0 runs: L0's code uses none, so what the
//! guest had in them at its exit is still there. This module names them to read them, `xsave` and `zero`
//! before there is a guest; nothing else of the image does.

use core::arch::global_asm;

use hyperv::hypercall::{VectorRegisters, XMM_WORDS};

global_asm!(
    r#"
    .text
    .global store_guest_xmm
    // store_guest_xmm(words): XMM0 to XMM5, 16 bytes each.
    store_guest_xmm:
    movdqu [rdi], xmm0
    movdqu [rdi + 16], xmm1
    movdqu [rdi + 32], xmm2
    movdqu [rdi + 48], xmm3
    movdqu [rdi + 64], xmm4
    movdqu [rdi + 80], xmm5
    ret
    "#
);

unsafe extern "C" {
    fn store_guest_xmm(words: *mut u64);
}

/// The vector registers of the guest that exited last on this processor.
pub struct LiveRegisters;

impl VectorRegisters for LiveRegisters {
    fn xmm(&self) -> [u64; XMM_WORDS] {
        const { assert!(XMM_WORDS * 8 == 96) }
        let mut words = [0; XMM_WORDS];
        // SAFETY: it stores 96 bytes, which the array has, and changes no register. L0's own CR0
        // has EM and TS clear and its CR4 has OSFXSR set (`hardware::enter_root_operation`, before
        // HOST_CR0 and HOST_CR4 are taken from them), so it does not fault, whatever the guest's
        // are.
        unsafe { store_guest_xmm(words.as_mut_ptr()) };
        words
    }
}
