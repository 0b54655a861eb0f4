//! How interrupts reach a VP that another CPU runs, without a lock.
//!
//! A sender sets bits in the target's [`Inbox`]; the owner drains it into its
//! [`LocalApic`](super::LocalApic) before it enters the guest. A summary word
//! makes the owner's test a single load, and the sender's answer to 'must I
//! kick that CPU?' exact: only the sender that made the inbox non-empty kicks.

use core::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::address::ApicAddress;
use super::vectors::VectorSet;
use crate::interrupt::{DeliveryMode, Message, Trigger};

const VECTORS: u64 = 1 << 0;
const NMI: u64 = 1 << 1;
const INIT: u64 = 1 << 2;
const STARTUP: u64 = 1 << 3;
/// Bits 15:8 hold the page of a startup message.
const STARTUP_PAGE_SHIFT: u32 = 8;

/// What a drained inbox held beside vectors. To be applied in the order of the
/// fields: an INIT that came after a startup message has dropped that.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Signals {
    /// An INIT arrived: reset the VP, let it wait for a startup message.
    pub init: bool,
    /// A startup message arrived: if the VP waits for one, it begins in real
    /// mode at this page (CS = page << 8, IP = 0).
    pub startup: Option<u8>,
    /// A non-maskable interrupt arrived.
    pub nmi: bool,
}

impl Signals {
    /// Whether there is nothing to do.
    pub const fn is_empty(&self) -> bool {
        !self.init && self.startup.is_none() && !self.nmi
    }
}

/// What other CPUs may touch of a VP's local APIC.
///
/// Alone on its cache lines, so that senders disturb only this VP.
#[derive(Debug)]
#[repr(align(128))]
pub struct Inbox {
    summary: AtomicU64,
    pending: [AtomicU64; 4],
    level: [AtomicU64; 4],
    address: AtomicU64,
}

/// What an inbox holds, as plain data.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct InboxState {
    summary: u64,
    pending: VectorSet,
    level: VectorSet,
}

impl Inbox {
    /// An empty inbox of a VP that answers to `address`.
    pub const fn new(address: ApicAddress) -> Self {
        Self {
            summary: AtomicU64::new(0),
            pending: [const { AtomicU64::new(0) }; 4],
            level: [const { AtomicU64::new(0) }; 4],
            address: AtomicU64::new(address.to_bits()),
        }
    }

    /// What it holds. Nobody sends or drains meanwhile.
    pub fn save(&self) -> InboxState {
        let words = |words: &[AtomicU64; 4]| {
            VectorSet::from_words(words.each_ref().map(|word| word.load(Ordering::Acquire)))
        };
        InboxState {
            summary: self.summary.load(Ordering::Acquire),
            pending: words(&self.pending),
            level: words(&self.level),
        }
    }

    /// Puts in what was saved. Nobody sends or drains meanwhile.
    pub fn restore(&self, state: &InboxState) {
        for word in 0..4 {
            let words = [state.pending, state.level].map(|set| set.words()[word]);
            self.pending[word].store(words[0], Ordering::Relaxed);
            self.level[word].store(words[1], Ordering::Relaxed);
        }
        self.summary.store(state.summary, Ordering::Release);
    }

    /// Tells senders what the VP now answers to. The owner calls this after
    /// [`Effect::Addressing`](super::Effect::Addressing).
    pub fn publish(&self, address: ApicAddress) {
        self.address.store(address.to_bits(), Ordering::Release);
    }

    /// What the VP answers to.
    pub fn address(&self) -> ApicAddress {
        ApicAddress::from_bits(self.address.load(Ordering::Acquire))
    }

    /// Whether there is nothing to drain: one load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.summary.load(Ordering::Relaxed) == 0
    }

    /// Puts a fixed interrupt in. Returns whether the owner must be kicked:
    /// whether nobody else has already done so.
    pub fn post_vector(&self, vector: u8, trigger: Trigger) -> bool {
        let (word, bit) = (vector as usize / 64, 1u64 << (vector % 64));
        if trigger == Trigger::Level {
            self.level[word].fetch_or(bit, Ordering::Relaxed);
        }
        self.pending[word].fetch_or(bit, Ordering::Relaxed);
        // After the vector: an owner that sees the summary sees the vector.
        self.summary.fetch_or(VECTORS, Ordering::AcqRel) == 0
    }

    /// Puts an NMI in; returns as [`post_vector`](Self::post_vector) does.
    pub fn post_nmi(&self) -> bool {
        self.summary.fetch_or(NMI, Ordering::AcqRel) == 0
    }

    /// Puts an INIT in; returns as [`post_vector`](Self::post_vector) does.
    pub fn post_init(&self) -> bool {
        self.update(|now| now & !STARTUP | INIT)
    }

    /// Puts a startup message in; returns as [`post_vector`](Self::post_vector)
    /// does. While one is waiting, a second changes nothing.
    pub fn post_startup(&self, page: u8) -> bool {
        self.update(|now| {
            if now & STARTUP != 0 {
                return now;
            }
            now & !(0xFF << STARTUP_PAGE_SHIFT) | STARTUP | (page as u64) << STARTUP_PAGE_SHIFT
        })
    }

    fn update(&self, change: impl Fn(u64) -> u64) -> bool {
        let before = self
            .summary
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(change(now)));
        matches!(before, Ok(0))
    }

    /// Puts `message` in, whomever it is for; returns as
    /// [`post_vector`](Self::post_vector) does.
    pub fn post(&self, message: &Message) -> bool {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.post_vector(message.vector, message.trigger)
            }
            DeliveryMode::Nmi => self.post_nmi(),
            DeliveryMode::Init => self.post_init(),
            DeliveryMode::Startup => self.post_startup(message.vector),
            DeliveryMode::Smi | DeliveryMode::ExtInt => false,
        }
    }

    /// Takes everything out: hands each vector to `accept`, returns the rest.
    pub(super) fn drain(&self, mut accept: impl FnMut(&VectorSet, &VectorSet)) -> Signals {
        if self.is_empty() {
            return Signals::default();
        }
        let summary = self.summary.swap(0, Ordering::AcqRel);
        if summary & VECTORS != 0 {
            let (mut pending, mut level) = (VectorSet::EMPTY, VectorSet::EMPTY);
            for word in 0..4 {
                // A sender sets the level bit first, so it is taken last: a
                // vector that is seen brings its trigger mode along.
                *pending.word(word) = self.pending[word].swap(0, Ordering::Acquire);
                *level.word(word) =
                    self.level[word].fetch_and(!*pending.word(word), Ordering::Acquire);
            }
            accept(&pending, &level);
        }
        Signals {
            init: summary & INIT != 0,
            startup: (summary & STARTUP != 0).then_some((summary >> STARTUP_PAGE_SHIFT) as u8),
            nmi: summary & NMI != 0,
        }
    }
}

/// Puts `message` into the inbox of every VP it is for, and calls `kick` with
/// the index of each that must be made to look. `sender` is the index of the
/// VP it comes from, `None` for a device.
pub fn send(
    message: &Message,
    sender: Option<usize>,
    inboxes: &[Inbox],
    mut kick: impl FnMut(usize),
) {
    let vectored = matches!(
        message.mode,
        DeliveryMode::Fixed | DeliveryMode::LowestPriority
    );
    let targets = || {
        inboxes.iter().enumerate().filter(|(index, inbox)| {
            let address = inbox.address();
            address.matches(message.destination, sender == Some(*index))
                && (!vectored || address.accepts_interrupts())
        })
    };
    if message.mode == DeliveryMode::LowestPriority {
        // Which one is the implementation's choice (SDM 11.6.2.4); by vector,
        // so that different interrupts spread over the VPs and each stays put.
        let choice = usize::from(message.vector).checked_rem(targets().count());
        if let Some((index, inbox)) = choice.and_then(|choice| targets().nth(choice))
            && inbox.post(message)
        {
            kick(index);
        }
        return;
    }
    for (index, inbox) in targets() {
        if inbox.post(message) {
            kick(index);
        }
    }
}
