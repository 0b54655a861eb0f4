//! The code of the churned guest and the mailbox by which it is told what to do.

use core::arch::global_asm;

use crate::assembly::code_between;

// In read-only data: the vmm never runs it, it copies it into a guest.
global_asm!(
    ".pushsection .rodata.vmm_churn, \"a\"",
    include_str!("payload.s"),
    ".popsection",
);

/// The port of the exit that says that there is nothing to do.
pub const PORT_YIELD: u16 = 0xE8;

/// Bit of a command's address: fill the page; without it, check it.
pub const TASK_FILL: u64 = 1;

/// Places of the mailbox's words, in bytes.
pub mod mailbox {
    /// Number of the batch to do, by the vmm.
    pub const SEQUENCE: u64 = 0x00;
    /// Number of the batch that is done, by the guest.
    pub const DONE: u64 = 0x08;
    /// How often the guest looks for a batch before it exits.
    pub const SPINS: u64 = 0x10;
    /// Commands in the batch; none ends the vCPU by a HLT.
    pub const COUNT: u64 = 0x18;
    /// Address of the first wrong word, by the guest.
    pub const WRONG: u64 = 0x20;
    /// What was there, by the guest.
    pub const FOUND: u64 = 0x28;
    /// Of all words that the batch read, by the guest.
    pub const CHECKSUM: u64 = 0x30;
    /// The commands: page and task, first word, step.
    pub const COMMANDS: u64 = 0x40;
}

code_between!(
    /// The code. It may lie anywhere; its entry is its first byte.
    vmm_churn_start, vmm_churn_end
);

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};

    fn instructions() -> Vec<Instruction> {
        Decoder::with_ip(64, code(), 0, DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    #[test]
    fn the_code_needs_no_relocation_and_exits_in_two_places() {
        let all = instructions();
        assert!(
            all.iter()
                .all(|i| !i.is_invalid() && !i.is_ip_rel_memory_operand())
        );
        let exits: Vec<_> = all
            .iter()
            .filter(|i| matches!(i.mnemonic(), Mnemonic::Out | Mnemonic::Hlt))
            .collect();
        assert_eq!(exits.len(), 2);
        assert_eq!(u16::from(exits[0].immediate8()), PORT_YIELD);
    }

    #[test]
    fn mailbox_words_are_where_the_code_looks() {
        let read: Vec<u64> = instructions()
            .iter()
            .filter(|i| i.memory_base() == Register::RDI)
            .map(|i| i.memory_displacement64())
            .collect();
        use mailbox::*;
        assert_eq!(
            read,
            [
                SPINS, SEQUENCE, COUNT, COMMANDS, WRONG, FOUND, CHECKSUM, DONE
            ]
        );
    }
}
