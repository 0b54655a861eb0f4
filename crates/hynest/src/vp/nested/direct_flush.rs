//! Direct virtual flush: L2's flush hypercalls, answered by L0 without an exit to L1 (TLFS, "Direct
//! Virtual Flush").

use addr::{Gpa1, Gpa2, PAGE_SIZE};
use hyperv::enlightenments::{Enlightenment, Set};
use hyperv::hypercall::{self, DIRECT_FLUSHES, Mode, Outcome, Request, UsualFlush};
use hyperv::memory::{ReadMemory, Unmapped};
use nested::ExitInfo;
use nested::ept::{Attachment, Recall, walk};
use tlfs::hypercall::{CallCode, Control, ResultWord, Status};
use vmx::ept::{Access, EptCapabilities, Eptp};
use vmx::{AccessRights, ExitReason, Field};

use super::super::memory::{L1Memory, L1Word};
use super::super::shootdown::L2Context;
use super::super::vmcs::read;
use super::super::{Registers, Vp, hypercalls, shootdown};
use super::read_assist;
use crate::cpu::vector::LiveRegisters;

/// What an L2 whose L1 delegates its flushes is offered: those, in each of their forms.
const OFFERED: Set = Set::NONE
    .with(Enlightenment::Base)
    .with(Enlightenment::XmmInput)
    .with(Enlightenment::TlbFlush);

/// EFER.LMA.
const EFER_LMA: u64 = 1 << 10;

/// The exit that follows a flush while L1 holds L2's TLB locked: HV_VMX_SYNTHETIC_EXIT_REASON_TRAP_
/// AFTER_FLUSH.
const TRAP_AFTER_FLUSH: ExitReason = ExitReason::from_raw(0x1000_0031);

/// L2's memory, as EPT 12 maps it to L1's.
struct L2Memory<'a> {
    /// The root page of EPT 12, if there is one.
    root: Option<Gpa1>,
    offered: &'a EptCapabilities,
    recall: &'a Recall<L1Word>,
    l1: &'a L1Memory,
}

impl L2Memory<'_> {
    /// Where `bytes` bytes of one page are.
    #[inline]
    fn locate(&self, at: Gpa2, bytes: u64) -> Result<Gpa1, Unmapped> {
        if at.page_offset() + bytes > PAGE_SIZE {
            return Err(Unmapped);
        }
        let Some(root) = self.root else {
            return Ok(Gpa1::new(at.raw()));
        };
        if let Some(found) = self.recall.recall(root, self.l1, at) {
            return Ok(found);
        }
        let eptp = Eptp::new(root.raw());
        match walk(eptp, self.offered, self.l1, at, Access::READ) {
            Ok(found) => Ok(found.address),
            Err(_) => Err(Unmapped),
        }
    }
}

impl ReadMemory<Gpa2> for L2Memory<'_> {
    fn read(&self, at: Gpa2, into: &mut [u8]) -> Result<(), Unmapped> {
        let at = self.locate(at, into.len() as u64)?;
        ReadMemory::read(self.l1, at, into)
    }

    #[inline]
    fn read_words(&self, at: Gpa2, into: &mut [u64]) -> Result<(), Unmapped> {
        let at = self.locate(at, size_of_val(into) as u64)?;
        ReadMemory::read_words(self.l1, at, into)
    }
}

impl Vp {
    /// Whether L1 delegates L2's flushes, by the enlightened VMCS as it was last read, which has to be
    /// offered, and by the assist page as it is.
    #[inline(always)]
    pub fn answers_flushes(&self) -> bool {
        let words = self.nested.logic.enlightenments();
        words.control.nested_flush_hypercall()
            && read_assist(self.nested.assist.as_ref())
                .is_some_and(|assist| assist.control.direct_hypercall())
    }

    /// A VMCALL of L2, whose VMCS is current and whose flushes are answered here: answers one in the
    /// usual form that concerns no other processor. Returns whether it did; [`Vp::direct_flush`] is
    /// for the call otherwise, whatever has been done.
    #[inline(always)]
    pub fn flush_shortly(&mut self) -> bool {
        let registers = &self.registers.0;
        let usual = UsualFlush::<Gpa2>::of(registers[Registers::RCX], registers[Registers::RDX]);
        let (Some(flush), Some(attachment)) = (usual, self.nested.view.attachment()) else {
            return false;
        };
        let code = AccessRights::from_raw(read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
        if !code.is_kernel_code64() || read(Field::GUEST_EFER) & EFER_LMA == 0 {
            return false;
        }
        let partition = self.partition;
        let recall = &self.nested.input_page;
        let Some(at) = recall.recall(attachment.tag(), &partition.memory, flush.input()) else {
            return false;
        };
        let mut header = [0; 3];
        if !partition.memory.read_words(at, &mut header) {
            return false;
        }
        let Some(targets) = flush.targets(header) else {
            return false;
        };
        let words = self.nested.logic.enlightenments();
        let vps = partition.inboxes.len();
        let is_target =
            |context: L2Context| context.vm == words.vm_id && targets.contains(context.vp);
        let Some(is_own) = shootdown::l2_flush_is_own(self.index, vps, is_target) else {
            return false;
        };
        if is_own {
            super::flush_vpid02();
        }
        // The lock is read after that: L1 is told of each flush that comes after its taking it.
        if partition.memory.read_u32(words.partition_assist) != Some(0) {
            return false;
        }
        self.registers.0[Registers::RAX] = flush.success();
        self.advance();
        true
    }

    /// A VMCALL of L2, whose VMCS is current and whose flushes are answered here: answers it if it is
    /// one. Returns whether it did; the call is L1's otherwise.
    #[inline(never)]
    pub fn direct_flush(&mut self) -> bool {
        let words = self.nested.logic.enlightenments();
        let caller = hypercalls::current_caller();
        let code = match caller.mode {
            Mode::Long => self.registers.0[Registers::RCX],
            _ => self.registers.0[Registers::RAX],
        };
        if !DIRECT_FLUSHES.contains(&CallCode(code as u16)) {
            return false;
        }
        let partition = self.partition;
        let root = self.nested.view.attachment().map(Attachment::tag);
        if let Some(root) = root
            && caller.mode == Mode::Long
            && !Control::from_bits(code).fast()
        {
            let at = Gpa2::new(self.registers.0[Registers::RDX]);
            let nested = &mut self.nested;
            let (recall, memory) = (&mut nested.input_page, &partition.memory);
            if recall.recall(root, memory, at).is_none() {
                recall.look_up(root, &nested.ept_offered, memory, at);
            }
        }
        let memory = L2Memory {
            root,
            offered: &self.nested.ept_offered,
            recall: &self.nested.input_page,
            l1: &partition.memory,
        };
        let mut registers = hypercalls::call_registers(&self.registers);
        let outcome =
            hypercall::decode::<Gpa2>(OFFERED, &caller, &registers, &memory, &LiveRegisters);
        let mut result = match outcome {
            Outcome::Perform(Request::FlushVirtual(flush), reply) => {
                // All translations of a processor of L2's go: more than is asked for, never less.
                let (vm, targets) = (words.vm_id, &flush.targets);
                shootdown::flush_l2(self.index, partition.inboxes.len(), |context| {
                    context.vm == vm && targets.contains(context.vp)
                });
                reply.success()
            }
            Outcome::Done(result) => result,
            // Not from privileged code of protected mode. The codes that lead here decode to
            // nothing else that could be performed.
            Outcome::Undefined | Outcome::Perform(..) => {
                self.inject_ud();
                return true;
            }
        };
        let lock = partition.memory.read_u32(words.partition_assist);
        if lock.is_none() {
            result = ResultWord::status_only(Status::INVALID_HYPERCALL_INPUT);
        }
        caller.end(result, &mut registers);
        self.registers.0[Registers::RAX] = registers.rax;
        self.registers.0[Registers::RDX] = registers.rdx;
        self.advance();
        // L1 is changing what L2's translations come from: it wants to know that L2 has flushed.
        if lock.is_some_and(|count| count != 0) {
            self.leave_l2(ExitInfo::new(TRAP_AFTER_FLUSH), false);
        }
        true
    }

    /// Tells other processors which of L1's virtual processors this one is about to run.
    ///
    /// What this processor holds of L2's translations is always of the context that it has
    /// published: L1 may let two contexts share a VPID, or rename one, and whoever flushes a
    /// context looks for it by its name.
    #[inline(always)]
    pub fn publish_l2_context(&self) {
        let words = self.nested.logic.enlightenments();
        let context = shootdown::L2Context {
            vm: words.vm_id,
            vp: words.vp_id,
        };
        if shootdown::publish_context(self.cell, context) {
            super::flush_vpid02();
        }
    }

    /// Forgets L2's linear translations on this processor if another VP has asked for it, and
    /// returns whether one has.
    pub fn settle_l2_translations(&self) -> bool {
        let is_asked = shootdown::take_l2_flush(self.cell);
        if is_asked {
            super::flush_vpid02();
        }
        is_asked
    }
}
