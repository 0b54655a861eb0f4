//! INVEPT and INVVPID: what L1 wants forgotten.

use addr::Gva;
use vmx::ept::EptCapabilities;
use vmx::{AddressSize, SegmentRegister, VmInstructionError as E, ept_vpid};

use super::{Fault, L1Vp, Outcome, Step, fault};
use crate::ept::Invept;
use crate::state::Nested;

/// What an INVVPID of L1 asks for (SDM Vol. 3, "INVVPID").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invvpid {
    /// One linear address of one VPID.
    Address(u16, Gva),
    /// Everything of one VPID.
    Single(u16),
    /// Everything of all VPIDs of L1.
    All,
    /// Everything but global translations of one VPID.
    SingleNonGlobal(u16),
}

impl Nested {
    /// The type operand and the 16 bytes of the descriptor.
    fn invalidation_operands<L: L1Vp>(vp: &mut L) -> Step<(u64, u64, u64)> {
        let info = vp.instruction_info();
        let kind = vp.gpr(info.register2());
        let kind = if vp.is_long_mode() {
            kind
        } else {
            kind & 0xffff_ffff
        };
        let descriptor = u128::from_le_bytes(Self::read_operand(vp, info)?);
        Ok((kind, descriptor as u64, (descriptor >> 64) as u64))
    }

    /// INVEPT.
    pub(super) fn invept<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        let caps = self.config.caps.ept_vpid;
        if caps & ept_vpid::INVEPT == 0 {
            return fault(Fault::InvalidOpcode);
        }
        let (kind, descriptor, _) = Self::invalidation_operands(vp)?;
        let offered = EptCapabilities::from_msr(caps, self.config.physical_bits);
        match Invept::decode(kind, descriptor, &offered) {
            Ok(invept) => Ok(Outcome::Invept(invept)),
            Err(error) => Ok(self.fail(vp, error)),
        }
    }

    /// INVVPID of one VPID or all, as a 64-bit kernel executes it to have L2's translations flushed.
    /// `None` says nothing but that [`Nested::execute`] has to look; else it is as
    /// [`Outcome::Invvpid`].
    #[inline(always)]
    pub fn invvpid_shortly<L: L1Vp>(&self, vp: &L) -> Option<Invvpid> {
        const NEEDED: u64 = ept_vpid::INVVPID | ept_vpid::INVVPID_SINGLE | ept_vpid::INVVPID_ALL;
        if self.vmxon.is_none()
            || self.config.caps.ept_vpid & NEEDED != NEEDED
            || !vp.code_rights().is_kernel_code64()
        {
            return None;
        }
        let info = vp.instruction_info();
        let is_plain = info.address_size() == AddressSize::Bits64
            && !matches!(info.segment(), SegmentRegister::Fs | SegmentRegister::Gs)
            && info.index().is_none();
        let base = info.base().filter(|_| is_plain)?;
        let at = Gva::new(vp.displacement().wrapping_add(vp.gpr(base)));
        if !at.is_canonical() {
            return None;
        }
        let [vpid, _] = vp.read_pair(at)?;
        match (vp.gpr(info.register2()), vpid) {
            (1, 1..=0xffff) => Some(Invvpid::Single(vpid as u16)),
            (2, 0..=0xffff) => Some(Invvpid::All),
            _ => None,
        }
    }

    /// INVVPID.
    pub(super) fn invvpid<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        let caps = self.config.caps.ept_vpid;
        if caps & ept_vpid::INVVPID == 0 {
            return fault(Fault::InvalidOpcode);
        }
        let (kind, low, high) = Self::invalidation_operands(vp)?;
        let has = |bit: u64| caps & bit != 0;
        let vpid = low as u16;
        let address = Gva::new(high);
        let wanted = match kind {
            0 if has(ept_vpid::INVVPID_ADDRESS) && address.is_canonical() => {
                Some(Invvpid::Address(vpid, address))
            }
            1 if has(ept_vpid::INVVPID_SINGLE) => Some(Invvpid::Single(vpid)),
            2 if has(ept_vpid::INVVPID_ALL) => Some(Invvpid::All),
            3 if has(ept_vpid::INVVPID_SINGLE_NON_GLOBAL) => Some(Invvpid::SingleNonGlobal(vpid)),
            _ => None,
        };
        match wanted {
            Some(wanted) if low >> 16 == 0 && (vpid != 0 || wanted == Invvpid::All) => {
                Ok(Outcome::Invvpid(wanted))
            }
            _ => Ok(self.fail(vp, E::InvalidInvalidationOperand)),
        }
    }
}
