//! L1's VMX instructions (SDM Vol. 3, chapter 31).
//!
//! Each exits to L0, which executes it on L1's behalf: [`Nested::execute`].
//! Hardware raises #UD itself in real-address, virtual-8086 and compatibility
//! mode; being outside VMX operation, the privilege level and everything after
//! it are checked here, in the SDM's order.

use addr::{Gpa1, Gva};
use vmx::{BasicExitReason, InstructionInfo, SegmentRegister, VmInstructionError};

use crate::access::Memory;
use crate::cr::CR4_VMXE;
use crate::ept::Invept;
use crate::shadow_vmcs::ShadowVmcs;
use crate::state::{Current, Nested};
use crate::vmcs12::put;

mod field_access;
mod invalidate;
mod operand;
mod pointer;

#[cfg(test)]
mod tests;

pub use invalidate::Invvpid;

/// A fault that an instruction raises in L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// #UD.
    InvalidOpcode,
    /// #GP with error code 0.
    GeneralProtection,
    /// #SS with error code 0.
    Stack,
    /// #PF.
    Page {
        /// What CR2 becomes.
        address: Gva,
        /// The error code.
        error_code: u32,
    },
}

/// A segment register of L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Access rights.
    pub rights: vmx::AccessRights,
}

/// L1's VP at an exit of a VMX instruction; VMCS 01 is current.
pub trait L1Vp: Memory {
    /// Register `number`: 0 = RAX ... 4 = RSP ... 15 = R15.
    fn gpr(&self, number: u8) -> u64;
    /// Replaces register `number` (all 64 bits).
    fn set_gpr(&mut self, number: u8, value: u64);
    /// CR0 as L1 reads it.
    fn cr0(&self) -> u64;
    /// CR4 as L1 reads it.
    fn cr4(&self) -> u64;
    /// The current privilege level: DPL of SS.
    fn cpl(&self) -> u8;
    /// Access rights of CS.
    fn code_rights(&self) -> vmx::AccessRights;
    /// EFER.LMA; as compatibility mode raises #UD, this is 64-bit mode.
    fn is_long_mode(&self) -> bool;
    /// Whether events are blocked by MOV SS.
    fn blocked_by_mov_ss(&self) -> bool;
    /// A segment register.
    fn segment(&self, register: SegmentRegister) -> Segment;
    /// IA32_FEATURE_CONTROL as L1 reads it.
    fn feature_control(&self) -> u64;
    /// The exit's VM-exit instruction information.
    fn instruction_info(&self) -> InstructionInfo;
    /// The exit's qualification: the operand's displacement.
    fn displacement(&self) -> u64;
    /// Reads linear memory through L1's paging, as supervisor.
    fn read_linear(&mut self, at: Gva, into: &mut [u8]) -> Result<(), Fault>;
    /// Reads the two aligned words at `at`, where 64-bit code of the kernel finds them without
    /// further ado. `None` says nothing but that [`L1Vp::read_linear`] has to look.
    fn read_pair(&self, at: Gva) -> Option<[u64; 2]>;
    /// Writes linear memory through L1's paging, as supervisor.
    fn write_linear(&mut self, at: Gva, from: &[u8]) -> Result<(), Fault>;
    /// The enlightened VMCS that the VP assist page names: `Some` when the
    /// page is enabled and its EnlightenVmEntry is set. Read anew each time.
    fn enlightened_vmcs(&self) -> Option<Gpa1>;

    /// The VP's shadow VMCS.
    type Shadow: ShadowVmcs;
    /// Where hardware shadows plain VMCSs for L1, the shadow VMCS.
    fn shadow_vmcs(&mut self) -> Option<&mut Self::Shadow>;
}

/// How a VMX instruction ended (SDM 31.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmResult {
    /// VMsucceed.
    Succeed,
    /// VMfailInvalid.
    FailInvalid,
    /// VMfailValid; the current VMCS holds the error.
    FailValid(VmInstructionError),
}

impl VmResult {
    /// RFLAGS after the instruction: the six arithmetic flags say the result.
    #[inline]
    pub const fn flags(self, rflags: u64) -> u64 {
        /// CF, PF, AF, ZF, SF and OF.
        const ARITHMETIC: u64 = 0x8d5;
        const CARRY: u64 = 1 << 0;
        const ZERO: u64 = 1 << 6;
        let result = match self {
            Self::Succeed => 0,
            Self::FailInvalid => CARRY,
            Self::FailValid(_) => ZERO,
        };
        rflags & !ARITHMETIC | result
    }
}

/// Which VMCS 12 an entry uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntrySource {
    /// The one VMPTRLD made current: [`Nested::prepare_plain`].
    Plain,
    /// The enlightened one at this address: map it (#UD in L1 if that cannot
    /// be) and [`Nested::prepare_enlightened`].
    Enlightened(Gpa1),
}

/// What the image does next for a VMX instruction of L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Sets RFLAGS ([`VmResult::flags`]) and goes on after the instruction.
    Done(VmResult),
    /// Injects the fault; the instruction did nothing.
    Fault(Fault),
    /// VMLAUNCH or VMRESUME: prepares an entry.
    Enter {
        /// VMLAUNCH, not VMRESUME.
        is_launch: bool,
        /// Which VMCS 12.
        source: EntrySource,
    },
    /// Forgets shadows of EPT 12, then as `Done(Succeed)`.
    Invept(Invept),
    /// Flushes L2's linear translations, then as `Done(Succeed)`.
    Invvpid(Invvpid),
    /// VMXOFF is done; INIT and SIPI are no longer blocked. As `Done(Succeed)`.
    LeftVmxOperation,
}

/// Bits of IA32_FEATURE_CONTROL that VMXON asks for: locked, and VMX outside SMX.
const FEATURE_CONTROL_VMX: u64 = 1 << 0 | 1 << 2;

type Step<T> = Result<T, Outcome>;

fn fault<T>(fault: Fault) -> Step<T> {
    Err(Outcome::Fault(fault))
}

impl Nested {
    /// Executes the VMX instruction that exited with `reason`.
    ///
    /// VMCALL is not among them: in L1 it is L0's hypercall. A `reason` that
    /// is no VMX instruction's ends in #UD, as VMFUNC does in root operation.
    #[inline]
    pub fn execute<L: L1Vp>(&mut self, vp: &mut L, reason: BasicExitReason) -> Outcome {
        let result = match reason {
            BasicExitReason::Vmresume => self.enter(vp, false),
            BasicExitReason::Vmlaunch => self.enter(vp, true),
            _ => self.execute_other(vp, reason),
        };
        match result {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    #[inline(never)]
    fn execute_other<L: L1Vp>(&mut self, vp: &mut L, reason: BasicExitReason) -> Step<Outcome> {
        if reason == BasicExitReason::Vmxon {
            return self.vmxon(vp);
        }
        self.check_privilege(vp)?;
        match reason {
            BasicExitReason::Vmread => self.vmread(vp),
            BasicExitReason::Vmwrite => self.vmwrite(vp),
            BasicExitReason::Vmptrld => self.vmptrld(vp),
            BasicExitReason::Vmptrst => self.vmptrst(vp),
            BasicExitReason::Vmclear => self.vmclear(vp),
            BasicExitReason::Vmxoff => self.vmxoff(vp),
            BasicExitReason::Invept => self.invept(vp),
            BasicExitReason::Invvpid => self.invvpid(vp),
            _ => fault(Fault::InvalidOpcode),
        }
    }

    /// #UD outside VMX operation, #GP outside ring 0.
    #[inline(always)]
    fn check_privilege<L: L1Vp>(&self, vp: &L) -> Step<()> {
        if self.vmxon.is_none() {
            return fault(Fault::InvalidOpcode);
        }
        if vp.cpl() != 0 {
            return fault(Fault::GeneralProtection);
        }
        Ok(())
    }

    /// VMLAUNCH and VMRESUME up to the choice of VMCS 12. The rest is `prepare`.
    #[inline]
    fn enter<L: L1Vp>(&mut self, vp: &mut L, is_launch: bool) -> Step<Outcome> {
        self.check_privilege(vp)?;
        let source = match vp.enlightened_vmcs() {
            Some(page) => {
                if let Current::Plain(_) = self.current {
                    self.release_plain(vp);
                }
                EntrySource::Enlightened(page)
            }
            None => {
                if let Current::Enlightened(_) = self.current {
                    self.drop_current();
                }
                EntrySource::Plain
            }
        };
        Ok(Outcome::Enter { is_launch, source })
    }

    /// VMXON.
    fn vmxon<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        if vp.cr4() & CR4_VMXE == 0 {
            return fault(Fault::InvalidOpcode);
        }
        if vp.cpl() != 0 {
            return fault(Fault::GeneralProtection);
        }
        if self.vmxon.is_some() {
            return Ok(self.fail(vp, VmInstructionError::VmxonInRoot));
        }
        let caps = &self.config.caps;
        let fixed =
            |value: u64, zeros: u64, ones: u64| value & zeros == zeros && value & !ones == 0;
        if !fixed(vp.cr0(), caps.cr0_fixed0, caps.cr0_fixed1)
            || !fixed(vp.cr4(), caps.cr4_fixed0, caps.cr4_fixed1)
            || vp.feature_control() & FEATURE_CONTROL_VMX != FEATURE_CONTROL_VMX
        {
            return fault(Fault::GeneralProtection);
        }
        let region = Self::pointer_operand(vp)?;
        if !self.config.is_page(region)
            || vp.read_u32(Gpa1::new(region)) != Ok(self.config.caps.revision())
        {
            return Ok(Outcome::Done(VmResult::FailInvalid));
        }
        self.vmxon = Some(Gpa1::new(region));
        self.drop_current();
        Ok(Outcome::Done(VmResult::Succeed))
    }

    /// VMXOFF.
    fn vmxoff<L: L1Vp>(&mut self, vp: &mut L) -> Step<Outcome> {
        self.release_plain(vp);
        self.drop_current();
        self.vmxon = None;
        Ok(Outcome::LeftVmxOperation)
    }

    /// VMfail: Valid with the error in the current VMCS, else Invalid.
    pub(crate) fn fail<L: L1Vp>(&mut self, vp: &mut L, error: VmInstructionError) -> Outcome {
        let number = error as u32;
        match self.current {
            Current::None => return Outcome::Done(VmResult::FailInvalid),
            Current::Plain(_) => put!(self.vmcs12, INSTRUCTION_ERROR, number.into()),
            Current::Enlightened(page) => {
                const ERROR: u16 =
                    crate::vmcs12::place(vmx::Field::INSTRUCTION_ERROR.encoding()).offset;
                // A page that is gone tells nobody; the flags do.
                if let Some(at) = page.checked_add(ERROR.into()) {
                    let _ = vp.write(at, &number.to_le_bytes());
                }
            }
        }
        Outcome::Done(VmResult::FailValid(error))
    }

    /// Stores a plain current VMCS to its region and makes none current.
    /// Nothing happens when there is none.
    pub fn release_plain<L: L1Vp>(&mut self, vp: &mut L) {
        if let Current::Plain(region) = self.current {
            self.end_shadowing(vp);
            // VMPTRLD found a page there; L1's memory does not shrink.
            let _ = vp.write(region, self.vmcs12.bytes());
            self.drop_current();
        }
    }

    /// Makes no VMCS current, without storing one.
    fn drop_current(&mut self) {
        self.current = Current::None;
        self.last_vpid = None;
        self.forget();
    }
}
