//! Instructions on MMX, SSE and SSSE3 to SHA state, each with an answer known beforehand.

use core::arch::asm;

use crate::groups::audit::walk::{Problem, Verdict, equal, works};
use crate::rt::cpu;
use crate::rt::fault::attempt;

/// CR4.OSFXSR and CR4.OSXMMEXCPT.
const CR4_SSE: u64 = 3 << 9;

/// XMM0 and XMM1 are loaded, the instructions run, and XMM0 is to be the answer.
macro_rules! xmm {
    ($a:expr, $b:expr, [$($text:literal),+], $answer:expr) => {{
        let (mut a, b): ([u64; 2], [u64; 2]) = ($a, $b);
        works("CR4.OSFXSR", cpu::set_cr4(cpu::cr4() | CR4_SSE))?;
        let result = attempt(|| {
            // SAFETY: no code of the payload's own has anything in vector registers.
            unsafe {
                asm!(
                    "movdqu xmm0, [{a}]",
                    "movdqu xmm1, [{b}]",
                    $($text,)+
                    "movdqu [{a}], xmm0",
                    a = in(reg) &raw mut a,
                    b = in(reg) &raw const b,
                    out("rax") _,
                );
            }
        });
        works("the instruction", result)?;
        let answer: [u64; 2] = $answer;
        equal("the low half", a[0], answer[0])?;
        equal("the high half", a[1], answer[1])
    }};
}

/// A byte in each place.
const fn bytes(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// PADDB on MM0.
pub fn mmx() -> Verdict {
    let mut value = 0x01ff_0203_0405_0607u64;
    works(
        "the instruction",
        attempt(|| {
            // SAFETY: no code of the payload's own uses the x87 stack.
            unsafe {
                asm!("movq mm0, [{a}]", "paddb mm0, mm0", "movq [{a}], mm0", "emms",
                    a = in(reg) &raw mut value);
            }
        }),
    )?;
    equal("the sum", value, 0x02fe_0406_080a_0c0eu64)
}

/// ADDPS.
pub fn sse() -> Verdict {
    // 1.0 + 2.0 = 3.0, in each of four places.
    let (one, two, three) = (0x3f80_0000u64, 0x4000_0000u64, 0x4040_0000u64);
    let both = |x: u64| x << 32 | x;
    xmm!(
        [both(one); 2],
        [both(two); 2],
        ["addps xmm0, xmm1"],
        [both(three); 2]
    )
}

/// PADDQ.
pub fn sse2() -> Verdict {
    xmm!([u64::MAX, 5], [1, 6], ["paddq xmm0, xmm1"], [0, 11])
}

/// MOVDDUP.
pub fn sse3() -> Verdict {
    xmm!([1, 2], [7, 8], ["movddup xmm0, xmm1"], [7, 7])
}

/// PABSB.
pub fn ssse3() -> Verdict {
    xmm!(
        [0; 2],
        [bytes(0xff), bytes(0x80)],
        ["pabsb xmm0, xmm1"],
        [bytes(1), bytes(0x80)]
    )
}

/// PMOVZXBW.
pub fn sse41() -> Verdict {
    xmm!(
        [0; 2],
        [0x0807_0605_0403_0201, 0],
        ["pmovzxbw xmm0, xmm1"],
        [0x0004_0003_0002_0001, 0x0008_0007_0006_0005]
    )
}

/// PCMPGTQ, and CRC32 with its customary check value.
pub fn sse42() -> Verdict {
    xmm!([5, 5], [4, 6], ["pcmpgtq xmm0, xmm1"], [u64::MAX, 0])?;
    let mut crc = u32::MAX;
    for byte in b"123456789" {
        works(
            "CRC32",
            attempt(|| {
                // SAFETY: registers only.
                unsafe {
                    asm!("crc32 {crc:e}, {byte}", crc = inout(reg) crc, byte = in(reg_byte) *byte)
                };
            }),
        )?;
    }
    equal("CRC32 of 123456789", !crc, 0xe306_9283u32)
}

/// PCLMULQDQ: 3 times 3 is 5 without carries.
pub fn pclmulqdq() -> Verdict {
    xmm!([3, 0], [3, 0], ["pclmulqdq xmm0, xmm1, 0"], [5, 0])
}

/// AESENCLAST of nothing with nothing is the S-box's first entry everywhere.
pub fn aes() -> Verdict {
    xmm!([0; 2], [0; 2], ["aesenclast xmm0, xmm1"], [bytes(0x63); 2])
}

/// SHA1MSG1: words 2, 3, 4, 5 into words 0, 1, 2, 3, from the top.
pub fn sha() -> Verdict {
    // From the top: W0..W3 = 1, 2, 4, 8; W4, W5 = 16, 32.
    xmm!(
        [4 << 32 | 8, 1 << 32 | 2],
        [0, 16 << 32 | 32],
        ["sha1msg1 xmm0, xmm1"],
        [(4 ^ 16) << 32 | (8 ^ 32), (1 ^ 4) << 32 | (2 ^ 8)]
    )
}

/// GF2P8MULB: 2 times 3 is 6.
pub fn gfni() -> Verdict {
    xmm!(
        [bytes(2); 2],
        [bytes(3); 2],
        ["gf2p8mulb xmm0, xmm1"],
        [bytes(6); 2]
    )
}

/// FXSAVE and FXRSTOR carry XMM0.
pub fn fxsr() -> Verdict {
    #[repr(align(16))]
    struct Area([u8; 512]);
    let mut area = Area([0; 512]);
    let at = &raw mut area.0 as u64;
    xmm!(
        [11, 12],
        [at, 13],
        [
            "movq rax, xmm1",
            "fxsave [rax]",
            "pxor xmm0, xmm0",
            "fxrstor [rax]"
        ],
        [11, 12]
    )?;
    let saved = u64::from_le_bytes(area.0[160..168].try_into().unwrap_or_default());
    equal("XMM0 in the area", saved, 11u64)
}

/// 1 + 1 on the x87 stack.
pub fn x87() -> Verdict {
    let mut sum = 0u64;
    works(
        "the instructions",
        attempt(|| {
            // SAFETY: as for MMX.
            unsafe {
                asm!("fninit", "fld1", "fld1", "faddp", "fistp qword ptr [{}]", in(reg) &raw mut sum);
            }
        }),
    )?;
    equal("the sum", sum, 2u64)
}

/// What FXSAVE's image holds after a load from memory without exception: the code segment's
/// selector and the data pointer's offset.
pub fn x87_pointers() -> Result<(u16, u32), Problem> {
    let (environment, one) = ([0u32; 7], 1.0f64.to_bits());
    works(
        "the instructions",
        attempt(|| {
            // SAFETY: as for MMX.
            unsafe {
                asm!("fninit", "fld qword ptr [{one}]", "fnstenv [{at}]", "fninit",
                    one = in(reg) &raw const one, at = in(reg) &raw const environment);
            }
        }),
    )?;
    let at = &raw const environment as u64;
    Ok((
        crate::rt::memory::read::<u32>(at + 16) as u16,
        crate::rt::memory::read(at + 20),
    ))
}

/// As `xmm!`, with the state components of the mask enabled in XCR0.
macro_rules! wide {
    ($xcr0:expr, $a:expr, $b:expr, [$($text:literal),+], $answer:expr) => {{
        works("CR4.OSXSAVE", cpu::set_cr4(cpu::cr4() | cpu::CR4_OSXSAVE))?;
        works("XSETBV", super::system::xsetbv($xcr0))?;
        let verdict = (|| xmm!($a, $b, [$($text),+], $answer))();
        works("XSETBV", super::system::xsetbv(1))?;
        verdict
    }};
}
/// x87, SSE, AVX.
const AVX: u64 = 7;
/// The same and AVX-512's three.
const AVX512: u64 = 0xe7;

/// Single-precision numbers, in each place.
const fn singles(bits: u32) -> u64 {
    (bits as u64) << 32 | bits as u64
}
const ONE: u64 = singles(0x3f80_0000);
const TWO: u64 = singles(0x4000_0000);
const FIVE: u64 = singles(0x40a0_0000);

/// The upper half of YMM0, in and out.
pub fn avx() -> Verdict {
    wide!(
        AVX,
        [1, 2],
        [3, 4],
        [
            "vinsertf128 ymm0, ymm0, xmm1, 1",
            "vextractf128 xmm0, ymm0, 1"
        ],
        [3, 4]
    )
}

/// 1 + 2 times 2.
pub fn fma() -> Verdict {
    wide!(
        AVX,
        [ONE; 2],
        [TWO; 2],
        ["vfmadd231ps xmm0, xmm1, xmm1"],
        [FIVE; 2]
    )
}

/// Half-precision ones.
pub fn f16c() -> Verdict {
    wide!(
        AVX,
        [0; 2],
        [0x3c00_3c00_3c00_3c00, 0],
        ["vcvtph2ps xmm0, xmm1"],
        [ONE; 2]
    )
}

/// An addition in the upper half of YMM0.
pub fn avx2() -> Verdict {
    wide!(
        AVX,
        [0; 2],
        [3, 4],
        [
            "vinserti128 ymm0, ymm0, xmm1, 1",
            "vpaddq ymm0, ymm0, ymm0",
            "vextracti128 xmm0, ymm0, 1"
        ],
        [6, 8]
    )
}

/// An addition in the last quarter of ZMM0.
pub fn avx512f() -> Verdict {
    wide!(
        AVX512,
        [0; 2],
        [3, 4],
        [
            "vinserti32x4 zmm0, zmm0, xmm1, 3",
            "vpaddq zmm0, zmm0, zmm0",
            "vextracti32x4 xmm0, zmm0, 3"
        ],
        [6, 8]
    )
}

/// An AVX-512 instruction, as a function.
macro_rules! avx512 {
    ($name:ident, $doc:literal, $a:expr, $b:expr, $text:literal, $answer:expr) => {
        #[doc = $doc]
        pub fn $name() -> Verdict {
            wide!(AVX512, $a, $b, [$text], $answer)
        }
    };
}
avx512!(
    avx512dq,
    "VPMULLQ.",
    [5, 6],
    [7, 8],
    "vpmullq zmm0, zmm0, zmm1",
    [35, 48]
);
avx512!(
    avx512cd,
    "VPLZCNTQ.",
    [0; 2],
    [1, 0],
    "vplzcntq zmm0, zmm1",
    [63, 64]
);
avx512!(
    avx512bw,
    "VPADDB.",
    [bytes(255), 0],
    [bytes(2), 1],
    "vpaddb zmm0, zmm0, zmm1",
    [bytes(1), 1]
);
avx512!(
    avx512vl,
    "VPTERNLOGQ on 128 bits.",
    [0; 2],
    [0; 2],
    "vpternlogq xmm0, xmm0, xmm1, 255",
    [u64::MAX; 2]
);
avx512!(
    avx512_ifma,
    "VPMADD52LUQ.",
    [1; 2],
    [3; 2],
    "vpmadd52luq zmm0, zmm1, zmm1",
    [10; 2]
);
avx512!(
    avx512_vbmi,
    "VPERMB.",
    [bytes(1); 2],
    [0x0201, 0],
    "vpermb zmm0, zmm0, zmm1",
    [bytes(2); 2]
);
avx512!(
    avx512_vbmi2,
    "VPSHLDQ.",
    [1; 2],
    [2 << 56; 2],
    "vpshldq zmm0, zmm0, zmm1, 8",
    [0x102; 2]
);
avx512!(
    avx512_vnni,
    "VPDPBUSD.",
    [0; 2],
    [bytes(1); 2],
    "vpdpbusd zmm0, zmm1, zmm1",
    [4 << 32 | 4; 2]
);
avx512!(
    avx512_bitalg,
    "VPOPCNTB.",
    [0; 2],
    [bytes(7); 2],
    "vpopcntb zmm0, zmm1",
    [bytes(3); 2]
);
avx512!(
    avx512_vpopcntdq,
    "VPOPCNTQ.",
    [0; 2],
    [bytes(1); 2],
    "vpopcntq zmm0, zmm1",
    [8; 2]
);

/// VAESENCLAST on 256 bits.
pub fn vaes() -> Verdict {
    wide!(
        AVX,
        [0; 2],
        [0; 2],
        ["vaesenclast ymm0, ymm0, ymm1"],
        [bytes(0x63); 2]
    )
}

/// VPCLMULQDQ on 256 bits.
pub fn vpclmulqdq() -> Verdict {
    wide!(
        AVX,
        [3, 0],
        [3, 0],
        ["vpclmulqdq ymm0, ymm0, ymm1, 0"],
        [5, 0]
    )
}
