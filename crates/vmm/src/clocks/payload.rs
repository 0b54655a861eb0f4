//! The code of the guest whose clocks are compared.

use core::arch::global_asm;

use crate::assembly::code_between;

// In read-only data: the vmm never runs it, it copies it into a guest.
global_asm!(
    ".pushsection .rodata.vmm_clocks, \"a\"",
    include_str!("../kvm_clock.s"),
    include_str!("payload.s"),
    // The other guest's code has them, too.
    ".purgem enable_kvm_clock",
    ".purgem read_kvm_clock",
    ".popsection",
);

/// The port of the exit before a sample.
pub const PORT_BEGIN: u16 = 0xE0;
/// The port of the exit after it.
pub const PORT_END: u16 = 0xE1;

/// The guest's clocks, in the order of their words in what follows.
pub const CLOCKS: usize = 3;

/// What a vCPU leaves in its memory, in 64-bit words.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// Of each clock, how often it was earlier than some vCPU had read before.
    pub backwards: [u64; CLOCKS],
    /// Of each clock, what was read last.
    pub now: [u64; CLOCKS],
    /// How often all were read.
    pub reads: u64,
    /// How often kvm-clock's page did not say that it is the same on all vCPUs.
    pub unstable: u64,
    /// How often the reference TSC page could not be used.
    pub invalid: u64,
}

impl Findings {
    /// How many words they take.
    pub const WORDS: usize = 2 * CLOCKS + 3;

    /// From the words.
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [b0, b1, b2, n0, n1, n2, reads, unstable, invalid] = words;
        Findings {
            backwards: [b0, b1, b2],
            now: [n0, n1, n2],
            reads,
            unstable,
            invalid,
        }
    }
}

code_between!(
    /// The code. It may lie anywhere; its entry is its first byte.
    vmm_clocks_start, vmm_clocks_end
);

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

    #[test]
    fn two_exits_are_meant_and_the_ports_are_theirs() {
        let all: Vec<Instruction> = Decoder::with_ip(64, code(), 0, DecoderOptions::NONE)
            .into_iter()
            .collect();
        assert!(
            all.iter()
                .all(|i| !i.is_invalid() && !i.is_ip_rel_memory_operand())
        );
        let outs: Vec<u16> = all
            .iter()
            .filter(|i| i.mnemonic() == Mnemonic::Out)
            .map(|i| i.immediate8().into())
            .collect();
        assert_eq!(outs, [PORT_BEGIN, PORT_END]);
        let reads = all.iter().filter(|i| i.mnemonic() == Mnemonic::Rdtsc);
        assert_eq!(reads.count(), CLOCKS);
    }
}
