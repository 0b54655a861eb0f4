//! L0's heap, for what is built once: tables, device models. Nothing on the way of an exit
//! allocates.

use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Bytes of the heap.
pub const SIZE: u64 = 4 << 20;

/// Gives the heap its memory.
///
/// # Safety
/// `SIZE` bytes from `start` are ordinary mapped memory that nothing else uses; called once.
pub unsafe fn initialise(start: addr::Spa) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(super::pointer(start), SIZE as usize) }
}
