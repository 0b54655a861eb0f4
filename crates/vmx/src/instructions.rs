//! The VT-x instructions: the one place of this crate with `unsafe`.
//!
//! Every function here needs CPL 0 on a processor with VT-x, and all but
//! [`vmxon`] need VMX root operation; outside of it the instruction raises #UD.
//! Results follow SDM vol. 3, "Conventions": success, VMfailInvalid (CF) or
//! VMfailValid (ZF, with a number in the current VMCS).
#![allow(unsafe_code)]

use core::arch::asm;

use addr::Spa;

use crate::Field;

/// How a VMX instruction failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmFail {
    /// There is no current VMCS to hold an error number (CF = 1).
    Invalid,
    /// The current VMCS holds the error number (ZF = 1).
    Valid,
}

#[inline]
const fn outcome(carry: u8, zero: u8) -> Result<(), VmFail> {
    if carry != 0 {
        Err(VmFail::Invalid)
    } else if zero != 0 {
        Err(VmFail::Valid)
    } else {
        Ok(())
    }
}

macro_rules! pointer_instruction {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        #[inline]
        pub unsafe fn $name(region: Spa) -> Result<(), VmFail> {
            let (carry, zero): (u8, u8);
            let operand = region.raw();
            // SAFETY: the instruction reads 8 bytes at `operand`, which lives on
            // this stack frame; what it does to the region is the caller's promise.
            unsafe {
                asm!(
                    concat!($mnemonic, " qword ptr [{operand}]"),
                    "setc {carry}",
                    "setz {zero}",
                    operand = in(reg) &operand,
                    carry = out(reg_byte) carry,
                    zero = out(reg_byte) zero,
                    options(nostack),
                );
            }
            outcome(carry, zero)
        }
    };
}

pointer_instruction!(
    /// Enters VMX root operation with `region` as the VMXON region.
    ///
    /// # Safety
    /// CR4.VMXE is set, IA32_FEATURE_CONTROL allows it, and `region` is a 4 KiB
    /// aligned page with the revision identifier that nothing else uses until
    /// [`vmxoff`].
    vmxon,
    "vmxon"
);
pointer_instruction!(
    /// Writes back and deactivates the VMCS at `region`; its launch state becomes clear.
    ///
    /// # Safety
    /// VMX root operation; `region` is a VMCS page that belongs to the caller.
    vmclear,
    "vmclear"
);
pointer_instruction!(
    /// Makes the VMCS at `region` current on this processor.
    ///
    /// # Safety
    /// VMX root operation; `region` is a VMCS page with the revision identifier that is
    /// active on no other processor.
    vmptrld,
    "vmptrld"
);

/// [`vmptrld`] of a region that is known to be good; the hot path's form, which takes the operand
/// where it lies and spends no instruction on the result.
///
/// # Safety
/// As [`vmptrld`].
#[inline(always)]
pub unsafe fn vmptrld_known(region: &Spa) {
    // SAFETY: the instruction reads the 8 bytes of `region`; the rest is the caller's promise.
    unsafe {
        asm!(
            "vmptrld qword ptr [{region}]",
            region = in(reg) core::ptr::from_ref(region),
            options(nostack),
        );
    }
}

/// Leaves VMX operation.
///
/// # Safety
/// VMX root operation, and nothing relies on a current VMCS any more.
#[inline]
pub unsafe fn vmxoff() {
    // SAFETY: touches no memory; the caller vouches for the mode.
    unsafe { asm!("vmxoff", options(nomem, nostack)) }
}

/// Reads a field of the current VMCS. A field the processor does not have reads as 0.
///
/// # Safety
/// VMX root operation with a current VMCS.
#[inline(always)]
pub unsafe fn vmread(field: Field) -> u64 {
    let mut value: u64 = 0;
    // SAFETY: registers only; a failing VMREAD leaves the destination alone.
    unsafe {
        asm!(
            "vmread {value}, {field}",
            value = inout(reg) value,
            field = in(reg) u64::from(field.encoding()),
            options(nomem, nostack),
        );
    }
    value
}

/// Reads a field of the current VMCS that is known to exist; the hot path's form. What it gives
/// for another field is unspecified.
///
/// # Safety
/// As [`vmread`].
#[inline(always)]
pub unsafe fn vmread_known(field: Field) -> u64 {
    let value: u64;
    // SAFETY: registers only; a failing VMREAD leaves whatever the destination held.
    unsafe {
        asm!(
            "vmread {value}, {field}",
            value = out(reg) value,
            field = in(reg) u64::from(field.encoding()),
            options(nomem, nostack),
        );
    }
    value
}

/// Reads a field of the current VMCS into the eight bytes at `base + OFFSET`: one instruction
/// less than by a register.
///
/// # Safety
/// As [`vmread`]; the eight bytes are valid for writes.
#[inline(always)]
pub unsafe fn vmread_to<const OFFSET: u16>(field: Field, base: *mut u8) {
    // SAFETY: writes the eight bytes that the caller vouches for.
    unsafe {
        asm!(
            "vmread qword ptr [{base} + {offset}], {field}",
            base = in(reg) base,
            offset = const OFFSET,
            field = in(reg) u64::from(field.encoding()),
            options(nostack),
        );
    }
}

/// Writes a field of the current VMCS from the word `INDEX` of `values`.
///
/// # Safety
/// As [`vmwrite`]; `values` has more than `INDEX` words.
#[inline(always)]
pub unsafe fn vmwrite_from<const INDEX: usize>(field: Field, values: *const u64) {
    // SAFETY: reads a word that the caller vouches for; the effect on the VMCS is its promise.
    unsafe {
        asm!(
            "vmwrite {field}, qword ptr [{values} + 8 * {index}]",
            values = in(reg) values,
            index = const INDEX,
            field = in(reg) u64::from(field.encoding()),
            options(nostack, readonly),
        );
    }
}

/// Writes a field of the current VMCS from the eight bytes at `base + OFFSET`; as many count as
/// the field is wide.
///
/// # Safety
/// As [`vmwrite`]; the eight bytes are valid for reads.
#[inline(always)]
pub unsafe fn vmwrite_from_page<const OFFSET: u16>(field: Field, base: *const u8) {
    // SAFETY: reads what the caller vouches for; the effect on the VMCS is its promise.
    unsafe {
        asm!(
            "vmwrite {field}, qword ptr [{base} + {offset}]",
            base = in(reg) base,
            offset = const OFFSET,
            field = in(reg) u64::from(field.encoding()),
            options(nostack, readonly),
        );
    }
}

/// Writes a field of the current VMCS.
///
/// # Errors
/// The field does not exist on this processor or is read-only.
///
/// # Safety
/// VMX root operation with a current VMCS; the value must keep what L0 relies on when
/// that VMCS is next entered (host state, addresses of structures).
#[inline(always)]
pub unsafe fn try_vmwrite(field: Field, value: u64) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: registers only; the effect on the VMCS is the caller's promise.
    unsafe {
        asm!(
            "vmwrite {field}, {value}",
            "setc {carry}",
            "setz {zero}",
            field = in(reg) u64::from(field.encoding()),
            value = in(reg) value,
            carry = out(reg_byte) carry,
            zero = out(reg_byte) zero,
            options(nomem, nostack),
        );
    }
    outcome(carry, zero)
}

/// Writes a field of the current VMCS that is known to exist; the hot path's form, which
/// spends no instruction on the result.
///
/// # Safety
/// As [`try_vmwrite`].
#[inline(always)]
pub unsafe fn vmwrite(field: Field, value: u64) {
    // SAFETY: registers only; the effect on the VMCS is the caller's promise.
    unsafe {
        asm!(
            "vmwrite {field}, {value}",
            field = in(reg) u64::from(field.encoding()),
            value = in(reg) value,
            options(nomem, nostack),
        );
    }
}

/// What INVEPT is to forget (SDM, INVEPT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InveptScope {
    /// Mappings derived from the EPT with this EPTP.
    Single(u64),
    /// Mappings of every EPT.
    All,
}

/// Invalidates EPT-derived translations of this processor.
///
/// # Safety
/// VMX root operation on a processor that supports the scope.
#[inline]
pub unsafe fn invept(scope: InveptScope) -> Result<(), VmFail> {
    let (kind, eptp) = match scope {
        InveptScope::Single(eptp) => (1u64, eptp),
        InveptScope::All => (2u64, 0),
    };
    // SAFETY: forwarded from the caller.
    unsafe { invalidate_ept(kind, [eptp, 0]) }
}

#[inline]
unsafe fn invalidate_ept(kind: u64, descriptor: [u64; 2]) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: reads 16 bytes of `descriptor`; dropping translations is always sound.
    unsafe {
        asm!(
            "invept {kind}, [{descriptor}]",
            "setc {carry}",
            "setz {zero}",
            kind = in(reg) kind,
            descriptor = in(reg) &descriptor,
            carry = out(reg_byte) carry,
            zero = out(reg_byte) zero,
            options(nostack),
        );
    }
    outcome(carry, zero)
}

/// What INVVPID is to forget (SDM, INVVPID).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvvpidScope {
    /// One linear address of one VPID.
    Address {
        /// The virtual-processor identifier.
        vpid: u16,
        /// The linear address.
        address: u64,
    },
    /// Everything of one VPID.
    Single(u16),
    /// Everything of every VPID but 0.
    All,
}

/// The descriptor of an INVVPID of everything of one VPID.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct VpidDescriptor([u64; 2]);

impl VpidDescriptor {
    /// The one of this VPID.
    pub const fn new(vpid: u16) -> Self {
        Self([vpid as u64, 0])
    }
}

/// [`invvpid`] of everything of one VPID, on a processor that is known to have this; the hot path's
/// form, which spends no instruction on the result.
///
/// # Safety
/// VMX root operation on a processor that supports the scope.
#[inline(always)]
pub unsafe fn invvpid_known(descriptor: &VpidDescriptor) {
    // SAFETY: reads 16 bytes of `descriptor`; dropping translations is always sound.
    unsafe {
        asm!(
            "invvpid {kind}, [{descriptor}]",
            kind = in(reg) 1u64,
            descriptor = in(reg) core::ptr::from_ref(descriptor),
            options(nostack),
        );
    }
}

/// Invalidates linear translations tagged by VPID on this processor.
///
/// # Safety
/// VMX root operation on a processor that supports the scope.
#[inline]
pub unsafe fn invvpid(scope: InvvpidScope) -> Result<(), VmFail> {
    let (kind, descriptor) = match scope {
        InvvpidScope::Address { vpid, address } => (0u64, [u64::from(vpid), address]),
        InvvpidScope::Single(vpid) => (1, [u64::from(vpid), 0]),
        InvvpidScope::All => (2, [0, 0]),
    };
    let (carry, zero): (u8, u8);
    // SAFETY: reads 16 bytes of `descriptor`; dropping translations is always sound.
    unsafe {
        asm!(
            "invvpid {kind}, [{descriptor}]",
            "setc {carry}",
            "setz {zero}",
            kind = in(reg) kind,
            descriptor = in(reg) &descriptor,
            carry = out(reg_byte) carry,
            zero = out(reg_byte) zero,
            options(nostack),
        );
    }
    outcome(carry, zero)
}
