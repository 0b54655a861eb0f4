//! VT-x as types: VMCS fields, controls, capability MSRs, exits, EPT entries; and the instructions.
#![no_std]
