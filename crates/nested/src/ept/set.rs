//! The shadows of one partition.

use alloc::boxed::Box;
use alloc::sync::Arc;

use addr::{Gpa1, Gpa2, Spa};
use vmx::ept::{
    Access, EptCapabilities, EptEntry, Eptp, Level, MemoryType, PageSize, TableFrames, TableMemory,
};

use super::compose::compose;
use super::epoch::Holders;
use super::leaves::{Leaf, Leaves};
use super::tables::{Changes, NewLeaf, OutOfFrames, Tables, only_adds};
use super::walk::Walker;
use super::{Attachment, Epochs, Gpa2Range, L1Space, Misconfigured, Retired, Violation, VpView};

/// Frames the pool needs per VP so that L2 always gets on: a root, and the
/// tables for all the pages that one instruction can touch at worst (some ten
/// linear pages, each with the four tables of L2's own walk to it, three
/// tables of EPT 02 each).
pub const MIN_FRAMES: usize = 160;

/// What decides the shape of shadow entries.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What L1 was offered: the measure for EPT 12.
    pub offered: EptCapabilities,
    /// What the processor has: the limit for EPT 02. Clear `page_1g` or
    /// `page_2m` to keep shadow pages small.
    pub hardware: EptCapabilities,
    /// The memory type of shadow leaves.
    pub memory_type: MemoryType,
    /// Whether shadow leaves override L2's PAT.
    pub ignore_pat: bool,
}

/// What became of an EPT violation of L2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fill {
    /// The shadow has a page of this size now: resume L2.
    Filled(PageSize),
    /// EPT 12 does not permit the access: exit 48 to L1.
    Violation(Violation),
    /// EPT 12 is malformed there: exit 49 to L1.
    Misconfigured(Misconfigured),
    /// L1 maps L2 to an address where it has no memory: L0 decides, for
    /// example by emulating a device access.
    NotBacked(Gpa1),
    /// L1 has memory there and permits the access but L0 does not: L0 decides.
    Protected(Gpa1),
    /// The pool is empty and every shadow is in use: [`ShadowSet::reclaim`],
    /// then try again.
    OutOfFrames,
}

/// Why a VP cannot be given a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The pool is empty and every shadow is in use: [`ShadowSet::reclaim`],
    /// then try again.
    OutOfFrames,
    /// Every slot is held by a VP: the set has fewer slots than VPs.
    NoSlot,
}

/// What has happened in a set so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Leaves installed.
    pub fills: u64,
    /// Shadows created.
    pub created: u64,
    /// Shadows that gave way to another one.
    pub evicted: u64,
    /// Shadows in use that were emptied because the pool was.
    pub reclaimed: u64,
}

/// A shadow, or a place for one.
#[derive(Debug)]
struct Slot {
    /// The root page of EPT 12; `None` if there is no shadow here.
    tag: Option<Gpa1>,
    /// The root of EPT 02, if there is a shadow.
    root: Spa,
    /// VPs attached.
    holders: Holders,
    /// The set's clock at the last use.
    used: u64,
    /// Tables below the root.
    tables: usize,
    leaves: Leaves,
    /// Whether a translation was replaced since the last flush: processors may
    /// hold what the tables do not show any more, so the next flush must reach
    /// them even if it finds nothing to remove.
    replaced: bool,
}

impl Slot {
    /// Takes a range out of the tables and off the list.
    fn remove(&mut self, memory: &impl TableMemory, range: Gpa2Range, retired: &mut Retired) {
        let frames = retired.frames();
        let root = self.root;
        Tables { memory, root }.remove(range, retired);
        self.tables = self.tables.saturating_sub(retired.frames() - frames);
        self.leaves.forget_range(range);
    }
}

/// The shadows of one partition, their frames, and the rule for evicting.
///
/// Every method with `&mut self` is called under the one lock that the owner
/// keeps for the set; see the [module](super) for what else is asked of it.
#[derive(Debug)]
pub struct ShadowSet<M, F> {
    memory: M,
    frames: F,
    policy: Policy,
    slots: Box<[Slot]>,
    epochs: Arc<Epochs>,
    clock: u64,
    statistics: Statistics,
}

impl<M: TableMemory, F: TableFrames> ShadowSet<M, F> {
    /// A set for up to `slots` shadows, more than the partition has VPs. The
    /// pool `frames` bounds its memory: [`MIN_FRAMES`] per VP at least. A frame
    /// of the pool is used for nothing else without an all-context INVEPT on
    /// all processors.
    ///
    /// Allocates; nothing later does, except from `frames`.
    pub fn new(memory: M, frames: F, policy: Policy, slots: usize) -> Self {
        let empty = || Slot {
            tag: None,
            root: Spa::new(0),
            holders: Holders::NONE,
            used: 0,
            tables: 0,
            leaves: Leaves::new(),
            replaced: false,
        };
        Self {
            memory,
            frames,
            policy,
            slots: (0..slots).map(|_| empty()).collect(),
            epochs: Epochs::new(slots),
            clock: 0,
            statistics: Statistics::default(),
        }
    }

    /// The view for one VP, attached to nothing. Allocates.
    pub fn view(&self) -> VpView {
        VpView::new(self.epochs.clone())
    }

    /// What entries are judged by and made like.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// How often something was taken from the shadow of the EPT 12 with this
    /// root page (its creation counts once); `None` if there is none.
    pub fn generation(&self, root12: Gpa1) -> Option<u64> {
        Some(self.epochs.get(self.find(root12)?))
    }

    /// Attaches a VP to the shadow of `eptp12`, which has passed
    /// [`Eptp::check`]; creates it if need be. The VP lets go of the shadow it
    /// was on. It is in L0, not in L2. `number` is what [`Retired::affects`] is
    /// to know it by; no two VPs have the same.
    ///
    /// # Errors
    /// See [`AttachError`]; the VP is then attached to nothing.
    ///
    /// # Panics
    /// If `number` is 64 or more.
    pub fn attach(&mut self, vp: &mut VpView, number: u8, eptp12: Eptp) -> Result<(), AttachError> {
        if vp.is_on(eptp12) {
            return Ok(());
        }
        self.detach(vp);
        let tag = Gpa1::new(eptp12.root());
        let index = match self.find(tag) {
            Some(index) => index,
            None => self.create(tag)?,
        };
        self.clock += 1;
        let slot = &mut self.slots[index];
        let holder = Holders::one(number);
        slot.holders = slot.holders.with(holder);
        slot.used = self.clock;
        vp.take_on(Attachment::new(tag, index, slot.root, holder));
        Ok(())
    }

    /// Makes a VP let go of its shadow, which stays for the next user until
    /// its memory is wanted. The VP is in L0, not in L2.
    pub fn detach(&mut self, vp: &mut VpView) {
        if let Some(attachment) = vp.take_current()
            && let Some(slot) = self.slots.get_mut(attachment.slot())
        {
            slot.holders = slot.holders.without(attachment.holder());
        }
    }

    /// Answers an EPT violation (or misconfiguration) of L2 at `at`: composes
    /// EPT 12's translation with L1's memory map and installs it.
    ///
    /// Permissions are those that all entries of EPT 12 on the path and the
    /// region share. The page is the largest that EPT 12's leaf, the region
    /// and the processor allow.
    pub fn fill(&mut self, on: &Attachment, l1: &impl L1Space, at: Gpa2, access: Access) -> Fill {
        let eptp12 = Eptp::new(on.tag().raw());
        let mut walker = Walker::<_, 1>::new(eptp12, &self.policy.offered, l1);
        match compose(&self.policy, &mut walker, l1, at, access) {
            Ok(leaf) => self.install(on.slot(), leaf),
            Err(refusal) => refusal,
        }
    }

    /// Forgets what is cached of the EPT 12 with this root page: single-context
    /// INVEPT, HvFlushGuestPhysicalAddressSpace. A root that is not shadowed
    /// has nothing cached, and that is a success too.
    ///
    /// What the shadow has is compared with EPT 12, if it is not too much: an
    /// entry that agrees stays, as it would come back at the next violation.
    pub fn flush_space(&mut self, root12: Gpa1, l1: &impl L1Space) -> Retired {
        let mut retired = Retired::new();
        if let Some(index) = self.find(root12.page()) {
            if self.slots[index].leaves.is_complete() {
                self.resynchronise(index, l1, &mut retired);
            } else {
                self.remove(index, [Gpa2Range::ALL], &mut retired);
            }
        }
        retired
    }

    /// Forgets what is cached of these ranges of the EPT 12 with this root
    /// page: HvFlushGuestPhysicalAddressList. The cost is that of what is
    /// mapped there.
    pub fn flush_ranges(
        &mut self,
        root12: Gpa1,
        ranges: impl IntoIterator<Item = Gpa2Range>,
    ) -> Retired {
        let mut retired = Retired::new();
        if let Some(index) = self.find(root12.page()) {
            self.remove(index, ranges, &mut retired);
        }
        retired
    }

    /// Forgets everything: all-context INVEPT, or a change of L1's memory map.
    pub fn flush_all(&mut self) -> Retired {
        let mut retired = Retired::new();
        for index in 0..self.slots.len() {
            if self.slots[index].tag.is_some() {
                self.remove(index, [Gpa2Range::ALL], &mut retired);
            }
        }
        retired
    }

    /// Frees memory after [`Fill::OutOfFrames`] or [`AttachError::OutOfFrames`]
    /// by emptying the shadow least recently used, `on` itself only if no other
    /// has tables.
    ///
    /// If the result holds no frame, those missing are in another VP's hands,
    /// about to be released; or the pool is below its minimum.
    pub fn reclaim(&mut self, on: Option<&Attachment>) -> Retired {
        let own = on.map(Attachment::slot);
        let mut retired = Retired::new();
        let victim = (0..self.slots.len())
            .filter(|&index| self.slots[index].tables > 0)
            .min_by_key(|&index| (own == Some(index), self.slots[index].used));
        if let Some(index) = victim {
            self.remove(index, [Gpa2Range::ALL], &mut retired);
            self.statistics.reclaimed += 1;
        }
        retired
    }

    /// Gives unlinked frames back, once no VP can use them any more.
    pub fn release(&mut self, retired: Retired) {
        retired.free(&self.memory, &mut self.frames);
    }

    /// The slot of the shadow of this EPT 12.
    fn find(&self, tag: Gpa1) -> Option<usize> {
        self.slots.iter().position(|slot| slot.tag == Some(tag))
    }

    /// Makes a shadow, in the place of the least recently used one if all
    /// places are taken.
    fn create(&mut self, tag: Gpa1) -> Result<usize, AttachError> {
        let index = loop {
            if let Some(index) = self.slots.iter().position(|slot| slot.tag.is_none()) {
                break index;
            }
            if !self.evict() {
                return Err(AttachError::NoSlot);
            }
        };
        let root = loop {
            if let Some(root) = self.frames.alloc() {
                break root;
            }
            if !self.evict() {
                return Err(AttachError::OutOfFrames);
            }
        };
        let slot = &mut self.slots[index];
        slot.tag = Some(tag);
        slot.root = root;
        slot.used = self.clock;
        // The root may have been another shadow's, or a table: no processor
        // may enter on it with what it remembers from then.
        self.epochs.raise(index);
        self.statistics.created += 1;
        Ok(index)
    }

    fn install(&mut self, index: usize, leaf: NewLeaf) -> Fill {
        self.clock += 1;
        self.slots[index].used = self.clock;
        loop {
            let slot = &mut self.slots[index];
            let tables = Tables {
                memory: &self.memory,
                root: slot.root,
            };
            let mut changes = Changes::default();
            let result = tables.install(&mut self.frames, &mut changes, leaf);
            slot.tables += changes.tables;
            slot.replaced |= changes.replaced;
            if let Some(page) = changes.split {
                slot.leaves.forget_range(page);
            }
            match result {
                Ok(installed) => {
                    if installed.is_new {
                        slot.leaves.add(installed.leaf);
                    }
                    self.statistics.fills += 1;
                    return Fill::Filled(installed.leaf.size);
                }
                Err(OutOfFrames) if self.evict() => {}
                Err(OutOfFrames) => return Fill::OutOfFrames,
            }
        }
    }

    /// Takes ranges out of one shadow.
    fn remove(
        &mut self,
        index: usize,
        ranges: impl IntoIterator<Item = Gpa2Range>,
        retired: &mut Retired,
    ) {
        let dropped = retired.dropped();
        let slot = &mut self.slots[index];
        for range in ranges {
            slot.remove(&self.memory, range, retired);
        }
        self.conclude(index, dropped, retired);
    }

    /// Brings a shadow whose leaves are all listed to what EPT 12 says now,
    /// without adding to it.
    fn resynchronise(&mut self, index: usize, l1: &impl L1Space, retired: &mut Retired) {
        let dropped = retired.dropped();
        let slot = &mut self.slots[index];
        let Some(tag) = slot.tag else {
            return;
        };
        let eptp12 = Eptp::new(tag.raw());
        let mut walker = Walker::<_, 8>::new(eptp12, &self.policy.offered, l1);
        // From the last place to the first: what is forgotten leaves all places
        // still to be looked at below `place`.
        let mut place = slot.leaves.len();
        while let Some(next) = place.checked_sub(1) {
            place = next;
            let Some(leaf) = slot.leaves.get(place) else {
                continue;
            };
            let old = EptEntry::from_raw(self.memory.load(leaf.slot));
            if old == leaf.entry && walker.finds(leaf.source, leaf.at) {
                continue;
            }
            let now = compose(&self.policy, &mut walker, l1, leaf.at, Access::empty());
            match now {
                Ok(new) if new.largest == leaf.size => {
                    let (entry, source) = (new.entry(leaf.size), new.source);
                    slot.leaves.set(
                        place,
                        Leaf {
                            entry,
                            source,
                            ..leaf
                        },
                    );
                    if entry != old {
                        self.memory.store(leaf.slot, entry.raw());
                        if !only_adds(old, entry, leaf.size) {
                            retired.count_dropped();
                        }
                    }
                }
                // L1 has made one page of many: so does the next violation,
                // once the table is gone.
                Ok(new) if new.largest > leaf.size => {
                    let bytes = new.largest.bytes();
                    let page = Gpa2Range::new(leaf.at.align_down(bytes), bytes);
                    slot.remove(&self.memory, page, retired);
                }
                _ => {
                    self.memory.store(leaf.slot, EptEntry::EMPTY.raw());
                    slot.leaves.forget(place);
                    retired.count_dropped();
                }
            }
        }
        if slot.leaves.len() == 0 && slot.tables > 0 {
            slot.remove(&self.memory, Gpa2Range::ALL, retired);
        }
        self.conclude(index, dropped, retired);
    }

    /// After entries were taken from a shadow, or might have been: what VPs
    /// must know.
    fn conclude(&mut self, index: usize, dropped: u64, retired: &mut Retired) {
        let slot = &mut self.slots[index];
        if retired.dropped() != dropped || slot.replaced {
            slot.replaced = false;
            self.epochs.raise(index);
            retired.affect(slot.holders);
        }
    }

    /// Dissolves the least recently used shadow that no VP holds, and frees its
    /// frames at once: no processor can be walking it, and none will enter on
    /// its root again without an INVEPT (see [`Self::create`]). Whether there
    /// was one.
    fn evict(&mut self) -> bool {
        let victim = (0..self.slots.len())
            .filter(|&index| {
                self.slots[index].tag.is_some() && self.slots[index].holders == Holders::NONE
            })
            .min_by_key(|&index| self.slots[index].used);
        let Some(index) = victim else {
            return false;
        };
        let slot = &mut self.slots[index];
        let mut retired = Retired::new();
        let tables = Tables {
            memory: &self.memory,
            root: slot.root,
        };
        tables.retire(slot.root, Level::Pml4, &mut retired);
        slot.tag = None;
        slot.tables = 0;
        slot.leaves.clear();
        slot.replaced = false;
        retired.free(&self.memory, &mut self.frames);
        self.statistics.evicted += 1;
        true
    }
}
