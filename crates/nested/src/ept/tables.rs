//! The tables of one shadow: putting leaves in, taking ranges out.

use addr::{Gpa2, Spa};
use vmx::ept::{Access, ENTRIES, EptEntry, Level, MemoryType, PageSize, TableFrames, TableMemory};

use super::leaves::{Leaf, Source};
use super::{Gpa2Range, Retired};

/// A leaf to be installed.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewLeaf {
    /// The address L2 used.
    pub at: Gpa2,
    /// Where that very byte is.
    pub to: Spa,
    /// The largest page that both sides allow around it.
    pub largest: PageSize,
    pub access: Access,
    pub memory_type: MemoryType,
    pub ignore_pat: bool,
    pub source: Source,
}

impl NewLeaf {
    /// The entry for a page of `size`, not above the largest.
    #[inline]
    pub fn entry(&self, size: PageSize) -> EptEntry {
        EptEntry::leaf(
            self.to.raw(),
            size,
            self.access,
            self.memory_type,
            self.ignore_pat,
        )
    }
}

/// A leaf that was installed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Installed {
    pub leaf: Leaf,
    /// Whether there was no leaf in the entry before.
    pub is_new: bool,
}

/// What installing leaves has done to a hierarchy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Tables linked.
    pub tables: usize,
    /// Whether a translation was replaced by one that permits less or leads
    /// elsewhere, so that processors may hold what the tables no longer do.
    pub replaced: bool,
    /// The page whose leaf gave way to a table.
    pub split: Option<Gpa2Range>,
}

/// There was no frame for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfFrames;

/// One hierarchy of four levels, by its root.
pub(super) struct Tables<'a, M> {
    pub memory: &'a M,
    pub root: Spa,
}

impl<M: TableMemory> Tables<'_, M> {
    fn load(&self, slot: Spa) -> EptEntry {
        EptEntry::from_raw(self.memory.load(slot))
    }

    fn store(&self, slot: Spa, entry: EptEntry) {
        self.memory.store(slot, entry.raw());
    }

    /// Installs a leaf, with the tables on the way.
    ///
    /// A table that is there is kept, even if a larger page would fit: taking
    /// it away would need a shoot-down, and smaller pages are never wrong.
    ///
    /// # Errors
    /// [`OutOfFrames`]; what was linked until then stays, and is in `changes`.
    pub fn install(
        &self,
        frames: &mut impl TableFrames,
        changes: &mut Changes,
        new: NewLeaf,
    ) -> Result<Installed, OutOfFrames> {
        let (mut table, mut level) = self.descend(&new);
        loop {
            let slot = entry_at(table, level.index(new.at.raw()));
            let entry = self.load(slot);
            let leads_on = entry.is_present() && !entry.is_leaf(level);
            if let Some(size) = level.page_size()
                && size <= new.largest
                && !leads_on
            {
                let leaf = new.entry(size);
                changes.replaced |= entry.is_present() && !only_adds(entry, leaf, size);
                self.store(slot, leaf);
                return Ok(Installed {
                    leaf: Leaf {
                        at: new.at.align_down(size.bytes()),
                        size,
                        slot,
                        entry: leaf,
                        source: new.source,
                    },
                    is_new: !entry.is_present(),
                });
            }
            if !leads_on {
                let frame = frames.alloc().ok_or(OutOfFrames)?;
                changes.tables += 1;
                if entry.is_present() {
                    let bytes = level.entry_bytes();
                    changes.replaced = true;
                    changes.split = Some(Gpa2Range::new(new.at.align_down(bytes), bytes));
                }
                self.store(slot, EptEntry::table(frame.raw()));
                table = frame;
            } else {
                table = Spa::new(entry.address());
            }
            // The page table has 4 KiB pages, so the loop has ended there.
            level = level.below().ok_or(OutOfFrames)?;
        }
    }

    /// The table below which a leaf's way ends or tables are missing, and its
    /// level: the page table, if all is there already.
    #[inline]
    fn descend(&self, new: &NewLeaf) -> (Spa, Level) {
        let mut table = self.root;
        for level in [Level::Pml4, Level::Pdpt, Level::Pd] {
            let entry = self.load(entry_at(table, level.index(new.at.raw())));
            if !entry.is_present() || entry.is_leaf(level) {
                return (table, level);
            }
            table = Spa::new(entry.address());
        }
        (table, Level::Pt)
    }

    /// Removes all that lies in `range`, and no more than the pages that
    /// overlap it. Tables that lie in it as a whole are retired.
    pub fn remove(&self, range: Gpa2Range, retired: &mut Retired) {
        self.remove_below(self.root, Level::Pml4, 0, range, retired);
    }

    /// `base` is the first address that the table covers.
    fn remove_below(
        &self,
        table: Spa,
        level: Level,
        base: u64,
        range: Gpa2Range,
        retired: &mut Retired,
    ) {
        if range.is_empty() {
            return;
        }
        let first = range.start().saturating_sub(base) / level.entry_bytes();
        let last = (range.end() - 1 - base) / level.entry_bytes();
        for index in first as usize..=(last as usize).min(ENTRIES - 1) {
            let slot = entry_at(table, index);
            let entry = self.load(slot);
            if !entry.is_present() {
                continue;
            }
            let start = base + index as u64 * level.entry_bytes();
            let covered = range.start() <= start && start + level.entry_bytes() <= range.end();
            match level.below() {
                Some(below) if !entry.is_leaf(level) => {
                    let child = Spa::new(entry.address());
                    if covered {
                        self.store(slot, EptEntry::EMPTY);
                        retired.count_dropped();
                        self.retire(child, below, retired);
                    } else {
                        self.remove_below(child, below, start, range, retired);
                    }
                }
                _ => {
                    self.store(slot, EptEntry::EMPTY);
                    retired.count_dropped();
                }
            }
        }
    }

    /// Retires an unlinked table with all tables below it.
    pub fn retire(&self, table: Spa, level: Level, retired: &mut Retired) {
        // A page table's entries lead to no table, so they need not be read.
        if level != Level::Pt
            && let Some(below) = level.below()
        {
            for index in 0..ENTRIES {
                let entry = self.load(entry_at(table, index));
                if entry.is_present() && !entry.is_leaf(level) {
                    self.retire(Spa::new(entry.address()), below, retired);
                }
            }
        }
        retired.push(self.memory, table);
    }
}

/// Whether `new` maps the same page as the leaf `old`, permitting at least as
/// much: then what a processor remembers of `old` is right, if not all.
pub(super) fn only_adds(old: EptEntry, new: EptEntry, size: PageSize) -> bool {
    old.page_address(size) == new.page_address(size) && new.access().contains(old.access())
}

fn entry_at(table: Spa, index: usize) -> Spa {
    Spa::new(table.raw() + 8 * index as u64)
}
