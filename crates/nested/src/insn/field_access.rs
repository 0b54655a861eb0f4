//! VMREAD and VMWRITE.
//!
//! A plain L1 executes dozens of them for each run of its guest, nearly all in
//! 64-bit mode between registers: those take a short way.

use vmx::{AccessRights, BasicExitReason, Field, VmInstructionError as E};

use super::{L1Vp, Outcome, Step, VmResult};
use crate::state::{Current, Nested};
use crate::vmcs12::{Place, offered};

/// The field that a register operand names, and the place of the whole field.
fn find(raw: u64) -> Option<(Field, Place)> {
    let field = Field::from_encoding(u32::try_from(raw).ok()?);
    Some((field, offered(field)?))
}

/// Whether CS alone tells that L1 is in 64-bit mode at privilege level 0: L is
/// set, DPL is 0, and the segment is not conforming, so that CPL is its DPL.
#[inline(always)]
const fn is_64_bit_kernel(code: AccessRights) -> bool {
    code.is_long() && code.dpl() == 0 && code.segment_type() & 4 == 0
}

impl Nested {
    /// VMREAD or VMWRITE as Linux uses them, which then succeed. `false` when
    /// it is another case, or one that fails: nothing has happened then, and
    /// [`Nested::execute`] knows what to do.
    #[inline(always)]
    pub fn access_shortly<L: L1Vp>(&mut self, vp: &mut L, reason: BasicExitReason) -> bool {
        match reason {
            BasicExitReason::Vmread => self.vmread_shortly(vp),
            BasicExitReason::Vmwrite => self.vmwrite_shortly(vp),
            _ => false,
        }
    }

    #[inline(always)]
    fn vmread_shortly<L: L1Vp>(&self, vp: &mut L) -> bool {
        let info = vp.instruction_info();
        if !self.is_plain() || !info.is_register() || !is_64_bit_kernel(vp.code_rights()) {
            return false;
        }
        let Some(place) = Place::find(vp.gpr(info.register2())) else {
            return false;
        };
        vp.set_gpr(info.register1(), self.vmcs12.read_at(place));
        true
    }

    #[inline(always)]
    fn vmwrite_shortly<L: L1Vp>(&mut self, vp: &mut L) -> bool {
        let info = vp.instruction_info();
        if !self.is_plain() || !info.is_register() || !is_64_bit_kernel(vp.code_rights()) {
            return false;
        }
        let encoding = vp.gpr(info.register2());
        let found = Place::find(encoding);
        let Some(place) = found.filter(|place| place.is_writable()) else {
            return false;
        };
        let mut value = vp.gpr(info.register1());
        if place.is_access_rights() {
            value &= u64::from(AccessRights::DEFINED);
        }
        self.vmcs12.write_at(place, value);
        if place.is_shadowed() {
            self.mirror(vp, Field::from_encoding(encoding as u32), value);
        }
        true
    }

    /// A VMCS that VMPTRLD made current: then L1 is in VMX operation, too.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        matches!(self.current, Current::Plain(_))
    }

    /// VMREAD. With an enlightened VMCS current the TLFS does not ask for it,
    /// but some L1s read through it all the same: it is served from the page.
    pub(super) fn vmread<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        if self.current == Current::None {
            return Ok(Outcome::Done(VmResult::FailInvalid));
        }
        let info = vp.instruction_info();
        let is_long = vp.is_long_mode();
        let encoding = operand(vp.gpr(info.register2()), is_long);
        let Some((field, place)) = find(encoding) else {
            return Ok(self.fail(vp, E::UnsupportedField));
        };
        let value = match self.current {
            Current::Enlightened(page) => {
                let Some(at) = page.checked_add(place.offset().into()) else {
                    return Ok(Outcome::Done(VmResult::FailInvalid));
                };
                match vp.read_u64(at) {
                    Ok(bytes) => bytes & place.mask(),
                    Err(_) => return Ok(Outcome::Done(VmResult::FailInvalid)),
                }
            }
            _ => self.vmcs12.read_at(place),
        };
        let value = if field.is_high() { value >> 32 } else { value };
        let value = operand(value, is_long);
        if info.is_register() {
            vp.set_gpr(info.register1(), value);
        } else {
            let bytes = value.to_le_bytes();
            let size = operand_bytes(is_long);
            let at = Self::operand_address(vp, info, size as u64, true)?;
            vp.write_linear(at, &bytes[..size])
                .map_err(Outcome::Fault)?;
        }
        Ok(Outcome::Done(VmResult::Succeed))
    }

    /// VMWRITE.
    pub(super) fn vmwrite<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        let Current::Plain(_) = self.current else {
            return Ok(Outcome::Done(VmResult::FailInvalid));
        };
        let info = vp.instruction_info();
        let is_long = vp.is_long_mode();
        let value = if info.is_register() {
            vp.gpr(info.register1())
        } else if is_long {
            u64::from_le_bytes(Self::read_operand(vp, info)?)
        } else {
            u32::from_le_bytes(Self::read_operand(vp, info)?).into()
        };
        let mut value = operand(value, is_long);
        let encoding = operand(vp.gpr(info.register2()), is_long);
        let Some((field, place)) = find(encoding) else {
            return Ok(self.fail(vp, E::UnsupportedField));
        };
        if !place.is_writable() {
            return Ok(self.fail(vp, E::ReadOnlyField));
        }
        if place.is_access_rights() {
            value &= u64::from(AccessRights::DEFINED);
        }
        if field.is_high() {
            value = self.vmcs12.read_at(place) & 0xffff_ffff | value << 32;
        }
        self.vmcs12.write_at(place, value);
        if place.is_shadowed() {
            self.mirror(vp, field.full(), value);
        }
        Ok(Outcome::Done(VmResult::Succeed))
    }
}

/// A register's value as wide as the operands are: 64 bits in 64-bit mode,
/// else 32.
#[inline]
const fn operand(value: u64, is_long: bool) -> u64 {
    if is_long { value } else { value & 0xffff_ffff }
}

#[inline]
const fn operand_bytes(is_long: bool) -> usize {
    if is_long { 8 } else { 4 }
}
