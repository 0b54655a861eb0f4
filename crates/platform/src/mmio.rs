//! The instruction that touched a page of registers: what it moves, how wide,
//! and between which register and memory.
//!
//! An EPT violation tells the address and the direction, not the data. Decoded are the
//! MOV family and two-operand arithmetic and logic: what compilers and kernels use on
//! device registers.

mod alu;

pub use alu::Alu;

/// The operating mode, which sets the default sizes: CS.L and CS.D.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// 16-bit code, real mode included.
    Bits16,
    /// 32-bit code, compatibility mode included.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// A general-purpose register or a byte of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// Its number: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI, 8 to 15.
    pub number: u8,
    /// Bits 15:8 are meant (AH, CH, DH, BH), not the low ones.
    pub high_byte: bool,
}

/// How a narrow load fills its register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extend {
    /// With zeros, as MOVZX; and MOV, where the sizes are the same.
    Zero,
    /// With the sign, as MOVSX.
    Sign,
}

/// What moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Memory to a register of `width` bytes.
    Load {
        /// The register.
        register: Register,
        /// Its width in bytes: 1, 2, 4 or 8.
        width: u8,
        /// What fills it above the bytes loaded.
        extend: Extend,
    },
    /// A register to memory.
    Store(Register),
    /// A constant to memory, sign-extended to 64 bits.
    StoreImmediate(u64),
    /// XCHG: a register and memory change places.
    Exchange(Register),
    /// Arithmetic or logic on memory and another operand.
    Compute {
        /// What is computed.
        alu: Alu,
        /// The operand that is not in memory.
        operand: Operand,
        /// Whether memory is the first operand, which the result goes to; else it is the
        /// second, and the register the first.
        to_memory: bool,
    },
}

/// An operand that is not in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A register.
    Register(Register),
    /// A constant, sign-extended to 64 bits.
    Immediate(u64),
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// What moves.
    pub operation: Operation,
    /// Bytes of memory accessed: 1, 2, 4 or 8.
    pub size: u8,
    /// Length of the instruction in bytes.
    pub length: u8,
}

/// Why an instruction is not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// It goes on after the last byte given.
    Truncated,
    /// It is longer than 15 bytes, which is #GP.
    TooLong,
    /// It is none of those this module knows. The opcode, with 0x0F00 added for those of
    /// two bytes.
    Unsupported(u16),
}

/// Most bytes an instruction can have.
pub const MAX_LENGTH: usize = 15;

/// Decodes the instruction at the start of `bytes`.
///
/// # Errors
///
/// Says why that is not possible.
pub fn decode(bytes: &[u8], mode: CodeSize) -> Result<Instruction, DecodeError> {
    let mut decoder = Decoder {
        bytes,
        at: 0,
        mode,
        prefixes: Prefixes::default(),
    };
    let (operation, size) = decoder.instruction()?;
    Ok(Instruction {
        operation,
        size,
        length: decoder.at as u8,
    })
}

impl Operation {
    /// The register after a load of `data`, which was `old` before. 32-bit
    /// destinations clear the upper half, narrower ones keep what they do not cover.
    /// For what loads none, `old`.
    pub const fn loaded(self, size: u8, data: u64, old: u64) -> u64 {
        let (register, width, extend) = match self {
            Self::Load {
                register,
                width,
                extend,
            } => (register, width, extend),
            Self::Exchange(register) => (register, size, Extend::Zero),
            Self::Store(_) | Self::StoreImmediate(_) | Self::Compute { .. } => return old,
        };
        let unused = 64 - 8 * size as u32;
        let value = match extend {
            Extend::Zero => data << unused >> unused,
            Extend::Sign => ((data << unused) as i64 >> unused) as u64,
        };
        register.with(width, value, old)
    }
}

impl Register {
    /// The register, which was `old`, after `width` bytes of it were set: 32 bits clear
    /// the upper half, fewer keep what they do not cover.
    pub const fn with(self, width: u8, value: u64, old: u64) -> u64 {
        match (width, self.high_byte) {
            (1, true) => old & !0xFF00 | (value & 0xFF) << 8,
            (1, false) => old & !0xFF | value & 0xFF,
            (2, _) => old & !0xFFFF | value & 0xFFFF,
            (4, _) => value & 0xFFFF_FFFF,
            _ => value,
        }
    }

    /// The `size` bytes that a store takes from the register, whose 64 bits are `full`.
    pub const fn stored(self, size: u8, full: u64) -> u64 {
        let shifted = if self.high_byte { full >> 8 } else { full };
        let unused = 64 - 8 * size as u32;
        shifted << unused >> unused
    }
}

#[derive(Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    lock: bool,
    /// The REX prefix, if there is one: 0x40 to 0x4F.
    rex: Option<u8>,
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    mode: CodeSize,
    prefixes: Prefixes,
}

impl Decoder<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.at == MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, count: u8) -> Result<(), DecodeError> {
        for _ in 0..count {
            self.byte()?;
        }
        Ok(())
    }

    /// Reads a little-endian constant of `count` bytes, sign-extended.
    fn immediate(&mut self, count: u8) -> Result<u64, DecodeError> {
        let mut value = 0;
        for index in 0..count {
            value |= u64::from(self.byte()?) << (8 * index);
        }
        let unused = 64 - 8 * u32::from(count);
        Ok(((value << unused) as i64 >> unused) as u64)
    }

    fn rex_bit(&self, bit: u8) -> bool {
        self.prefixes.rex.is_some_and(|rex| rex >> bit & 1 != 0)
    }

    /// Size of operands that are no bytes.
    fn operand_size(&self) -> u8 {
        let default_is_16 = self.mode == CodeSize::Bits16;
        if self.rex_bit(3) {
            8
        } else if self.prefixes.operand_size != default_is_16 {
            2
        } else {
            4
        }
    }

    fn address_size(&self) -> u8 {
        match (self.mode, self.prefixes.address_size) {
            (CodeSize::Bits64, false) => 8,
            (CodeSize::Bits64, true) | (CodeSize::Bits32, false) | (CodeSize::Bits16, true) => 4,
            _ => 2,
        }
    }

    /// Reads prefixes; returns the opcode's first byte. Segment overrides change the
    /// address, which is known already; repeat prefixes mean nothing to a MOV.
    fn prefixes(&mut self) -> Result<u8, DecodeError> {
        loop {
            let byte = self.byte()?;
            match byte {
                0x66 => self.prefixes.operand_size = true,
                0x67 => self.prefixes.address_size = true,
                0xF0 => self.prefixes.lock = true,
                0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0xF2 | 0xF3 => {}
                0x40..=0x4F if self.mode == CodeSize::Bits64 => {
                    self.prefixes.rex = Some(byte);
                    continue;
                }
                _ => return Ok(byte),
            }
            // A REX prefix counts only right before the opcode.
            self.prefixes.rex = None;
        }
    }

    fn instruction(&mut self) -> Result<(Operation, u8), DecodeError> {
        let opcode = self.prefixes()?;
        let (operation, size) = self.operation(opcode)?;
        let is_lockable = match operation {
            Operation::Exchange(_) => true,
            Operation::Compute { alu, to_memory, .. } => to_memory && alu.stores(),
            _ => false,
        };
        if self.prefixes.lock && !is_lockable {
            return Err(DecodeError::Unsupported(0xF0));
        }
        Ok((operation, size))
    }

    fn operation(&mut self, opcode: u8) -> Result<(Operation, u8), DecodeError> {
        let full = self.operand_size();
        let size = if opcode & 1 == 0 { 1 } else { full };
        match opcode {
            0x00..=0x3B if opcode & 7 < 4 => {
                let register = self.modrm_register(size)?;
                let operation = Operation::Compute {
                    alu: Alu::from_bits(opcode >> 3),
                    operand: Operand::Register(register),
                    to_memory: opcode & 2 == 0,
                };
                Ok((operation, size))
            }
            // 0x82 is 0x80 again, but for 64-bit mode.
            0x82 if self.mode == CodeSize::Bits64 => Err(DecodeError::Unsupported(0x82)),
            0x80..=0x83 => {
                let alu = Alu::from_bits(self.modrm()?);
                let value = self.immediate(if opcode == 0x81 { size.min(4) } else { 1 })?;
                Ok((with_constant(alu, value), size))
            }
            0x84 | 0x85 => {
                let register = self.modrm_register(size)?;
                let operation = Operation::Compute {
                    alu: Alu::Test,
                    operand: Operand::Register(register),
                    to_memory: true,
                };
                Ok((operation, size))
            }
            0xF6 | 0xF7 => match self.modrm()? {
                0 | 1 => {
                    let value = self.immediate(size.min(4))?;
                    Ok((with_constant(Alu::Test, value), size))
                }
                _ => Err(DecodeError::Unsupported(opcode.into())),
            },
            0xFE | 0xFF => match self.modrm()? {
                0 => Ok((with_constant(Alu::Inc, 1), size)),
                1 => Ok((with_constant(Alu::Dec, 1), size)),
                _ => Err(DecodeError::Unsupported(opcode.into())),
            },
            0x86 | 0x87 => {
                let register = self.modrm_register(size)?;
                Ok((Operation::Exchange(register), size))
            }
            0x88 | 0x89 => {
                let register = self.modrm_register(size)?;
                Ok((Operation::Store(register), size))
            }
            0x8A | 0x8B => {
                let register = self.modrm_register(size)?;
                Ok((load(register, size, Extend::Zero), size))
            }
            0xA0..=0xA3 => {
                let accumulator = Register {
                    number: 0,
                    high_byte: false,
                };
                self.skip(self.address_size())?;
                let operation = if opcode < 0xA2 {
                    load(accumulator, size, Extend::Zero)
                } else {
                    Operation::Store(accumulator)
                };
                Ok((operation, size))
            }
            0xC6 | 0xC7 => {
                if self.modrm()? != 0 {
                    return Err(DecodeError::Unsupported(opcode.into()));
                }
                let value = self.immediate(size.min(4))?;
                Ok((Operation::StoreImmediate(value), size))
            }
            0x63 if self.mode == CodeSize::Bits64 => {
                let register = self.modrm_register(full)?;
                // MOVSXD reads 32 bits, or 16 with a 16-bit operand size.
                Ok((load(register, full, Extend::Sign), full.min(4)))
            }
            0x0F => self.two_byte_instruction(full),
            other => Err(DecodeError::Unsupported(other.into())),
        }
    }

    fn two_byte_instruction(&mut self, full: u8) -> Result<(Operation, u8), DecodeError> {
        let opcode = self.byte()?;
        let extend = match opcode {
            0xB6 | 0xB7 => Extend::Zero,
            0xBE | 0xBF => Extend::Sign,
            other => return Err(DecodeError::Unsupported(0x0F00 | u16::from(other))),
        };
        let size = if opcode & 1 == 0 { 1 } else { 2 };
        let register = self.modrm_register(full)?;
        Ok((load(register, full, extend), size))
    }

    /// Reads ModRM and what follows it; returns the register it names, as an operand
    /// of `size` bytes.
    fn modrm_register(&mut self, size: u8) -> Result<Register, DecodeError> {
        let field = self.modrm()?;
        let number = field | u8::from(self.rex_bit(2)) << 3;
        // Without REX, byte registers 4 to 7 are the second bytes of 0 to 3.
        if size == 1 && self.prefixes.rex.is_none() && number >= 4 {
            return Ok(Register {
                number: number - 4,
                high_byte: true,
            });
        }
        Ok(Register {
            number,
            high_byte: false,
        })
    }

    /// Reads ModRM, SIB and displacement of a memory operand; returns the reg field.
    fn modrm(&mut self) -> Result<u8, DecodeError> {
        let modrm = self.byte()?;
        let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
        if mode == 3 {
            // Two registers: no instruction that touches memory.
            let opcode = self.bytes[self.at - 2];
            return Err(DecodeError::Unsupported(opcode.into()));
        }
        let displacement = if self.address_size() == 2 {
            match (mode, rm) {
                (0, 6) | (2, _) => 2,
                (1, _) => 1,
                _ => 0,
            }
        } else {
            let base = if rm == 4 { self.byte()? & 7 } else { rm };
            match (mode, base) {
                (0, 5) | (2, _) => 4,
                (1, _) => 1,
                _ => 0,
            }
        };
        self.skip(displacement)?;
        Ok(reg)
    }
}

const fn with_constant(alu: Alu, value: u64) -> Operation {
    Operation::Compute {
        alu,
        operand: Operand::Immediate(value),
        to_memory: true,
    }
}

const fn load(register: Register, width: u8, extend: Extend) -> Operation {
    Operation::Load {
        register,
        width,
        extend,
    }
}

#[cfg(test)]
mod tests;
