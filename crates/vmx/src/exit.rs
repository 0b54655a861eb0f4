//! Exit reasons (SDM Vol. 3, Appendix C).

use core::fmt;

macro_rules! reasons {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        /// The basic exit reason: bits 15:0 of the exit-reason field.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u16)]
        pub enum BasicExitReason {
            $(#[doc = $doc] $name = $number,)*
        }

        impl BasicExitReason {
            /// Every basic exit reason this crate names, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The reason `number` stands for; `None` where the SDM defines none.
            #[inline]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    ExceptionOrNmi = 0, "An exception that the exception bitmap selects, or an NMI.";
    ExternalInterrupt = 1, "An external interrupt.";
    TripleFault = 2, "A triple fault.";
    Init = 3, "An INIT signal.";
    StartUpIpi = 4, "A start-up IPI in the wait-for-SIPI state.";
    IoSmi = 5, "An I/O system-management interrupt.";
    OtherSmi = 6, "Another SMI.";
    InterruptWindow = 7, "Interrupts can be delivered.";
    NmiWindow = 8, "Virtual NMIs are not blocked.";
    TaskSwitch = 9, "A task switch.";
    Cpuid = 10, "CPUID.";
    Getsec = 11, "GETSEC.";
    Hlt = 12, "HLT.";
    Invd = 13, "INVD.";
    Invlpg = 14, "INVLPG.";
    Rdpmc = 15, "RDPMC.";
    Rdtsc = 16, "RDTSC.";
    Rsm = 17, "RSM.";
    Vmcall = 18, "VMCALL.";
    Vmclear = 19, "VMCLEAR.";
    Vmlaunch = 20, "VMLAUNCH.";
    Vmptrld = 21, "VMPTRLD.";
    Vmptrst = 22, "VMPTRST.";
    Vmread = 23, "VMREAD.";
    Vmresume = 24, "VMRESUME.";
    Vmwrite = 25, "VMWRITE.";
    Vmxoff = 26, "VMXOFF.";
    Vmxon = 27, "VMXON.";
    CrAccess = 28, "MOV CR, CLTS or LMSW.";
    MovDr = 29, "MOV DR.";
    IoInstruction = 30, "IN, INS, OUT or OUTS.";
    Rdmsr = 31, "RDMSR.";
    Wrmsr = 32, "WRMSR.";
    InvalidGuestState = 33, "VM entry failed: invalid guest state.";
    MsrLoading = 34, "VM entry failed: MSR loading.";
    Mwait = 36, "MWAIT.";
    MonitorTrapFlag = 37, "The monitor trap flag.";
    Monitor = 39, "MONITOR.";
    Pause = 40, "PAUSE.";
    EntryMachineCheck = 41, "VM entry failed: machine check.";
    TprBelowThreshold = 43, "The virtual TPR fell below the TPR threshold.";
    ApicAccess = 44, "An access to the APIC-access page.";
    VirtualizedEoi = 45, "An EOI that the EOI-exit bitmap selects.";
    GdtrIdtrAccess = 46, "LGDT, LIDT, SGDT or SIDT.";
    LdtrTrAccess = 47, "LLDT, LTR, SLDT or STR.";
    EptViolation = 48, "An EPT violation.";
    EptMisconfiguration = 49, "An EPT misconfiguration.";
    Invept = 50, "INVEPT.";
    Rdtscp = 51, "RDTSCP.";
    PreemptionTimer = 52, "The VMX-preemption timer expired.";
    Invvpid = 53, "INVVPID.";
    Wbinvd = 54, "WBINVD or WBNOINVD.";
    Xsetbv = 55, "XSETBV.";
    ApicWrite = 56, "A write to the virtual-APIC page that needs virtualization.";
    Rdrand = 57, "RDRAND.";
    Invpcid = 58, "INVPCID.";
    Vmfunc = 59, "VMFUNC.";
    Encls = 60, "ENCLS.";
    Rdseed = 61, "RDSEED.";
    PageModificationLogFull = 62, "The page-modification log is full.";
    Xsaves = 63, "XSAVES.";
    Xrstors = 64, "XRSTORS.";
    Pconfig = 65, "PCONFIG.";
    SppRelated = 66, "A sub-page-permission-table miss or misconfiguration.";
    Umwait = 67, "UMWAIT.";
    Tpause = 68, "TPAUSE.";
    Loadiwkey = 69, "LOADIWKEY.";
    Enclv = 70, "ENCLV.";
    EnqcmdPasidFailure = 72, "ENQCMD PASID translation failure.";
    EnqcmdsPasidFailure = 73, "ENQCMDS PASID translation failure.";
    BusLock = 74, "A bus lock.";
    Notify = 75, "The notify window passed.";
}

/// The exit-reason field: basic reason in bits 15:0, pending MTF in bit 28,
/// failed VM entry in bit 31.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ExitReason(u32);

impl ExitReason {
    /// The bit that says a VM entry failed after its control checks.
    pub const ENTRY_FAILURE: u32 = 1 << 31;

    /// A value as the VMCS holds it.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// An ordinary exit for `reason`.
    #[inline]
    pub const fn new(reason: BasicExitReason) -> Self {
        Self(reason as u32)
    }

    /// A failed VM entry for `reason`.
    #[inline]
    pub const fn entry_failure(reason: BasicExitReason) -> Self {
        Self(reason as u32 | Self::ENTRY_FAILURE)
    }

    /// The value as the VMCS holds it.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Bits 15:0.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0 as u16
    }

    /// The basic reason; `None` where the SDM defines none.
    #[inline]
    pub const fn basic(self) -> Option<BasicExitReason> {
        BasicExitReason::from_number(self.0 as u16)
    }

    /// Whether a VM entry failed after its control checks.
    #[inline]
    pub const fn is_entry_failure(self) -> bool {
        self.0 & Self::ENTRY_FAILURE != 0
    }
}

impl fmt::Debug for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.basic() {
            Some(reason) => write!(f, "{reason:?}({:#x})", self.0),
            None => write!(f, "ExitReason({:#x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_numbers_agree_both_ways() {
        for (i, reason) in BasicExitReason::ALL.iter().enumerate() {
            assert_eq!(BasicExitReason::from_number(*reason as u16), Some(*reason));
            if i > 0 {
                assert!((BasicExitReason::ALL[i - 1] as u16) < *reason as u16);
            }
        }
        let named = (0..=u16::MAX).filter(|n| BasicExitReason::from_number(*n).is_some());
        assert_eq!(named.count(), BasicExitReason::ALL.len());
    }

    #[test]
    fn failed_entries_keep_their_reason() {
        let reason = ExitReason::entry_failure(BasicExitReason::InvalidGuestState);
        assert_eq!(reason.raw(), 0x8000_0021);
        assert!(reason.is_entry_failure());
        assert_eq!(reason.basic(), Some(BasicExitReason::InvalidGuestState));
    }
}
