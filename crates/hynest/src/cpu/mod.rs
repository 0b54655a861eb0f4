//! The physical processor as L0 uses it.

pub mod apic;
pub mod descriptor;
pub mod extended;
pub mod idle;
pub mod interrupt;
pub mod ioapic;
pub mod msr;
pub mod per_cpu;
pub mod port;
pub mod probe;
pub mod register;
pub mod rtc;
pub mod string;
pub mod tsc;
pub mod vector;
pub mod xsave;
pub mod zero;
