//! L1's memory and L0's tables as the `nested` crate wants to see them.

use core::sync::atomic::{AtomicU64, Ordering};

use addr::{Gpa1, PAGE_SIZE, Spa};
use nested::access::{Memory, Page, Unbacked, Vmcs};
use nested::ept::{L1Space, Region};
use platform::counters::Counter;
use vmx::ept::{Access, TableFrames, TableMemory};
use vmx::{Field, instructions};

use super::super::memory::{L1Memory, L1Word};
use super::super::{accesses, vmcs};
use crate::memory::{frames, pointer};

/// The VMCS that is current on this processor.
pub struct CurrentVmcs;

impl Vmcs for CurrentVmcs {
    #[inline(always)]
    fn read(&self, field: Field) -> u64 {
        vmcs::read(field)
    }

    #[inline(always)]
    fn write(&mut self, field: Field, value: u64) {
        vmcs::write(field, value);
    }

    #[inline(always)]
    fn write_from<const INDEX: usize, const N: usize>(&mut self, field: Field, values: &[u64; N]) {
        const { assert!(INDEX < N) }
        accesses::count(Counter::Writes02);
        // SAFETY: a VP's processor is in root operation with a current VMCS (see `vmcs`), and the
        // array has the word.
        unsafe { instructions::vmwrite_from::<INDEX>(field, values.as_ptr()) }
    }

    #[inline(always)]
    fn read_into_page<const OFFSET: u16>(&self, field: Field, page: &mut [u8; 4096]) {
        const { assert!(OFFSET as u64 + 8 <= PAGE_SIZE) }
        // SAFETY: as above; the page has eight bytes from the offset on.
        unsafe { instructions::vmread_to::<OFFSET>(field, page.as_mut_ptr()) }
    }

    #[inline(always)]
    fn write_from_page<const OFFSET: u16>(&mut self, field: Field, page: &[u8; 4096]) {
        const { assert!(OFFSET as u64 + 8 <= PAGE_SIZE) }
        // SAFETY: as above.
        unsafe { instructions::vmwrite_from_page::<OFFSET>(field, page.as_ptr()) }
    }
}

/// A 4 KiB page of L1's memory, which L1 may change at any moment.
///
/// What accesses a page many times between VMREADs does so by a copy of this of its own, which stays in a
/// register: the compiler takes a VMREAD to memory for one that may change what lies in the VP.
#[derive(Clone, Copy)]
pub struct L1Page(*mut u8);

impl L1Page {
    /// The page at `address`; `None` where L1 has no memory or `address` is no page's.
    #[inline]
    pub fn map(memory: &L1Memory, address: Gpa1) -> Option<Self> {
        (address.page_offset() == 0 && memory.has_page(address))
            .then(|| memory.translate(address).map(|at| Self(pointer(at))))
            .flatten()
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        #[inline(always)]
        fn $read(&self, offset: u16) -> $type {
            debug_assert!(usize::from(offset) + size_of::<$type>() <= PAGE_SIZE as usize);
            accesses::count(Counter::PageReads);
            // SAFETY: within the page, which is L1's memory for good, at an offset that is a
            // multiple of the width; volatile because L1 may write at the same time.
            unsafe { self.0.add(offset.into()).cast::<$type>().read_volatile() }
        }

        #[inline(always)]
        fn $write(&mut self, offset: u16, value: $type) {
            debug_assert!(usize::from(offset) + size_of::<$type>() <= PAGE_SIZE as usize);
            accesses::count(Counter::PageWrites);
            // SAFETY: as for the read.
            unsafe {
                self.0
                    .add(offset.into())
                    .cast::<$type>()
                    .write_volatile(value)
            }
        }
    };
}

impl Page for L1Page {
    #[inline(always)]
    fn save<const OFFSET: u16, const BYTES: u16, V: Vmcs>(&mut self, _: &V, field: Field) {
        const { assert!(OFFSET as u64 + 8 <= PAGE_SIZE) }
        accesses::count(Counter::Reads02);
        accesses::count(Counter::PageWrites);
        // SAFETY: the current VMCS is the one `V` stands for, as there is no other; eight bytes from
        // the offset on lie within the page.
        unsafe { instructions::vmread_to::<OFFSET>(field, self.0) }
    }

    access!(read_u16, write_u16, u16);
    access!(read_u32, write_u32, u32);
    access!(read_u64, write_u64, u64);
}

impl Memory for L1Memory {
    fn read(&self, at: Gpa1, into: &mut [u8]) -> Result<(), Unbacked> {
        if L1Memory::read(self, at, into) {
            Ok(())
        } else {
            Err(Unbacked(at))
        }
    }

    fn write(&mut self, at: Gpa1, from: &[u8]) -> Result<(), Unbacked> {
        if L1Memory::write(self, at, from) {
            Ok(())
        } else {
            Err(Unbacked(at))
        }
    }

    fn machine_page(&self, at: Gpa1) -> Option<Spa> {
        self.has_page(at).then(|| self.translate(at)).flatten()
    }
}

impl L1Space for L1Memory {
    type Word = L1Word;

    #[inline]
    fn word(&self, at: Gpa1) -> Option<L1Word> {
        L1Memory::word(self, at)
    }

    #[inline(always)]
    fn read_word(&self, word: L1Word) -> u64 {
        word.read()
    }

    /// Without the word's address as a value of its own: a walk reads each once.
    #[inline]
    fn read_u64(&self, at: Gpa1) -> Option<u64> {
        L1Memory::read_u64(self, at)
    }

    fn region(&self, at: Gpa1) -> Option<Region> {
        self.translate(at)?;
        Some(Region {
            start: Gpa1::new(0),
            bytes: self.size(),
            backing: self.base(),
            access: Access::RWX,
        })
    }
}

/// Frames that hold EPT tables, entry by entry.
pub struct TableAccess;

impl TableMemory for TableAccess {
    #[inline]
    fn load(&self, at: Spa) -> u64 {
        entry(at).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, at: Spa, value: u64) {
        entry(at).store(value, Ordering::Release);
    }
}

fn entry(at: Spa) -> &'static AtomicU64 {
    // SAFETY: tables lie in frames of L0's pool, which are mapped for good; other processors and
    // the hardware's walks touch them by 64-bit accesses too.
    unsafe { &*pointer::<AtomicU64>(at) }
}

/// Frames for tables, up to a limit.
pub struct TableSource {
    left: usize,
}

impl TableSource {
    /// A source of at most `limit` frames.
    pub const fn new(limit: usize) -> Self {
        Self { left: limit }
    }
}

impl TableFrames for TableSource {
    fn alloc(&mut self) -> Option<Spa> {
        self.left = self.left.checked_sub(1)?;
        let frame = frames::allocate();
        if frame.is_none() {
            self.left += 1;
        }
        frame
    }

    fn free(&mut self, frame: Spa) {
        // SAFETY: the shadow set gives back what it was given, once no processor uses it.
        unsafe { frames::free(frame) };
        self.left += 1;
    }
}
