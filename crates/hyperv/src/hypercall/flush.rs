//! The flushes.

use super::abi::Input;
use super::list::List;
use super::vp_set::VpSet;
use crate::memory::GuestAddress;
use addr::Gpa1;
use tlfs::hypercall::{FlushFlags, GpaRange, GvaRange, Status};

/// Whose translations a flush is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSpaces {
    /// Everyone's.
    All,
    /// Those of the address space with this CR3 (without its PCID). It may be
    /// the space of none of the targets.
    One(u64),
}

/// FlushVirtualAddressSpace, -List and their Ex forms. A flush of more than is
/// asked for is right, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushVirtual<A> {
    /// The VPs on which translations are to be forgotten, the calling one
    /// included if it is in the set.
    pub targets: VpSet,
    /// In which address spaces.
    pub spaces: AddressSpaces,
    /// Global translations may stay.
    pub keep_global: bool,
    /// Which addresses; without a list, all.
    pub ranges: Option<List<A, GvaRange>>,
}

/// FlushGuestPhysicalAddressSpace and -List: what a single-context INVEPT does,
/// but on all VPs of the partition when the call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushGuestPhysical<A> {
    /// Where the EPT of L1's that is meant has its root: to be compared with
    /// the page of EPTPs, whatever their low 12 bits.
    pub root: Gpa1,
    /// Which addresses; without a list, all.
    pub ranges: Option<List<A, GpaRange>>,
}

pub(super) fn virtual_addresses<A: GuestAddress>(
    input: &Input<A>,
) -> Result<FlushVirtual<A>, Status> {
    let [space, flags, mask, _] = input.header;
    let ranges = input.list();
    // Large pages in ranges are not offered (leaf 0x40000003 EDX bit 14).
    let allowed = FlushFlags::new()
        .with_all_processors(true)
        .with_all_address_spaces(true)
        .with_non_global_only(ranges.is_none());
    if flags & !allowed.into_bits() != 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    let flags = FlushFlags::from_bits(flags);
    let targets = match input.set {
        _ if flags.all_processors() => VpSet::ALL,
        Some(set) => set,
        // Windows Server 2012 leaves the mask zero and means everyone.
        None if mask == 0 => VpSet::ALL,
        None => VpSet::mask(mask),
    };
    let spaces = if flags.all_address_spaces() {
        AddressSpaces::All
    } else {
        AddressSpaces::One(space)
    };
    Ok(FlushVirtual {
        targets,
        spaces,
        keep_global: flags.non_global_only(),
        ranges,
    })
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
