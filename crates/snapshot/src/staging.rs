//! Buffers of whole pages, aligned to a page.

use alloc::vec;
use alloc::vec::Vec;

use crate::page::PAGE;

/// A buffer of some pages.
pub struct Staging {
    bytes: Vec<u8>,
    begin: usize,
    size: usize,
}

impl Staging {
    /// One of `pages`, zeroed.
    pub fn new(pages: usize) -> Self {
        let size = pages * PAGE;
        // The heap aligns to less, and an aligned array would be built on the stack first.
        let bytes = vec![0; size + PAGE - 1];
        let begin = bytes.as_ptr().align_offset(PAGE).min(PAGE - 1);
        Self { bytes, begin, size }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..self.begin + self.size]
    }

    /// Its bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + self.size]
    }
}
