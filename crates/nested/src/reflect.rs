//! Whose exit is it? (SDM 26.1, 26.2)
//!
//! VMCS 02 exits for what either level wants. An exit that L1 asked for is
//! L1's; what only L0 asked for, and what belongs to the machine (interrupts,
//! NMIs, EPT 02), is L0's.

use addr::Gpa1;
use vmx::{
    BasicExitReason, CrAccess, ExitReason, Field, InterruptionInfo, IoAccess, PrimaryControls,
    SecondaryControls,
};

use crate::access::{Memory, Vmcs};
use crate::bitmap_page::BitmapPage;
use crate::cr;
use crate::io_bitmap::IoBitmaps;
use crate::msr_bitmap::{self, MsrAccess};
use crate::state::Nested;
use crate::vmcs12::get;

#[cfg(test)]
mod tests;

/// Who handles an exit of VMCS 02.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// L0: a matter of the machine, or something L2 does that L1 allows and
    /// L0 does on its behalf.
    L0,
    /// L1 sees the exit.
    L1,
}

/// General-purpose registers of the VP while L2 runs.
pub trait Registers {
    /// Register `number`: 0 = RAX, 1 = RCX, ... 15 = R15, but never 4 (RSP),
    /// which VMCS 02 holds.
    fn gpr(&self, number: u8) -> u64;
}

/// Exception vectors that are treated apart.
const PAGE_FAULT: u8 = 14;
const MACHINE_CHECK: u8 = 18;

/// The basic exit reasons, as bits, that are L1's whatever its controls say, but for VMCALL, which
/// may be a direct flush: [`Nested::owner`] need not be asked.
pub const ALWAYS_L1: u64 = {
    use BasicExitReason as R;
    const REASONS: &[R] = &[
        R::TripleFault,
        R::TaskSwitch,
        R::Cpuid,
        R::Getsec,
        R::Invd,
        R::Rsm,
        R::Vmclear,
        R::Vmlaunch,
        R::Vmptrld,
        R::Vmptrst,
        R::Vmread,
        R::Vmresume,
        R::Vmwrite,
        R::Vmxoff,
        R::Vmxon,
        R::Invept,
        R::Invvpid,
        R::Xsetbv,
    ];
    bits(REASONS) as u64
};

/// The basic exit reasons, as bits, of instructions that exit before they do anything: not of an
/// exception, and not in the delivery of an event. So no event is described with them: hardware
/// clears the valid bits of the VM-exit interruption information and of the IDT-vectoring information
/// (SDM 28.2.2, 28.2.4).
pub const INSTRUCTIONS: u64 = {
    use BasicExitReason as R;
    const REASONS: &[R] = &[
        R::Cpuid,
        R::Getsec,
        R::Hlt,
        R::Invd,
        R::Invlpg,
        R::Rdpmc,
        R::Rdtsc,
        R::Rsm,
        R::Vmcall,
        R::Vmclear,
        R::Vmlaunch,
        R::Vmptrld,
        R::Vmptrst,
        R::Vmread,
        R::Vmresume,
        R::Vmwrite,
        R::Vmxoff,
        R::Vmxon,
        R::CrAccess,
        R::MovDr,
        R::IoInstruction,
        R::Rdmsr,
        R::Wrmsr,
        R::Mwait,
        R::Monitor,
        R::Pause,
        R::GdtrIdtrAccess,
        R::LdtrTrAccess,
        R::Invept,
        R::Rdtscp,
        R::Invvpid,
        R::Wbinvd,
        R::Xsetbv,
        R::Rdrand,
        R::Invpcid,
        R::Rdseed,
        R::Xsaves,
        R::Xrstors,
    ];
    bits(REASONS) as u64
};

/// Whether a bit of `reasons`, one of the sets above, stands for `reason`.
#[inline(always)]
pub const fn is_among(reasons: u64, reason: ExitReason) -> bool {
    reason.raw() < 64 && reasons >> reason.raw() & 1 != 0
}

/// A set of basic exit reasons: the bit of each.
pub(crate) const fn bits(reasons: &[BasicExitReason]) -> u128 {
    let mut bits = 0;
    let mut n = 0;
    while n < reasons.len() {
        bits |= 1 << reasons[n] as u16;
        n += 1;
    }
    bits
}

impl Nested {
    /// Whose exit `reason` of VMCS 02 is. L0 has looked at direct-flush
    /// hypercalls before, which L1 delegates to it.
    ///
    /// L0's are: external interrupts, NMIs, machine checks, INIT, SIPI, EPT
    /// violations and misconfigurations, the preemption timer; and where L1
    /// does not intercept: MSRs, ports, MOV to CR, CR8 without a TPR shadow,
    /// exceptions.
    #[inline]
    pub fn owner<V: Vmcs, M: Memory, R: Registers>(
        &self,
        vmcs02: &V,
        reason: ExitReason,
        memory: &M,
        registers: &R,
    ) -> Owner {
        use BasicExitReason as R_;
        use PrimaryControls as P;
        use SecondaryControls as S;

        let Some(basic) = reason.basic() else {
            return Owner::L1;
        };
        let wanted = match basic {
            R_::ExternalInterrupt
            | R_::Init
            | R_::StartUpIpi
            | R_::IoSmi
            | R_::OtherSmi
            | R_::EntryMachineCheck
            | R_::EptViolation
            | R_::EptMisconfiguration
            | R_::PreemptionTimer
            | R_::PageModificationLogFull
            | R_::MonitorTrapFlag
            | R_::SppRelated
            | R_::BusLock
            | R_::Notify => false,
            R_::ExceptionOrNmi => self.wants_exception(vmcs02),
            R_::InterruptWindow => self.has(P::INTERRUPT_WINDOW_EXITING),
            R_::NmiWindow => self.has(P::NMI_WINDOW_EXITING),
            R_::Hlt => self.has(P::HLT_EXITING),
            R_::Invlpg | R_::Invpcid => self.has(P::INVLPG_EXITING),
            R_::Rdpmc => self.has(P::RDPMC_EXITING),
            R_::Rdtsc | R_::Rdtscp => self.has(P::RDTSC_EXITING),
            R_::MovDr => self.has(P::MOV_DR_EXITING),
            R_::Mwait => self.has(P::MWAIT_EXITING),
            R_::Monitor => self.has(P::MONITOR_EXITING),
            R_::Pause => self.has(P::PAUSE_EXITING),
            R_::TprBelowThreshold => self.has(P::USE_TPR_SHADOW),
            R_::GdtrIdtrAccess | R_::LdtrTrAccess => {
                self.has_secondary(S::DESCRIPTOR_TABLE_EXITING)
            }
            R_::Wbinvd => self.has_secondary(S::WBINVD_EXITING),
            R_::Rdrand => self.has_secondary(S::RDRAND_EXITING),
            R_::Rdseed => self.has_secondary(S::RDSEED_EXITING),
            R_::CrAccess => self.wants_cr_access(vmcs02, registers),
            R_::IoInstruction => self.wants_port(vmcs02, memory),
            R_::Rdmsr => self.wants_msr(memory, registers, MsrAccess::Read),
            R_::Wrmsr => self.wants_msr(memory, registers, MsrAccess::Write),
            // CPUID, triple faults, task switches, VMX instructions, INVD,
            // XSETBV, GETSEC, RSM: they exit whatever the controls say. The
            // rest exits by controls that only L1 can have set.
            _ => true,
        };
        if wanted { Owner::L1 } else { Owner::L0 }
    }

    #[inline(always)]
    fn has(&self, control: PrimaryControls) -> bool {
        self.primary_controls().contains(control)
    }

    #[inline(always)]
    fn has_secondary(&self, control: SecondaryControls) -> bool {
        self.secondary_controls().contains(control)
    }

    /// Exceptions by L1's bitmap; NMIs and machine checks are the machine's.
    fn wants_exception<V: Vmcs>(&self, vmcs02: &V) -> bool {
        let event = InterruptionInfo::from_raw(vmcs02.read(Field::EXIT_INTERRUPTION_INFO) as u32);
        if event.is_nmi() || event.is_exception(MACHINE_CHECK) {
            return false;
        }
        let code = if event.is_exception(PAGE_FAULT) {
            vmcs02.read(Field::EXIT_INTERRUPTION_ERROR_CODE) as u32
        } else {
            0
        };
        self.intercepts_exception(event.vector(), code)
    }

    /// Whether L1 intercepts exception `vector` of L2 (SDM 26.2): for those
    /// that hardware reports and those that L0's emulation raises.
    pub fn intercepts_exception(&self, vector: u8, error_code: u32) -> bool {
        let selected = get!(self.vmcs12, EXCEPTION_BITMAP) >> (vector & 31) & 1 != 0;
        if vector != PAGE_FAULT {
            return selected;
        }
        let mask = get!(self.vmcs12, PAGE_FAULT_ERROR_CODE_MASK) as u32;
        let matching = get!(self.vmcs12, PAGE_FAULT_ERROR_CODE_MATCH) as u32;
        selected == (error_code & mask == matching)
    }

    fn wants_cr_access<V: Vmcs, R: Registers>(&self, vmcs02: &V, registers: &R) -> bool {
        use PrimaryControls as P;
        let mask0 = get!(self.vmcs12, CR0_GUEST_HOST_MASK);
        let shadow0 = get!(self.vmcs12, CR0_READ_SHADOW);
        match CrAccess::from_qualification(vmcs02.read(Field::EXIT_QUALIFICATION)) {
            CrAccess::MovTo { cr, gpr } => {
                let value = match gpr {
                    4 => vmcs02.read(Field::GUEST_RSP),
                    _ => registers.gpr(gpr),
                };
                match cr {
                    0 => cr::write_wanted(value, mask0, shadow0),
                    // No CR3-target values are offered.
                    3 => self.has(P::CR3_LOAD_EXITING),
                    4 => cr::write_wanted(
                        value,
                        get!(self.vmcs12, CR4_GUEST_HOST_MASK),
                        get!(self.vmcs12, CR4_READ_SHADOW),
                    ),
                    8 => self.has(P::CR8_LOAD_EXITING),
                    _ => true,
                }
            }
            CrAccess::MovFrom { cr, .. } => match cr {
                3 => self.has(P::CR3_STORE_EXITING),
                8 => self.has(P::CR8_STORE_EXITING),
                _ => true,
            },
            CrAccess::Clts => mask0 & shadow0 & cr::CR0_TS != 0,
            CrAccess::Lmsw { source } => cr::lmsw_wanted(source, mask0, shadow0),
        }
    }

    fn wants_port<V: Vmcs, M: Memory>(&self, vmcs02: &V, memory: &M) -> bool {
        let Some((a, b)) = self.io_bitmaps() else {
            return self.has(PrimaryControls::UNCONDITIONAL_IO_EXITING);
        };
        let access = IoAccess::from_qualification(vmcs02.read(Field::EXIT_QUALIFICATION));
        IoBitmaps {
            a: &L1Page { memory, page: a },
            b: &L1Page { memory, page: b },
        }
        .intercepts(access.port(), access.size())
    }

    fn wants_msr<M: Memory, R: Registers>(
        &self,
        memory: &M,
        registers: &R,
        access: MsrAccess,
    ) -> bool {
        let Some(page) = self.msr_bitmap() else {
            return true;
        };
        let msr = registers.gpr(1) as u32;
        msr_bitmap::intercepts(&L1Page { memory, page }, msr, access)
    }
}

/// A bitmap page in L1's memory; where there is none, everything is intercepted.
#[derive(Debug)]
pub struct L1Page<'a, M> {
    /// L1's memory.
    pub memory: &'a M,
    /// The page's address.
    pub page: Gpa1,
}

impl<M: Memory> BitmapPage for L1Page<'_, M> {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.page
            .checked_add(index as u64 * 8)
            .and_then(|at| self.memory.read_u64(at).ok())
            .unwrap_or(u64::MAX)
    }
}
