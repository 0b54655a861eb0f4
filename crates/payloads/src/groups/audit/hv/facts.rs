//! What the Hv#1 leaves say that is no feature.

use tlfs::cpuid::{VENDOR, leaf};
use tlfs::hypercall::CallCode;

use super::super::walk::{Fact, announce, equal, fact, holds};
use super::{calls, is_offered, words};
use crate::rt::cpu;
use crate::rt::harness::Check;
use crate::rt::smp;

/// All of them.
pub fn all(check: &Check) {
    if !is_offered() {
        fact(
            check,
            "CPUID 0x40000001 EAX",
            (0, 31),
            "no Hv#1 interface is claimed",
            || {
                let vendor = cpu::cpuid(leaf::VENDOR_AND_MAX, 0);
                holds(vendor[1..] != VENDOR, "but its vendor is")
            },
        );
        return;
    }
    for (register, number) in [
        ("CPUID 0x40000005 EAX", leaf::LIMITS),
        ("CPUID 0x40000006 EAX", leaf::HARDWARE),
    ] {
        announce(check, register, u64::from(words(number)[0]));
    }
    let facts: [Fact; 9] = [
        (
            "CPUID 0x40000000 EAX",
            (0, 31),
            "the nested leaf is the last",
            || {
                equal(
                    "the last leaf",
                    words(leaf::VENDOR_AND_MAX)[0],
                    leaf::NESTED,
                )
            },
        ),
        ("CPUID 0x40000000 EBX", (0, 31), "Microsoft Hv", || {
            holds(words(leaf::VENDOR_AND_MAX)[1..] == VENDOR, "it is another")
        }),
        (
            "CPUID 0x40000001 EAX",
            (0, 31),
            "Hv#1, nothing else",
            || holds(words(leaf::INTERFACE)[1..] == [0; 3], "there is more"),
        ),
        ("CPUID 0x40000002 EBX", (0, 31), "a version", || {
            holds(words(leaf::VERSION)[1] >> 16 != 0, "no major version")
        }),
        (
            "CPUID 0x40000004 EBX",
            (0, 31),
            "NotifyLongSpinWait answers all the same",
            || {
                // Fast: one word of input, the number of spins.
                let code = u64::from(CallCode::NOTIFY_LONG_SPIN_WAIT.0);
                calls::succeeds(calls::call(code | calls::FAST, 1, 0))
            },
        ),
        (
            "CPUID 0x40000004 ECX",
            (0, 6),
            "the width of physical addresses",
            || {
                equal(
                    "bits",
                    words(leaf::RECOMMENDATIONS)[2],
                    cpu::physical_bits(),
                )
            },
        ),
        (
            "CPUID 0x40000005 EAX",
            (0, 31),
            "room for the processors there are",
            || {
                let processors = 1 + u32::from(smp::ensure());
                holds(words(leaf::LIMITS)[0] >= processors, "less than run")
            },
        ),
        (
            "CPUID 0x40000006 EAX",
            (0, 31),
            "no more than VMX has; level 0",
            || {
                // What L0 itself uses of the hardware is nothing that L1 could use.
                equal("the level", words(leaf::HARDWARE)[0] >> 10 & 0xf, 0u32)?;
                holds(words(leaf::HARDWARE)[1..] == [0; 3], "there is more")
            },
        ),
        (
            "CPUID 0x40000007 EAX",
            (0, 31),
            "leaves 7 to 9 are empty",
            || {
                holds(
                    (7..10).all(|n| words(leaf::VENDOR_AND_MAX + n) == [0; 4]),
                    "one is not",
                )
            },
        ),
    ];
    for (register, bits, how, run) in facts {
        fact(check, register, bits, how, run);
    }
}
