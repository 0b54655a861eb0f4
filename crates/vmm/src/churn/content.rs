//! What a page of the churned memory holds.

use crate::paging::PAGE_SIZE;
use crate::random::mix;

/// Words in a page.
pub const WORDS: u64 = PAGE_SIZE / 8;

/// The contents of one page: word n is `first + n * step`, modulo 2^64. Pages that
/// were filled at different places or times differ in every word, but for chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// Word 0.
    pub first: u64,
    /// From one word to the next.
    pub step: u64,
}

impl Content {
    /// Of a page that the kernel has just given.
    pub const ZERO: Self = Content { first: 0, step: 0 };

    /// Made for the fill number `fill` of page `page`.
    pub fn of(page: u64, fill: u64) -> Self {
        Content {
            first: mix(page << 32 ^ fill),
            // Odd: no two words of the page are equal.
            step: mix(fill << 32 ^ page ^ 1 << 63) | 1,
        }
    }

    /// The words.
    pub fn words(self) -> impl Iterator<Item = u64> {
        (0..WORDS).map(move |n| self.first.wrapping_add(n.wrapping_mul(self.step)))
    }
}

/// The checksum of words in their order. The payload computes the same.
pub fn checksum(sum: u64, words: impl Iterator<Item = u64>) -> u64 {
    words.fold(sum, |sum, word| sum.rotate_left(1).wrapping_add(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_word_is_at_two_places_or_of_two_times() {
        let words: HashSet<u64> = (0..8)
            .flat_map(|page| (1..4).map(move |fill| Content::of(page, fill)))
            .flat_map(Content::words)
            .collect();
        assert_eq!(words.len(), 8 * 3 * WORDS as usize);
    }

    #[test]
    fn a_fresh_page_is_zero() {
        assert!(Content::ZERO.words().all(|word| word == 0));
    }

    #[test]
    fn words_in_another_order_have_another_sum() {
        let words = || Content::of(3, 1).words();
        let swapped: Vec<u64> = words().skip(1).chain(words().take(1)).collect();
        assert_ne!(checksum(0, words()), checksum(0, swapped.into_iter()));
    }
}
