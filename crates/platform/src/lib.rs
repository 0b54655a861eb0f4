//! The virtual platform that L1 sees: local APIC, IOAPIC, UART, ACPI, PVH boot.
#![no_std]
#![forbid(unsafe_code)]

pub mod counters;
