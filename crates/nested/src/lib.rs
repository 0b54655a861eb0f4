//! Nested VMX as logic over traits: vmcs12, entry checks, merge, reflect, write-back, shadow EPT.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod access;
pub mod bitmap_page;
pub mod ept;
pub mod io_bitmap;
pub mod msr_bitmap;
pub mod vmcs12;
