//! Nested VMX as logic over traits: vmcs12, entry checks, merge, reflect, write-back, shadow EPT.
//!
//! # The way of an L2 exit
//!
//! An exit of VMCS 02 is L0's or L1's: [`Nested::owner`] says which. L1's are
//! written into VMCS 12 ([`Nested::reflect_enlightened`] or
//! [`Nested::reflect_plain`], VMCS 02 current), then L1 goes on at its host
//! state ([`Nested::load_host`], VMCS 01 current). L1's next VMRESUME takes up
//! VMCS 12 ([`Nested::prepare_enlightened`], [`Nested::prepare_plain`]; VMCS 01
//! current) and carries what changed to VMCS 02 ([`Nested::merge`]).
//!
//! Everything else of VMX that L1 can do is in [`insn`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod access;
pub mod audit;
pub mod bitmap_page;
pub mod caps;
pub mod checks;
pub mod cr;
pub mod ept;
pub mod events;
pub mod exceptions;
pub mod insn;
pub mod io_bitmap;
pub mod msr_bitmap;
pub mod msr_list;
pub mod reflect;
pub mod saved;
pub mod shadow_vmcs;
pub mod tsc;
pub mod vmcs12;

mod carry;
mod controls12;
mod dirty;
mod entry;
mod exit;
mod failure;
mod halt;
mod host_state;
mod merge;
mod pae;
mod policy;
#[cfg(test)]
mod sequences;
mod state;
mod steady;
#[cfg(test)]
mod testing;

pub use carry::Carry;
pub use dirty::Dirty;
pub use entry::{EntryContext, EntryFailure};
pub use exit::ExitInfo;
pub use host_state::{HOST_FIELD_COUNT, HOST_FIELDS, HostState, UNDEFINED_FIELD_COUNT};
pub use merge::Merged;
pub use policy::{L0Policy, L1Registers};
pub use state::{Config, Current, Enlightenments, Nested};
pub use steady::{Asked, Resume};
pub use vmcs12::Vmcs12;
