//! The VMX instructions with everything they can answer: all flags, and faults.

use core::arch::asm;

use vmx::Field;

use super::outcome::{ARITHMETIC_FLAGS, Outcome};
use crate::rt::fault::attempt;

/// Runs an instruction with the arithmetic flags set, so that those which it clears show.
macro_rules! judged {
    ($text:expr $(, $operand:ident = $value:expr)*) => {{
        let result = attempt(|| {
            let mut flags = ARITHMETIC_FLAGS | 2;
            // SAFETY: the payload owns its machine; a fault ends up in `attempt`.
            unsafe {
                asm!(
                    "push {flags}",
                    "popfq",
                    $text,
                    "pushfq",
                    "pop {flags}",
                    $($operand = in(reg) $value,)*
                    flags = inout(reg) flags,
                );
            }
            flags
        });
        match result {
            Ok(flags) => Outcome::from_flags(flags, error),
            Err(fault) => Outcome::Fault(fault),
        }
    }};
}

/// The VM-instruction error of the current VMCS.
pub fn error() -> u32 {
    vmread(Field::INSTRUCTION_ERROR).unwrap_or(u64::MAX) as u32
}

/// VMXON with its operand at the linear address `operand`.
pub fn vmxon_at(operand: u64) -> Outcome {
    judged!("vmxon qword ptr [{at}]", at = operand)
}

/// VMCLEAR with its operand at the linear address `operand`.
pub fn vmclear_at(operand: u64) -> Outcome {
    judged!("vmclear qword ptr [{at}]", at = operand)
}

/// VMPTRLD with its operand at the linear address `operand`.
pub fn vmptrld_at(operand: u64) -> Outcome {
    judged!("vmptrld qword ptr [{at}]", at = operand)
}

/// VMPTRST to the linear address `operand`.
pub fn vmptrst_at(operand: u64) -> Outcome {
    judged!("vmptrst qword ptr [{at}]", at = operand)
}

/// VMXON.
pub fn vmxon(region: u64) -> Outcome {
    vmxon_at(&raw const region as u64)
}

/// VMCLEAR.
pub fn vmclear(region: u64) -> Outcome {
    vmclear_at(&raw const region as u64)
}

/// VMPTRLD.
pub fn vmptrld(region: u64) -> Outcome {
    vmptrld_at(&raw const region as u64)
}

/// VMPTRST: the current-VMCS pointer.
pub fn vmptrst() -> Result<u64, Outcome> {
    let mut pointer = 0u64;
    match vmptrst_at(&raw mut pointer as u64) {
        Outcome::Success => Ok(pointer),
        other => Err(other),
    }
}

/// VMXOFF.
pub fn vmxoff() -> Outcome {
    judged!("vmxoff")
}

/// VMLAUNCH that is not meant to enter.
pub fn vmlaunch() -> Outcome {
    judged!("vmlaunch")
}

/// VMRESUME that is not meant to enter.
pub fn vmresume() -> Outcome {
    judged!("vmresume")
}

/// VMREAD with a 64-bit encoding.
pub fn vmread_raw(encoding: u64) -> Result<u64, Outcome> {
    let mut value = 0x5a5a_5a5a_5a5a_5a5au64;
    let result = attempt(|| {
        let mut flags = ARITHMETIC_FLAGS | 2;
        // SAFETY: registers only.
        unsafe {
            asm!(
                "push {flags}",
                "popfq",
                "vmread {value}, {encoding}",
                "pushfq",
                "pop {flags}",
                value = inout(reg) value,
                encoding = in(reg) encoding,
                flags = inout(reg) flags,
            );
        }
        (flags, value)
    });
    match result {
        Ok((flags, value)) => match Outcome::from_flags(flags, || error_after_vmread(encoding)) {
            Outcome::Success => Ok(value),
            other => Err(other),
        },
        Err(fault) => Err(Outcome::Fault(fault)),
    }
}

/// The error number that a failed VMREAD left; reading the number itself cannot have failed.
fn error_after_vmread(encoding: u64) -> u32 {
    if encoding == u64::from(Field::INSTRUCTION_ERROR.encoding()) {
        u32::MAX
    } else {
        error()
    }
}

/// VMREAD.
pub fn vmread(field: Field) -> Result<u64, Outcome> {
    vmread_raw(u64::from(field.encoding()))
}

/// VMWRITE with a 64-bit encoding.
pub fn vmwrite_raw(encoding: u64, value: u64) -> Outcome {
    judged!(
        "vmwrite {encoding}, {value}",
        encoding = encoding,
        value = value
    )
}

/// VMWRITE.
pub fn vmwrite(field: Field, value: u64) -> Outcome {
    vmwrite_raw(u64::from(field.encoding()), value)
}

/// INVEPT with its descriptor at a linear address.
pub fn invept_at(kind: u64, descriptor: u64) -> Outcome {
    judged!("invept {kind}, [{at}]", kind = kind, at = descriptor)
}

/// INVEPT.
pub fn invept(kind: u64, eptp: u64) -> Outcome {
    let descriptor = [eptp, 0];
    invept_at(kind, &raw const descriptor as u64)
}

/// INVVPID with its descriptor at a linear address.
pub fn invvpid_at(kind: u64, descriptor: u64) -> Outcome {
    judged!("invvpid {kind}, [{at}]", kind = kind, at = descriptor)
}

/// INVVPID.
pub fn invvpid(kind: u64, vpid: u64, address: u64) -> Outcome {
    let descriptor = [vpid, address];
    invvpid_at(kind, &raw const descriptor as u64)
}
