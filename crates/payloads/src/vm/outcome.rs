//! How a VMX instruction ended.

use core::fmt;

use vmx::BasicExitReason;

use crate::rt::fault::Fault;

/// How a VMX instruction ended (SDM, "Conventions").
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All six arithmetic flags are 0.
    Success,
    /// Only CF is 1.
    FailInvalid,
    /// Only ZF is 1, and the current VMCS holds this number.
    FailValid(u32),
    /// The arithmetic flags are something else.
    Flags(u64),
    /// An exception.
    Fault(Fault),
    /// L2 ran, or failed to, and this is the exit reason.
    Exit(u32),
}

/// CF, PF, AF, ZF, SF and OF.
pub const ARITHMETIC_FLAGS: u64 = 0x8d5;
const CF: u64 = 1;
const ZF: u64 = 1 << 6;

impl Outcome {
    /// What the flags say; `error` reads the VM-instruction error.
    pub fn from_flags(flags: u64, error: impl FnOnce() -> u32) -> Self {
        match flags & ARITHMETIC_FLAGS {
            0 => Self::Success,
            CF => Self::FailInvalid,
            ZF => Self::FailValid(error()),
            other => Self::Flags(other),
        }
    }

    /// An exit for this reason.
    pub const fn exit(reason: BasicExitReason) -> Self {
        Self::Exit(reason as u32)
    }

    /// A VM entry that failed for this reason.
    pub const fn entry_failure(reason: BasicExitReason) -> Self {
        Self::Exit(reason as u32 | 1 << 31)
    }

    /// #UD.
    pub const UD: Self = Self::Fault(Fault::UD);
    /// #GP(0).
    pub const GP: Self = Self::Fault(Fault::GP);
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::FailInvalid => f.write_str("VMfailInvalid"),
            Self::FailValid(n) => write!(f, "VMfail({n})"),
            Self::Flags(flags) => write!(f, "flags {flags:#x}"),
            Self::Fault(fault) => write!(f, "{fault:?}"),
            Self::Exit(reason) => match BasicExitReason::from_number(*reason as u16) {
                Some(name) if reason >> 31 == 0 => write!(f, "exit {name:?}"),
                Some(name) => write!(f, "failed entry {name:?}"),
                None => write!(f, "exit {reason:#x}"),
            },
        }
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
