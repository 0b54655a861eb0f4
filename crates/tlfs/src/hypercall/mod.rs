//! The hypercall interface: control and result words, codes, status values
//! and the fixed parts of the calls' inputs.

mod code;
mod flush;
mod range;
mod status;
mod vp_set;

pub use code::CallCode;
pub use flush::FlushFlags;
pub use range::{GpaRange, GvaRange, LargePageSize};
pub use status::Status;
pub use vp_set::{SPARSE_BANKS, VPS_PER_BANK, VpSetFormat};

use bitfield_struct::bitfield;

/// What the hypercall page holds at its start: VMCALL, then a near return.
/// Both 64-bit and 32-bit callers may use it. (With IBT offered to the guest
/// it would have to start with ENDBR64.)
pub const VMCALL_RET: [u8; 4] = [0x0F, 0x01, 0xC1, 0xC3];
/// What fills the rest of the page: INT3.
pub const HYPERCALL_PAGE_FILL: u8 = 0xCC;

/// The hypercall input value, or control word.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// The call's code, see [`CallCode`].
    pub code: u16,
    /// The input is in registers rather than in memory.
    pub fast: bool,
    /// Length of the variable part of the header, in units of 8 bytes.
    #[bits(10)]
    pub variable_header: u16,
    #[bits(4)]
    __: u8,
    /// For the base hypervisor, past a nested Hv#1 in between.
    pub nested: bool,
    /// Elements of the list; zero for a simple call.
    #[bits(12)]
    pub rep_count: u16,
    #[bits(4)]
    __: u8,
    /// The first element not yet done.
    #[bits(12)]
    pub rep_start: u16,
    #[bits(4)]
    __: u8,
}

impl Control {
    /// The bits that must be zero in a call to the hypervisor right below.
    pub const RESERVED: u64 = 0xF000_F000_F800_0000;
}

/// The hypercall result value.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ResultWord {
    /// How the call ended, see [`Status`].
    pub status: u16,
    #[bits(16)]
    __: u16,
    /// Elements of the list that are done, those before the start index
    /// included.
    #[bits(12)]
    pub reps_completed: u16,
    #[bits(20)]
    __: u32,
}

impl ResultWord {
    /// The end of a simple call, or of a rep call that did nothing.
    pub const fn status_only(status: Status) -> Self {
        Self::new().with_status(status.0)
    }

    /// The end of a rep call after `reps` elements, counted from the list's
    /// start.
    pub const fn after_reps(status: Status, reps: u16) -> Self {
        Self::status_only(status).with_reps_completed(reps & 0xFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_word_decodes() {
        // FlushVirtualAddressListEx, three banks, five ranges, start at two.
        let control = Control::from_bits(0x14 | 3 << 17 | 5 << 32 | 2 << 48);
        assert_eq!(control.code(), 0x14);
        assert!(!control.fast() && !control.nested());
        assert_eq!(control.variable_header(), 3);
        assert_eq!((control.rep_count(), control.rep_start()), (5, 2));
        assert!(Control::from_bits(0x1_000B).fast());
        assert_eq!(Control::new().with_nested(true).into_bits(), 1 << 31);
    }

    #[test]
    fn control_fields_and_reserved_bits_cover_the_word() {
        let all = Control::new()
            .with_code(u16::MAX)
            .with_fast(true)
            .with_variable_header(0x3FF)
            .with_rep_count(0xFFF)
            .with_rep_start(0xFFF);
        assert_eq!(all.into_bits(), !Control::RESERVED);
    }

    #[test]
    fn result_word_encodes() {
        assert_eq!(
            ResultWord::after_reps(Status::SUCCESS, 5).into_bits(),
            5 << 32
        );
        assert_eq!(
            ResultWord::status_only(Status::INVALID_ALIGNMENT).into_bits(),
            4
        );
        assert_eq!(
            ResultWord::after_reps(Status(2), 0xFFFF).reps_completed(),
            0xFFF
        );
    }
}
