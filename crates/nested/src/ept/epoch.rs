//! A VP's side of the shadows: where it runs, and what it must forget.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use addr::{Gpa1, Gpa2, Spa};
use vmx::ept::{Access, Eptp};

/// The generation of each shadow of a set: how often something was taken from
/// it. Read by VPs without the set's lock.
#[derive(Debug)]
pub struct Epochs(Box<[Arc<AtomicU64>]>);

impl Epochs {
    pub(super) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self((0..slots).map(|_| Arc::default()).collect()))
    }

    /// The present generation.
    pub(super) fn get(&self, slot: usize) -> u64 {
        self.0
            .get(slot)
            .map_or(0, |epoch| epoch.load(Ordering::SeqCst))
    }

    pub(super) fn raise(&self, slot: usize) {
        if let Some(epoch) = self.0.get(slot) {
            epoch.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A set of VPs, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holders(u64);

impl Holders {
    pub const NONE: Self = Self(0);

    /// # Panics
    /// A number of 64 or more.
    pub const fn one(vp: u8) -> Self {
        assert!(vp < 64, "VPs are numbered below 64");
        Self(1 << vp)
    }

    pub const fn contains(self, vp: u8) -> bool {
        vp < 64 && self.0 >> vp & 1 != 0
    }

    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

/// A VP's hold on a shadow. As long as it lasts, the shadow keeps its root.
#[derive(Debug)]
pub struct Attachment {
    tag: Gpa1,
    slot: usize,
    root: Spa,
    holder: Holders,
}

impl Attachment {
    pub(super) fn new(tag: Gpa1, slot: usize, root: Spa, holder: Holders) -> Self {
        Self {
            tag,
            slot,
            root,
            holder,
        }
    }

    pub(super) fn holder(&self) -> Holders {
        self.holder
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// The root page of the EPT 12 that is shadowed.
    pub fn tag(&self) -> Gpa1 {
        self.tag
    }

    /// The pointer to EPT 02, for VMCS 02 and INVEPT.
    pub fn eptp(&self) -> Eptp {
        Eptp::new(self.root.raw())
    }
}

/// What one VP knows of the set's shadows. It belongs to the VP's processor:
/// a VP that moves to another processor starts with a new one (after an
/// all-context INVEPT there).
#[derive(Debug)]
pub struct VpView {
    epochs: Arc<Epochs>,
    /// By slot, the generation at this processor's last INVEPT; that of the
    /// present slot is in `known`.
    seen: Box<[u64]>,
    current: Option<Attachment>,
    /// The generation of the present shadow; without one, `none`.
    generation: Arc<AtomicU64>,
    /// A generation that never changes.
    none: Arc<AtomicU64>,
    /// `generation` at this processor's last INVEPT for it.
    known: u64,
    /// What L1 was told to be missing and may have mapped since.
    reflected: Option<(Gpa2, Access)>,
}

impl VpView {
    pub(super) fn new(epochs: Arc<Epochs>) -> Self {
        let seen = (0..epochs.0.len()).map(|_| 0).collect();
        let none = Arc::<AtomicU64>::default();
        Self {
            epochs,
            seen,
            current: None,
            generation: none.clone(),
            none,
            known: 0,
            reflected: None,
        }
    }

    /// The shadow this VP runs on.
    #[inline]
    pub fn attachment(&self) -> Option<&Attachment> {
        self.current.as_ref()
    }

    /// Whether the VP is attached to the shadow of this EPT 12 already: the
    /// case of nearly every entry, decided without the set's lock.
    #[inline]
    pub fn is_on(&self, eptp12: Eptp) -> bool {
        matches!(&self.current, Some(a) if a.tag.raw() == eptp12.root())
    }

    /// Takes hold of a shadow; none is held.
    pub(super) fn take_on(&mut self, attachment: Attachment) {
        let slot = attachment.slot;
        if let (Some(generation), Some(&known)) = (self.epochs.0.get(slot), self.seen.get(slot)) {
            self.generation = generation.clone();
            self.known = known;
        }
        self.current = Some(attachment);
    }

    /// Lets go of the shadow, and of what concerned it.
    pub(super) fn take_current(&mut self) -> Option<Attachment> {
        self.reflected = None;
        let current = self.current.take()?;
        if let Some(seen) = self.seen.get_mut(current.slot) {
            *seen = self.known;
        }
        self.generation = self.none.clone();
        self.known = 0;
        Some(current)
    }

    /// Notes the EPT violation that L1 is told of. Most of the time L1 maps the
    /// page and enters L2 again, which would only exit for the same access.
    #[inline]
    pub fn note_reflected(&mut self, at: Gpa2, access: Access) {
        self.reflected = Some((at, access));
    }

    /// Whether [`VpView::take_reflected`] has something.
    #[inline(always)]
    pub fn has_reflected(&self) -> bool {
        self.reflected.is_some()
    }

    /// The last violation that L1 was told of, once, for
    /// [`ShadowSet::fill`](super::ShadowSet::fill) before L2 runs again. L1 may
    /// have mapped the page or not, and it may have gone to another EPT 12 and
    /// come back, which counts as having forgotten.
    #[inline]
    pub fn take_reflected(&mut self) -> Option<(Gpa2, Access)> {
        // Read first: it is nothing nearly every time.
        self.reflected?;
        self.reflected.take()
    }

    /// Whether something was taken from the present shadow since this
    /// processor's last INVEPT for it: [`VpView::take_invalidation`] says what
    /// to do. To be called after publishing that the VP is about to be in L2
    /// (see the [module](super)).
    #[inline(always)]
    pub fn is_stale(&self) -> bool {
        self.generation.load(Ordering::SeqCst) != self.known
    }

    /// The pointer for which the processor must execute a single-context
    /// INVEPT before it enters L2 on the present shadow; `None` if nothing was
    /// removed from it since the last time. When to call it: as
    /// [`VpView::is_stale`].
    #[inline]
    pub fn take_invalidation(&mut self) -> Option<Eptp> {
        let now = self.generation.load(Ordering::SeqCst);
        if self.known == now {
            return None;
        }
        self.known = now;
        self.current.as_ref().map(Attachment::eptp)
    }
}
