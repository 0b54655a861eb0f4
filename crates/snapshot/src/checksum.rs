//! XXH64, as the file uses it.

use xxhash_rust::xxh64::{Xxh64, xxh64};

const SEED: u64 = 0;

/// The checksum of these bytes.
pub fn of(bytes: &[u8]) -> u64 {
    xxh64(bytes, SEED)
}

/// The checksum of bytes that come in pieces.
pub struct Running(Xxh64);

impl Running {
    /// Of nothing yet.
    pub const fn new() -> Self {
        Self(Xxh64::new(SEED))
    }

    /// Goes on with these bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum so far.
    pub fn value(&self) -> u64 {
        self.0.digest()
    }
}
