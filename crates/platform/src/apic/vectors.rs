//! A set of interrupt vectors: the shape of IRR, ISR and TMR.

use serde::{Deserialize, Serialize};

/// A set of the 256 interrupt vectors.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    /// The set without members.
    pub const EMPTY: Self = Self([0; 4]);

    /// Adds `vector`.
    #[inline]
    pub const fn insert(&mut self, vector: u8) {
        self.0[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// Takes `vector` out.
    #[inline]
    pub const fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 64] &= !(1 << (vector % 64));
    }

    /// Whether `vector` is a member.
    #[inline]
    pub const fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize / 64] >> (vector % 64) & 1 != 0
    }

    /// Whether it has no members.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The highest member: the one of highest priority.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&bits| bits != 0)?;
        Some((word * 64) as u8 + 63 - self.0[word].leading_zeros() as u8)
    }

    /// The 64 vectors from `64 * index` on, as a word.
    /// The set whose vectors 0 to 63 are the bits of the first word, and so on.
    pub(super) const fn from_words(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// As [`VectorSet::from_words`] takes them.
    pub(super) const fn words(&self) -> [u64; 4] {
        self.0
    }

    #[inline]
    pub(super) const fn word(&mut self, index: usize) -> &mut u64 {
        &mut self.0[index]
    }

    /// The 32-bit register `index` (0 to 7) of the eight that show the set.
    pub(super) const fn register(&self, index: u8) -> u32 {
        (self.0[(index & 7) as usize / 2] >> (32 * (index & 1))) as u32
    }
}
