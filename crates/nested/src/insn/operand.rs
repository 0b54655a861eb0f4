//! Memory operands of VMX instructions (SDM 28.2.5).

use addr::Gva;
use vmx::{InstructionInfo, SegmentRegister};

use super::{Fault, L1Vp, Outcome, Step, fault};
use crate::state::Nested;

impl Nested {
    /// The linear address of the memory operand, `bytes` long, after the
    /// checks that precede paging: canonical in 64-bit mode, segment type and
    /// limit outside.
    pub(super) fn operand_address<L: L1Vp>(
        vp: &L,
        info: InstructionInfo,
        bytes: u64,
        is_write: bool,
    ) -> Step<Gva> {
        let register = |number: Option<u8>| number.map_or(0, |n| vp.gpr(n));
        let offset = vp
            .displacement()
            .wrapping_add(register(info.base()))
            .wrapping_add(register(info.index()).wrapping_mul(info.scale()))
            & info.address_size().mask();
        let segment = info.segment();
        let violation = match segment {
            SegmentRegister::Ss => Fault::Stack,
            _ => Fault::GeneralProtection,
        };
        if vp.is_long_mode() {
            let base = match segment {
                SegmentRegister::Fs | SegmentRegister::Gs => vp.segment(segment).base,
                _ => 0,
            };
            let linear = Gva::new(base.wrapping_add(offset));
            let last = Gva::new(linear.raw().wrapping_add(bytes - 1));
            return if linear.is_canonical() && last.is_canonical() {
                Ok(linear)
            } else {
                fault(violation)
            };
        }
        let descriptor = vp.segment(segment);
        let rights = descriptor.rights;
        let is_code = rights.segment_type() & 8 != 0;
        let readable_or_writable = rights.segment_type() & 2 != 0;
        let allowed = if is_write {
            !is_code && readable_or_writable
        } else {
            !is_code || readable_or_writable
        };
        if !rights.is_usable() || !allowed {
            return fault(violation);
        }
        let last = offset + (bytes - 1);
        let limit = u64::from(descriptor.limit);
        let expands_down = !is_code && rights.segment_type() & 4 != 0;
        let fits = if expands_down {
            let top = if rights.is_default_big() {
                0xffff_ffff
            } else {
                0xffff
            };
            offset > limit && last <= top
        } else {
            last <= limit
        };
        if !fits {
            return fault(violation);
        }
        Ok(Gva::new(descriptor.base.wrapping_add(offset) & 0xffff_ffff))
    }

    /// Reads a memory operand of `N` bytes.
    pub(super) fn read_operand<L: L1Vp, const N: usize>(
        vp: &mut L,
        info: InstructionInfo,
    ) -> Step<[u8; N]> {
        let at = Self::operand_address(vp, info, N as u64, false)?;
        let mut bytes = [0; N];
        vp.read_linear(at, &mut bytes).map_err(Outcome::Fault)?;
        Ok(bytes)
    }

    /// Reads the 64-bit physical address that VMXON, VMCLEAR and VMPTRLD take.
    pub(super) fn pointer_operand<L: L1Vp>(vp: &mut L) -> Step<u64> {
        let info = vp.instruction_info();
        Ok(u64::from_le_bytes(Self::read_operand(vp, info)?))
    }
}
