//! XSAVE: leaf 0xD of CPUID against what can be done.

use core::arch::asm;

use crate::rt::cpu::{self, CR4_OSXSAVE};
use crate::rt::fault::{Fault, attempt};
use crate::rt::harness::Check;

fn xsetbv(value: u64) -> Result<(), Fault> {
    attempt(|| {
        // SAFETY: a refused value faults into `attempt`.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32)
        }
    })
}

/// Leaf 0xD against XCR0.
pub fn components(check: &Check) {
    if cpu::cpuid(1, 0)[2] >> 26 & 1 == 0 {
        return check.skip("all", "no XSAVE");
    }
    check.equal("xsetbv without OSXSAVE", xsetbv(1), Err(Fault::UD));
    let _ = cpu::set_cr4(cpu::cr4() | CR4_OSXSAVE);
    let d = cpu::cpuid(0xd, 0);
    let offered = u64::from(d[0]) | u64::from(d[3]) << 32;
    check.equal("x87 and SSE are offered", offered & 3, 3);
    check.equal("x87 must stay", xsetbv(0), Err(Fault::GP));
    check.equal("AVX without SSE", xsetbv(5), Err(Fault::GP));
    for bit in 0..63 {
        if offered >> bit & 1 == 0 {
            check.equal(
                format_args!("component {bit}, not offered"),
                xsetbv(1 | 1 << bit),
                Err(Fault::GP),
            );
        }
    }
    let mut largest = 576;
    for component in 2..63u32 {
        if offered >> component & 1 == 0 {
            continue;
        }
        let [size, offset, flags, _] = cpu::cpuid(0xd, component);
        check.that(
            format_args!("component {component} has a place"),
            size > 0 && (offset >= 576 || flags & 1 != 0),
            format_args!("{size} bytes at {offset}"),
        );
        largest = largest.max(offset + size);
        // AVX-512's three go together, as do MPX's two, and all want AVX and SSE.
        let with = if (5..8).contains(&component) {
            0xe7
        } else if component == 3 || component == 4 {
            0x1b
        } else {
            3 | 1 << component
        };
        if with & !offered == 0 {
            check.equal(
                format_args!("component {component} can be enabled"),
                xsetbv(with),
                Ok(()),
            );
            let size = cpu::cpuid(0xd, 0)[1];
            check.that(
                "the area grows",
                size >= offset + cpu::cpuid(0xd, component)[0],
                format_args!("{size}"),
            );
        }
    }
    check.equal("the largest area", cpu::cpuid(0xd, 0)[2], largest);
    check.equal("SSE alone", xsetbv(3), Ok(()));
    check.equal("its area", cpu::cpuid(0xd, 0)[1], 576);
    check.equal("back to x87", xsetbv(1), Ok(()));
    let _ = cpu::set_cr4(cpu::cr4() & !CR4_OSXSAVE);
}

/// An XSAVE area for x87, SSE and AVX state.
#[repr(C, align(64))]
struct Area([u8; 1024]);

/// A saving instruction, executed on the area while YMM0 and YMM12 hold a value.
type Save = fn(&mut Area, &[u8; 32]);

macro_rules! save_by {
    ($instruction:literal) => {
        |area, value| {
            // SAFETY: XCR0 allows AVX, the area is large enough for what it enables, and the
            // payload's own code keeps nothing in these registers.
            unsafe {
                asm!(
                    "vmovups ymm0, [{value}]",
                    "vmovups ymm12, [{value}]",
                    concat!($instruction, " [{area}]"),
                    "vzeroall",
                    value = in(reg) value, area = in(reg) area, in("eax") 7, in("edx") 0,
                )
            }
        }
    };
}

/// Restores the area and stores YMM0 and YMM12.
fn restore(area: &Area, by_supervisor: bool) -> Result<[[u8; 32]; 2], Fault> {
    let mut values = [[0; 32]; 2];
    attempt(|| {
        // SAFETY: as in `save_by`; an area that is not as it must be faults into `attempt`.
        unsafe {
            if by_supervisor {
                asm!("xrstors [{}]", in(reg) area, in("eax") 7, in("edx") 0);
            } else {
                asm!("xrstor [{}]", in(reg) area, in("eax") 7, in("edx") 0);
            }
            asm!(
                "vmovups [{values}], ymm0",
                "vmovups [{values} + 32], ymm12",
                "vzeroall",
                values = in(reg) &mut values,
            );
        }
    })?;
    Ok(values)
}

/// Each saving instruction that is offered keeps the upper halves of YMM registers.
pub fn forms(check: &Check) {
    let needed = 1 << 28 | 1 << 26;
    if cpu::cpuid(1, 0)[2] & needed != needed {
        return check.skip("all", "no AVX");
    }
    let _ = cpu::set_cr4(cpu::cr4() | CR4_OSXSAVE);
    check.equal("AVX can be enabled", xsetbv(7), Ok(()));
    let offered = cpu::cpuid(0xd, 1)[0];
    let forms: [(&str, bool, bool, Save); 4] = [
        ("XSAVE", true, false, save_by!("xsave")),
        ("XSAVEOPT", offered & 1 != 0, false, save_by!("xsaveopt")),
        ("XSAVEC", offered >> 1 & 1 != 0, false, save_by!("xsavec")),
        ("XSAVES", offered >> 3 & 1 != 0, true, save_by!("xsaves")),
    ];
    let value: [u8; 32] = core::array::from_fn(|i| i as u8 + 1);
    for (name, is_offered, by_supervisor, save) in forms {
        if !is_offered {
            check.skip(name, "not offered");
            continue;
        }
        let mut area = Area([0; 1024]);
        check.equal(name, attempt(|| save(&mut area, &value)), Ok(()));
        check.equal(
            format_args!("{name}: restored"),
            restore(&area, by_supervisor),
            Ok([value; 2]),
        );
    }
    check.equal("back to x87", xsetbv(1), Ok(()));
    let _ = cpu::set_cr4(cpu::cr4() & !CR4_OSXSAVE);
}
