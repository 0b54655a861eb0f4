//! INVEPT and INVVPID: what L1 wants forgotten.

use addr::Gva;
use vmx::ept::EptCapabilities;
use vmx::{VmInstructionError as E, ept_vpid};

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
