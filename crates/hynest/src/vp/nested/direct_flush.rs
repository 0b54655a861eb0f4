//! Direct virtual flush: L2's flush hypercalls, answered by L0 without an exit to L1 (TLFS, "Direct
//! Virtual Flush").

use addr::{Gpa1, Gpa2, PAGE_SIZE};
use hyperv::enlightenments::{Enlightenment, Set};
use hyperv::hypercall::{self, DIRECT_FLUSHES, Mode, Outcome, Request};
use hyperv::memory::{ReadMemory, Unmapped};
use nested::ExitInfo;
use nested::ept::Recall;
use tlfs::hypercall::{CallCode, ResultWord, Status};
use vmx::ExitReason;
use vmx::ept::{EptCapabilities, Eptp};

use super::super::memory::L1Memory;
use super::super::{Registers, Vp, hypercalls, shootdown};
use super::read_assist;
use crate::cpu::vector::LiveRegisters;

/// What an L2 whose L1 delegates its flushes is offered: those, in each of their forms.
const OFFERED: Set = Set::NONE
    .with(Enlightenment::Base)
    .with(Enlightenment::XmmInput)
    .with(Enlightenment::TlbFlush);

/// The exit that follows a flush while L1 holds L2's TLB locked: HV_VMX_SYNTHETIC_EXIT_REASON_TRAP_
/// AFTER_FLUSH.
const TRAP_AFTER_FLUSH: ExitReason = ExitReason::from_raw(0x1000_0031);

/// L2's memory, as EPT 12 maps it to L1's.
struct L2Memory<'a> {
    eptp12: Option<Eptp>,
    offered: &'a EptCapabilities,
    recall: &'a Recall,
    l1: &'a L1Memory,
}

impl L2Memory<'_> {
    /// Where `bytes` bytes of one page are.
    #[inline]
    fn locate(&self, at: Gpa2, bytes: u64) -> Result<Gpa1, Unmapped> {
        if at.page_offset() + bytes > PAGE_SIZE {
            return Err(Unmapped);
        }
        match self.eptp12 {
            Some(eptp) => self
                .recall
                .translate(eptp, self.offered, self.l1, at)
                .map_err(|_| Unmapped),
            None => Ok(Gpa1::new(at.raw())),
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
    /// A VMCALL of L2, whose VMCS is current: answers it if L1 delegates it. Returns whether it
    /// did; the call is L1's otherwise.
    #[inline(never)]
    pub fn direct_flush(&mut self) -> bool {
        let words = self.nested.logic.enlightenments();
        if !words.control.nested_flush_hypercall() {
            return false;
        }
        let offered = self.partition.hyperv.config().enlightenments;
        let delegated = read_assist(self.nested.assist.as_ref())
            .is_some_and(|assist| assist.control.direct_hypercall());
        if !delegated || !offered.has(Enlightenment::DirectFlush) {
            return false;
        }
        let caller = hypercalls::current_caller();
        let code = match caller.mode {
            Mode::Long => self.registers.0[Registers::RCX],
            _ => self.registers.0[Registers::RAX],
        };
        if !DIRECT_FLUSHES.contains(&CallCode(code as u16)) {
            return false;
        }
        let partition = self.partition;
        let memory = L2Memory {
            eptp12: self.nested.logic.ept_pointer().map(Eptp::from_raw),
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
