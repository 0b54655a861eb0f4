//! Random numbers that a seed reproduces.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// The row of numbers with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let value = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ value >> 31
    }

    /// One of `range.0..range.1`.
    pub fn between(&mut self, range: (u64, u64)) -> u64 {
        range.0 + self.next() % (range.1 - range.0)
    }

    /// A place in what has so many.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A number in the range, any ratio to the one before as likely as any other.
    pub fn ratio(&mut self, range: (f64, f64)) -> f64 {
        let share = self.next() as f64 / u64::MAX as f64;
        range.0 * (range.1 / range.0).powf(share)
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.next() >> 63 != 0
    }
}
