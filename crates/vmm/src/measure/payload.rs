//! The payloads' code, as assembled into the vmm, and where each begins.

use core::arch::global_asm;

use crate::assembly::code_between;

// In read-only data: the vmm never runs it, it copies it into a guest.
global_asm!(
    ".pushsection .rodata.vmm_payload, \"a\"",
    include_str!("payload.s"),
    ".popsection",
);

/// Generates [`Entry`], its list and its offsets from the symbols of `payload.s`.
macro_rules! entries {
    ($($(#[$doc:meta])* $variant:ident = $symbol:ident,)*) => {
        unsafe extern "C" {
            $(safe static $symbol: u8;)*
        }

        /// A place in the payloads' code.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Entry {
            $($(#[$doc])* $variant,)*
        }

        impl Entry {
            /// Every entry, in the order of the code.
            #[cfg(test)]
            pub const ALL: &'static [Entry] = &[$(Entry::$variant,)*];

            fn address(self) -> usize {
                match self {
                    $(Entry::$variant => (&raw const $symbol).addr(),)*
                }
            }
        }
    };
}

entries! {
    /// 32 exception stubs, [`EXCEPTION_STUB_SIZE`] bytes each.
    Exceptions = vmm_payload_exceptions,
    /// The handler of interrupt [`VECTOR`].
    Interrupt = vmm_payload_interrupt,
    /// The loop with nothing in it.
    Empty = vmm_payload_empty,
    /// CPUID.
    Cpuid = vmm_payload_cpuid,
    /// RDMSR of IA32_MISC_ENABLE.
    Rdmsr = vmm_payload_rdmsr,
    /// WRMSR of IA32_BIOS_SIGN_ID.
    Wrmsr = vmm_payload_wrmsr,
    /// RDMSR of IA32_FS_BASE.
    RdmsrFsBase = vmm_payload_rdmsr_fs_base,
    /// RDTSC.
    Rdtsc = vmm_payload_rdtsc,
    /// VMCALL.
    Vmcall = vmm_payload_vmcall,
    /// OUT to [`port::OUT`].
    Out = vmm_payload_out,
    /// A read where no memory is.
    MmioRead = vmm_payload_mmio_read,
    /// HLT.
    Hlt = vmm_payload_hlt,
    /// A first write to each of a row of pages.
    Touch = vmm_payload_touch,
    /// A write to a page that the vmm has just dropped.
    Zap = vmm_payload_zap,
    /// A self-IPI.
    SelfIpi = vmm_payload_self_ipi,
    /// The TSC-deadline timer with HLT.
    TscDeadline = vmm_payload_tsc_deadline,
    /// HvFlushVirtualAddressSpace.
    HvFlush = vmm_payload_hv_flush,
}

impl Entry {
    /// Distance from the first byte of [`code`].
    pub fn offset(self) -> u64 {
        (self.address() - (&raw const vmm_payload_start).addr()) as u64
    }
}

/// Size of one stub behind [`Entry::Exceptions`].
pub const EXCEPTION_STUB_SIZE: u64 = 16;

/// Vector of the self-IPI and the timer.
pub const VECTOR: u8 = 0x40;

/// Ports by which a payload speaks to the vmm.
pub mod port {
    /// The measured loop begins.
    pub const BEGIN: u16 = 0xE0;
    /// The measured loop has ended.
    pub const END: u16 = 0xE1;
    /// The measured OUT.
    pub const OUT: u16 = 0xE2;
    /// The payload wants its page dropped.
    pub const ZAP: u16 = 0xE3;
    /// An exception; the byte is its vector.
    pub const FAULT: u16 = 0xE4;
}

code_between!(
    /// All of the payloads' code. It may lie anywhere, in one piece, 16-byte aligned.
    vmm_payload_start, vmm_payload_end
);

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

    /// The instructions from `entry` to the next entry.
    fn instructions(entry: Entry) -> Vec<Instruction> {
        let start = entry.offset() as usize;
        let end = Entry::ALL
            .iter()
            .map(|e| e.offset() as usize)
            .filter(|&offset| offset > start)
            .min()
            .unwrap_or(code().len());
        Decoder::with_ip(64, &code()[start..end], start as u64, DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    fn outs(entry: Entry) -> Vec<u16> {
        instructions(entry)
            .iter()
            .filter(|i| i.code() == Code::Out_imm8_AL)
            .map(|i| i.immediate8().into())
            .collect()
    }

    /// The instructions of the loop: from the target of the backward branch that
    /// ends it to that branch.
    fn measured_loop(entry: Entry) -> Vec<Instruction> {
        let all = instructions(entry);
        let end = all
            .iter()
            .position(|i| i.code() == Code::Out_imm8_AL && u16::from(i.immediate8()) == port::END);
        let branch = all[end.expect("an end marker") - 1];
        assert_eq!(branch.mnemonic(), Mnemonic::Jne);
        all.into_iter()
            .filter(|i| (branch.near_branch_target()..=branch.ip()).contains(&i.ip()))
            .collect()
    }

    const MEASURED: &[(Entry, Mnemonic)] = &[
        (Entry::Cpuid, Mnemonic::Cpuid),
        (Entry::Rdmsr, Mnemonic::Rdmsr),
        (Entry::Wrmsr, Mnemonic::Wrmsr),
        (Entry::RdmsrFsBase, Mnemonic::Rdmsr),
        (Entry::Vmcall, Mnemonic::Vmcall),
        (Entry::Out, Mnemonic::Out),
        (Entry::Hlt, Mnemonic::Hlt),
        (Entry::SelfIpi, Mnemonic::Wrmsr),
        (Entry::TscDeadline, Mnemonic::Wrmsr),
        (Entry::TscDeadline, Mnemonic::Hlt),
        (Entry::HvFlush, Mnemonic::Call),
    ];

    #[test]
    fn each_loop_does_its_operation_once() {
        for &(entry, mnemonic) in MEASURED {
            let count = measured_loop(entry)
                .iter()
                .filter(|i| i.mnemonic() == mnemonic)
                .count();
            assert_eq!(count, 1, "{entry:?}");
        }
    }

    #[test]
    fn the_empty_loop_is_part_of_every_other() {
        let empty: Vec<_> = measured_loop(Entry::Empty)
            .iter()
            .map(|i| i.code())
            .collect();
        assert_eq!(empty.len(), 7);
        for entry in Entry::ALL.iter().skip(3) {
            let codes: Vec<_> = measured_loop(*entry).iter().map(|i| i.code()).collect();
            assert!(codes.len() > empty.len(), "{entry:?}");
            assert_eq!(&codes[codes.len() - empty.len()..], empty, "{entry:?}");
        }
    }

    #[test]
    fn markers_stand_around_the_loop_and_not_in_it() {
        for &entry in Entry::ALL.iter().skip(2) {
            let ports = outs(entry);
            assert_eq!(ports.first(), Some(&port::BEGIN), "{entry:?}");
            assert_eq!(ports.last(), Some(&port::END), "{entry:?}");
            let inside: Vec<u16> = ports[1..ports.len() - 1].to_vec();
            match entry {
                Entry::Out => assert_eq!(inside, [port::OUT]),
                Entry::Zap => assert_eq!(inside, [port::ZAP]),
                _ => assert!(inside.is_empty(), "{entry:?}"),
            }
        }
    }

    #[test]
    fn msrs_are_those_that_are_meant() {
        let msr = |entry| {
            let body = measured_loop(entry);
            let access = body
                .iter()
                .position(|i| matches!(i.mnemonic(), Mnemonic::Rdmsr | Mnemonic::Wrmsr))
                .expect("an MSR access");
            body[..access]
                .iter()
                .rev()
                .find(|i| {
                    i.code() == Code::Mov_r32_imm32 && i.op0_register() == iced_x86::Register::ECX
                })
                .expect("ECX is set")
                .immediate32()
        };
        assert_eq!(msr(Entry::Rdmsr), 0x1A0);
        assert_eq!(msr(Entry::Wrmsr), 0x8B);
        assert_eq!(msr(Entry::RdmsrFsBase), 0xC000_0100);
        assert_eq!(msr(Entry::SelfIpi), 0x83F);
        assert_eq!(msr(Entry::TscDeadline), 0x6E0);
    }

    #[test]
    fn exception_stubs_tell_their_vector() {
        let offset = Entry::Exceptions.offset();
        for vector in 0..32u64 {
            let start = (offset + vector * EXCEPTION_STUB_SIZE) as usize;
            let mut decoder =
                Decoder::with_ip(64, &code()[start..], start as u64, DecoderOptions::NONE);
            let load = decoder.decode();
            assert_eq!(load.code(), Code::Mov_r8_imm8);
            assert_eq!(u64::from(load.immediate8()), vector);
            let jump = decoder.decode();
            assert_eq!(jump.mnemonic(), Mnemonic::Jmp);
            let target = jump.near_branch_target();
            assert_eq!(target, offset + 32 * EXCEPTION_STUB_SIZE);
        }
        assert_eq!(outs(Entry::Exceptions), [port::FAULT]);
    }

    #[test]
    fn the_code_needs_no_relocation() {
        for &entry in Entry::ALL {
            for instruction in instructions(entry) {
                assert!(!instruction.is_invalid(), "{entry:?}");
                assert!(!instruction.is_ip_rel_memory_operand(), "{entry:?}");
                for operand in 0..instruction.op_count() {
                    if instruction.op_kind(operand) == OpKind::NearBranch64 {
                        assert!(instruction.near_branch_target() < code().len() as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn the_handler_ends_the_interrupt_and_keeps_registers() {
        let all = instructions(Entry::Interrupt);
        let count = |m| all.iter().filter(|i| i.mnemonic() == m).count();
        assert_eq!(count(Mnemonic::Push), count(Mnemonic::Pop));
        assert_eq!((count(Mnemonic::Wrmsr), count(Mnemonic::Iretq)), (1, 1));
    }
}
