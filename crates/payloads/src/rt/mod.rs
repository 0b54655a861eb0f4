//! What every group stands on: a processor that can be asked to fail, memory to spend, a
//! second processor, a console, and the harness that reports.

pub mod apic;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod fault;
pub mod harness;
pub mod memory;
pub mod paging;
pub mod power;
pub mod random;
pub mod segments;
pub mod smp;
