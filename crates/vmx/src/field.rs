//! VMCS fields and their encodings (SDM Vol. 3, Appendix B).

use core::fmt;

/// A VMCS field, named by the encoding that VMREAD and VMWRITE take.
///
/// The encoding says what the field is: bit 0 selects the upper half of a
/// 64-bit field, bits 9:1 are an index, bits 11:10 the [`Kind`] and bits 14:13
/// the [`Width`]. A value need not name an existing field: see
/// [`Field::from_encoding`] and [`Field::is_known`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Field(u32);

/// How wide a field is (bits 14:13 of the encoding).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Width {
    /// 16 bits.
    U16,
    /// 64 bits, also outside 64-bit mode; the only width with a "high" encoding.
    U64,
    /// 32 bits.
    U32,
    /// As wide as the machine word: 64 bits on a processor with Intel 64.
    Natural,
}

impl Width {
    /// Bytes that a value takes on a processor with Intel 64.
    #[inline]
    pub const fn bytes(self) -> usize {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
            Width::U64 | Width::Natural => 8,
        }
    }
}

/// What a field is about (bits 11:10 of the encoding).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// Controls of execution, exit and entry.
    Control,
    /// Information about the last exit; read-only unless IA32_VMX_MISC bit 29 is set.
    ExitInfo,
    /// Guest state.
    Guest,
    /// Host state.
    Host,
}

impl Field {
    /// The field that `raw` names; whether there is one is not checked.
    #[inline]
    pub const fn from_encoding(raw: u32) -> Self {
        Self(raw)
    }

    /// The encoding, as VMREAD and VMWRITE take it.
    #[inline]
    pub const fn encoding(self) -> u32 {
        self.0
    }

    /// The field's width.
    #[inline]
    pub const fn width(self) -> Width {
        match (self.0 >> 13) & 3 {
            0 => Width::U16,
            1 => Width::U64,
            2 => Width::U32,
            _ => Width::Natural,
        }
    }

    /// What the field is about.
    #[inline]
    pub const fn kind(self) -> Kind {
        match (self.0 >> 10) & 3 {
            0 => Kind::Control,
            1 => Kind::ExitInfo,
            2 => Kind::Guest,
            _ => Kind::Host,
        }
    }

    /// The field's index within its width and kind (bits 9:1).
    #[inline]
    pub const fn index(self) -> u32 {
        (self.0 >> 1) & 0x1ff
    }

    /// Whether the encoding accesses the upper 32 bits of a 64-bit field.
    #[inline]
    pub const fn is_high(self) -> bool {
        self.0 & 1 != 0
    }

    /// The encoding of the whole field: this one without the "high" bit.
    #[inline]
    pub const fn full(self) -> Self {
        Self(self.0 & !1)
    }

    /// Whether a reserved bit of the encoding is set, or the "high" bit on a
    /// field that is not 64 bits wide; then no processor has such a field.
    #[inline]
    pub const fn is_malformed(self) -> bool {
        self.0 & 0xffff_9000 != 0 || (self.is_high() && !matches!(self.width(), Width::U64))
    }

    /// Whether [`Field::ALL`] holds the (whole) field.
    pub fn is_known(self) -> bool {
        !self.is_malformed() && Self::ALL.iter().any(|f| *f == self.full())
    }

    /// The SDM's name in upper case; `None` for an encoding not in [`Field::ALL`].
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES
            .iter()
            .find(|(field, _)| *field == self.full())
            .map(|(_, name)| *name)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name}({:#06x})", self.0),
            None => write!(f, "Field({:#06x})", self.0),
        }
    }
}

macro_rules! fields {
    ($($name:ident = $encoding:literal, $doc:literal;)*) => {
        impl Field {
            $(#[doc = $doc] pub const $name: Self = Self($encoding);)*

            /// Every field this crate names, in the order of Appendix B.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            const NAMES: &'static [(Self, &'static str)] =
                &[$((Self::$name, stringify!($name))),*];
        }
    };
}

fields! {
    // 16-bit control fields.
    VPID = 0x0000, "Virtual-processor identifier.";
    POSTED_INTERRUPT_VECTOR = 0x0002, "Posted-interrupt notification vector.";
    EPTP_INDEX = 0x0004, "EPTP index.";
    HLAT_PREFIX_SIZE = 0x0006, "HLAT prefix size.";
    LAST_PID_POINTER_INDEX = 0x0008, "Last PID-pointer index.";
    // 16-bit guest state.
    GUEST_ES_SELECTOR = 0x0800, "Guest ES selector.";
    GUEST_CS_SELECTOR = 0x0802, "Guest CS selector.";
    GUEST_SS_SELECTOR = 0x0804, "Guest SS selector.";
    GUEST_DS_SELECTOR = 0x0806, "Guest DS selector.";
    GUEST_FS_SELECTOR = 0x0808, "Guest FS selector.";
    GUEST_GS_SELECTOR = 0x080a, "Guest GS selector.";
    GUEST_LDTR_SELECTOR = 0x080c, "Guest LDTR selector.";
    GUEST_TR_SELECTOR = 0x080e, "Guest TR selector.";
    GUEST_INTERRUPT_STATUS = 0x0810, "Guest interrupt status: RVI in bits 7:0, SVI in bits 15:8.";
    PML_INDEX = 0x0812, "Page-modification-log index.";
    GUEST_UINV = 0x0814, "Guest user-interrupt notification vector.";
    // 16-bit host state.
    HOST_ES_SELECTOR = 0x0c00, "Host ES selector.";
    HOST_CS_SELECTOR = 0x0c02, "Host CS selector.";
    HOST_SS_SELECTOR = 0x0c04, "Host SS selector.";
    HOST_DS_SELECTOR = 0x0c06, "Host DS selector.";
    HOST_FS_SELECTOR = 0x0c08, "Host FS selector.";
    HOST_GS_SELECTOR = 0x0c0a, "Host GS selector.";
    HOST_TR_SELECTOR = 0x0c0c, "Host TR selector.";
    // 64-bit control fields.
    IO_BITMAP_A = 0x2000, "Address of I/O bitmap A (ports 0-0x7fff).";
    IO_BITMAP_B = 0x2002, "Address of I/O bitmap B (ports 0x8000-0xffff).";
    MSR_BITMAP = 0x2004, "Address of the MSR bitmaps.";
    EXIT_MSR_STORE_ADDRESS = 0x2006, "VM-exit MSR-store address.";
    EXIT_MSR_LOAD_ADDRESS = 0x2008, "VM-exit MSR-load address.";
    ENTRY_MSR_LOAD_ADDRESS = 0x200a, "VM-entry MSR-load address.";
    EXECUTIVE_VMCS_POINTER = 0x200c, "Executive-VMCS pointer.";
    PML_ADDRESS = 0x200e, "Page-modification-log address.";
    TSC_OFFSET = 0x2010, "TSC offset.";
    VIRTUAL_APIC_ADDRESS = 0x2012, "Virtual-APIC address.";
    APIC_ACCESS_ADDRESS = 0x2014, "APIC-access address.";
    POSTED_INTERRUPT_DESCRIPTOR = 0x2016, "Posted-interrupt descriptor address.";
    VMFUNC_CONTROLS = 0x2018, "VM-function controls.";
    EPT_POINTER = 0x201a, "EPT pointer.";
    EOI_EXIT_BITMAP_0 = 0x201c, "EOI-exit bitmap 0 (vectors 0-63).";
    EOI_EXIT_BITMAP_1 = 0x201e, "EOI-exit bitmap 1 (vectors 64-127).";
    EOI_EXIT_BITMAP_2 = 0x2020, "EOI-exit bitmap 2 (vectors 128-191).";
    EOI_EXIT_BITMAP_3 = 0x2022, "EOI-exit bitmap 3 (vectors 192-255).";
    EPTP_LIST_ADDRESS = 0x2024, "EPTP-list address.";
    VMREAD_BITMAP = 0x2026, "VMREAD-bitmap address.";
    VMWRITE_BITMAP = 0x2028, "VMWRITE-bitmap address.";
    VE_INFORMATION_ADDRESS = 0x202a, "Virtualization-exception information address.";
    XSS_EXITING_BITMAP = 0x202c, "XSS-exiting bitmap.";
    ENCLS_EXITING_BITMAP = 0x202e, "ENCLS-exiting bitmap.";
    SPPT_POINTER = 0x2030, "Sub-page-permission-table pointer.";
    TSC_MULTIPLIER = 0x2032, "TSC multiplier, 48 fraction bits.";
    TERTIARY_CONTROLS = 0x2034, "Tertiary processor-based VM-execution controls.";
    ENCLV_EXITING_BITMAP = 0x2036, "ENCLV-exiting bitmap.";
    LOW_PASID_DIRECTORY = 0x2038, "Low PASID directory address.";
    HIGH_PASID_DIRECTORY = 0x203a, "High PASID directory address.";
    SHARED_EPT_POINTER = 0x203c, "Shared EPT pointer.";
    PCONFIG_EXITING_BITMAP = 0x203e, "PCONFIG-exiting bitmap.";
    HLAT_POINTER = 0x2040, "Hypervisor-managed linear-address translation pointer.";
    PID_POINTER_TABLE = 0x2042, "PID-pointer table address.";
    SECONDARY_EXIT_CONTROLS = 0x2044, "Secondary VM-exit controls.";
    SPEC_CTRL_MASK = 0x204a, "IA32_SPEC_CTRL mask.";
    SPEC_CTRL_SHADOW = 0x204c, "IA32_SPEC_CTRL shadow.";
    // 64-bit exit information.
    GUEST_PHYSICAL_ADDRESS = 0x2400, "Guest-physical address of an EPT violation or misconfiguration.";
    // 64-bit guest state.
    VMCS_LINK_POINTER = 0x2800, "VMCS link pointer.";
    GUEST_DEBUGCTL = 0x2802, "Guest IA32_DEBUGCTL.";
    GUEST_PAT = 0x2804, "Guest IA32_PAT.";
    GUEST_EFER = 0x2806, "Guest IA32_EFER.";
    GUEST_PERF_GLOBAL_CTRL = 0x2808, "Guest IA32_PERF_GLOBAL_CTRL.";
    GUEST_PDPTE0 = 0x280a, "Guest PDPTE0.";
    GUEST_PDPTE1 = 0x280c, "Guest PDPTE1.";
    GUEST_PDPTE2 = 0x280e, "Guest PDPTE2.";
    GUEST_PDPTE3 = 0x2810, "Guest PDPTE3.";
    GUEST_BNDCFGS = 0x2812, "Guest IA32_BNDCFGS.";
    GUEST_RTIT_CTL = 0x2814, "Guest IA32_RTIT_CTL.";
    GUEST_LBR_CTL = 0x2816, "Guest IA32_LBR_CTL.";
    GUEST_PKRS = 0x2818, "Guest IA32_PKRS.";
    // 64-bit host state.
    HOST_PAT = 0x2c00, "Host IA32_PAT.";
    HOST_EFER = 0x2c02, "Host IA32_EFER.";
    HOST_PERF_GLOBAL_CTRL = 0x2c04, "Host IA32_PERF_GLOBAL_CTRL.";
    HOST_PKRS = 0x2c06, "Host IA32_PKRS.";
    // 32-bit control fields.
    PIN_BASED_CONTROLS = 0x4000, "Pin-based VM-execution controls.";
    PRIMARY_CONTROLS = 0x4002, "Primary processor-based VM-execution controls.";
    EXCEPTION_BITMAP = 0x4004, "Exception bitmap.";
    PAGE_FAULT_ERROR_CODE_MASK = 0x4006, "Page-fault error-code mask.";
    PAGE_FAULT_ERROR_CODE_MATCH = 0x4008, "Page-fault error-code match.";
    CR3_TARGET_COUNT = 0x400a, "CR3-target count.";
    EXIT_CONTROLS = 0x400c, "Primary VM-exit controls.";
    EXIT_MSR_STORE_COUNT = 0x400e, "VM-exit MSR-store count.";
    EXIT_MSR_LOAD_COUNT = 0x4010, "VM-exit MSR-load count.";
    ENTRY_CONTROLS = 0x4012, "VM-entry controls.";
    ENTRY_MSR_LOAD_COUNT = 0x4014, "VM-entry MSR-load count.";
    ENTRY_INTERRUPTION_INFO = 0x4016, "VM-entry interruption information.";
    ENTRY_EXCEPTION_ERROR_CODE = 0x4018, "VM-entry exception error code.";
    ENTRY_INSTRUCTION_LENGTH = 0x401a, "VM-entry instruction length.";
    TPR_THRESHOLD = 0x401c, "TPR threshold.";
    SECONDARY_CONTROLS = 0x401e, "Secondary processor-based VM-execution controls.";
    PLE_GAP = 0x4020, "PAUSE-loop-exiting gap.";
    PLE_WINDOW = 0x4022, "PAUSE-loop-exiting window.";
    INSTRUCTION_TIMEOUT = 0x4024, "Instruction-timeout control (notify window).";
    // 32-bit exit information.
    INSTRUCTION_ERROR = 0x4400, "VM-instruction error.";
    EXIT_REASON = 0x4402, "Exit reason.";
    EXIT_INTERRUPTION_INFO = 0x4404, "VM-exit interruption information.";
    EXIT_INTERRUPTION_ERROR_CODE = 0x4406, "VM-exit interruption error code.";
    IDT_VECTORING_INFO = 0x4408, "IDT-vectoring information.";
    IDT_VECTORING_ERROR_CODE = 0x440a, "IDT-vectoring error code.";
    EXIT_INSTRUCTION_LENGTH = 0x440c, "VM-exit instruction length.";
    EXIT_INSTRUCTION_INFO = 0x440e, "VM-exit instruction information.";
    // 32-bit guest state.
    GUEST_ES_LIMIT = 0x4800, "Guest ES limit.";
    GUEST_CS_LIMIT = 0x4802, "Guest CS limit.";
    GUEST_SS_LIMIT = 0x4804, "Guest SS limit.";
    GUEST_DS_LIMIT = 0x4806, "Guest DS limit.";
    GUEST_FS_LIMIT = 0x4808, "Guest FS limit.";
    GUEST_GS_LIMIT = 0x480a, "Guest GS limit.";
    GUEST_LDTR_LIMIT = 0x480c, "Guest LDTR limit.";
    GUEST_TR_LIMIT = 0x480e, "Guest TR limit.";
    GUEST_GDTR_LIMIT = 0x4810, "Guest GDTR limit.";
    GUEST_IDTR_LIMIT = 0x4812, "Guest IDTR limit.";
    GUEST_ES_ACCESS_RIGHTS = 0x4814, "Guest ES access rights.";
    GUEST_CS_ACCESS_RIGHTS = 0x4816, "Guest CS access rights.";
    GUEST_SS_ACCESS_RIGHTS = 0x4818, "Guest SS access rights.";
    GUEST_DS_ACCESS_RIGHTS = 0x481a, "Guest DS access rights.";
    GUEST_FS_ACCESS_RIGHTS = 0x481c, "Guest FS access rights.";
    GUEST_GS_ACCESS_RIGHTS = 0x481e, "Guest GS access rights.";
    GUEST_LDTR_ACCESS_RIGHTS = 0x4820, "Guest LDTR access rights.";
    GUEST_TR_ACCESS_RIGHTS = 0x4822, "Guest TR access rights.";
    GUEST_INTERRUPTIBILITY = 0x4824, "Guest interruptibility state.";
    GUEST_ACTIVITY_STATE = 0x4826, "Guest activity state.";
    GUEST_SMBASE = 0x4828, "Guest SMBASE.";
    GUEST_SYSENTER_CS = 0x482a, "Guest IA32_SYSENTER_CS.";
    VMX_PREEMPTION_TIMER_VALUE = 0x482e, "VMX-preemption timer value.";
    // 32-bit host state.
    HOST_SYSENTER_CS = 0x4c00, "Host IA32_SYSENTER_CS.";
    // Natural-width control fields.
    CR0_GUEST_HOST_MASK = 0x6000, "CR0 guest/host mask.";
    CR4_GUEST_HOST_MASK = 0x6002, "CR4 guest/host mask.";
    CR0_READ_SHADOW = 0x6004, "CR0 read shadow.";
    CR4_READ_SHADOW = 0x6006, "CR4 read shadow.";
    CR3_TARGET_VALUE_0 = 0x6008, "CR3-target value 0.";
    CR3_TARGET_VALUE_1 = 0x600a, "CR3-target value 1.";
    CR3_TARGET_VALUE_2 = 0x600c, "CR3-target value 2.";
    CR3_TARGET_VALUE_3 = 0x600e, "CR3-target value 3.";
    // Natural-width exit information.
    EXIT_QUALIFICATION = 0x6400, "Exit qualification.";
    IO_RCX = 0x6402, "I/O RCX.";
    IO_RSI = 0x6404, "I/O RSI.";
    IO_RDI = 0x6406, "I/O RDI.";
    IO_RIP = 0x6408, "I/O RIP.";
    GUEST_LINEAR_ADDRESS = 0x640a, "Guest-linear address.";
    // Natural-width guest state.
    GUEST_CR0 = 0x6800, "Guest CR0.";
    GUEST_CR3 = 0x6802, "Guest CR3.";
    GUEST_CR4 = 0x6804, "Guest CR4.";
    GUEST_ES_BASE = 0x6806, "Guest ES base.";
    GUEST_CS_BASE = 0x6808, "Guest CS base.";
    GUEST_SS_BASE = 0x680a, "Guest SS base.";
    GUEST_DS_BASE = 0x680c, "Guest DS base.";
    GUEST_FS_BASE = 0x680e, "Guest FS base.";
    GUEST_GS_BASE = 0x6810, "Guest GS base.";
    GUEST_LDTR_BASE = 0x6812, "Guest LDTR base.";
    GUEST_TR_BASE = 0x6814, "Guest TR base.";
    GUEST_GDTR_BASE = 0x6816, "Guest GDTR base.";
    GUEST_IDTR_BASE = 0x6818, "Guest IDTR base.";
    GUEST_DR7 = 0x681a, "Guest DR7.";
    GUEST_RSP = 0x681c, "Guest RSP.";
    GUEST_RIP = 0x681e, "Guest RIP.";
    GUEST_RFLAGS = 0x6820, "Guest RFLAGS.";
    GUEST_PENDING_DEBUG_EXCEPTIONS = 0x6822, "Guest pending debug exceptions.";
    GUEST_SYSENTER_ESP = 0x6824, "Guest IA32_SYSENTER_ESP.";
    GUEST_SYSENTER_EIP = 0x6826, "Guest IA32_SYSENTER_EIP.";
    GUEST_S_CET = 0x6828, "Guest IA32_S_CET.";
    GUEST_SSP = 0x682a, "Guest SSP.";
    GUEST_INTERRUPT_SSP_TABLE = 0x682c, "Guest IA32_INTERRUPT_SSP_TABLE_ADDR.";
    // Natural-width host state.
    HOST_CR0 = 0x6c00, "Host CR0.";
    HOST_CR3 = 0x6c02, "Host CR3.";
    HOST_CR4 = 0x6c04, "Host CR4.";
    HOST_FS_BASE = 0x6c06, "Host FS base.";
    HOST_GS_BASE = 0x6c08, "Host GS base.";
    HOST_TR_BASE = 0x6c0a, "Host TR base.";
    HOST_GDTR_BASE = 0x6c0c, "Host GDTR base.";
    HOST_IDTR_BASE = 0x6c0e, "Host IDTR base.";
    HOST_SYSENTER_ESP = 0x6c10, "Host IA32_SYSENTER_ESP.";
    HOST_SYSENTER_EIP = 0x6c12, "Host IA32_SYSENTER_EIP.";
    HOST_RSP = 0x6c14, "Host RSP.";
    HOST_RIP = 0x6c16, "Host RIP.";
    HOST_S_CET = 0x6c18, "Host IA32_S_CET.";
    HOST_SSP = 0x6c1a, "Host SSP.";
    HOST_INTERRUPT_SSP_TABLE = 0x6c1c, "Host IA32_INTERRUPT_SSP_TABLE_ADDR.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_within_its_rules() {
        for (i, field) in Field::ALL.iter().enumerate() {
            assert!(!field.is_malformed(), "{field:?}");
            assert!(!field.is_high(), "{field:?}");
            assert!(!Field::ALL[..i].contains(field), "{field:?} twice");
            assert!(field.is_known());
        }
    }

    #[test]
    fn names_agree_with_kinds() {
        for field in Field::ALL {
            let name = field.name().unwrap();
            assert_eq!(
                name.starts_with("HOST_"),
                field.kind() == Kind::Host,
                "{name}"
            );
            if field.kind() == Kind::Control {
                assert!(!name.starts_with("GUEST_"), "{name}");
            }
        }
    }

    #[test]
    fn widths_and_kinds_of_known_encodings() {
        assert_eq!(Field::VPID.width(), Width::U16);
        assert_eq!(Field::EPT_POINTER.width(), Width::U64);
        assert_eq!(Field::EXIT_REASON.width(), Width::U32);
        assert_eq!(Field::EXIT_REASON.kind(), Kind::ExitInfo);
        assert_eq!(Field::GUEST_RIP.width(), Width::Natural);
        assert_eq!(Field::HOST_RSP.index(), 10);
    }

    #[test]
    fn malformed_and_unknown_encodings() {
        assert!(Field::from_encoding(0x8000_0000).is_malformed());
        assert!(Field::from_encoding(0x1000).is_malformed());
        assert!(Field::from_encoding(0x681f).is_malformed());
        assert!(Field::from_encoding(0x2001).is_known());
        assert!(!Field::from_encoding(0x2050).is_known());
    }
}
