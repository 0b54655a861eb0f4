//! VM-execution, VM-exit and VM-entry controls (SDM Vol. 3, 25.6-25.8).

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls (SDM table 25-5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PinControls: u32 {
        /// External interrupts cause VM exits.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// NMIs cause VM exits.
        const NMI_EXITING = 1 << 3;
        /// NMI blocking is virtual: IRET does not unblock physical NMIs.
        const VIRTUAL_NMIS = 1 << 5;
        /// The VMX-preemption timer counts down in the guest.
        const PREEMPTION_TIMER = 1 << 6;
        /// Process posted interrupts.
        const POSTED_INTERRUPTS = 1 << 7;
        const _ = !0;
    }
}

bitflags! {
    /// Primary processor-based VM-execution controls (SDM table 25-6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PrimaryControls: u32 {
        /// Exit at the start of any instruction when interrupts can be delivered.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// RDTSC, RDTSCP and RDMSR of the TSC add the TSC offset.
        const USE_TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT_EXITING = 1 << 7;
        /// INVLPG exits.
        const INVLPG_EXITING = 1 << 9;
        /// MWAIT exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC exits.
        const RDPMC_EXITING = 1 << 11;
        /// RDTSC and RDTSCP exit.
        const RDTSC_EXITING = 1 << 12;
        /// MOV to CR3 exits, CR3-target values aside.
        const CR3_LOAD_EXITING = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE_EXITING = 1 << 16;
        /// The tertiary controls are used.
        const ACTIVATE_TERTIARY = 1 << 17;
        /// MOV to CR8 exits.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// TPR accesses use the virtual-APIC page.
        const USE_TPR_SHADOW = 1 << 21;
        /// Exit at the start of any instruction when there is no virtual-NMI blocking.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV DR exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every I/O instruction exits; ignored with I/O bitmaps.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// I/O instructions exit as the I/O bitmaps say.
        const USE_IO_BITMAPS = 1 << 25;
        /// Exit after each instruction.
        const MONITOR_TRAP_FLAG = 1 << 27;
        /// RDMSR and WRMSR exit as the MSR bitmaps say.
        const USE_MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR_EXITING = 1 << 29;
        /// PAUSE exits.
        const PAUSE_EXITING = 1 << 30;
        /// The secondary controls are used.
        const ACTIVATE_SECONDARY = 1 << 31;
        const _ = !0;
    }
}

bitflags! {
    /// Secondary processor-based VM-execution controls (SDM table 25-7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SecondaryControls: u32 {
        /// Accesses to the APIC-access page are virtualized.
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        /// Extended page tables translate guest-physical addresses.
        const ENABLE_EPT = 1 << 1;
        /// LGDT, LIDT, LLDT, LTR, SGDT, SIDT, SLDT and STR exit.
        const DESCRIPTOR_TABLE_EXITING = 1 << 2;
        /// RDTSCP does not raise #UD.
        const ENABLE_RDTSCP = 1 << 3;
        /// RDMSR and WRMSR of the x2APIC's TPR are virtualized.
        const VIRTUALIZE_X2APIC_MODE = 1 << 4;
        /// Translations are tagged with the VPID.
        const ENABLE_VPID = 1 << 5;
        /// WBINVD and WBNOINVD exit.
        const WBINVD_EXITING = 1 << 6;
        /// The guest may run unpaged or in real-address mode.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// APIC-register reads and writes are virtualized.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Pending virtual interrupts are evaluated and delivered.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// A series of PAUSEs exits.
        const PAUSE_LOOP_EXITING = 1 << 10;
        /// RDRAND exits.
        const RDRAND_EXITING = 1 << 11;
        /// INVPCID does not raise #UD.
        const ENABLE_INVPCID = 1 << 12;
        /// VMFUNC is allowed.
        const ENABLE_VMFUNC = 1 << 13;
        /// VMREAD and VMWRITE may access a shadow VMCS.
        const VMCS_SHADOWING = 1 << 14;
        /// ENCLS exits as its bitmap says.
        const ENCLS_EXITING = 1 << 15;
        /// RDSEED exits.
        const RDSEED_EXITING = 1 << 16;
        /// Writes that set an EPT dirty flag are logged.
        const ENABLE_PML = 1 << 17;
        /// EPT violations may raise #VE.
        const EPT_VIOLATION_VE = 1 << 18;
        /// Processor Trace hides VMX transitions.
        const CONCEAL_VMX_FROM_PT = 1 << 19;
        /// XSAVES and XRSTORS do not raise #UD.
        const ENABLE_XSAVES = 1 << 20;
        /// EPT execute permission depends on the linear address's mode.
        const MODE_BASED_EXECUTE = 1 << 22;
        /// EPT write permission per 128 bytes.
        const SUB_PAGE_WRITE = 1 << 23;
        /// Processor Trace uses guest-physical addresses.
        const PT_USES_GPA = 1 << 24;
        /// The TSC multiplier is used.
        const TSC_SCALING = 1 << 25;
        /// TPAUSE, UMONITOR and UMWAIT do not raise #UD.
        const USER_WAIT_AND_PAUSE = 1 << 26;
        /// PCONFIG does not raise #UD.
        const ENABLE_PCONFIG = 1 << 27;
        /// ENCLV exits as its bitmap says.
        const ENCLV_EXITING = 1 << 28;
        /// Bus locks are followed by an exit.
        const BUS_LOCK_DETECTION = 1 << 30;
        /// No interrupt window within the notify window exits.
        const NOTIFY_EXITING = 1 << 31;
        const _ = !0;
    }
}

bitflags! {
    /// Primary VM-exit controls (SDM table 25-13).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        /// The host runs in 64-bit mode.
        const HOST_64_BIT = 1 << 9;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 12;
        /// The interrupt that caused the exit is acknowledged and its vector stored.
        const ACK_INTERRUPT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// The VMX-preemption timer's value is saved.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        /// IA32_BNDCFGS is cleared.
        const CLEAR_BNDCFGS = 1 << 23;
        /// Processor Trace hides the exit.
        const CONCEAL_VMX_FROM_PT = 1 << 24;
        /// IA32_RTIT_CTL is cleared.
        const CLEAR_RTIT_CTL = 1 << 25;
        /// IA32_LBR_CTL is cleared.
        const CLEAR_LBR_CTL = 1 << 26;
        /// The user-interrupt notification vector is cleared.
        const CLEAR_UINV = 1 << 27;
        /// The CET state is loaded.
        const LOAD_CET = 1 << 28;
        /// IA32_PKRS is loaded.
        const LOAD_PKRS = 1 << 29;
        /// IA32_PERF_GLOBAL_CTRL is saved.
        const SAVE_PERF_GLOBAL_CTRL = 1 << 30;
        /// The secondary VM-exit controls are used.
        const ACTIVATE_SECONDARY = 1 << 31;
        const _ = !0;
    }
}

bitflags! {
    /// VM-entry controls (SDM table 25-15).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        /// The guest is in IA-32e mode.
        const IA32E_MODE_GUEST = 1 << 9;
        /// The entry is to system-management mode.
        const ENTRY_TO_SMM = 1 << 10;
        /// The default treatment of SMIs and SMM is restored.
        const DEACTIVATE_DUAL_MONITOR = 1 << 11;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 13;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
        /// IA32_BNDCFGS is loaded.
        const LOAD_BNDCFGS = 1 << 16;
        /// Processor Trace hides the entry.
        const CONCEAL_VMX_FROM_PT = 1 << 17;
        /// IA32_RTIT_CTL is loaded.
        const LOAD_RTIT_CTL = 1 << 18;
        /// The user-interrupt notification vector is loaded.
        const LOAD_UINV = 1 << 19;
        /// The CET state is loaded.
        const LOAD_CET = 1 << 20;
        /// IA32_LBR_CTL is loaded.
        const LOAD_LBR_CTL = 1 << 21;
        /// IA32_PKRS is loaded.
        const LOAD_PKRS = 1 << 22;
        const _ = !0;
    }
}

bitflags! {
    /// Guest interruptibility state (SDM table 25-3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Interruptibility: u32 {
        /// Blocking by STI.
        const STI = 1 << 0;
        /// Blocking by MOV SS.
        const MOV_SS = 1 << 1;
        /// Blocking by SMI.
        const SMI = 1 << 2;
        /// Blocking by NMI (or of virtual NMIs).
        const NMI = 1 << 3;
        /// The exit was incident to an enclave.
        const ENCLAVE = 1 << 4;
        const _ = !0;
    }
}

impl Interruptibility {
    /// The bits the SDM defines; the rest must be zero at entry.
    pub const DEFINED: u32 = 0x1f;
}

/// Guest activity state (SDM 25.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum ActivityState {
    /// Executing instructions.
    #[default]
    Active = 0,
    /// Halted by HLT.
    Hlt = 1,
    /// Shut down by a triple fault or another serious error.
    Shutdown = 2,
    /// Waiting for a start-up IPI.
    WaitForSipi = 3,
}

impl ActivityState {
    /// The state a field's value names; `None` above 3.
    #[inline]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Active),
            1 => Some(Self::Hlt),
            2 => Some(Self::Shutdown),
            3 => Some(Self::WaitForSipi),
            _ => None,
        }
    }
}
