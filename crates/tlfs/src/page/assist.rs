//! The VP assist page.

use bitfield_struct::bitfield;

/// Byte offset: u32, bit 0: no EOI is required.
pub const APIC_ASSIST: u64 = 0x00;
/// Byte offset: u32 reserved, then 24 bytes for virtual secure mode.
pub const VTL_CONTROL: u64 = 0x08;
/// Byte offset: u64, see [`NestedControl`].
pub const NESTED_CONTROL: u64 = 0x20;
/// Byte offset: u8, VM entries use the enlightened VMCS.
pub const ENLIGHTEN_VM_ENTRY: u64 = 0x28;
/// Byte offset: u64, the enlightened VMCS that the next VM entry uses.
pub const CURRENT_NESTED_VMCS: u64 = 0x30;
/// Byte offset: u8, the time-unhalted timer expired.
pub const TIME_UNHALTED_EXPIRED: u64 = 0x38;
/// Byte offset: 16 bytes, the virtualization fault.
pub const VIRTUALIZATION_FAULT: u64 = 0x40;

/// HV_NESTED_ENLIGHTENMENTS_CONTROL, two 32-bit words as one of 64.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct NestedControl {
    /// L2's flush hypercalls may be handled without an exit to L1.
    pub direct_hypercall: bool,
    /// Virtualization exceptions are wanted.
    pub virtualization_exception: bool,
    #[bits(30)]
    __: u32,
    /// Communication between partitions.
    pub inter_partition_communication: bool,
    #[bits(31)]
    __: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_words_lie_in_order() {
        assert_eq!(
            NestedControl::new().with_direct_hypercall(true).into_bits(),
            1
        );
        assert_eq!(
            NestedControl::new()
                .with_virtualization_exception(true)
                .into_bits(),
            2
        );
        assert_eq!(
            NestedControl::new()
                .with_inter_partition_communication(true)
                .into_bits(),
            1 << 32
        );
    }
}
