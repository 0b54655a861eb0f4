//! The enlightened VMCS, version 1 (TLFS, "Enlightened VMCS" and the `HV_VMX_ENLIGHTENED_VMCS` structure).
//!
//! L1 describes an L2 processor in a page of its own memory instead of by
//! VMREAD and VMWRITE. [`TABLE`] is the one description of that page: which
//! VMCS encoding lies at which offset, how wide, and in which clean-field
//! group. Everything that touches such a page (VMREAD and VMWRITE emulation,
//! entry, exit, auditors, tests) derives its offsets from it, at compile time
//! where it can: [`slot`] is a `const fn`.
//!
//! All words are little-endian.

/// Bytes of the page that are laid out; the rest is zero.
pub const SIZE: usize = 0x400;

/// The only version there is, the value of the word at [`REVISION`].
pub const VERSION: u32 = 1;

/// Offset of VersionNumber (u32), the place of a VMCS's revision identifier.
pub const REVISION: u16 = 0x000;
/// Offset of AbortIndicator (u32), as in a VMCS.
pub const ABORT: u16 = 0x004;
/// Offset of [`CleanFields`] (u32).
pub const CLEAN_FIELDS: u16 = 0x338;
/// Offset of SyntheticControls (u32).
pub const SYNTHETIC_CONTROLS: u16 = 0x340;
/// Offset of [`EnlightenmentsControl`] (u32).
pub const ENLIGHTENMENTS_CONTROL: u16 = 0x344;
/// Offset of VpId (u32): the VP index that L2 sees for this processor.
pub const VP_ID: u16 = 0x348;
/// Offset of VmId (u64): L1's name for the virtual machine.
pub const VM_ID: u16 = 0x350;
/// Offset of PartitionAssistPage (u64), an L1 guest-physical address.
pub const PARTITION_ASSIST_PAGE: u16 = 0x358;

/// The exit reason of HV_VMX_SYNTHETIC_EXIT_REASON_TRAP_AFTER_FLUSH. Its low
/// half is that of an EPT misconfiguration: compare all 32 bits.
pub const EXIT_REASON_TRAP_AFTER_FLUSH: u32 = 0x1000_0031;

/// The clean-fields word: a set bit says that L1 changed no field of that
/// group since the last entry, so that L0 may use what it remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct CleanFields(u32);

impl CleanFields {
    /// Nothing is clean: reload everything.
    pub const NONE: Self = Self(0);
    /// All sixteen groups are clean.
    pub const ALL: Self = Self(0xffff);

    /// The word as the page holds it.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The word as the page holds it.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether every group in `groups` is clean.
    #[inline]
    pub const fn contains(self, groups: Self) -> bool {
        self.0 & groups.0 == groups.0
    }

    /// The groups of both.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The groups of `self` that are not in `other`.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The sixteen groups that are not clean.
    #[inline]
    pub const fn dirty(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }
}

/// When L0 must read a field again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Group {
    /// I/O bitmap addresses.
    IoBitmap = 0,
    /// The MSR bitmap's address, and with the enlightened MSR bitmap its contents.
    MsrBitmap = 1,
    /// TSC offset and multiplier, virtual-APIC page, XSS and ENCLS bitmaps.
    ControlGrp2 = 2,
    /// Pin-based, secondary and exit controls.
    ControlGrp1 = 3,
    /// Primary processor-based controls.
    ControlProc = 4,
    /// Event injection.
    ControlEvent = 5,
    /// Entry controls.
    ControlEntry = 6,
    /// Exception bitmap.
    ControlExcpn = 7,
    /// Control registers, their masks and shadows, DR7.
    Crdr = 8,
    /// EPT pointer and VPID.
    ControlXlat = 9,
    /// RSP, RFLAGS, interruptibility.
    GuestBasic = 10,
    /// Guest MSRs, PDPTEs, activity state, pending debug exceptions, link pointer.
    GuestGrp1 = 11,
    /// Guest segments and descriptor tables.
    GuestGrp2 = 12,
    /// Host bases and RSP.
    HostPointer = 13,
    /// The other host state.
    HostGrp1 = 14,
    /// The enlightenments control, VP id, VM id and assist page. Linux never
    /// clears this bit: read those words on every entry all the same.
    EnlightenmentsControl = 15,
    /// Read on every entry: no clean bit covers the field.
    Always = 16,
    /// In the structure, but in no group of the TLFS (MSR lists, page-fault
    /// error codes, CR3 targets). Linux clears all sixteen bits when it changes
    /// one, so L0 reads them whenever a bit is clear.
    Ungrouped = 17,
    /// Written by L0 only.
    ExitInfo = 18,
}

impl Group {
    /// The clean bit of the group; empty for the three that have none.
    #[inline]
    pub const fn clean_bit(self) -> CleanFields {
        if (self as u8) < 16 {
            CleanFields(1 << self as u8)
        } else {
            CleanFields::NONE
        }
    }

    /// The TLFS's name of the group's clean bit, less its prefix
    /// (`HV_VMX_ENLIGHTENED_CLEAN_FIELD_`); `NONE` for those without one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoBitmap => "IO_BITMAP",
            Self::MsrBitmap => "MSR_BITMAP",
            Self::ControlGrp2 => "CONTROL_GRP2",
            Self::ControlGrp1 => "CONTROL_GRP1",
            Self::ControlProc => "CONTROL_PROC",
            Self::ControlEvent => "CONTROL_EVENT",
            Self::ControlEntry => "CONTROL_ENTRY",
            Self::ControlExcpn => "CONTROL_EXCPN",
            Self::Crdr => "CRDR",
            Self::ControlXlat => "CONTROL_XLAT",
            Self::GuestBasic => "GUEST_BASIC",
            Self::GuestGrp1 => "GUEST_GRP1",
            Self::GuestGrp2 => "GUEST_GRP2",
            Self::HostPointer => "HOST_POINTER",
            Self::HostGrp1 => "HOST_GRP1",
            Self::EnlightenmentsControl => "ENLIGHTENMENTSCONTROL",
            Self::Always | Self::Ungrouped | Self::ExitInfo => "NONE",
        }
    }

    /// The clean bits that a store to a field of this group clears.
    #[inline]
    pub const fn dirtied(self) -> CleanFields {
        match self {
            Self::Ungrouped => CleanFields::ALL,
            _ => self.clean_bit(),
        }
    }
}

/// The word that says which enlightenments of its kind an L2 processor uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct EnlightenmentsControl(u32);

impl EnlightenmentsControl {
    /// L0 handles L2's flush hypercalls.
    pub const NESTED_FLUSH_HYPERCALL: u32 = 1 << 0;
    /// Changes to the MSR bitmap's contents clear clean bit 1.
    pub const MSR_BITMAP: u32 = 1 << 1;

    /// The word as the page holds it.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The word as the page holds it.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether L0 handles L2's flush hypercalls.
    #[inline]
    pub const fn nested_flush_hypercall(self) -> bool {
        self.0 & Self::NESTED_FLUSH_HYPERCALL != 0
    }

    /// Whether the MSR bitmap's contents are covered by clean bit 1.
    #[inline]
    pub const fn msr_bitmap(self) -> bool {
        self.0 & Self::MSR_BITMAP != 0
    }
}

/// Bytes that a field takes in the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
}

impl Width {
    /// The width in bytes.
    #[inline]
    pub const fn bytes(self) -> u16 {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }
}

/// Which side of the interface writes a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// L1 writes it; L0 too where it is guest state that an exit saves.
    ReadWrite,
    /// L0 writes it at an exit, L1 reads it.
    ReadOnly,
}

/// Where and how a VMCS field lies in the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// The VMCS field's encoding (SDM Vol. 3, Appendix B).
    pub encoding: u32,
    /// Byte offset in the page, a multiple of the width.
    pub offset: u16,
    /// Width in the page.
    pub width: Width,
    /// When L0 must read it again.
    pub group: Group,
    /// The TLFS's name.
    pub name: &'static str,
}

impl Slot {
    /// Which side writes the field.
    #[inline]
    pub const fn direction(&self) -> Direction {
        match self.group {
            Group::ExitInfo => Direction::ReadOnly,
            _ => Direction::ReadWrite,
        }
    }
}

macro_rules! table {
    ($($offset:literal $width:ident $encoding:literal $group:ident $name:ident;)*) => {
        /// Every VMCS field of the page, in the order of their offsets.
        pub const TABLE: &[Slot] = &[$(Slot {
            encoding: $encoding,
            offset: $offset,
            width: Width::$width,
            group: Group::$group,
            name: stringify!($name),
        }),*];

        /// Where the field with this encoding lies; `None` when version 1 of
        /// the page has no place for it.
        #[inline]
        pub const fn slot(encoding: u32) -> Option<Slot> {
            match encoding {
                $($encoding => Some(Slot {
                    encoding: $encoding,
                    offset: $offset,
                    width: Width::$width,
                    group: Group::$group,
                    name: stringify!($name),
                }),)*
                _ => None,
            }
        }
    };
}

table! {
    0x008 U16 0x0c00 HostGrp1 HostEsSelector;
    0x00a U16 0x0c02 HostGrp1 HostCsSelector;
    0x00c U16 0x0c04 HostGrp1 HostSsSelector;
    0x00e U16 0x0c06 HostGrp1 HostDsSelector;
    0x010 U16 0x0c08 HostGrp1 HostFsSelector;
    0x012 U16 0x0c0a HostGrp1 HostGsSelector;
    0x014 U16 0x0c0c HostGrp1 HostTrSelector;
    0x018 U64 0x2c00 HostGrp1 HostPat;
    0x020 U64 0x2c02 HostGrp1 HostEfer;
    0x028 U64 0x6c00 HostGrp1 HostCr0;
    0x030 U64 0x6c02 HostGrp1 HostCr3;
    0x038 U64 0x6c04 HostGrp1 HostCr4;
    0x040 U64 0x6c10 HostGrp1 HostSysenterEspMsr;
    0x048 U64 0x6c12 HostGrp1 HostSysenterEipMsr;
    0x050 U64 0x6c16 HostGrp1 HostRip;
    0x058 U32 0x4c00 HostGrp1 HostSysenterCsMsr;
    0x05c U32 0x4000 ControlGrp1 PinControls;
    0x060 U32 0x400c ControlGrp1 ExitControls;
    0x064 U32 0x401e ControlGrp1 SecondaryProcessorControls;
    0x068 U64 0x2000 IoBitmap IoBitmapA;
    0x070 U64 0x2002 IoBitmap IoBitmapB;
    0x078 U64 0x2004 MsrBitmap MsrBitmap;
    0x080 U16 0x0800 GuestGrp2 GuestEsSelector;
    0x082 U16 0x0802 GuestGrp2 GuestCsSelector;
    0x084 U16 0x0804 GuestGrp2 GuestSsSelector;
    0x086 U16 0x0806 GuestGrp2 GuestDsSelector;
    0x088 U16 0x0808 GuestGrp2 GuestFsSelector;
    0x08a U16 0x080a GuestGrp2 GuestGsSelector;
    0x08c U16 0x080c GuestGrp2 GuestLdtrSelector;
    0x08e U16 0x080e GuestGrp2 GuestTrSelector;
    0x090 U32 0x4800 GuestGrp2 GuestEsLimit;
    0x094 U32 0x4802 GuestGrp2 GuestCsLimit;
    0x098 U32 0x4804 GuestGrp2 GuestSsLimit;
    0x09c U32 0x4806 GuestGrp2 GuestDsLimit;
    0x0a0 U32 0x4808 GuestGrp2 GuestFsLimit;
    0x0a4 U32 0x480a GuestGrp2 GuestGsLimit;
    0x0a8 U32 0x480c GuestGrp2 GuestLdtrLimit;
    0x0ac U32 0x480e GuestGrp2 GuestTrLimit;
    0x0b0 U32 0x4810 GuestGrp2 GuestGdtrLimit;
    0x0b4 U32 0x4812 GuestGrp2 GuestIdtrLimit;
    0x0b8 U32 0x4814 GuestGrp2 GuestEsAttributes;
    0x0bc U32 0x4816 GuestGrp2 GuestCsAttributes;
    0x0c0 U32 0x4818 GuestGrp2 GuestSsAttributes;
    0x0c4 U32 0x481a GuestGrp2 GuestDsAttributes;
    0x0c8 U32 0x481c GuestGrp2 GuestFsAttributes;
    0x0cc U32 0x481e GuestGrp2 GuestGsAttributes;
    0x0d0 U32 0x4820 GuestGrp2 GuestLdtrAttributes;
    0x0d4 U32 0x4822 GuestGrp2 GuestTrAttributes;
    0x0d8 U64 0x6806 GuestGrp2 GuestEsBase;
    0x0e0 U64 0x6808 GuestGrp2 GuestCsBase;
    0x0e8 U64 0x680a GuestGrp2 GuestSsBase;
    0x0f0 U64 0x680c GuestGrp2 GuestDsBase;
    0x0f8 U64 0x680e GuestGrp2 GuestFsBase;
    0x100 U64 0x6810 GuestGrp2 GuestGsBase;
    0x108 U64 0x6812 GuestGrp2 GuestLdtrBase;
    0x110 U64 0x6814 GuestGrp2 GuestTrBase;
    0x118 U64 0x6816 GuestGrp2 GuestGdtrBase;
    0x120 U64 0x6818 GuestGrp2 GuestIdtrBase;
    0x140 U64 0x2006 Ungrouped ExitMsrStoreAddress;
    0x148 U64 0x2008 Ungrouped ExitMsrLoadAddress;
    0x150 U64 0x200a Ungrouped EntryMsrLoadAddress;
    0x158 U64 0x6008 Ungrouped Cr3Target0;
    0x160 U64 0x600a Ungrouped Cr3Target1;
    0x168 U64 0x600c Ungrouped Cr3Target2;
    0x170 U64 0x600e Ungrouped Cr3Target3;
    0x178 U32 0x4006 Ungrouped PfecMask;
    0x17c U32 0x4008 Ungrouped PfecMatch;
    0x180 U32 0x400a Ungrouped Cr3TargetCount;
    0x184 U32 0x400e Ungrouped ExitMsrStoreCount;
    0x188 U32 0x4010 Ungrouped ExitMsrLoadCount;
    0x18c U32 0x4014 Ungrouped EntryMsrLoadCount;
    0x190 U64 0x2010 ControlGrp2 TscOffset;
    0x198 U64 0x2012 ControlGrp2 VirtualApicPage;
    0x1a0 U64 0x2800 GuestGrp1 GuestWorkingVmcsPtr;
    0x1a8 U64 0x2802 GuestGrp1 GuestIa32DebugCtl;
    0x1b0 U64 0x2804 GuestGrp1 GuestPat;
    0x1b8 U64 0x2806 GuestGrp1 GuestEfer;
    0x1c0 U64 0x280a GuestGrp1 GuestPdpte0;
    0x1c8 U64 0x280c GuestGrp1 GuestPdpte1;
    0x1d0 U64 0x280e GuestGrp1 GuestPdpte2;
    0x1d8 U64 0x2810 GuestGrp1 GuestPdpte3;
    0x1e0 U64 0x6822 GuestGrp1 GuestPendingDebugExceptions;
    0x1e8 U64 0x6824 GuestGrp1 GuestSysenterEspMsr;
    0x1f0 U64 0x6826 GuestGrp1 GuestSysenterEipMsr;
    0x1f8 U32 0x4826 GuestGrp1 GuestSleepState;
    0x1fc U32 0x482a GuestGrp1 GuestSysenterCsMsr;
    0x200 U64 0x6000 Crdr Cr0GuestHostMask;
    0x208 U64 0x6002 Crdr Cr4GuestHostMask;
    0x210 U64 0x6004 Crdr Cr0ReadShadow;
    0x218 U64 0x6006 Crdr Cr4ReadShadow;
    0x220 U64 0x6800 Crdr GuestCr0;
    0x228 U64 0x6802 Crdr GuestCr3;
    0x230 U64 0x6804 Crdr GuestCr4;
    0x238 U64 0x681a Crdr GuestDr7;
    0x240 U64 0x6c06 HostPointer HostFsBase;
    0x248 U64 0x6c08 HostPointer HostGsBase;
    0x250 U64 0x6c0a HostPointer HostTrBase;
    0x258 U64 0x6c0c HostPointer HostGdtrBase;
    0x260 U64 0x6c0e HostPointer HostIdtrBase;
    0x268 U64 0x6c14 HostPointer HostRsp;
    0x270 U64 0x201a ControlXlat EptRoot;
    0x278 U16 0x0000 ControlXlat Vpid;
    0x2a8 U64 0x2400 ExitInfo ExitEptFaultGpa;
    0x2b0 U32 0x4400 ExitInfo ExitInstructionError;
    0x2b4 U32 0x4402 ExitInfo ExitReason;
    0x2b8 U32 0x4404 ExitInfo ExitInterruptionInfo;
    0x2bc U32 0x4406 ExitInfo ExitExceptionErrorCode;
    0x2c0 U32 0x4408 ExitInfo ExitIdtVectoringInfo;
    0x2c4 U32 0x440a ExitInfo ExitIdtVectoringErrorCode;
    0x2c8 U32 0x440c ExitInfo ExitInstructionLength;
    0x2cc U32 0x440e ExitInfo ExitInstructionInfo;
    0x2d0 U64 0x6400 ExitInfo ExitQualification;
    0x2d8 U64 0x6402 ExitInfo ExitIoInstructionEcx;
    0x2e0 U64 0x6404 ExitInfo ExitIoInstructionEsi;
    0x2e8 U64 0x6406 ExitInfo ExitIoInstructionEdi;
    0x2f0 U64 0x6408 ExitInfo ExitIoInstructionEip;
    0x2f8 U64 0x640a ExitInfo GuestLinearAddress;
    0x300 U64 0x681c GuestBasic GuestRsp;
    0x308 U64 0x6820 GuestBasic GuestRflags;
    0x310 U32 0x4824 GuestBasic GuestInterruptibility;
    0x314 U32 0x4002 ControlProc ProcessorControls;
    0x318 U32 0x4004 ControlExcpn ExceptionBitmap;
    0x31c U32 0x4012 ControlEntry EntryControls;
    0x320 U32 0x4016 ControlEvent EntryInterruptInfo;
    0x324 U32 0x4018 ControlEvent EntryExceptionErrorCode;
    0x328 U32 0x401a ControlEvent EntryInstructionLength;
    0x32c U32 0x401c Always TprThreshold;
    0x330 U64 0x681e Always GuestRip;
    0x380 U64 0x2812 GuestGrp1 GuestBndcfgs;
    0x388 U64 0x2808 GuestGrp1 GuestPerfGlobalCtrl;
    0x390 U64 0x6828 GuestGrp1 GuestSCet;
    0x398 U64 0x682a GuestBasic GuestSsp;
    0x3a0 U64 0x682c GuestGrp1 GuestInterruptSspTableAddr;
    0x3a8 U64 0x2816 GuestGrp1 GuestLbrCtl;
    0x3c0 U64 0x202c ControlGrp2 XssExitingBitmap;
    0x3c8 U64 0x202e ControlGrp2 EnclsExitingBitmap;
    0x3d0 U64 0x2c04 HostGrp1 HostPerfGlobalCtrl;
    0x3d8 U64 0x2032 ControlGrp2 TscMultiplier;
    0x3e0 U64 0x6c18 HostGrp1 HostSCet;
    0x3e8 U64 0x6c1a HostGrp1 HostSsp;
    0x3f0 U64 0x6c1c HostGrp1 HostInterruptSspTableAddr;
    0x3f8 U64 0x2034 ControlGrp1 TertiaryProcessorControls;
}

#[cfg(test)]
mod tests;
