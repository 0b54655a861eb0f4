//! What L2s run: code for [`super::L2::set_code`], and their own IDT.

use crate::rt::{fault, memory};

unsafe extern "C" {
    static l2_handlers: [u8; 0];
}

/// Bytes of one handler of L2's IDT.
const HANDLER: u64 = 8;
/// Bytes of VMCALL.
pub const VMCALL_BYTES: u64 = 3;

/// An IDT for an L2, whose handlers do VMCALL and, resumed behind that, IRETQ.
pub fn idt() -> u64 {
    let idt = memory::page();
    for vector in 0..256 {
        memory::write(
            idt + vector * 16,
            fault::gate(handler(vector as u8), false, 0),
        );
    }
    idt
}

/// The address of the handler for `vector`.
pub fn handler(vector: u8) -> u64 {
    (&raw const l2_handlers) as u64 + u64::from(vector) * HANDLER
}

/// The vector whose handler starts at `rip`.
pub fn vector_at(rip: u64) -> Option<u8> {
    let offset = rip.wrapping_sub(handler(0));
    (offset < 256 * HANDLER && offset.is_multiple_of(HANDLER)).then_some((offset / HANDLER) as u8)
}

/// Code that an L2 runs, as a value for `L2::set_code`: instructions, one string each.
macro_rules! code {
    ($($text:literal),* $(,)?) => {{
        #[unsafe(naked)]
        unsafe extern "C" fn code() {
            core::arch::naked_asm!($($text),*)
        }
        code as *const () as u64
    }};
}
pub(crate) use code;
