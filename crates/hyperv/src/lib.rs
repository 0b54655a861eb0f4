//! The Hv#1 server as logic: what L0 answers when L1 executes CPUID, RDMSR,
//! WRMSR or VMCALL on the hypervisor's interface (TLFS).
//!
//! A [`Partition`] is shared by all processors; a [`Vp`] belongs to the one
//! that runs it. Neither knows of VMX, of memory maps or of interrupt
//! controllers: guest memory is reached through [`memory::L1Memory`], time is
//! a TSC value given with the call, and what the server cannot do itself it
//! hands back as a value ([`msr::Read`], [`msr::Write`],
//! [`hypercall::Request`]) for the exit handler to carry out.
//!
//! What L1 is offered is an [`enlightenments::Set`].
#![no_std]
#![forbid(unsafe_code)]

pub mod assist;
pub mod clock;
mod config;
mod cpuid;
pub mod crash;
pub mod enlightenments;
pub mod hypercall;
pub mod memory;
pub mod msr;
mod partition;
mod reenlightenment;
#[cfg(test)]
mod testing;
pub mod timers;
mod vp;

pub use config::{Config, VERSION};
pub use partition::{ConfigError, MAX_VPS, Partition, PartitionState};
pub use reenlightenment::Notice;
pub use vp::Vp;
