//! The pages behind the window of a measured VM.

use vm_memory::{MmapRegion, VolatileMemory};

use crate::error::{Error, Result, last_system_error};
use crate::paging::PAGE_SIZE;

/// Anonymous memory in 4 KiB pages, none of which exists until it is touched.
pub struct Window {
    region: MmapRegion<()>,
}

impl Window {
    /// Room for `pages` pages.
    pub fn new(pages: u64) -> Result<Self> {
        let region = MmapRegion::new((pages * PAGE_SIZE) as usize)
            .map_err(|e| Error::Memory(e.to_string()))?;
        let window = Window { region };
        // One huge page would serve 512 repetitions with one fault.
        window.advise(window.bytes(), libc::MADV_NOHUGEPAGE, "forbid huge pages")?;
        Ok(window)
    }

    /// Where it is in this process.
    pub fn address(&self) -> u64 {
        self.region.as_ptr().addr() as u64
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.region.size() as u64
    }

    /// Makes every page exist, writable, in this process's page tables.
    pub fn touch(&self) -> Result<()> {
        for offset in (0..self.bytes()).step_by(PAGE_SIZE as usize) {
            self.region
                .get_ref::<u8>(offset as usize)
                .map_err(|e| Error::Memory(e.to_string()))?
                .store(1);
        }
        Ok(())
    }

    /// Gives the first page back to the kernel: the next access meets a fresh one.
    pub fn drop_first_page(&self) -> Result<()> {
        self.advise(PAGE_SIZE, libc::MADV_DONTNEED, "drop a page")
    }

    /// Takes the right to write the pages away and gives it back: no CPU may keep the old translation.
    pub fn protect_and_open(&self) -> Result<()> {
        let protect = |rights| {
            // SAFETY: the range is the mapping that `region` owns. Nothing in this process writes to it.
            match unsafe { libc::mprotect(self.region.as_ptr().cast(), self.region.size(), rights) }
            {
                0 => Ok(()),
                _ => Err(last_system_error("protect a page")),
            }
        };
        protect(libc::PROT_READ)?;
        protect(libc::PROT_READ | libc::PROT_WRITE)
    }

    fn advise(&self, bytes: u64, advice: libc::c_int, what: &'static str) -> Result<()> {
        // SAFETY: the range is within the mapping that `region` owns. Its contents
        // may vanish: nothing in this process refers to them.
        let answer = unsafe { libc::madvise(self.region.as_ptr().cast(), bytes as usize, advice) };
        match answer {
            0 => Ok(()),
            _ => Err(last_system_error(what)),
        }
    }
}
