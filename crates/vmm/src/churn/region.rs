//! The memory that is changed under the guest, from the vmm's side.

use core::ptr;

use vm_memory::{MmapRegion, VolatileMemory};

use super::content::{Content, WORDS};
use crate::error::{Error, Result, last_system_error};
use crate::paging::PAGE_SIZE;

/// A huge page of x86.
pub const HUGE: u64 = 2 << 20;

/// Anonymous memory, aligned to huge pages. The kernel is asked for huge pages in
/// the first half and for small ones in the second.
pub struct Region {
    // Larger than what is used, for the alignment; one page at its end is `spare`.
    mapping: MmapRegion<()>,
    start: usize,
    pages: u64,
}

impl Region {
    /// `bytes` of it: a multiple of two huge pages.
    pub fn new(bytes: u64) -> Result<Self> {
        let mapping = MmapRegion::new((bytes + HUGE + PAGE_SIZE) as usize)
            .map_err(|e| Error::Memory(e.to_string()))?;
        let start =
            mapping.as_ptr().addr().next_multiple_of(HUGE as usize) - mapping.as_ptr().addr();
        let region = Region {
            mapping,
            start,
            pages: bytes / PAGE_SIZE,
        };
        let half = region.pages / 2;
        // A kernel without huge pages refuses; small ones will do.
        let _ = region.advise(0, half, libc::MADV_HUGEPAGE);
        let _ = region.advise(half, region.pages - half, libc::MADV_NOHUGEPAGE);
        Ok(region)
    }

    /// Where it is in this process.
    pub fn address(&self) -> u64 {
        self.page(0).addr() as u64
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    fn page(&self, n: u64) -> *mut u8 {
        self.mapping
            .as_ptr()
            .wrapping_add(self.start + (n * PAGE_SIZE) as usize)
    }

    /// The page for [`swap`](Self::swap), after the last.
    fn spare(&self) -> *mut u8 {
        self.page(self.pages)
    }

    fn advise(&self, page: u64, pages: u64, advice: libc::c_int) -> Result<()> {
        assert!(page + pages <= self.pages);
        // SAFETY: the range is within the mapping that `self` owns. Its contents may
        // vanish: this process has no references into it.
        let answer =
            unsafe { libc::madvise(self.page(page).cast(), (pages * PAGE_SIZE) as usize, advice) };
        match answer {
            0 => Ok(()),
            _ => Err(last_system_error("give advice on the guest's memory")),
        }
    }

    /// Gives a page back to the kernel, as a balloon does: whoever touches it next
    /// finds a page of zeroes.
    pub fn zap(&mut self, page: u64) -> Result<()> {
        self.advise(page, 1, libc::MADV_DONTNEED)
    }

    /// Lets two pages change places. Both stay in use: who still takes one for the
    /// other finds the other's contents, and destroys them by a write.
    pub fn swap(&mut self, one: u64, other: u64) -> Result<()> {
        assert!(one < self.pages && other < self.pages);
        self.move_page(self.page(one), self.spare())?;
        self.move_page(self.page(other), self.page(one))?;
        self.move_page(self.spare(), self.page(other))
    }

    /// Moves what is behind a page; what was behind `to` goes, and `from` stays
    /// mapped, to zeroes.
    fn move_page(&self, from: *mut u8, to: *mut u8) -> Result<()> {
        const SIZE: usize = PAGE_SIZE as usize;
        const FLAGS: libc::c_int =
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        // SAFETY: both are pages of the mapping that `self` owns, which stays mapped as
        // a whole. This process has no references into it.
        let answer = unsafe { libc::mremap(from.cast(), SIZE, SIZE, FLAGS, to) };
        match ptr::eq(answer, to.cast()) {
            true => Ok(()),
            false => Err(last_system_error("move a page of the guest's memory")),
        }
    }

    /// Writes a page.
    pub fn write(&mut self, page: u64, content: Content) -> Result<()> {
        for (n, word) in content.words().enumerate() {
            self.word(page, n as u64)?.store(word);
        }
        Ok(())
    }

    /// Reads a page.
    pub fn read(&self, page: u64) -> Result<Vec<u64>> {
        (0..WORDS).map(|n| Ok(self.word(page, n)?.load())).collect()
    }

    fn word(&self, page: u64, n: u64) -> Result<vm_memory::VolatileRef<'_, u64>> {
        let offset = self.start + (page * PAGE_SIZE + n * 8) as usize;
        self.mapping
            .get_ref(offset)
            .map_err(|e| Error::Memory(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(region: &Region, page: u64) -> Vec<u64> {
        region.read(page).unwrap()
    }

    #[test]
    fn pages_are_dropped_and_change_places() {
        let mut region = Region::new(2 * HUGE).unwrap();
        assert_eq!(region.address() % HUGE, 0);
        let (one, other) = (Content::of(1, 1), Content::of(700, 1));
        region.write(1, one).unwrap();
        region.write(700, other).unwrap();
        region.swap(1, 700).unwrap();
        assert!(words(&region, 1).into_iter().eq(other.words()));
        assert!(words(&region, 700).into_iter().eq(one.words()));
        region.swap(700, 1).unwrap();
        assert!(words(&region, 1).into_iter().eq(one.words()));
        region.zap(1).unwrap();
        assert!(words(&region, 1).iter().all(|&word| word == 0));
        assert!(words(&region, 700).into_iter().eq(other.words()));
    }

    #[test]
    fn a_page_that_was_never_touched_can_change_places() {
        let mut region = Region::new(2 * HUGE).unwrap();
        region.write(2, Content::of(2, 1)).unwrap();
        region.swap(2, 3).unwrap();
        assert!(words(&region, 2).iter().all(|&word| word == 0));
        assert!(words(&region, 3).into_iter().eq(Content::of(2, 1).words()));
    }
}
