//! The Hv#1 interface of the Hypervisor Top Level Functional Specification
//! (TLFS) as types: CPUID leaves, MSRs, hypercalls, the pages that guest and
//! hypervisor share, the enlightened VMCS.
//!
//! Nothing here behaves: who offers the interface is in `hyperv`, and what a
//! nested VM entry does with the enlightened VMCS in `nested`.
#![no_std]
#![forbid(unsafe_code)]

pub mod cpuid;
pub mod evmcs;
pub mod hypercall;
pub mod msr;
pub mod page;
