//! L1's memory as L0 sees it.
//!
//! One contiguous range of the machine, at Gpa1 0. L1's processors change it at any moment, so
//! there are no references into it: words are copied out and in by volatile accesses, and code
//! that decides on a value decides on its copy.

use core::ptr::NonNull;

use addr::{Gpa1, PAGE_SIZE, Spa};

use crate::memory::pointer;

/// The partition's memory.
#[derive(Clone, Copy, Debug)]
pub struct L1Memory {
    base: Spa,
    size: u64,
}

/// An aligned word of 8 bytes in the partition's memory.
#[derive(Clone, Copy, Debug)]
pub struct L1Word(NonNull<u64>);

impl L1Word {
    /// What it holds.
    #[inline(always)]
    pub fn read(self) -> u64 {
        // SAFETY: made by `L1Memory::word` alone: in L1's memory, aligned, mapped for good; volatile
        // because L1 may write at the same time, which is a race only for L1.
        unsafe { self.0.read_volatile() }
    }
}

macro_rules! word {
    ($read:ident, $type:ty) => {
        /// Reads a naturally aligned word; `None` outside of the memory or unaligned.
        #[inline]
        pub fn $read(&self, address: Gpa1) -> Option<$type> {
            let bytes = size_of::<$type>() as u64;
            let from = self.check(address, bytes, bytes)?;
            // SAFETY: in L1's memory, aligned, mapped for good; volatile because L1 may write
            // at the same time, which is a race only for L1.
            Some(unsafe { pointer::<$type>(from).read_volatile() })
        }
    };
}

impl L1Memory {
    /// The memory of `size` bytes at `base`.
    ///
    /// # Safety
    /// The range is ordinary memory that belongs to the partition alone.
    pub unsafe fn new(base: Spa, size: u64) -> Self {
        Self { base, size }
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it begins in the machine.
    pub fn base(&self) -> Spa {
        self.base
    }

    /// All of it.
    ///
    /// # Safety
    /// No VP runs, and nothing writes to it, as long as the slice lives.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the range is the partition's memory, mapped for good; nobody writes to it.
        unsafe { core::slice::from_raw_parts(pointer(self.base), self.size as usize) }
    }

    /// All of it, to be written.
    ///
    /// # Safety
    /// No VP runs, and nothing else touches it, as long as the slice lives.
    #[expect(clippy::mut_from_ref, reason = "L1's memory is no part of this value")]
    pub unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: as above; nobody else touches it.
        unsafe { core::slice::from_raw_parts_mut(pointer(self.base), self.size as usize) }
    }

    /// The system address of an L1 address; `None` outside of the memory.
    #[inline]
    pub fn translate(&self, address: Gpa1) -> Option<Spa> {
        self.check(address, 1, 1)
    }

    /// Whether the whole 4 KiB page of the address is memory.
    #[inline]
    pub fn has_page(&self, address: Gpa1) -> bool {
        self.check(address.page(), PAGE_SIZE, 1).is_some()
    }

    #[inline]
    fn check(&self, address: Gpa1, bytes: u64, align: u64) -> Option<Spa> {
        let raw = address.raw();
        if raw & (align - 1) != 0 || raw > self.size || self.size - raw < bytes {
            return None;
        }
        Some(Spa::new(self.base.raw() + raw))
    }

    word!(read_u32, u32);
    word!(read_u64, u64);

    /// A naturally aligned word, to be read at any time; `None` outside of the memory or unaligned.
    #[inline]
    pub fn word(&self, address: Gpa1) -> Option<L1Word> {
        let at = self.check(address, 8, 8)?;
        NonNull::new(pointer(at)).map(L1Word)
    }

    /// Copies naturally aligned words out; `false`, with nothing copied, when part of them is not
    /// memory.
    #[inline]
    pub fn read_words(&self, address: Gpa1, to: &mut [u64]) -> bool {
        let Some(from) = self.check(address, size_of_val(to) as u64, 8) else {
            return false;
        };
        let from = pointer::<u64>(from);
        for (i, word) in to.iter_mut().enumerate() {
            // SAFETY: within the checked range, aligned; volatile as for single words.
            *word = unsafe { from.add(i).read_volatile() };
        }
        true
    }

    /// Copies bytes out; `false`, with nothing copied, when part of them is not memory.
    pub fn read(&self, address: Gpa1, to: &mut [u8]) -> bool {
        let Some(from) = self.check(address, to.len() as u64, 1) else {
            return false;
        };
        // Aligned words are copied whole: L1 and L0 agree on them without a lock.
        if from.is_aligned(8) && to.len().is_multiple_of(8) {
            let from = pointer::<u64>(from);
            for (i, word) in to.chunks_exact_mut(8).enumerate() {
                // SAFETY: within the checked range; volatile as for words.
                let value = unsafe { from.add(i).read_volatile() };
                word.copy_from_slice(&value.to_ne_bytes());
            }
            return true;
        }
        let from = pointer::<u8>(from);
        for (i, byte) in to.iter_mut().enumerate() {
            // SAFETY: within the checked range; volatile as for words.
            *byte = unsafe { from.add(i).read_volatile() };
        }
        true
    }

    /// Copies bytes in; `false`, with nothing copied, when part of them is not memory.
    pub fn write(&self, address: Gpa1, from: &[u8]) -> bool {
        let Some(to) = self.check(address, from.len() as u64, 1) else {
            return false;
        };
        if let (true, Ok(bytes)) = (to.is_aligned(4), from.try_into()) {
            // SAFETY: within the checked range; volatile as for words.
            unsafe { pointer::<u32>(to).write_volatile(u32::from_ne_bytes(bytes)) };
            return true;
        }
        if to.is_aligned(8) && from.len().is_multiple_of(8) {
            let to = pointer::<u64>(to);
            for (i, word) in from.as_chunks::<8>().0.iter().enumerate() {
                // SAFETY: within the checked range; volatile as for words.
                unsafe { to.add(i).write_volatile(u64::from_ne_bytes(*word)) };
            }
            return true;
        }
        let to = pointer::<u8>(to);
        for (i, byte) in from.iter().enumerate() {
            // SAFETY: within the checked range; volatile as for words.
            unsafe { to.add(i).write_volatile(*byte) };
        }
        true
    }

    /// Copies bytes in before L1 runs, as fast as it goes.
    pub fn load(&self, address: Gpa1, from: &[u8]) -> bool {
        let Some(to) = self.check(address, from.len() as u64, 1) else {
            return false;
        };
        // SAFETY: within the checked range; no VP runs yet, and `from` lies in L0's memory or in
        // a module, neither of which is L1's.
        unsafe {
            pointer::<u8>(to).copy_from_nonoverlapping(from.as_ptr(), from.len());
        }
        true
    }
}
