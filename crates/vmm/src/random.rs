//! Numbers that look random and are the same in every run.

/// The finalizer of SplitMix64: every bit of the input moves half of the output's.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// A row of numbers that looks random and is the same each time.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The row number `seed`.
    pub fn new(seed: u64) -> Self {
        Random(mix(seed))
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % limit
    }
}
