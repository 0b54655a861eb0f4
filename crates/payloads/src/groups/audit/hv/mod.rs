//! The Hv#1 leaves, and what they offer.

mod calls;
mod ends;
mod facts;
mod msrs;
mod nested;

use tlfs::cpuid::{HYPERVISOR_RANGE_FIRST, INTERFACE, leaf};

use super::walk::{Exercise, walk_all};
use crate::rt::cpu;
use crate::rt::harness::Check;

type Find = Option<Exercise>;

pub use ends::{crash as last_crash, reset as last_reset};
pub use facts::all as leaves;

/// Whether there is an Hv#1 interface at all.
fn is_offered() -> bool {
    cpu::is_virtual() && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 1, 0)[0] == INTERFACE
}

/// A leaf; nothing where there is no interface.
fn words(number: u32) -> [u32; 4] {
    if is_offered() {
        cpu::cpuid(number, 0)
    } else {
        [0; 4]
    }
}

fn wide(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Leaf 0x40000003.
pub fn privileges(check: &Check) {
    let [eax, ebx, ecx, edx] = words(leaf::FEATURES);
    let words = [
        (
            "CPUID 0x40000003 EBX:EAX",
            wide(eax, ebx),
            msrs::privilege as fn(u32) -> Find,
        ),
        ("CPUID 0x40000003 ECX", wide(ecx, 0), |_| None),
        ("CPUID 0x40000003 EDX", wide(edx, 0), msrs::feature),
    ];
    walk_all(
        check,
        words.map(|(name, value, find)| (name, value, 0, find)),
    );
}

/// Leaf 0x40000004.
pub fn recommendations(check: &Check) {
    let [eax, .., edx] = words(leaf::RECOMMENDATIONS);
    walk_all(
        check,
        [
            (
                "CPUID 0x40000004 EAX",
                wide(eax, 0),
                0,
                calls::recommendation as fn(u32) -> Find,
            ),
            ("CPUID 0x40000004 EDX", wide(edx, 0), 0, |_| None),
        ],
    );
}

/// Leaf 0x4000000A.
pub fn nested(check: &Check) {
    let [eax, ebx, ecx, edx] = words(leaf::NESTED);
    walk_all(
        check,
        [
            (
                "CPUID 0x4000000A EBX:EAX",
                wide(eax, ebx),
                0xffff,
                nested::feature as fn(u32) -> Find,
            ),
            ("CPUID 0x4000000A EDX:ECX", wide(ecx, edx), 0, |_| None),
        ],
    );
}
