//! The registers of L1's first VP.

use addr::Gpa1;

/// A segment register in the form the VMCS has it (SDM vol. 3, 25.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, inclusive.
    pub limit: u32,
    /// Access rights: type, S, DPL, P, D/B, G and, at bit 16, unusable.
    pub access_rights: u32,
}

impl SegmentState {
    const fn at_zero(selector: u16, limit: u32, access_rights: u32) -> Self {
        Self {
            selector,
            base: 0,
            limit,
            access_rights,
        }
    }
}

/// The state in which the first VP enters its kernel. Registers that are not
/// named are 0; EFER is 0, so the VP is not in long mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryState {
    /// Where it begins.
    pub rip: u64,
    /// EBX: the start info.
    pub rbx: u64,
    /// Only the bit that is always set: interrupts are off.
    pub rflags: u64,
    /// Protected mode, paging off.
    pub cr0: u64,
    /// Everything off.
    pub cr4: u64,
    /// Flat 32-bit code.
    pub cs: SegmentState,
    /// Flat data, for DS, ES, SS, FS and GS.
    pub data: SegmentState,
    /// A busy 32-bit TSS with base 0 and limit 0x67.
    pub tr: SegmentState,
    /// Unusable.
    pub ldtr: SegmentState,
}

impl EntryState {
    /// The state that the PVH protocol asks for.
    pub const fn pvh(entry: Gpa1, start_info: Gpa1) -> Self {
        Self {
            rip: entry.raw(),
            rbx: start_info.raw(),
            rflags: 0x2,
            // PE, and ET, which is fixed to 1 on hardware.
            cr0: 0x11,
            cr4: 0,
            cs: SegmentState::at_zero(0x08, u32::MAX, 0xC09B),
            data: SegmentState::at_zero(0x10, u32::MAX, 0xC093),
            tr: SegmentState::at_zero(0x18, 0x67, 0x8B),
            ldtr: SegmentState::at_zero(0, 0, 1 << 16),
        }
    }
}
