//! The calling convention (TLFS, "Hypercall Interface"): each of its rules
//! stands here once, for all calls.

use super::call::{Definition, HEADER_MAX};
use super::caller::{VectorRegisters, XMM_WORDS};
use super::list::{List, Place};
use super::vp_set::VpSet;
use crate::enlightenments::{Enlightenment, Set};
use crate::memory::{GuestAddress, ReadMemory};
use addr::PAGE_SIZE;
use tlfs::hypercall::{Control, Status, VpSetFormat};

/// Bytes of the unit in which headers and lists are measured.
const WORD: u64 = 8;
/// Words of input that fit the general registers.
pub(super) const GENERAL_WORDS: usize = 2;
/// Words of input that fit the general and the vector registers.
const FAST_WORDS: usize = GENERAL_WORDS + XMM_WORDS;

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
    list: Option<(Place<A>, Control)>,
}

impl<A: GuestAddress> Input<A> {
    /// Checks the control word, finds the input and copies it, for a guest that
    /// is offered `offered`.
    #[inline]
    pub(super) fn read(
        call: &Definition,
        control: Control,
        operands: [u64; 2],
        offered: Set,
        memory: &impl ReadMemory<A>,
        vectors: &impl VectorRegisters,
    ) -> Result<Self, Failure> {
        check(call, control)?;
        let words = usize::from(call.header)
            + usize::from(control.variable_header())
            + usize::from(control.rep_count());
        let mut from = if control.fast() {
            if words > GENERAL_WORDS {
                check_vectors(words, offered)?;
            }
            Cursor {
                place: Place::Registers(0),
                operands,
                memory,
                vectors,
            }
        } else {
            let at = A::new(operands[0]);
            let offset = at.page_offset();
            if !offset.is_multiple_of(WORD) || offset + words as u64 * WORD > PAGE_SIZE {
                return Err(Status::INVALID_ALIGNMENT.into());
            }
            Cursor {
                place: Place::Memory(at),
                operands,
                memory,
                vectors,
            }
        };
        let mut header = [0; HEADER_MAX];
        from.take(&mut header[..usize::from(call.header)])?;
        let set = match call.set {
            Some(start) => {
                let start = usize::from(start);
                let set = read_set(header[start], header[start + 1], control, &mut from)?;
                Some(set)
            }
            None => None,
        };
        Ok(Self {
            header,
            set,
            list: call.list.then_some((from.place, control)),
        })
    }

    /// The list of a rep call.
    pub(super) fn list(&self) -> Option<List<A>> {
        let (at, control) = self.list?;
        Some(List::new(at, control.rep_start(), control.rep_count()))
    }

    /// Whether the call has a list.
    pub(super) fn has_list(&self) -> bool {
        self.list.is_some()
    }
}

/// The rules about the control word alone.
#[inline]
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

/// The rules about fast input that is longer than the general registers: where
/// vector registers are not offered (leaf 0x40000003 EDX bit 4), the attempt is
/// an undefined instruction.
#[cold]
fn check_vectors(words: usize, offered: Set) -> Result<(), Failure> {
    if !offered.has(Enlightenment::XmmInput) {
        return Err(Failure::Undefined);
    }
    if words > FAST_WORDS {
        return Err(Status::INVALID_HYPERCALL_INPUT.into());
    }
    Ok(())
}

/// Where the next words of the input come from. The caller has made sure that
/// all of them are in one page or in the registers.
struct Cursor<'c, A, M, V> {
    place: Place<A>,
    operands: [u64; 2],
    memory: &'c M,
    vectors: &'c V,
}

impl<A: GuestAddress, M: ReadMemory<A>, V: VectorRegisters> Cursor<'_, A, M, V> {
    /// Fills `words` with those that come next.
    #[inline]
    fn take(&mut self, words: &mut [u64]) -> Result<(), Status> {
        match &mut self.place {
            Place::Memory(at) => {
                let unmapped = Err(Status::INVALID_HYPERCALL_INPUT);
                self.memory.read_words(*at, words).or(unmapped)?;
                let next = at.checked_add(words.len() as u64 * WORD);
                *at = next.ok_or(Status::INVALID_HYPERCALL_INPUT)?;
            }
            Place::Registers(at) => {
                let end = usize::from(*at) + words.len();
                let xmm = if end > GENERAL_WORDS {
                    self.vectors.xmm()
                } else {
                    [0; XMM_WORDS]
                };
                for (n, word) in (usize::from(*at)..).zip(words) {
                    *word = match n.checked_sub(GENERAL_WORDS) {
                        Some(n) => xmm.get(n).copied().unwrap_or(0),
                        None => self.operands[n],
                    };
                }
                *at = end as u8;
            }
        }
        Ok(())
    }
}

/// The VP set whose format and mask of banks are given and whose banks, the
/// variable header, come next.
fn read_set<A: GuestAddress, M: ReadMemory<A>, V: VectorRegisters>(
    format: u64,
    valid_banks: u64,
    control: Control,
    from: &mut Cursor<'_, A, M, V>,
) -> Result<VpSet, Status> {
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
        from.take(banks)?;
        for bank in banks {
            if format == VpSetFormat::Sparse4K {
                set.insert_bank(left.trailing_zeros(), *bank);
            }
            left &= left - 1;
        }
    }
    Ok(set)
}
