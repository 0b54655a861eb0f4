//! RDMSR and WRMSR of the synthetic MSRs.
//!
//! Who may touch what is decided in one place, `gates`, before anything else;
//! reading and writing then only have to know what each register means.

mod gates;
mod read;
mod write;

pub(crate) use gates::Gates;

use crate::crash::CrashReport;

/// The access gives #GP(0): there is no such MSR for this partition, it cannot
/// be read or cannot be written, or it does not take this value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;

/// What a RDMSR comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// The value for EDX:EAX.
    Value(u64),
    /// GUEST_IDLE: EDX:EAX becomes 0, and the VP halts until an interrupt is
    /// pending, even where RFLAGS.IF masks it.
    Idle,
    /// The value is the local APIC's interrupt command register: bits 63:32
    /// its high half, bits 31:0 its low half, as in xAPIC mode.
    Icr,
    /// The value is the local APIC's task priority register.
    Tpr,
}

/// What a WRMSR comes to, besides the state it changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// Nothing else is to be done.
    Done,
    /// [`crate::Vp::next_deadline`] has changed; it may have passed already.
    TimersChanged,
    /// [`crate::Vp::assist_page`] has changed: drop what was derived from it.
    AssistPageChanged,
    /// Reset the partition.
    Reset,
    /// L1 reports that it crashed. It goes on running; Linux resets or halts.
    Crash(CrashReport),
    /// The local APIC's EOI register is written.
    Eoi,
    /// The local APIC's interrupt command register is written: bits 63:32 go
    /// to its high half, bits 31:0 to its low half, as in xAPIC mode.
    Icr(u64),
    /// The local APIC's task priority register is written.
    Tpr(u8),
    /// L1 has taken note that the TSC's frequency changed: TSC reads are to be
    /// emulated no longer, on any VP. [`crate::Partition::end_tsc_emulation`]
    /// does it, with all VPs stopped.
    EndTscEmulation,
}

#[cfg(test)]
mod tests;
