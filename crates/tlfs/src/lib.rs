//! The Hv#1 interface of the TLFS as types: CPUID leaves, MSRs, hypercalls, pages, the enlightened VMCS.
#![no_std]
