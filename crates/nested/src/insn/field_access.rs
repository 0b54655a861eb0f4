//! VMREAD and VMWRITE.

use vmx::{AccessRights, Field, VmInstructionError as E};

use super::{L1Vp, Outcome, Step, VmResult};
use crate::state::{Current, Nested};
use crate::vmcs12::{is_writable, offered};

/// Encodings of guest access rights, which keep their defined bits only.
fn is_access_rights(field: Field) -> bool {
    (Field::GUEST_ES_ACCESS_RIGHTS..=Field::GUEST_TR_ACCESS_RIGHTS).contains(&field)
}

/// The field that a register operand names, unless it names none.
fn field(raw: u64) -> Option<Field> {
    u32::try_from(raw).ok().map(Field::from_encoding)
}

impl Nested {
    /// VMREAD. With an enlightened VMCS current the TLFS does not ask for it,
    /// but some L1s read through it all the same: it is served from the page.
    pub(super) fn vmread<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        if self.current == Current::None {
            return Ok(Outcome::Done(VmResult::FailInvalid));
        }
        let info = vp.instruction_info();
        let is_long = vp.is_long_mode();
        let encoding = operand(vp.gpr(info.register2()), is_long);
        let found = field(encoding).and_then(|f| offered(f).map(|slot| (f, slot)));
        let Some((field, slot)) = found else {
            return Ok(self.fail(vp, E::UnsupportedField));
        };
        let value = match self.current {
            Current::Enlightened(page) => {
                let Some(at) = page.checked_add(slot.offset.into()) else {
                    return Ok(Outcome::Done(VmResult::FailInvalid));
                };
                let mut bytes = [0; 8];
                let width = usize::from(slot.width.bytes());
                if vp.read(at, &mut bytes[..width]).is_err() {
                    return Ok(Outcome::Done(VmResult::FailInvalid));
                }
                let value = u64::from_le_bytes(bytes);
                if field.is_high() { value >> 32 } else { value }
            }
            _ => self.vmcs12.vmread(field, slot),
        };
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
        let found = field(encoding).and_then(|f| offered(f).map(|slot| (f, slot)));
        let Some((field, slot)) = found else {
            return Ok(self.fail(vp, E::UnsupportedField));
        };
        if !is_writable(field) {
            return Ok(self.fail(vp, E::ReadOnlyField));
        }
        if is_access_rights(field) {
            value &= u64::from(AccessRights::DEFINED);
        }
        self.vmcs12.vmwrite(field, slot, value);
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
