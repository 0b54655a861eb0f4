//! The checksum that the file uses.
//!
//! One multiplication and six instructions for 16 bytes: a third of what XXH64 takes, and an emulated
//! machine is busy with little else while it restores. A product of two words of 64 bits is folded
//! into one of 64, as wyhash and its kin do. What was before is in both factors, so that no word of
//! the data by itself makes the product zero, which would hide all that was before it.

/// What it begins with.
pub const BEGIN: u64 = 0x27D4_EB2F_1656_67C5;
/// What tells the first word of a pair from the second.
pub const KEY: u64 = 0x9E37_79B1_85EB_CA87;

/// Bytes that are folded together.
const PAIR: usize = 16;

/// The checksum of these bytes: a multiple of 16 of them.
pub fn of(bytes: &[u8]) -> u64 {
    let mut sum = Running::new();
    sum.add(bytes);
    sum.value()
}

/// The checksum of bytes that come in pieces.
#[derive(Clone, Copy)]
pub struct Running(u64);

impl Running {
    /// Of nothing yet.
    pub const fn new() -> Self {
        Self(BEGIN)
    }

    /// Goes on with these bytes: a multiple of 16 of them.
    pub fn add(&mut self, bytes: &[u8]) {
        // Several pairs for a turn of the loop: each costs six instructions.
        let (many, few) = bytes.as_chunks::<{ 8 * PAIR }>();
        let mut sum = self.0;
        for chunk in many {
            for pair in chunk.as_chunks::<PAIR>().0 {
                sum = fold(sum, pair);
            }
        }
        let (few, none) = few.as_chunks::<PAIR>();
        debug_assert!(none.is_empty());
        for pair in few {
            sum = fold(sum, pair);
        }
        self.0 = sum;
    }

    /// Goes on with two numbers.
    pub fn add_pair(&mut self, one: u64, two: u64) {
        self.0 = fold_words(self.0, one, two);
    }

    /// The checksum so far.
    pub const fn value(&self) -> u64 {
        self.0
    }
}

#[inline(always)]
fn fold(sum: u64, pair: &[u8; PAIR]) -> u64 {
    let words = pair.as_chunks::<8>().0;
    fold_words(
        sum,
        u64::from_le_bytes(words[0]),
        u64::from_le_bytes(words[1]),
    )
}

#[inline(always)]
const fn fold_words(sum: u64, one: u64, two: u64) -> u64 {
    let product = (sum ^ KEY ^ one) as u128 * (sum ^ two) as u128;
    product as u64 ^ (product >> 64) as u64
}
