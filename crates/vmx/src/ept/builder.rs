//! Building EPT 01: a partition's memory, mapped with the largest pages.

use addr::{Gpa1, PAGE_SIZE, Spa};

use super::{
    Access, EptCapabilities, EptEntry, Eptp, Level, MemoryType, PageSize, TableFrames, TableMemory,
    WIDTH_OF_4_LEVELS,
};

/// Why a range cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The guest address, the system address or the length is no multiple of
    /// 4 KiB.
    Unaligned,
    /// The range passes the end of the guest's or the system's address space.
    TooFar,
    /// The processor has no entry for these permissions.
    Inexpressible(Access),
    /// Something is mapped at this address already.
    Occupied(Gpa1),
    /// The source of frames is empty. What was mapped before stays mapped.
    OutOfFrames,
}

/// A page found by [`Builder::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The system address that the guest address translates to.
    pub address: Spa,
    /// The size of the page it lies in.
    pub size: PageSize,
    /// What the page permits.
    pub access: Access,
}

/// A four-level hierarchy under construction: EPT 01 of one partition.
///
/// Meant to be used before the partition runs. Adding a mapping to a live
/// hierarchy is safe (tables are complete before they are referred to); there
/// is no way to take one away here.
pub struct Builder<'a, M, F> {
    memory: &'a M,
    frames: &'a mut F,
    capabilities: EptCapabilities,
    root: Spa,
}

impl<'a, M: TableMemory, F: TableFrames> Builder<'a, M, F> {
    /// An empty hierarchy, its root taken from `frames`. `capabilities` are
    /// the processor's; they decide the largest page.
    ///
    /// # Errors
    /// [`MapError::OutOfFrames`].
    pub fn new(
        memory: &'a M,
        frames: &'a mut F,
        capabilities: EptCapabilities,
    ) -> Result<Self, MapError> {
        let root = frames.alloc().ok_or(MapError::OutOfFrames)?;
        Ok(Self::resume(memory, frames, capabilities, root))
    }

    /// Goes on with a hierarchy built before.
    pub fn resume(
        memory: &'a M,
        frames: &'a mut F,
        capabilities: EptCapabilities,
        root: Spa,
    ) -> Self {
        Self {
            memory,
            frames,
            capabilities,
            root,
        }
    }

    /// The root table.
    pub fn root(&self) -> Spa {
        self.root
    }

    /// The pointer for the partition's VMCSs.
    pub fn eptp(&self) -> Eptp {
        Eptp::new(self.root.raw())
    }

    /// Maps `bytes` of the guest's memory from `guest` on to the contiguous
    /// memory from `system` on, with pages as large as the processor, the
    /// alignment of both addresses and the length allow.
    ///
    /// # Errors
    /// See [`MapError`]. On one, a part of the range may be mapped.
    pub fn map(
        &mut self,
        guest: Gpa1,
        system: Spa,
        bytes: u64,
        access: Access,
        memory_type: MemoryType,
    ) -> Result<(), MapError> {
        if (guest.raw() | system.raw() | bytes) & (PAGE_SIZE - 1) != 0 {
            return Err(MapError::Unaligned);
        }
        let fits = |start: u64, width: u32| {
            start
                .checked_add(bytes)
                .is_some_and(|end| end <= 1 << width)
        };
        if !fits(guest.raw(), WIDTH_OF_4_LEVELS)
            || !fits(system.raw(), self.capabilities.address_width)
        {
            return Err(MapError::TooFar);
        }
        if access.is_empty() || !self.capabilities.can_express(access) {
            return Err(MapError::Inexpressible(access));
        }
        let mut done = 0;
        while done < bytes {
            let guest = Gpa1::new(guest.raw() + done);
            let system = Spa::new(system.raw() + done);
            let size = self.largest(guest, system, bytes - done);
            let slot = self.slot(guest, size)?;
            let leaf = EptEntry::leaf(system.raw(), size, access, memory_type, false);
            self.memory.store(slot, leaf.raw());
            done += size.bytes();
        }
        Ok(())
    }

    /// Where a guest address leads, `None` if nothing is mapped there.
    pub fn lookup(&self, guest: Gpa1) -> Option<Leaf> {
        if guest.raw() >> WIDTH_OF_4_LEVELS != 0 {
            return None;
        }
        let mut table = self.root;
        let mut level = Level::Pml4;
        loop {
            let entry = EptEntry::from_raw(self.memory.load(slot_of(table, level, guest)));
            if !entry.is_present() {
                return None;
            }
            if let Some(size) = level.page_size()
                && entry.is_leaf(level)
            {
                let offset = guest.raw() & (size.bytes() - 1);
                return Some(Leaf {
                    address: Spa::new(entry.page_address(size) + offset),
                    size,
                    access: entry.access(),
                });
            }
            table = Spa::new(entry.address());
            level = level.below()?;
        }
    }

    fn largest(&self, guest: Gpa1, system: Spa, bytes: u64) -> PageSize {
        let fits = |size: &PageSize| {
            self.capabilities.leaf_at(size.level())
                && bytes >= size.bytes()
                && (guest.raw() | system.raw()) & (size.bytes() - 1) == 0
        };
        PageSize::DESCENDING
            .into_iter()
            .find(fits)
            .unwrap_or(PageSize::Size4K)
    }

    /// The address of the empty entry for a page of `size` at `guest`, with
    /// the tables on the way to it.
    fn slot(&mut self, guest: Gpa1, size: PageSize) -> Result<Spa, MapError> {
        let mut table = self.root;
        let mut level = Level::Pml4;
        loop {
            let slot = slot_of(table, level, guest);
            let entry = EptEntry::from_raw(self.memory.load(slot));
            if level == size.level() {
                return if entry.is_present() {
                    Err(MapError::Occupied(guest))
                } else {
                    Ok(slot)
                };
            }
            let Some(below) = level.below() else {
                return Err(MapError::Occupied(guest));
            };
            table = if !entry.is_present() {
                let frame = self.frames.alloc().ok_or(MapError::OutOfFrames)?;
                self.memory.store(slot, EptEntry::table(frame.raw()).raw());
                frame
            } else if entry.is_leaf(level) {
                return Err(MapError::Occupied(guest));
            } else {
                Spa::new(entry.address())
            };
            level = below;
        }
    }
}

/// The address of the entry that `guest` selects in a table.
fn slot_of(table: Spa, level: Level, guest: Gpa1) -> Spa {
    Spa::new(table.raw() + 8 * level.index(guest.raw()) as u64)
}

#[cfg(test)]
mod tests;
