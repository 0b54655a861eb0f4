//! How code without `unsafe` reaches the frames that tables live in.

use addr::Spa;

/// Access to L0's frames that hold tables, entry by entry.
///
/// Hardware may walk a table while it is written, and other processors may
/// read it: implement both methods as single 64-bit atomic accesses.
pub trait TableMemory {
    /// Reads the entry at `at`, a multiple of 8 (acquire ordering).
    fn load(&self, at: Spa) -> u64;

    /// Writes the entry at `at`, a multiple of 8, after every store made
    /// before it (release ordering).
    fn store(&self, at: Spa, value: u64);
}

/// A source of frames for tables.
pub trait TableFrames {
    /// A free 4 KiB frame, all zero; `None` when there is no more.
    fn alloc(&mut self) -> Option<Spa>;

    /// Takes back a frame that [`TableFrames::alloc`] gave. Its content is
    /// arbitrary.
    fn free(&mut self, frame: Spa);
}
