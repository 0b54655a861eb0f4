//! Which places have been told of: a guest does not decide how long a log gets.

use super::Subject;

/// How many places are told apart; what comes after them is counted only.
pub const CAPACITY: usize = 256;

/// The places where something stale was found: a field, and the address of the
/// VMLAUNCH or VMRESUME that entered with it.
#[derive(Clone, Debug)]
pub struct Places {
    seen: [(u32, u64); CAPACITY],
    count: usize,
}

impl Places {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            seen: [(0, 0); CAPACITY],
            count: 0,
        }
    }

    /// Enters a place; whether it is to be told of, being new.
    pub fn enter(&mut self, subject: &Subject, rip: u64) -> bool {
        /// No field's encoding: bit 31 is reserved.
        const MSR_BITMAP: u32 = 1 << 31;
        let what = match subject {
            Subject::Field(slot) => slot.encoding,
            Subject::MsrBitmap(_) => MSR_BITMAP,
        };
        if self.count == CAPACITY || self.seen[..self.count].contains(&(what, rip)) {
            return false;
        }
        self.seen[self.count] = (what, rip);
        self.count += 1;
        true
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tlfs::evmcs::TABLE;

    #[test]
    fn a_place_is_new_once_and_there_is_an_end() {
        let mut places = Places::new();
        let field = Subject::Field(TABLE[0]);
        assert!(places.enter(&field, 1));
        assert!(!places.enter(&field, 1));
        assert!(places.enter(&field, 2));
        assert!(places.enter(&Subject::Field(TABLE[1]), 1));
        assert!(places.enter(&Subject::MsrBitmap(0), 1));
        assert!(!places.enter(&Subject::MsrBitmap(8), 1), "the same mistake");
        let more = (3..10_000).filter(|&rip| places.enter(&field, rip)).count();
        assert_eq!(more, CAPACITY - 4);
    }
}
