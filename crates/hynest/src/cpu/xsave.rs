//! What the processor's XSAVE instructions do, tried out.

use core::arch::global_asm;

use super::register;

/// XCR0: x87, SSE and AVX state.
const AVX_STATE: u64 = 7;
/// Where the upper halves of YMM0 to YMM15 begin in an area of the compacted form that has x87, SSE
/// and AVX state, behind the legacy region and the header (SDM vol. 1, 13.4.3).
const UPPER_HALVES: usize = 576;
/// Bytes of such an area.
const AREA: usize = UPPER_HALVES + 16 * 16;

/// An XSAVE area.
#[repr(C, align(64))]
struct Area([u8; AREA]);

global_asm!(
    r#"
    .text
    // try_xsavec(area, ymm0): XSAVEC of x87, SSE and AVX state with YMM0 in use.
    try_xsavec:
    vmovups ymm0, [rsi]
    mov eax, 7
    xor edx, edx
    xsavec [rdi]
    vzeroall
    ret
    .global try_xsavec
    "#
);

unsafe extern "C" {
    fn try_xsavec(area: *mut Area, ymm0: *const [u8; 32]);
}

/// Whether XSAVEC puts AVX state where XRSTOR looks for it.
///
/// Bochs 2.7 does not: its XSAVEC and XSAVES take the component after SSE to begin at byte 416,
/// right behind the XMM registers, not at 576 behind the header, while its XRSTOR and XRSTORS read
/// it there. The upper halves of YMM0 to YMM9 are lost, those of YMM10 to YMM15 land in YMM0 to
/// YMM5. Linux saves by these instructions at each task switch, and its C library around the first
/// call of each function.
///
/// Called on a processor that has CR4.OSXSAVE set and runs no guest yet. A processor without AVX
/// or XSAVEC has nothing to put in the wrong place.
pub fn xsavec_is_sound() -> bool {
    const HAS_XSAVEC: u32 = 1 << 1;
    let [components, ..] = register::cpuid(0xD, 0);
    let [instructions, ..] = register::cpuid(0xD, 1);
    if u64::from(components) & AVX_STATE != AVX_STATE || instructions & HAS_XSAVEC == 0 {
        return true;
    }
    let mut area = Area([0; AREA]);
    let ymm0: [u8; 32] = core::array::from_fn(|i| i as u8 + 1);
    // SAFETY: CR4.OSXSAVE is set and the processor has the three components; the routine writes to
    // the area alone, which is as long and as aligned as XSAVEC wants it. No guest has state in
    // the registers yet, and L0 none ever.
    unsafe {
        let before = register::xcr0();
        register::set_xcr0(AVX_STATE);
        try_xsavec(&mut area, &ymm0);
        register::set_xcr0(before);
    }
    area.0[UPPER_HALVES..][..16] == ymm0[16..]
}
