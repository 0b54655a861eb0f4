//! VMX instructions of L1.

use core::convert::Infallible;

use addr::{Gpa1, Gva, Spa};
use nested::access::{Memory, Unbacked};
use nested::insn::{Fault, L1Vp, Outcome, Segment, VmResult};
use platform::counters::Counter;
use platform::paging::{AccessError, PageFault, translate_kernel_read};
use vmx::{
    AccessRights, BasicExitReason, ExitReason, Field, InstructionInfo, Interruptibility,
    SegmentRegister,
};

use super::super::memory::L1Memory;
use super::super::paging::{self, data_privilege, page_fault};
use super::super::vmcs::{read, write};
use super::super::vmcs01::{CR0_MASK, CR4_OWNED};
use super::super::{Registers, Vp};
use super::shadow_vmcs::ShadowVmcs;
use super::{L1Page, current_cpl, enlightened_vmcs, flush_vpid02};

/// EFER.LMA.
const EFER_LMA: u64 = 1 << 10;
/// IA32_FEATURE_CONTROL as L1 reads it: locked, VMX allowed outside SMX.
const FEATURE_CONTROL: u64 = 5;

/// L1's VP as a VMX instruction sees it, VMCS 01 current.
struct View<'a> {
    registers: &'a mut Registers,
    memory: L1Memory,
    assist: Option<&'a L1Page>,
    shadow: &'a mut Option<ShadowVmcs>,
}

impl Memory for View<'_> {
    fn read(&self, at: Gpa1, into: &mut [u8]) -> Result<(), Unbacked> {
        Memory::read(&self.memory, at, into)
    }

    fn write(&mut self, at: Gpa1, from: &[u8]) -> Result<(), Unbacked> {
        Memory::write(&mut self.memory, at, from)
    }

    fn machine_page(&self, at: Gpa1) -> Option<Spa> {
        self.memory.machine_page(at)
    }
}

/// The page fault that L1's operand meets.
fn operand_fault(error: AccessError<Infallible>) -> Fault {
    let PageFault { address, error } = page_fault(error);
    Fault::Page {
        address,
        error_code: error,
    }
}

impl L1Vp for View<'_> {
    fn gpr(&self, number: u8) -> u64 {
        match usize::from(number & 15) {
            Registers::RSP => read(Field::GUEST_RSP),
            number => self.registers.0[number],
        }
    }

    fn set_gpr(&mut self, number: u8, value: u64) {
        match usize::from(number & 15) {
            Registers::RSP => write(Field::GUEST_RSP, value),
            number => self.registers.0[number] = value,
        }
    }

    fn cr0(&self) -> u64 {
        read(Field::GUEST_CR0) & !CR0_MASK | read(Field::CR0_READ_SHADOW) & CR0_MASK
    }

    fn cr4(&self) -> u64 {
        read(Field::GUEST_CR4) & !CR4_OWNED | read(Field::CR4_READ_SHADOW) & CR4_OWNED
    }

    #[inline]
    fn cpl(&self) -> u8 {
        current_cpl()
    }

    #[inline]
    fn code_rights(&self) -> AccessRights {
        AccessRights::from_raw(read(Field::GUEST_CS_ACCESS_RIGHTS) as u32)
    }

    #[inline]
    fn is_long_mode(&self) -> bool {
        read(Field::GUEST_EFER) & EFER_LMA != 0
    }

    #[inline]
    fn blocked_by_mov_ss(&self) -> bool {
        let blocking = read(Field::GUEST_INTERRUPTIBILITY) as u32;
        blocking & Interruptibility::MOV_SS.bits() != 0
    }

    fn segment(&self, register: SegmentRegister) -> Segment {
        // The encodings of a segment's fields go up by two in the registers' order.
        let field = |first: Field| Field::from_encoding(first.encoding() + 2 * register as u32);
        Segment {
            base: read(field(Field::GUEST_ES_BASE)),
            limit: read(field(Field::GUEST_ES_LIMIT)) as u32,
            rights: AccessRights::from_raw(read(field(Field::GUEST_ES_ACCESS_RIGHTS)) as u32),
        }
    }

    fn feature_control(&self) -> u64 {
        FEATURE_CONTROL
    }

    fn instruction_info(&self) -> InstructionInfo {
        InstructionInfo::from_raw(read(Field::EXIT_INSTRUCTION_INFO) as u32)
    }

    fn displacement(&self) -> u64 {
        read(Field::EXIT_QUALIFICATION)
    }

    fn read_linear(&mut self, at: Gva, into: &mut [u8]) -> Result<(), Fault> {
        let paging = paging::current();
        paging
            .read(&self.memory, at, data_privilege(), into)
            .map_err(operand_fault)
    }

    #[inline(always)]
    fn read_pair(&self, at: Gva) -> Option<[u64; 2]> {
        if at.raw() & 15 != 0 {
            return None;
        }
        let cr3 = read(Field::GUEST_CR3);
        let physical = translate_kernel_read(&self.memory, cr3, at)?;
        let mut words = [0; 2];
        self.memory
            .read_words(Gpa1::new(physical), &mut words)
            .then_some(words)
    }

    fn write_linear(&mut self, at: Gva, from: &[u8]) -> Result<(), Fault> {
        let paging = paging::current();
        paging
            .write(&self.memory, at, data_privilege(), from)
            .map_err(operand_fault)
    }

    #[inline]
    fn enlightened_vmcs(&self) -> Option<Gpa1> {
        self.assist.and_then(enlightened_vmcs)
    }

    type Shadow = ShadowVmcs;

    #[inline]
    fn shadow_vmcs(&mut self) -> Option<&mut ShadowVmcs> {
        self.shadow.as_mut()
    }
}

impl Vp {
    /// VMREAD or VMWRITE of L1, if it is of the form that Linux uses and succeeds. Returns whether it
    /// has been executed.
    #[inline(always)]
    pub fn access_field(&mut self, reason: ExitReason) -> bool {
        let is_write = reason == ExitReason::new(BasicExitReason::Vmwrite);
        let (basic, counter) = match is_write {
            true => (BasicExitReason::Vmwrite, Counter::Vmwrites),
            false => (BasicExitReason::Vmread, Counter::Vmreads),
        };
        let mut view = View {
            registers: &mut self.registers,
            memory: self.partition.memory,
            assist: self.nested.assist.as_ref(),
            shadow: &mut self.nested.shadow,
        };
        if !self.nested.logic.access_shortly(&mut view, basic) {
            return false;
        }
        self.count(counter);
        let flags = VmResult::Succeed.flags(read(Field::GUEST_RFLAGS));
        write(Field::GUEST_RFLAGS, flags);
        self.advance();
        true
    }

    /// A VMX instruction of L1 that exited.
    #[inline]
    pub fn vmx_instruction_exit(&mut self, reason: BasicExitReason) {
        let mut view = View {
            registers: &mut self.registers,
            memory: self.partition.memory,
            assist: self.nested.assist.as_ref(),
            shadow: &mut self.nested.shadow,
        };
        let outcome = self.nested.logic.execute(&mut view, reason);
        match outcome {
            Outcome::Enter { is_launch, source } => self.enter_l2_from(is_launch, source),
            Outcome::Done(result) => self.end_instruction(reason, result),
            Outcome::Fault(fault) => self.inject_fault(fault),
            Outcome::Invept(what) => {
                match what {
                    nested::ept::Invept::Single(root) => self.flush_space(root),
                    nested::ept::Invept::All => self.flush_all_spaces(),
                }
                self.end_instruction(reason, VmResult::Succeed);
            }
            // One VPID of the hardware stands for whichever of L1's runs: all of it goes.
            Outcome::Invvpid(_) => {
                flush_vpid02();
                self.end_instruction(reason, VmResult::Succeed);
            }
            Outcome::LeftVmxOperation => {
                self.nested.page = None;
                // An INIT that came meanwhile is no longer blocked.
                if core::mem::take(&mut self.init_pending) {
                    self.partition.inboxes[self.index].post_init();
                }
                self.attention = true;
                self.end_instruction(reason, VmResult::Succeed);
            }
        }
    }

    /// INVVPID of L1 in its common form. Returns whether it has been executed.
    pub fn invvpid_shortly(&mut self) -> bool {
        let view = View {
            registers: &mut self.registers,
            memory: self.partition.memory,
            assist: None,
            shadow: &mut self.nested.shadow,
        };
        if self.nested.logic.invvpid_shortly(&view).is_none() {
            return false;
        }
        // As above: all of it goes.
        flush_vpid02();
        self.end_instruction(BasicExitReason::Invvpid, VmResult::Succeed);
        true
    }

    /// The instruction is over: RFLAGS tell how.
    #[inline]
    pub fn end_instruction(&mut self, reason: BasicExitReason, result: VmResult) {
        match reason {
            BasicExitReason::Vmread => self.count(Counter::Vmreads),
            BasicExitReason::Vmwrite => self.count(Counter::Vmwrites),
            BasicExitReason::Vmptrld => self.count(Counter::Vmptrlds),
            BasicExitReason::Vmclear => self.count(Counter::Vmclears),
            BasicExitReason::Invept => self.count(Counter::Invepts),
            BasicExitReason::Invvpid => self.count(Counter::Invvpids),
            _ => {}
        }
        write(Field::GUEST_RFLAGS, result.flags(read(Field::GUEST_RFLAGS)));
        self.advance();
    }

    fn inject_fault(&mut self, fault: Fault) {
        match fault {
            Fault::InvalidOpcode => self.inject_ud(),
            Fault::GeneralProtection => self.inject_gp(),
            Fault::Stack => self.inject_exception(12, Some(0)),
            Fault::Page {
                address,
                error_code,
            } => self.inject_page_fault(PageFault {
                address,
                error: error_code,
            }),
        }
    }
}
