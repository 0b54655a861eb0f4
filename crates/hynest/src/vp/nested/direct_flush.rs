//! Direct virtual flush: L2's flush hypercalls, answered by L0 without an exit to L1 (TLFS, "Direct
//! Virtual Flush").

use addr::{Gpa1, Gpa2};
use hyperv::enlightenments::{Enlightenment, Set};
use hyperv::hypercall::{
    self, Caller, DIRECT_FLUSHES, Mode, Outcome, Registers as CallRegisters, Request,
};
use hyperv::memory::{ReadMemory, Unmapped};
use nested::ExitInfo;
use nested::ept;
use tlfs::hypercall::{CallCode, ResultWord, Status};
use vmx::ExitReason;
use vmx::ept::{Access, EptCapabilities, Eptp};

use super::super::memory::L1Memory;
use super::super::{Registers, Vp, hypercalls, shootdown};
use super::read_assist;

/// What an L2 whose L1 delegates its flushes is offered: those alone.
const OFFERED: Set = Set::NONE
    .with(Enlightenment::Base)
    .with(Enlightenment::TlbFlush);

/// The exit that follows a flush while L1 holds L2's TLB locked: HV_VMX_SYNTHETIC_EXIT_REASON_TRAP_
/// AFTER_FLUSH.
const TRAP_AFTER_FLUSH: ExitReason = ExitReason::from_raw(0x1000_0031);

/// L2's memory, as EPT 12 maps it to L1's.
struct L2Memory<'a> {
    eptp12: Option<Eptp>,
    offered: EptCapabilities,
    l1: &'a L1Memory,
}

impl ReadMemory<Gpa2> for L2Memory<'_> {
    fn read(&self, at: Gpa2, into: &mut [u8]) -> Result<(), Unmapped> {
        // The parameters of a hypercall do not cross a page.
        let last = at.checked_add(into.len() as u64).ok_or(Unmapped)?;
        if at.page_offset() as usize + into.len() > addr::PAGE_SIZE as usize || last < at {
            return Err(Unmapped);
        }
        let address = match self.eptp12 {
            Some(eptp) => {
                ept::walk(eptp, &self.offered, self.l1, at, Access::READ)
                    .map_err(|_| Unmapped)?
                    .address
            }
            None => Gpa1::new(at.raw()),
        };
        ReadMemory::read(self.l1, address, into)
    }
}

impl Vp {
    /// A VMCALL of L2, whose VMCS is current: performs it if L1 delegates it. Returns whether it
    /// did; the call is L1's otherwise.
    pub fn direct_flush(&mut self) -> bool {
        let offered = self.partition.hyperv.config().enlightenments;
        if !offered.has(Enlightenment::DirectFlush) {
            return false;
        }
        let words = self.nested.logic.enlightenments();
        if !words.control.nested_flush_hypercall() {
            return false;
        }
        let delegated = read_assist(self.nested.assist.as_ref())
            .is_some_and(|assist| assist.control.direct_hypercall());
        let caller = hypercalls::current_caller();
        let code = match caller.mode {
            Mode::Long => self.registers.0[Registers::RCX],
            _ => self.registers.0[Registers::RAX],
        };
        if !delegated || !DIRECT_FLUSHES.contains(&CallCode(code as u16)) {
            return false;
        }
        let mut registers = hypercalls::call_registers(&self.registers);
        let Some(mut result) = self.perform_direct_flush(&caller, &registers, words.vm_id) else {
            return false;
        };
        let lock = self.partition.memory.read_u32(words.partition_assist);
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

    /// `None` where L1 had better answer: the call is malformed, or its input lies in a page that
    /// EPT 12 does not map yet and L1 can still find.
    fn perform_direct_flush(
        &mut self,
        caller: &Caller,
        registers: &CallRegisters,
        vm: u64,
    ) -> Option<ResultWord> {
        let partition = self.partition;
        let memory = L2Memory {
            eptp12: self.nested.logic.ept_pointer().map(Eptp::from_raw),
            offered: EptCapabilities::from_msr(
                partition.offered.ept_vpid,
                self.nested.logic.config().physical_bits,
            ),
            l1: &partition.memory,
        };
        match hypercall::decode::<Gpa2>(OFFERED, caller, registers, &memory) {
            Outcome::Undefined | Outcome::Done(_) => None,
            Outcome::Perform(Request::FlushVirtual(flush), reply) => {
                // All translations of a processor of L2's go: more than is asked for, never less.
                let targets = flush.targets;
                shootdown::flush_l2(self.index, partition.inboxes.len(), |context| {
                    context.vm == vm && targets.contains(context.vp)
                });
                Some(reply.success())
            }
            // The codes that lead here decode to nothing else.
            Outcome::Perform(..) => None,
        }
    }

    /// Tells other processors which of L1's virtual processors this one is about to run.
    #[inline(always)]
    pub fn publish_l2_context(&self) {
        let words = self.nested.logic.enlightenments();
        shootdown::publish_context(
            self.index,
            shootdown::L2Context {
                vm: words.vm_id,
                vp: words.vp_id,
            },
        );
    }

    /// Forgets L2's linear translations on this processor if an L2 has asked for it.
    #[inline(always)]
    pub fn settle_l2_translations(&self) {
        if shootdown::take_l2_flush(self.index) {
            super::flush_vpid02();
        }
    }
}
