//! Numbers that look random and are the same in every run (xorshift64*).

/// A generator.
pub struct Random(u64);

impl Random {
    /// A generator whose numbers follow from `seed`, which must not be 0.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number of the kinds that find mistakes: small, all ones, one bit, near a power of two,
    /// or anything.
    pub fn nasty(&mut self) -> u64 {
        let bit = 1u64 << self.below(64);
        match self.below(8) {
            0 => self.below(16),
            1 => u64::MAX,
            2 => bit,
            3 => bit.wrapping_sub(1),
            4 => !bit,
            5 => self.below(1 << 32) & !0xfff,
            _ => self.next(),
        }
    }
}
