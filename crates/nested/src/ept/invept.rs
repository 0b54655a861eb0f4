//! INVEPT as L1 executes it.

use addr::Gpa1;
use vmx::VmInstructionError;
use vmx::ept::{EptCapabilities, Eptp};

/// What an INVEPT of L1 asks for (SDM volume 3, "INVEPT" in the VMX
/// instruction reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invept {
    /// One context, by the root page of its EPT 12:
    /// [`super::ShadowSet::flush_space`].
    Single(Gpa1),
    /// All contexts: [`super::ShadowSet::flush_all`].
    All,
}

impl Invept {
    /// Decodes the register operand and the first half of the descriptor in
    /// memory. The caller has made sure that L1 has the instruction at all
    /// (else #UD), and has read all 16 bytes of the descriptor whatever the
    /// type, with the faults of that.
    ///
    /// # Errors
    /// VMfail with error 28: a type that L1 was not offered, or for a single
    /// context an EPTP that VM entry would refuse.
    pub const fn decode(
        kind: u64,
        descriptor: u64,
        offered: &EptCapabilities,
    ) -> Result<Self, VmInstructionError> {
        match kind {
            1 if offered.invept_single => {
                let eptp = Eptp::from_raw(descriptor);
                match eptp.check(offered) {
                    Ok(()) => Ok(Self::Single(Gpa1::new(eptp.root()))),
                    Err(_) => Err(VmInstructionError::InvalidInvalidationOperand),
                }
            }
            2 if offered.invept_all => Ok(Self::All),
            _ => Err(VmInstructionError::InvalidInvalidationOperand),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALKS: u64 = 1 << 6 | 1 << 14;
    const BAD: Result<Invept, VmInstructionError> =
        Err(VmInstructionError::InvalidInvalidationOperand);

    fn decode(kind: u64, descriptor: u64, capability: u64) -> Result<Invept, VmInstructionError> {
        Invept::decode(
            kind,
            descriptor,
            &EptCapabilities::from_msr(WALKS | capability, 39),
        )
    }

    #[test]
    fn types_need_their_capability() {
        const SINGLE: u64 = 1 << 20 | 1 << 25;
        const ALL: u64 = 1 << 20 | 1 << 26;
        let one = Ok(Invept::Single(Gpa1::new(0x5000)));
        for (capability, single, all) in [
            (SINGLE | ALL, one, Ok(Invept::All)),
            (SINGLE, one, BAD),
            (ALL, BAD, Ok(Invept::All)),
            (0, BAD, BAD),
        ] {
            assert_eq!(decode(1, 0x501e, capability), single);
            assert_eq!(decode(2, 0x501e, capability), all);
            for kind in [0, 3, 1 << 32 | 1, u64::MAX] {
                assert_eq!(decode(kind, 0x501e, capability), BAD);
            }
        }
    }

    #[test]
    fn a_single_context_is_checked_like_at_entry_and_all_contexts_are_not() {
        let every = 1 << 20 | 1 << 25 | 1 << 26;
        for bad in [0x5018, 0x5006, 0x505e, 0x509e, 1 << 39 | 0x501e, u64::MAX] {
            assert_eq!(decode(1, bad, every), BAD, "{bad:#x}");
            assert_eq!(decode(2, bad, every), Ok(Invept::All));
        }
    }
}
