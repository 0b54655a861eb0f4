//! Flushes in the form that nearly all of them have, in few instructions.
//!
//! What is said of a call here is what [`decode`](super::decode) says of it, which the tests hold it to;
//! of calls in any other form, wrong ones among them, nothing is said.

use crate::memory::GuestAddress;
use addr::PAGE_SIZE;
use tlfs::hypercall::{CallCode, Control, FlushFlags, ResultWord, Status};

/// Words of the header.
const HEADER: u64 = 3;
const WORD: u64 = 8;

/// FlushVirtualAddressSpace or -List of 64-bit code at privilege level 0, its input in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UsualFlush<A> {
    input: A,
    flags: FlushFlags,
    reps: u16,
}

/// The VPs that such a flush names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaskedVps {
    mask: u64,
    is_all: bool,
}

impl MaskedVps {
    /// Whether the VP is among them.
    #[inline(always)]
    pub const fn contains(self, vp: u32) -> bool {
        self.is_all || vp < u64::BITS && self.mask >> vp & 1 != 0
    }
}

impl<A: GuestAddress> UsualFlush<A> {
    /// The flush that RCX and RDX ask for, if it is one of these.
    #[inline(always)]
    pub fn of(rcx: u64, rdx: u64) -> Option<Self> {
        const SPACE: u64 = CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE.0 as u64;
        const LIST: u64 = CallCode::FLUSH_VIRTUAL_ADDRESS_LIST.0 as u64;
        /// All but the indices of a rep call.
        const SHAPE: u64 = !Control::new()
            .with_rep_count(0xFFF)
            .with_rep_start(0xFFF)
            .into_bits();
        const FLAGS: FlushFlags = FlushFlags::new()
            .with_all_processors(true)
            .with_all_address_spaces(true)
            .with_extended_ranges(true);

        let control = Control::from_bits(rcx);
        let reps = control.rep_count();
        let flags = if rcx == SPACE {
            FLAGS.with_non_global_only(true)
        } else if rcx & SHAPE == LIST && control.rep_start() < reps {
            FLAGS
        } else {
            return None;
        };
        let input = A::new(rdx);
        let end = input.page_offset() + (HEADER + u64::from(reps)) * WORD;
        (rdx.is_multiple_of(WORD) && end <= PAGE_SIZE).then_some(Self { input, flags, reps })
    }

    /// Where the header is, three words in one page.
    #[inline(always)]
    pub fn input(&self) -> A {
        self.input
    }

    /// Whose translations are to go, by the header's words.
    #[inline(always)]
    pub fn targets(&self, [_, flags, mask]: [u64; 3]) -> Option<MaskedVps> {
        (flags & !self.flags.into_bits() == 0).then_some(MaskedVps {
            mask,
            is_all: FlushFlags::from_bits(flags).all_processors() || mask == 0,
        })
    }

    /// What the call ends with once they are gone: RAX.
    #[inline(always)]
    pub fn success(&self) -> u64 {
        ResultWord::after_reps(Status::SUCCESS, self.reps).into_bits()
    }
}
