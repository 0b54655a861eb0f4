//! Physical memory: what the machine has, who gets it.
//!
//! L0 maps all of it one to one, so a system physical address is a pointer.

pub mod frames;
pub mod heap;
pub mod layout;
pub mod lz4;
pub mod mapping;

use addr::Spa;

/// The linear address at which L0 sees a physical one.
#[inline(always)]
pub fn pointer<T>(address: Spa) -> *mut T {
    address.raw() as usize as *mut T
}
