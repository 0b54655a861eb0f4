//! The flushes.

use super::abi::Input;
use super::list::List;
use super::vp_set::VpSet;
use crate::memory::GuestAddress;
use addr::Gpa1;
use tlfs::hypercall::{FlushFlags, Status};

/// FlushVirtualAddressSpace, -List and their Ex forms.
///
/// Which addresses, in which address space, and whether global translations may
/// stay is not kept: all of a target's translations go, which is more than is
/// asked for and right, too. So a list, in either of its formats, is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushVirtual {
    /// The VPs on which translations are to be forgotten, the calling one
    /// included if it is in the set.
    pub targets: VpSet,
}

/// FlushGuestPhysicalAddressSpace and -List: what a single-context INVEPT does,
/// but on all VPs of the partition when the call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushGuestPhysical<A> {
    /// Where the EPT of L1's that is meant has its root: to be compared with
    /// the page of EPTPs, whatever their low 12 bits.
    pub root: Gpa1,
    /// Which addresses; without a list, all.
    pub ranges: Option<List<A>>,
}

#[inline]
pub(super) fn virtual_addresses<A: GuestAddress>(input: &Input<A>) -> Result<FlushVirtual, Status> {
    let [_, flags, mask, _] = input.header;
    let allowed = FlushFlags::new()
        .with_all_processors(true)
        .with_all_address_spaces(true)
        .with_extended_ranges(true)
        .with_non_global_only(!input.has_list());
    if flags & !allowed.into_bits() != 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    let targets = match input.set {
        _ if FlushFlags::from_bits(flags).all_processors() => VpSet::ALL,
        Some(set) => set,
        // Windows Server 2012 leaves the mask zero and means everyone.
        None if mask == 0 => VpSet::ALL,
        None => VpSet::mask(mask),
    };
    Ok(FlushVirtual { targets })
}

pub(super) fn guest_physical<A: GuestAddress>(
    input: &Input<A>,
) -> Result<FlushGuestPhysical<A>, Status> {
    let [root, flags, ..] = input.header;
    if flags != 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    Ok(FlushGuestPhysical {
        root: Gpa1::new(root).page(),
        ranges: input.list(),
    })
}
