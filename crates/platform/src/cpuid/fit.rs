//! Whether a processor has what a partition was told by CPUID on another one.

use core::fmt;

use super::CpuidPolicy;

/// Something that L1 was told it has, and that is not to be had here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Feature bits.
    Features {
        /// The leaf.
        leaf: u32,
        /// The register's name.
        register: &'static str,
        /// The bits.
        bits: u32,
    },
    /// State components of XSAVE, or they lie elsewhere in its area.
    ExtendedState(u64),
    /// A leaf with a number that is another one here.
    Differs {
        /// The leaf.
        leaf: u32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Features {
                leaf,
                register,
                bits,
            } => write!(
                f,
                "this processor lacks features of the partition's: CPUID {leaf:#x}, {register}, bits {bits:#x}"
            ),
            Self::ExtendedState(components) => write!(
                f,
                "this processor lacks extended state of the partition's, or lays it out differently: XCR0 bits {components:#x}"
            ),
            Self::Differs { leaf } => write!(
                f,
                "this processor differs from the partition's in what CPUID {leaf:#x} tells"
            ),
        }
    }
}

impl core::error::Error for Missing {}

pub(super) fn fits(saved: &CpuidPolicy, here: &CpuidPolicy) -> Result<(), Missing> {
    let words = |policy: &CpuidPolicy| {
        let (leaf_1, leaf_7, extended) = (policy.basic[1], policy.basic[7], policy.extended[1]);
        [
            (1, "ECX", leaf_1.ecx),
            (1, "EDX", leaf_1.edx),
            (7, "EBX", leaf_7.ebx),
            (7, "ECX", leaf_7.ecx),
            (7, "EDX", leaf_7.edx),
            (0x8000_0001, "ECX", extended.ecx),
            (0x8000_0001, "EDX", extended.edx),
        ]
    };
    for ((leaf, register, has), (.., offers)) in words(saved).into_iter().zip(words(here)) {
        let bits = has & !offers;
        if bits != 0 {
            return Err(Missing::Features {
                leaf,
                register,
                bits,
            });
        }
    }
    let (components, instructions) = saved.xsave.missing(&here.xsave);
    if components != 0 {
        return Err(Missing::ExtendedState(components));
    }
    if instructions != 0 {
        return Err(Missing::Features {
            leaf: 0xD,
            register: "EAX of sub-leaf 1",
            bits: instructions,
        });
    }
    // The line that CLFLUSH flushes, in units of eight bytes.
    const LINE: u32 = 0xFF00;
    if (saved.basic[1].ebx ^ here.basic[1].ebx) & LINE != 0 {
        return Err(Missing::Differs { leaf: 1 });
    }
    Ok(())
}
