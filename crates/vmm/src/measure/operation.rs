//! The operations that can be measured, their names and what each needs.

use clap::ValueEnum;

use super::payload::Entry;

/// What a VM must have for an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MachineKind {
    /// No interrupt controller: HLT comes to user space.
    Bare,
    /// KVM's local APIC, in x2APIC mode.
    Apic,
    /// KVM's Hyper-V leaves; flush hypercalls are handled by KVM.
    HyperV,
    /// The same, and flush hypercalls may be handled by the hypervisor under KVM.
    HyperVDirect,
}

/// An operation of L2 (or, for `l1-cpuid`, of L1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Operation {
    /// CPUID leaf 0
    Cpuid,
    /// RDMSR of IA32_MISC_ENABLE (0x1A0), emulated by L1's KVM
    Rdmsr,
    /// WRMSR of IA32_BIOS_SIGN_ID (0x8B), emulated by L1's KVM
    Wrmsr,
    /// RDMSR of IA32_FS_BASE, which KVM lets L2 read without an exit
    RdmsrFsBase,
    /// RDTSC, which KVM lets L2 execute without an exit
    Rdtsc,
    /// The same while L0 emulates the TSC, as L1 has not taken note of another rate (needs L0's port for the rate)
    RdtscEmulated,
    /// VMCALL: a KVM hypercall that does nothing
    Vmcall,
    /// OUT to L1's user space
    Out,
    /// Read of a GPA without memory, answered by L1's user space
    MmioRead,
    /// HLT to L1's user space (no in-kernel interrupt controller)
    Hlt,
    /// First write to a page of 4 KiB that L1's host page tables hold and L2's EPT does not
    EptPresent,
    /// First write to a page of 4 KiB that L1 has not allocated yet
    EptFresh,
    /// OUT to L1's user space, madvise(DONTNEED) of a page of 4 KiB there, write to the page
    Zap,
    /// x2APIC self-IPI with its handler
    SelfIpi,
    /// TSC-deadline timer, HLT and the handler
    TscDeadline,
    /// HvFlushVirtualAddressSpace handled by L1's KVM (needs --hyperv)
    HvFlush,
    /// HvFlushVirtualAddressSpace handled by L0: direct flush (needs --hyperv)
    HvFlushDirect,
    /// CPUID executed by L1's user space itself
    L1Cpuid,
    /// Reading the time in L1's user space (clock_gettime, CLOCK_MONOTONIC)
    L1Clock,
    /// L1 takes the right to write a page away and gives it back while another CPU runs the same program: a TLB flush there
    L1TlbFlush,
    /// L1 interrupts another CPU that runs the same program, and waits for it (membarrier)
    L1Ipi,
}

impl Operation {
    /// Every operation, in the order of the report.
    pub fn all() -> &'static [Operation] {
        Self::value_variants()
    }

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Cpuid => "cpuid",
            Operation::Rdmsr => "rdmsr",
            Operation::Wrmsr => "wrmsr",
            Operation::RdmsrFsBase => "rdmsr-fs-base",
            Operation::Rdtsc => "rdtsc",
            Operation::RdtscEmulated => "rdtsc-emulated",
            Operation::Vmcall => "vmcall",
            Operation::Out => "out",
            Operation::MmioRead => "mmio-read",
            Operation::Hlt => "hlt",
            Operation::EptPresent => "ept-present",
            Operation::EptFresh => "ept-fresh",
            Operation::Zap => "zap",
            Operation::SelfIpi => "self-ipi",
            Operation::TscDeadline => "tsc-deadline",
            Operation::HvFlush => "hv-flush",
            Operation::HvFlushDirect => "hv-flush-direct",
            Operation::L1Cpuid => "l1-cpuid",
            Operation::L1Clock => "l1-clock",
            Operation::L1TlbFlush => "l1-tlb-flush",
            Operation::L1Ipi => "l1-ipi",
        }
    }

    /// The VM and the payload that measure it; `None` for what L1 itself executes.
    pub fn payload(self) -> Option<(MachineKind, Entry)> {
        Some(match self {
            Operation::Cpuid => (MachineKind::Bare, Entry::Cpuid),
            Operation::Rdmsr => (MachineKind::Bare, Entry::Rdmsr),
            Operation::Wrmsr => (MachineKind::Bare, Entry::Wrmsr),
            Operation::RdmsrFsBase => (MachineKind::Bare, Entry::RdmsrFsBase),
            Operation::Rdtsc | Operation::RdtscEmulated => (MachineKind::Bare, Entry::Rdtsc),
            Operation::Vmcall => (MachineKind::Bare, Entry::Vmcall),
            Operation::Out => (MachineKind::Bare, Entry::Out),
            Operation::MmioRead => (MachineKind::Bare, Entry::MmioRead),
            Operation::Hlt => (MachineKind::Bare, Entry::Hlt),
            Operation::EptPresent | Operation::EptFresh => (MachineKind::Bare, Entry::Touch),
            Operation::Zap => (MachineKind::Bare, Entry::Zap),
            Operation::SelfIpi => (MachineKind::Apic, Entry::SelfIpi),
            Operation::TscDeadline => (MachineKind::Apic, Entry::TscDeadline),
            Operation::HvFlush => (MachineKind::HyperV, Entry::HvFlush),
            Operation::HvFlushDirect => (MachineKind::HyperVDirect, Entry::HvFlush),
            Operation::L1Cpuid | Operation::L1Clock | Operation::L1TlbFlush | Operation::L1Ipi => {
                return None;
            }
        })
    }

    /// Whether it is measured only with `--hyperv`.
    pub fn is_hyper_v(self) -> bool {
        matches!(self, Operation::HvFlush | Operation::HvFlushDirect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for operation in Operation::all() {
            let value = operation
                .to_possible_value()
                .expect("no operation is hidden");
            assert_eq!(value.get_name(), operation.name());
        }
    }
}
