//! The virtual platform that L1 sees, as logic: no instruction of the
//! machine is executed here, no memory of a guest is touched, and time comes
//! in as TSC values. The image calls it from its exit handlers.
//!
//! What is shared between VPs is small and named: an [`apic::Inbox`] per VP is
//! lock-free; an [`ioapic::Ioapic`] and a [`uart::Uart`] are one partition's and
//! need the caller's lock. A [`apic::LocalApic`] belongs to the CPU that runs
//! its VP.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod counters;
pub mod cpuid;
pub mod interrupt;
pub mod ioapic;
pub mod layout;
pub mod mmio;
pub mod msr;
pub mod paging;
pub mod ports;
pub mod power;
pub mod rtc;
pub mod text;
pub mod uart;

/// The operation faults: the guest gets #GP(0) and no state has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;
