//! Frames that were unlinked but may still be in use by a processor.

use addr::Spa;
use vmx::ept::{TableFrames, TableMemory};

use super::Holders;

/// What a flush has unlinked: tables that wait for every processor to let go
/// of them.
///
/// The list is kept in the frames themselves, so that a flush needs no memory.
/// The link is the first word of each table; as a multiple of 4 KiB it is an
/// entry that permits nothing, so a processor that still walks the table at
/// worst misses, and asks L0.
///
/// Dropping this without [`super::ShadowSet::release`] loses the frames.
#[must_use = "shoot down the affected VPs, then release the frames"]
#[derive(Debug)]
pub struct Retired {
    head: Option<Spa>,
    frames: usize,
    dropped: u64,
    affected: Holders,
}

impl Retired {
    pub(super) const fn new() -> Self {
        Self {
            head: None,
            frames: 0,
            dropped: 0,
            affected: Holders::NONE,
        }
    }

    /// Whether some VP may hold translations that were removed. If not, the
    /// flush is complete as it stands.
    pub fn needs_shootdown(&self) -> bool {
        self.affected != Holders::NONE
    }

    /// Whether the VP of this number, if it is in L2, must leave L2 before the
    /// flush is complete: it was attached to a shadow from which something was
    /// taken.
    pub fn affects(&self, vp: u8) -> bool {
        self.affected.contains(vp)
    }

    /// How many tables wait to be released.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How many entries were removed, a reference to a table counting as one.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn count_dropped(&mut self) {
        self.dropped += 1;
    }

    pub(super) fn affect(&mut self, holders: Holders) {
        self.affected = self.affected.with(holders);
    }

    /// Adds an unlinked table. Nothing may be read from its first entry after.
    pub(super) fn push(&mut self, memory: &impl TableMemory, table: Spa) {
        memory.store(table, self.head.map_or(0, Spa::raw));
        self.head = Some(table);
        self.frames += 1;
    }

    /// Gives all frames back.
    pub(super) fn free(self, memory: &impl TableMemory, frames: &mut impl TableFrames) {
        let mut next = self.head;
        while let Some(table) = next {
            let link = memory.load(table);
            next = (link != 0).then_some(Spa::new(link));
            frames.free(table);
        }
    }
}
