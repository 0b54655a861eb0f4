//! The calling convention (TLFS, "Hypercall Interface"): each of its rules
//! stands here once, for all calls.

use super::call::{Definition, HEADER_MAX};
use super::list::List;
use super::vp_set::VpSet;
use crate::memory::{GuestAddress, ReadMemory};
use addr::PAGE_SIZE;
use tlfs::hypercall::{Control, Status, VpSetFormat};

/// Bytes of the unit in which headers and lists are measured.
const WORD: u64 = 8;
/// Words of input that fit the general registers.
const FAST_WORDS: usize = 2;

/// Why a call is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The caller gets #UD.
    Undefined,
    /// The call ends with this status.
    Status(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// A call's input, copied but for its list.
pub(super) struct Input<A> {
    /// The fixed header's words; those past its end mean nothing.
    pub(super) header: [u64; HEADER_MAX],
    /// The VP set, where the call has one.
    pub(super) set: Option<VpSet>,
    list: Option<(A, Control)>,
}

impl<A: GuestAddress> Input<A> {
    /// Checks the control word, finds the input and copies it.
    pub(super) fn read(
        call: &Definition,
        control: Control,
        operands: [u64; 2],
        memory: &impl ReadMemory<A>,
    ) -> Result<Self, Failure> {
        check(call, control)?;
        let words = usize::from(call.header)
            + usize::from(control.variable_header())
            + usize::from(control.rep_count());
        if control.fast() {
            // More than two words would be in XMM registers, which is not
            // offered (leaf 0x40000003 EDX bit 4): "any attempt will result in
            // a #UD fault".
            if words > FAST_WORDS {
                return Err(Failure::Undefined);
            }
            let [first, second] = operands;
            // With its VP set a header is longer than that.
            let header = [first, second, 0, 0];
            return Ok(Self {
                header,
                set: None,
                list: None,
            });
        }

        let at = A::new(operands[0]);
        let offset = at.page_offset();
        if !offset.is_multiple_of(WORD) || offset + words as u64 * WORD > PAGE_SIZE {
            return Err(Status::INVALID_ALIGNMENT.into());
        }
        let mut header = [0; HEADER_MAX];
        let end = read_words(at, &mut header[..usize::from(call.header)], memory)?;
        let (set, end) = match call.set {
            Some(start) => {
                let start = usize::from(start);
                let (set, end) = read_set(header[start], header[start + 1], control, end, memory)?;
                (Some(set), end)
            }
            None => (None, end),
        };
        Ok(Self {
            header,
            set,
            list: call.list.then_some((end, control)),
        })
    }

    /// The list of a rep call.
    pub(super) fn list<T>(&self) -> Option<List<A, T>> {
        let (at, control) = self.list?;
        Some(List::new(at, control.rep_start(), control.rep_count()))
    }
}

/// The rules about the control word alone.
fn check(call: &Definition, control: Control) -> Result<(), Status> {
    let (start, count) = (control.rep_start(), control.rep_count());
    let reps = if call.list {
        start < count
    } else {
        (start, count) == (0, 0)
    };
    let variable = call.set.is_some() || control.variable_header() == 0;
    let reserved = control.into_bits() & Control::RESERVED == 0;
    if reps && variable && reserved {
        Ok(())
    } else {
        Err(Status::INVALID_HYPERCALL_INPUT)
    }
}

/// Fills `words`, at most [`HEADER_MAX`], from `at` on and gives the address
/// after them. The caller has made sure that they are in one page.
fn read_words<A: GuestAddress>(
    at: A,
    words: &mut [u64],
    memory: &impl ReadMemory<A>,
) -> Result<A, Status> {
    let mut bytes = [0; HEADER_MAX * WORD as usize];
    let bytes = &mut bytes[..words.len() * WORD as usize];
    memory
        .read(at, bytes)
        .or(Err(Status::INVALID_HYPERCALL_INPUT))?;
    let (chunks, _) = bytes.as_chunks();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    at.checked_add(bytes.len() as u64)
        .ok_or(Status::INVALID_HYPERCALL_INPUT)
}

/// The VP set whose format and mask of banks are given and whose banks, the
/// variable header, begin at `at`; and the address after them.
fn read_set<A: GuestAddress>(
    format: u64,
    valid_banks: u64,
    control: Control,
    mut at: A,
    memory: &impl ReadMemory<A>,
) -> Result<(VpSet, A), Status> {
    if u32::from(control.variable_header()) != valid_banks.count_ones() {
        return Err(Status::INVALID_HYPERCALL_INPUT);
    }
    let format = VpSetFormat::from_word(format).ok_or(Status::INVALID_PARAMETER)?;
    let mut set = match format {
        VpSetFormat::All => VpSet::ALL,
        VpSetFormat::Sparse4K => VpSet::NONE,
    };
    let mut left = valid_banks;
    while left != 0 {
        let mut banks = [0; HEADER_MAX];
        let banks = &mut banks[..HEADER_MAX.min(left.count_ones() as usize)];
        at = read_words(at, banks, memory)?;
        for bank in banks {
            if format == VpSetFormat::Sparse4K {
                set.insert_bank(left.trailing_zeros(), *bank);
            }
            left &= left - 1;
        }
    }
    Ok((set, at))
}
