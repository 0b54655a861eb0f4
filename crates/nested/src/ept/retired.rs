//! Frames that were unlinked but may still be in use by a processor.

use addr::Spa;
use vmx::ept::{TableFrames, TableMemory};

use super::Attachment;

/// Which shadows a removal took something from, as far as VPs run on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affected {
    None,
    One(usize),
    Several,
}

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
    affected: Affected,
}

impl Retired {
    pub(super) const fn new() -> Self {
        Self {
            head: None,
            frames: 0,
            dropped: 0,
            affected: Affected::None,
        }
    }

    /// Whether some VP may hold translations that were removed. If not, the
    /// flush is complete as it stands.
    pub fn needs_shootdown(&self) -> bool {
        self.affected != Affected::None
    }

    /// Whether a VP that runs L2 on this shadow must leave L2 before the flush
    /// is complete.
    pub fn affects(&self, attachment: &Attachment) -> bool {
        match self.affected {
            Affected::None => false,
            Affected::One(slot) => slot == attachment.slot(),
            Affected::Several => true,
        }
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

    pub(super) fn affect(&mut self, slot: usize) {
        self.affected = match self.affected {
            Affected::None => Affected::One(slot),
            Affected::One(other) if other == slot => Affected::One(slot),
            _ => Affected::Several,
        };
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
