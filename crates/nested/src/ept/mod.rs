//! The shadow EPT: what L2 runs on is a software TLB over L1's tables.
//!
//! # Theory
//!
//! L1 translates L2's physical addresses by tables of its own, EPT 12, that
//! no processor ever walks: they lead to L1's addresses. L0 composes them with
//! the partition's memory map into EPT 02, which hardware walks. The SDM lets
//! a processor cache translations until software invalidates them, so EPT 02
//! may be *exactly such a cache*: filled on demand when L2 misses, emptied
//! when L1 says INVEPT or one of its Hv#1 equivalents, and unaware of L1's
//! stores in between. L1's tables are never write-protected.
//!
//! # Practice
//!
//! - [`walk`] translates through EPT 12 and judges its entries as hardware
//!   would: a violation or misconfiguration it finds is L1's to see.
//! - [`ShadowSet`] owns the shadows of one partition, one for each EPT 12
//!   root (attribute bits of the EPTP ignored, as the processor's own tag
//!   ignores them). All VPs of the partition share them.
//! - [`ShadowSet::fill`] answers an EPT violation of L2;
//!   [`ShadowSet::flush_space`], [`ShadowSet::flush_ranges`] and
//!   [`ShadowSet::flush_all`] are INVEPT and the flush hypercalls, and what L0
//!   calls when it changes the partition's memory map.
//! - [`Invept`] decodes L1's instruction into one of these.
//! - [`VpView`] is a VP's side: which shadow it runs on, and whether its
//!   processor must execute INVEPT before it runs there again.
//!
//! # Concurrency
//!
//! Hardware walks a shadow on several processors while it is changed. Writers
//! of one set are serialised by a lock that the *caller* holds: every method
//! that takes `&mut ShadowSet` is to be called under it. Entries are replaced
//! by single 64-bit stores, and a table is complete before it is linked.
//! EPT 12 is read under that lock too, inside [`ShadowSet::fill`]: otherwise a
//! translation read before a flush could be stored after it.
//!
//! Removing goes in two phases, since a processor may still hold, or be
//! walking, what was unlinked:
//!
//! 1. a flush unlinks, raises the [generation](VpView::take_invalidation) of
//!    each shadow it took something from, and returns [`Retired`];
//! 2. the caller drops the lock and makes every VP that is in L2 on an
//!    [affected](Retired::affects) shadow leave it (a kick, then waiting for
//!    the acknowledgement);
//! 3. [`ShadowSet::release`] gives the frames back to the pool.
//!
//! Only after step 2 may the flush be reported to L1 as done. A VP enters L2
//! by publishing that it is in L2, *then* calling
//! [`VpView::take_invalidation`], executing INVEPT if told so, then entering.
//! Whoever flushes raises the generation first and looks at that publication
//! second, so one of the two sees the other.
//!
//! # State and cache
//!
//! Everything here is cache: it can be dropped at any time ([`ShadowSet::flush_all`])
//! and is not saved when a partition is.
//!
//! # Not offered yet
//!
//! Accessed and dirty flags for L1 (EPTP bit 6; [`vmx::ept::Eptp::check`] refuses it
//! unless offered). They fit in two places: [`walk`] sets the flags in the
//! entries it passes, and a leaf whose dirty flag is clear is installed
//! without write permission, so that the first write comes back here.

mod compose;
mod epoch;
mod invept;
mod l1;
mod leaves;
mod range;
mod recall;
mod retired;
mod set;
mod tables;
mod walk;

use epoch::Holders;
pub use epoch::{Attachment, Epochs, VpView};
pub use invept::Invept;
pub use l1::{L1Space, Region};
pub use range::Gpa2Range;
pub use recall::{MisconfiguredPage, Recall};
pub use retired::Retired;
pub use set::{AttachError, Fill, MIN_FRAMES, Policy, ShadowSet, Statistics};
pub use walk::{Misconfigured, Translation, Violation, WalkError, walk};

#[cfg(test)]
mod tests;
