//! Hypercalls of L1.

use hyperv::hypercall::{Caller, Mode, Outcome, Registers as CallRegisters, Reply, Request};
use nested::ept::Gpa2Range;
use platform::counters::Counter;
use platform::interrupt::Trigger;
use tlfs::hypercall::ResultWord;
use vmx::{AccessRights, Field};

use super::vmcs::read;
use super::{Registers, Vp, nested::current_cpl};
use crate::cpu::per_cpu;
use crate::cpu::vector::LiveRegisters;

/// CR0.PE.
const CR0_PE: u64 = 1;
/// EFER.LMA.
const EFER_LMA: u64 = 1 << 10;
const RSI: usize = 6;
const RDI: usize = 7;
const R8: usize = 8;

impl Vp {
    /// VMCALL of L1.
    pub fn hypercall_exit(&mut self) {
        self.count(Counter::Hypercalls);
        let caller = current_caller();
        let mut registers = call_registers(&self.registers);
        let partition = self.partition;
        let memory = &partition.memory;
        let outcome = partition
            .hyperv
            .hypercall(&caller, &registers, memory, &LiveRegisters);
        let result = match outcome {
            Outcome::Undefined => return self.inject_ud(),
            Outcome::Done(result) => result,
            Outcome::Perform(request, reply) => self.perform(&request, reply),
        };
        caller.end(result, &mut registers);
        self.registers.0[Registers::RAX] = registers.rax;
        self.registers.0[Registers::RDX] = registers.rdx;
        self.advance();
    }

    fn perform(&mut self, request: &Request<addr::Gpa1>, reply: Reply) -> ResultWord {
        match request {
            // Flushing more than is asked for is right: a VP forgets all of L1's translations.
            Request::FlushVirtual(flush) => {
                self.count(Counter::TlbFlushes);
                self.flush_l1_translations(|index| flush.targets.contains(index as u32));
                reply.success()
            }
            Request::FlushGuestPhysical(flush) => {
                self.count(Counter::GpaFlushes);
                let Some(list) = &flush.ranges else {
                    self.flush_space(flush.root);
                    return reply.success();
                };
                let (mut done, mut failure) = (0, None);
                let mut ranges = list
                    .elements(&self.partition.memory, &LiveRegisters)
                    .map_while(|range| match range {
                        Ok(range) => {
                            done += 1;
                            Some(Gpa2Range::new(range.start(), range.bytes()))
                        }
                        Err(status) => {
                            failure = Some(status);
                            None
                        }
                    });
                self.flush_ranges(flush.root, ranges.by_ref());
                // Where nothing is cached the list has not been looked at.
                ranges.for_each(drop);
                match failure {
                    None => reply.success(),
                    Some(status) => reply.failure(status, done),
                }
            }
            Request::SendIpi(ipi) => {
                self.count(Counter::Ipis);
                let vps = self.partition.inboxes.len() as u32;
                for index in ipi.targets.iter(vps) {
                    let index = index as usize;
                    if self.partition.inboxes[index].post_vector(ipi.vector, Trigger::Edge) {
                        per_cpu::cpu(index).kick();
                    }
                }
                reply.success()
            }
        }
    }
}

/// The registers that a hypercall may use.
pub fn call_registers(registers: &Registers) -> CallRegisters {
    let r = &registers.0;
    CallRegisters {
        rax: r[Registers::RAX],
        rbx: r[Registers::RBX],
        rcx: r[Registers::RCX],
        rdx: r[Registers::RDX],
        rsi: r[RSI],
        rdi: r[RDI],
        r8: r[R8],
    }
}

/// What kind of code executed the VMCALL.
pub fn current_caller() -> Caller {
    let code = AccessRights::from_raw(read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
    let mode = if read(Field::GUEST_CR0) & CR0_PE == 0 {
        Mode::Real
    } else if code.is_long() && read(Field::GUEST_EFER) & EFER_LMA != 0 {
        Mode::Long
    } else {
        Mode::Protected
    };
    Caller {
        mode,
        cpl: current_cpl(),
    }
}
