//! VMCLEAR, VMPTRLD and VMPTRST: which VMCS is current.

use addr::Gpa1;
use tlfs::evmcs::CleanFields;
use vmx::VmInstructionError as E;

use super::{L1Vp, Outcome, Step, VmResult};
use crate::state::{Current, Nested};
use crate::vmcs12::{LAUNCH_STATE, REVISION};

impl Nested {
    /// VMCLEAR.
    ///
    /// While L1 enters with enlightened VMCSs it clears their pages too, and
    /// they have no launch state: nothing is stored into a page then.
    pub(super) fn vmclear<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        let raw = Self::pointer_operand(vp)?;
        let region = Gpa1::new(raw);
        if !self.config.is_page(raw) {
            return Ok(self.fail(vp, E::VmclearBadAddress));
        }
        if self.vmxon == Some(region) {
            return Ok(self.fail(vp, E::VmclearVmxonPointer));
        }
        if self.current == Current::Plain(region) {
            self.vmcs12.set_launched(false);
            self.release_plain(vp);
        } else if self.current == Current::Enlightened(region) {
            self.drop_current();
        } else if vp.enlightened_vmcs().is_none() {
            // Pages without memory can be cleared as well: there is no state to lose.
            if let Some(at) = region.checked_add(LAUNCH_STATE.into()) {
                let _ = vp.write(at, &0u32.to_le_bytes());
            }
        }
        Ok(Outcome::Done(VmResult::Succeed))
    }

    /// VMPTRLD.
    pub(super) fn vmptrld<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        let raw = Self::pointer_operand(vp)?;
        let region = Gpa1::new(raw);
        if !self.config.is_page(raw) {
            return Ok(self.fail(vp, E::VmptrldBadAddress));
        }
        if self.vmxon == Some(region) {
            return Ok(self.fail(vp, E::VmptrldVmxonPointer));
        }
        if vp.read_u32(region) != Ok(REVISION) {
            return Ok(self.fail(vp, E::VmptrldWrongRevision));
        }
        if let Current::Enlightened(_) = self.current {
            if vp.enlightened_vmcs().is_some() {
                // The next entry would not use it: the two ways do not mix.
                return Ok(Outcome::Done(VmResult::FailInvalid));
            }
            self.drop_current();
        }
        if self.current != Current::Plain(region) {
            self.release_plain(vp);
            self.drop_current();
            if vp.read(region, self.vmcs12.bytes_mut()).is_err() {
                return Ok(Outcome::Done(VmResult::FailInvalid));
            }
            self.vmcs12.set_clean(CleanFields::NONE);
            self.current = Current::Plain(region);
            self.begin_shadowing(vp);
        }
        Ok(Outcome::Done(VmResult::Succeed))
    }

    /// VMPTRST.
    pub(super) fn vmptrst<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        let pointer = match self.current {
            Current::Plain(region) => region.raw(),
            // An enlightened VMCS is none that VMPTRLD made current.
            Current::None | Current::Enlightened(_) => u64::MAX,
        };
        let info = vp.instruction_info();
        let at = Self::operand_address(vp, info, 8, true)?;
        vp.write_linear(at, &pointer.to_le_bytes())
            .map_err(Outcome::Fault)?;
        Ok(Outcome::Done(VmResult::Succeed))
    }
}
