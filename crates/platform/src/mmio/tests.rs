use super::*;
use alloc::vec;
use iced_x86::{Decoder as Iced, DecoderOptions, Mnemonic, OpKind};
use proptest::prelude::*;

const RAX: Register = Register {
    number: 0,
    high_byte: false,
};

fn decode64(bytes: &[u8]) -> Result<Instruction, DecodeError> {
    decode(bytes, CodeSize::Bits64)
}

#[test]
fn what_kernels_use() {
    // mov %eax, disp32 (Linux's native_apic_mem_write)
    let write = decode64(&[0x89, 0x04, 0x25, 0xB0, 0xD0, 0x5F, 0xFF]).unwrap();
    assert_eq!(write.operation, Operation::Store(RAX));
    assert_eq!((write.size, write.length), (4, 7));
    // mov 0x10(%rdi), %r9d
    let read = decode64(&[0x44, 0x8B, 0x4F, 0x10]).unwrap();
    let Operation::Load { register, .. } = read.operation else {
        panic!("no load");
    };
    assert_eq!((register.number, read.size, read.length), (9, 4, 4));
    // movl $-1, (%rax)
    let constant = decode64(&[0xC7, 0x00, 0xFF, 0xFF, 0xFF, 0xFF]).unwrap();
    assert_eq!(constant.operation, Operation::StoreImmediate(u64::MAX));
    assert_eq!((constant.size, constant.length), (4, 6));
}

#[test]
fn says_why_not() {
    assert_eq!(decode64(&[]), Err(DecodeError::Truncated));
    assert_eq!(decode64(&[0x89, 0x04]), Err(DecodeError::Truncated));
    assert_eq!(decode64(&[0x89, 0xC0]), Err(DecodeError::Unsupported(0x89)));
    assert_eq!(decode64(&[0xC7, 0x08]), Err(DecodeError::Unsupported(0xC7)));
    assert_eq!(
        decode64(&[0xF0, 0x89, 0]),
        Err(DecodeError::Unsupported(0xF0))
    );
    assert_eq!(
        decode64(&[0xF0, 0x39, 0]),
        Err(DecodeError::Unsupported(0xF0))
    );
    assert!(decode64(&[0xF0, 0x21, 0]).is_ok());
    assert_eq!(
        decode64(&[0x0F, 0xA2]),
        Err(DecodeError::Unsupported(0xFA2))
    );
    assert_eq!(decode64(&[0xA5]), Err(DecodeError::Unsupported(0xA5)));
    let mut long = [0x66; 16];
    assert_eq!(decode64(&long), Err(DecodeError::TooLong));
    long[13] = 0x89;
    long[14] = 0;
    assert!(decode64(&long[..15]).is_ok(), "15 bytes are legal");
}

#[test]
fn registers_after_loads() {
    let load = |width, extend, high_byte| Operation::Load {
        register: Register {
            number: 0,
            high_byte,
        },
        width,
        extend,
    };
    let old = 0x1122_3344_5566_7788;
    for (operation, size, data, expected) in [
        (
            load(1, Extend::Zero, false),
            1,
            0xFFAB,
            0x1122_3344_5566_77AB,
        ),
        (load(1, Extend::Zero, true), 1, 0xAB, 0x1122_3344_5566_AB88),
        (
            load(2, Extend::Zero, false),
            2,
            0xABCD,
            0x1122_3344_5566_ABCD,
        ),
        (load(4, Extend::Zero, false), 4, 0x8000_0001, 0x8000_0001),
        (load(8, Extend::Zero, false), 8, u64::MAX, u64::MAX),
        (load(4, Extend::Sign, false), 1, 0x80, 0xFFFF_FF80),
        (
            load(8, Extend::Sign, false),
            4,
            0x8000_0000,
            0xFFFF_FFFF_8000_0000,
        ),
        (load(2, Extend::Sign, false), 1, 0x7F, 0x1122_3344_5566_007F),
        (Operation::Store(RAX), 4, 1, old),
    ] {
        assert_eq!(operation.loaded(size, data, old), expected, "{operation:?}");
    }
    let ah = Register {
        number: 0,
        high_byte: true,
    };
    assert_eq!((ah.stored(1, old), RAX.stored(2, old)), (0x77, 0x7788));
    assert_eq!(RAX.stored(8, old), old);
}

/// The register of iced's that is `register` with `width` bytes.
fn iced_register(register: Register, width: u8) -> iced_x86::Register {
    use iced_x86::Register as R;
    let number = u32::from(register.number);
    match (width, register.high_byte) {
        (1, true) => R::AH + number,
        (1, false) if number < 4 => R::AL + number,
        (1, false) => R::SPL + (number - 4),
        (2, _) => R::AX + number,
        (4, _) => R::EAX + number,
        _ => R::RAX + number,
    }
}

/// Whether iced's instruction is one this module is for.
fn is_plain_mov(instruction: &iced_x86::Instruction) -> bool {
    let is_mov = matches!(
        instruction.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd | Mnemonic::Xchg
    );
    let ops = [instruction.op0_kind(), instruction.op1_kind()];
    let general = |register: iced_x86::Register| register.is_gpr();
    let register_is_general = ops
        .iter()
        .zip([instruction.op0_register(), instruction.op1_register()])
        .all(|(kind, register)| *kind != OpKind::Register || general(register));
    let is_alu = iced_alu(instruction.mnemonic()).is_some();
    (is_mov || is_alu) && ops.contains(&OpKind::Memory) && register_is_general
}

fn iced_alu(mnemonic: Mnemonic) -> Option<Alu> {
    Some(match mnemonic {
        Mnemonic::Add => Alu::Add,
        Mnemonic::Or => Alu::Or,
        Mnemonic::Adc => Alu::Adc,
        Mnemonic::Sbb => Alu::Sbb,
        Mnemonic::And => Alu::And,
        Mnemonic::Sub => Alu::Sub,
        Mnemonic::Xor => Alu::Xor,
        Mnemonic::Cmp => Alu::Cmp,
        Mnemonic::Test => Alu::Test,
        Mnemonic::Inc => Alu::Inc,
        Mnemonic::Dec => Alu::Dec,
        _ => return None,
    })
}

fn compare(bytes: &[u8], mode: CodeSize) -> Result<(), TestCaseError> {
    let bitness = match mode {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let expected = Iced::new(bitness, bytes, DecoderOptions::NONE).decode();
    let found = match decode(bytes, mode) {
        Ok(found) => found,
        Err(error) => {
            prop_assert!(!is_plain_mov(&expected), "{error:?}, iced: {expected:?}");
            return Ok(());
        }
    };
    prop_assert_eq!(usize::from(found.length), expected.len());
    prop_assert_eq!(usize::from(found.size), expected.memory_size().size());
    match found.operation {
        Operation::Load {
            register,
            width,
            extend,
        } => {
            prop_assert_eq!(expected.op1_kind(), OpKind::Memory);
            prop_assert_eq!(expected.op0_register(), iced_register(register, width));
            let sign = matches!(expected.mnemonic(), Mnemonic::Movsx | Mnemonic::Movsxd);
            prop_assert_eq!(extend == Extend::Sign, sign);
        }
        Operation::Store(register) => {
            prop_assert_eq!(expected.op0_kind(), OpKind::Memory);
            prop_assert_eq!(expected.op1_register(), iced_register(register, found.size));
        }
        Operation::Exchange(register) => {
            prop_assert_eq!(expected.mnemonic(), Mnemonic::Xchg);
            let operands = [expected.op0_register(), expected.op1_register()];
            prop_assert!(operands.contains(&iced_register(register, found.size)));
        }
        Operation::Compute {
            alu,
            operand,
            to_memory,
        } => {
            prop_assert_eq!(Some(alu), iced_alu(expected.mnemonic()));
            let (memory, other) = if to_memory { (0, 1) } else { (1, 0) };
            prop_assert_eq!(expected.op_kind(memory), OpKind::Memory);
            match operand {
                Operand::Register(register) => {
                    let register = iced_register(register, found.size);
                    prop_assert_eq!(expected.op_register(other), register);
                }
                Operand::Immediate(value) if expected.op_count() == 2 => {
                    let unused = 64 - 8 * u32::from(found.size);
                    prop_assert_eq!(value << unused, expected.immediate(1) << unused);
                }
                Operand::Immediate(value) => prop_assert_eq!(value, 1),
            }
        }
        Operation::StoreImmediate(value) => {
            prop_assert_eq!(expected.op0_kind(), OpKind::Memory);
            let unused = 64 - 8 * u32::from(found.size);
            prop_assert_eq!(value << unused, expected.immediate(1) << unused);
        }
    }
    Ok(())
}

fn any_mode() -> impl Strategy<Value = CodeSize> {
    prop_oneof![
        Just(CodeSize::Bits16),
        Just(CodeSize::Bits32),
        Just(CodeSize::Bits64)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Every form of the instructions decoded, with any prefixes and operands, is what
    /// iced-x86 says it is; and what iced-x86 knows as such is decoded.
    #[test]
    fn agrees_with_iced(
        mode in any_mode(),
        prefixes in prop::collection::vec(prop_oneof![
            Just(0x66u8), Just(0x67), Just(0x2E), Just(0x65), Just(0xF3), Just(0xF0), 0x40u8..0x50,
        ], 0..4),
        opcode in prop::sample::select(vec![
            vec![0x88u8], vec![0x89], vec![0x8A], vec![0x8B], vec![0xA0], vec![0xA1], vec![0xA2],
            vec![0xA3], vec![0xC6], vec![0xC7], vec![0x63], vec![0x0F, 0xB6], vec![0x0F, 0xB7],
            vec![0x0F, 0xBE], vec![0x0F, 0xBF], vec![0x86], vec![0x87], vec![0x01], vec![0x0A],
            vec![0x13], vec![0x18], vec![0x21], vec![0x2B], vec![0x31], vec![0x39], vec![0x3B],
            vec![0x80], vec![0x81], vec![0x83], vec![0x84], vec![0x85], vec![0xF6], vec![0xF7],
            vec![0xFE], vec![0xFF],
        ]),
        tail in prop::collection::vec(any::<u8>(), 15),
    ) {
        let bytes: alloc::vec::Vec<u8> = prefixes.into_iter().chain(opcode).chain(tail).collect();
        compare(&bytes[..MAX_LENGTH], mode)?;
    }

    /// Neither do arbitrary bytes make the two disagree.
    #[test]
    fn agrees_on_anything(mode in any_mode(), bytes in prop::collection::vec(any::<u8>(), 15)) {
        compare(&bytes, mode)?;
    }
}
