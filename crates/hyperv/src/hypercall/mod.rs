//! VMCALL: from the caller's registers to what is to be done.
//!
//! [`decode`] checks a call against its definition and the calling convention
//! and turns it into a [`Request`] with typed, copied parameters. The exit
//! handler carries the request out, because only it can reach other
//! processors, and answers with the words of the [`Reply`].
//!
//! Who decodes may be L0 for L1, or L0 for L2 whose flushes it handles in L1's
//! stead: addresses are of the caller's own level `A`.

mod abi;
mod call;
mod caller;
mod flush;
mod ipi;
mod list;
mod usual;
mod vp_set;

pub use caller::{Caller, Mode, Registers, VectorRegisters, XMM_WORDS};
pub use flush::{FlushGuestPhysical, FlushVirtual};
pub use ipi::SendIpi;
pub use list::{Elements, List};
pub use usual::{MaskedVps, UsualFlush};
pub use vp_set::VpSet;

use crate::enlightenments::Set;
use crate::memory::{GuestAddress, ReadMemory};
use crate::partition::Partition;
use abi::{Failure, Input};
use addr::Gpa1;
use call::{Definition, What};
use core::sync::atomic::Ordering;
use tlfs::hypercall::{CallCode, Control, ResultWord, Status};

/// The calls that L0 handles for an L2 whose L1 allows it (TLFS, "Direct
/// Virtual Flush"); all other calls of an L2 are L1's.
pub const DIRECT_FLUSHES: [CallCode; 4] = [
    CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE,
    CallCode::FLUSH_VIRTUAL_ADDRESS_LIST,
    CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
    CallCode::FLUSH_VIRTUAL_ADDRESS_LIST_EX,
];

/// What a VMCALL comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<A> {
    /// The caller gets #UD; the instruction did nothing.
    Undefined,
    /// The call has ended: [`Caller::end`] with this word, and the VMCALL is
    /// skipped.
    Done(ResultWord),
    /// This is to be done. The call ends with a word of the reply.
    Perform(Request<A>, Reply),
}

/// Something that only the exit handler can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<A> {
    /// Forget translations of virtual addresses on some VPs.
    FlushVirtual(FlushVirtual),
    /// Forget translations of L2's physical addresses on all VPs.
    FlushGuestPhysical(FlushGuestPhysical<A>),
    /// Send an interrupt to some VPs.
    SendIpi(SendIpi),
}

/// How a request is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    rep_start: u16,
    rep_count: u16,
}

impl Reply {
    /// All of it is done.
    pub const fn success(self) -> ResultWord {
        // A guest repeats a rep call until all elements are reported done.
        ResultWord::after_reps(Status::SUCCESS, self.rep_count)
    }

    /// It failed after `done` elements of the request's list, or, for a
    /// request without one, altogether.
    pub const fn failure(self, status: Status, done: u16) -> ResultWord {
        ResultWord::after_reps(status, self.rep_start.saturating_add(done))
    }
}

/// Decodes a call of a guest that is offered `set`.
#[inline]
pub fn decode<A: GuestAddress>(
    set: Set,
    caller: &Caller,
    registers: &Registers,
    memory: &impl ReadMemory<A>,
    vectors: &impl VectorRegisters,
) -> Outcome<A> {
    if !caller.may_call() {
        return Outcome::Undefined;
    }
    let control = caller.control(registers);
    // What fails here has not begun with its list.
    let reply = Reply {
        rep_start: control.rep_start(),
        rep_count: control.rep_count(),
    };
    match decode_call(set, control, caller.operands(registers), memory, vectors) {
        Ok(Some(request)) => Outcome::Perform(request, reply),
        Ok(None) => Outcome::Done(reply.success()),
        Err(Failure::Undefined) => Outcome::Undefined,
        Err(Failure::Status(status)) => Outcome::Done(ResultWord::status_only(status)),
    }
}

#[inline]
fn decode_call<A: GuestAddress>(
    set: Set,
    control: Control,
    operands: [u64; 2],
    memory: &impl ReadMemory<A>,
    vectors: &impl VectorRegisters,
) -> Result<Option<Request<A>>, Failure> {
    let call = Definition::of(CallCode(control.code())).ok_or(Status::INVALID_HYPERCALL_CODE)?;
    if !set.has(call.needs) {
        return Err(Status::ACCESS_DENIED.into());
    }
    let input = Input::read(call, control, operands, set, memory, vectors)?;
    Ok(match call.what {
        // A VP has its processor to itself, so it yields to nobody by waiting.
        What::LongSpinWait => None,
        What::FlushVirtual => Some(Request::FlushVirtual(flush::virtual_addresses(&input)?)),
        What::FlushGuestPhysical => {
            Some(Request::FlushGuestPhysical(flush::guest_physical(&input)?))
        }
        What::SendIpi => Some(Request::SendIpi(ipi::send(&input)?)),
    })
}

impl Partition {
    /// Decodes a call of L1's.
    ///
    /// A guest that has not said who it is has no hypercalls: VMCALL is then
    /// what it is where there is no hypervisor.
    pub fn hypercall(
        &self,
        caller: &Caller,
        registers: &Registers,
        memory: &impl ReadMemory<Gpa1>,
        vectors: &impl VectorRegisters,
    ) -> Outcome<Gpa1> {
        let set = self.config.enlightenments;
        if set.is_empty() || self.guest_os_id.load(Ordering::Relaxed) == 0 {
            return Outcome::Undefined;
        }
        decode(set, caller, registers, memory, vectors)
    }
}

#[cfg(test)]
mod tests;
