//! Who calls, and the registers a call is made of.

use tlfs::hypercall::{Control, ResultWord};

/// The caller's processor mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Real mode.
    Real,
    /// Protected mode, compatibility mode included.
    Protected,
    /// 64-bit mode: EFER.LMA and CS.L are set.
    Long,
}

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its processor mode.
    pub mode: Mode,
    /// Its current privilege level, 0 to 3.
    pub cpl: u8,
}

/// The general registers that a call may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names are the registers'")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
}

/// Words of 8 bytes that XMM0 to XMM5 hold.
pub const XMM_WORDS: usize = 12;

/// The vector registers of a caller: where the input of a fast call goes on that
/// is longer than the general registers are (TLFS, "XMM Fast Hypercall Input").
pub trait VectorRegisters {
    /// XMM0 to XMM5, of each its low half first.
    fn xmm(&self) -> [u64; XMM_WORDS];
}

/// `high`:`low` of 32 bits each.
const fn pair(high: u64, low: u64) -> u64 {
    high << 32 | low & 0xFFFF_FFFF
}

impl Caller {
    /// Hypercalls are for the most privileged level of protected mode (TLFS,
    /// "Legal Hypercall Environments").
    pub(super) fn may_call(&self) -> bool {
        self.cpl == 0 && self.mode != Mode::Real
    }

    /// The call's control word.
    pub const fn control(&self, registers: &Registers) -> Control {
        Control::from_bits(match self.mode {
            Mode::Long => registers.rcx,
            _ => pair(registers.rdx, registers.rax),
        })
    }

    /// The two operands: addresses of input and output, or 16 bytes of input.
    pub(super) const fn operands(&self, registers: &Registers) -> [u64; 2] {
        match self.mode {
            Mode::Long => [registers.rdx, registers.r8],
            _ => [
                pair(registers.rbx, registers.rcx),
                pair(registers.rdi, registers.rsi),
            ],
        }
    }

    /// Puts the result where the caller looks for it. Other registers keep
    /// their values.
    pub const fn end(&self, result: ResultWord, registers: &mut Registers) {
        let result = result.into_bits();
        match self.mode {
            Mode::Long => registers.rax = result,
            _ => {
                registers.rax = result & 0xFFFF_FFFF;
                registers.rdx = result >> 32;
            }
        }
    }
}
