//! L2's memory for what L0 does in L2's name: L1's, as far as EPT 12 permits.

use addr::{Gpa1, Gpa2, Gva};
use nested::ExitInfo;
use nested::ept::{WalkError, walk};
use platform::paging::PhysicalSpace;
use vmx::ept::{Access, EptCapabilities, Eptp};
use vmx::{BasicExitReason, EptViolation, ExitReason};

use super::super::Vp;
use super::super::memory::L1Memory;

/// L2's memory under an EPT 12.
pub struct L2Space {
    eptp: Eptp,
    offered: EptCapabilities,
    memory: L1Memory,
}

/// EPT 12 does not permit an access.
#[derive(Clone, Copy, Debug)]
pub struct NotPermitted {
    at: Gpa2,
    error: WalkError,
}

impl L2Space {
    fn translate(&self, at: Gpa2, access: Access) -> Result<Gpa1, NotPermitted> {
        match walk(self.eptp, &self.offered, &self.memory, at, access) {
            Ok(translation) => Ok(translation.address),
            Err(error) => Err(NotPermitted { at, error }),
        }
    }
}

impl PhysicalSpace for L2Space {
    type Address = Gpa2;
    type Error = NotPermitted;

    fn address(raw: u64) -> Gpa2 {
        Gpa2::new(raw)
    }

    fn entry(&self, at: Gpa2, bytes: usize) -> Result<u64, NotPermitted> {
        let Ok(entry) = self.memory.entry(self.translate(at, Access::READ)?, bytes);
        Ok(entry)
    }

    fn read(&self, at: Gpa2, to: &mut [u8]) -> Result<(), NotPermitted> {
        let Ok(()) = PhysicalSpace::read(&self.memory, self.translate(at, Access::READ)?, to);
        Ok(())
    }

    fn check_write(&self, at: Gpa2) -> Result<(), NotPermitted> {
        self.translate(at, Access::WRITE).map(|_| ())
    }

    fn write(&self, at: Gpa2, from: &[u8]) -> Result<(), NotPermitted> {
        let Ok(()) = PhysicalSpace::write(&self.memory, self.translate(at, Access::WRITE)?, from);
        Ok(())
    }
}

impl Vp {
    /// L2's memory, if L2 runs and L1 has an EPT for it; else the guest's memory is L1's.
    pub fn l2_space(&self) -> Option<L2Space> {
        if !self.nested.is_in_l2() {
            return None;
        }
        let partition = self.partition;
        Some(L2Space {
            eptp: Eptp::from_raw(self.nested.logic.ept_pointer()?),
            offered: EptCapabilities::from_msr(
                partition.setup.vmx.ept_vpid,
                partition.setup.physical_address_bits.into(),
            ),
            memory: partition.memory,
        })
    }

    /// L2's instruction, which L0 executes, accesses at `linear` what EPT 12 does not permit; in
    /// one of L2's page tables if `is_table`. L1 gets the exit.
    pub fn reflect_not_permitted(&mut self, linear: Gva, is_table: bool, refused: &NotPermitted) {
        let (reason, qualification) = match refused.error {
            WalkError::Violation(violation) => {
                let mut known = EptViolation::LINEAR_VALID;
                if !is_table {
                    known |= EptViolation::FINAL_TRANSLATION;
                }
                let known = EptViolation::from_qualification(known);
                let qualification = violation.qualification(known).raw();
                (BasicExitReason::EptViolation, qualification)
            }
            WalkError::Misconfigured(_) => (BasicExitReason::EptMisconfiguration, 0),
        };
        let mut info = ExitInfo::new(ExitReason::new(reason));
        info.qualification = qualification;
        info.guest_physical = refused.at.raw();
        info.guest_linear = linear.raw();
        self.leave_l2(info, false);
    }
}
