//! Nested VMX as logic over traits: vmcs12, entry checks, merge, reflect, write-back, shadow EPT.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ept;
