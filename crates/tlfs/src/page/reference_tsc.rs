//! The reference TSC page.
//!
//! Reference time = high 64 bits of (TSC * scale) + offset, for as long as the
//! sequence number is the same before and after reading and not
//! [`INVALID_SEQUENCE`].

/// Byte offset: u32, the sequence number.
pub const SEQUENCE: u64 = 0;
/// Byte offset: u64, units of 100 ns per tick, as a fraction of 2^64.
pub const SCALE: u64 = 8;
/// Byte offset: i64, units of 100 ns.
pub const OFFSET: u64 = 16;

/// The sequence number of a page that is not to be used: the reader takes
/// TIME_REF_COUNT instead.
pub const INVALID_SEQUENCE: u32 = 0;

/// The sequence number that follows `sequence`. It is never
/// [`INVALID_SEQUENCE`], nor all ones, which the TLFS up to 4.0b has for it.
pub const fn next_sequence(sequence: u32) -> u32 {
    match sequence.wrapping_add(1) {
        INVALID_SEQUENCE | u32::MAX => 1,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_skip_both_invalid_values() {
        assert_eq!(next_sequence(0), 1);
        assert_eq!(next_sequence(1), 2);
        assert_eq!(next_sequence(u32::MAX - 2), u32::MAX - 1);
        assert_eq!(next_sequence(u32::MAX - 1), 1);
        assert_eq!(next_sequence(u32::MAX), 1);
    }
}
