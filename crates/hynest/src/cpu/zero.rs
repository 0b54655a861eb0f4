//! Making memory zero that most likely is.
//!
//! What a machine starts with is zero but for what firmware and loader have left. To look is cheaper
//! than to write, above all in an emulator, where looking at the memory of a partition that is
//! restored would be most of the work: so it is done 64 bytes at a time where the processor can.

use core::arch::global_asm;

use super::register;

/// What one turn of the routine's loop looks at.
const CHUNK: usize = 1024;
/// A page.
const PAGE: usize = 4096;

/// XCR0: x87, SSE, AVX and AVX-512 state.
const AVX512_STATE: u64 = 0xE7;

global_asm!(
    r#"
    .text
    // zero_chunks(at, count): how many of the `count` chunks at `at` are zero before the first one
    // that is not.
    zero_chunks:
    mov rax, rsi
    test rsi, rsi
    jz 3f
    2:
    vmovdqu64 zmm0, [rdi]
    vporq zmm0, zmm0, [rdi + 64]
    vporq zmm0, zmm0, [rdi + 128]
    vporq zmm0, zmm0, [rdi + 192]
    vporq zmm0, zmm0, [rdi + 256]
    vporq zmm0, zmm0, [rdi + 320]
    vporq zmm0, zmm0, [rdi + 384]
    vporq zmm0, zmm0, [rdi + 448]
    vporq zmm0, zmm0, [rdi + 512]
    vporq zmm0, zmm0, [rdi + 576]
    vporq zmm0, zmm0, [rdi + 640]
    vporq zmm0, zmm0, [rdi + 704]
    vporq zmm0, zmm0, [rdi + 768]
    vporq zmm0, zmm0, [rdi + 832]
    vporq zmm0, zmm0, [rdi + 896]
    vporq zmm0, zmm0, [rdi + 960]
    vptestmq k1, zmm0, zmm0
    kortestw k1, k1
    jnz 3f
    add rdi, 1024
    dec rsi
    jnz 2b
    3:
    sub rax, rsi
    // Nothing of it stays for a guest to find.
    vpxorq zmm0, zmm0, zmm0
    kxorw k1, k1, k1
    ret
    .global zero_chunks
    "#
);

unsafe extern "C" {
    fn zero_chunks(at: *const u8, count: usize) -> usize;
}

/// Makes whole pages zero.
///
/// Called on a processor that runs no guest yet: it uses vector registers.
pub fn clear(pages: &mut [u8]) {
    let is_wide = has_wide_registers();
    let mut at = 0;
    loop {
        let rest = &pages[at..];
        let zero = match is_wide {
            true => zero_pages(rest),
            false => rest.chunks_exact(PAGE).take_while(is_zero).count(),
        };
        at += zero * PAGE;
        let Some(page) = pages[at..].get_mut(..PAGE) else {
            return;
        };
        page.fill(0);
        at += PAGE;
    }
}

fn is_zero(page: &&[u8]) -> bool {
    page.as_chunks::<8>()
        .0
        .iter()
        .all(|word| u64::from_ne_bytes(*word) == 0)
}

/// How many pages are zero before the first one that is not.
fn zero_pages(pages: &[u8]) -> usize {
    // SAFETY: the processor has AVX-512 and, like each that L0 runs on, CR4.OSXSAVE is set where it
    // has XSAVE; the routine reads the slice alone. No guest has state in the registers yet, L0 none
    // ever, and XCR0 is as before afterwards.
    let chunks = unsafe {
        let before = register::xcr0();
        register::set_xcr0(AVX512_STATE);
        let chunks = zero_chunks(pages.as_ptr(), pages.len() / CHUNK);
        register::set_xcr0(before);
        chunks
    };
    chunks * CHUNK / PAGE
}

/// Whether the processor has AVX-512.
fn has_wide_registers() -> bool {
    const AVX512F: u32 = 1 << 16;
    let [most, ..] = register::cpuid(0, 0);
    let [_, features, ..] = register::cpuid(7, 0);
    let [components, ..] = register::cpuid(0xD, 0);
    most >= 0xD && features & AVX512F != 0 && u64::from(components) & AVX512_STATE == AVX512_STATE
}
