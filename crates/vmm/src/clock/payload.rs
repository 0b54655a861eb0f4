//! The code of the guest that reads its clock.

use core::arch::global_asm;

use crate::assembly::code_between;

// In read-only data: the vmm never runs it, it copies it into a guest.
global_asm!(
    ".pushsection .rodata.vmm_clock, \"a\"",
    include_str!("../kvm_clock.s"),
    include_str!("payload.s"),
    // The other guest's code has them, too.
    ".purgem enable_kvm_clock",
    ".purgem read_kvm_clock",
    ".popsection",
);

/// The port of the exit before the first read.
pub const PORT_BEGIN: u16 = 0xE0;
/// The port of the exit after the last.
pub const PORT_END: u16 = 0xE1;

code_between!(
    /// The code. It may lie anywhere; its entry is its first byte.
    vmm_clock_start, vmm_clock_end
);

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

    #[test]
    fn nothing_between_begin_and_end_exits() {
        let all: Vec<Instruction> = Decoder::with_ip(64, code(), 0, DecoderOptions::NONE)
            .into_iter()
            .collect();
        assert!(
            all.iter()
                .all(|i| !i.is_invalid() && !i.is_ip_rel_memory_operand())
        );
        let outs: Vec<usize> = (0..all.len())
            .filter(|&n| all[n].mnemonic() == Mnemonic::Out)
            .collect();
        let [begin, end] = outs[..] else {
            panic!("{outs:?}")
        };
        assert_eq!(u16::from(all[begin].immediate8()), PORT_BEGIN);
        assert_eq!(u16::from(all[end].immediate8()), PORT_END);
        let reads = &all[begin + 1..end];
        assert!(reads.iter().any(|i| i.mnemonic() == Mnemonic::Rdtsc));
        assert!(!reads.iter().any(|i| matches!(
            i.mnemonic(),
            Mnemonic::Wrmsr | Mnemonic::Rdmsr | Mnemonic::Vmcall | Mnemonic::Hlt | Mnemonic::Pause
        )));
    }
}
