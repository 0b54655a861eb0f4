//! The reference TSC page: the clock as the guest reads it without an exit.

use super::Timeline;
use crate::memory::L1Memory;
use addr::Gpa1;
use serde::{Deserialize, Serialize};
use tlfs::msr::OverlayPage;
use tlfs::page::reference_tsc::{INVALID_SEQUENCE, OFFSET, SCALE, SEQUENCE, next_sequence};

/// Where the page lies and what its sequence number is. State, to be saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TscPage {
    /// The REFERENCE_TSC register.
    pub register: OverlayPage,
    /// The sequence number last published, 0 before the first time.
    pub sequence: u32,
}

impl TscPage {
    /// Publishes `line` under a new sequence number, if the page is enabled.
    /// A page outside the guest's memory is not an error: the guest just
    /// cannot read it (TLFS).
    ///
    /// The number is invalid while the words change: a reader that comes in
    /// between takes the MSR, one that was in between sees the number change
    /// and starts again.
    pub fn publish(&mut self, line: &Timeline, memory: &impl L1Memory) {
        let Some(page) = self.register.page() else {
            return;
        };
        let sequence = next_sequence(self.sequence);
        let words: [(u64, &[u8]); 4] = [
            (SEQUENCE, &INVALID_SEQUENCE.to_le_bytes()),
            (SCALE, &line.scale().to_le_bytes()),
            (OFFSET, &line.offset().to_le_bytes()),
            (SEQUENCE, &sequence.to_le_bytes()),
        ];
        for (offset, bytes) in words {
            // The page does not cross the end of the address space.
            if memory.write(Gpa1::new(page.raw() | offset), bytes).is_err() {
                return;
            }
        }
        self.sequence = sequence;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::clock::{ReferenceTime, Tsc};
    use crate::testing::Ram;

    fn line() -> Timeline {
        Timeline::through(Tsc(12345), ReferenceTime(99), 2_000_000_000).unwrap()
    }

    #[test]
    fn words_are_published_in_the_protocols_order() {
        let ram = Ram::new(0x4000);
        let mut page = TscPage {
            register: OverlayPage::at(Gpa1::new(0x2000)),
            sequence: u32::MAX - 1,
        };
        page.publish(&line(), &ram);
        assert_eq!(
            ram.writes(),
            [
                (0x2000, 0u32.to_le_bytes().to_vec()),
                (0x2008, line().scale().to_le_bytes().to_vec()),
                (0x2010, line().offset().to_le_bytes().to_vec()),
                (0x2000, 1u32.to_le_bytes().to_vec()),
            ]
        );
        assert_eq!(page.sequence, 1);
    }

    #[test]
    fn numbers_never_repeat_at_once() {
        let ram = Ram::new(0x1000);
        let mut page = TscPage {
            register: OverlayPage::at(Gpa1::new(0)),
            sequence: 0,
        };
        for _ in 0..10 {
            let before = page.sequence;
            page.publish(&line(), &ram);
            assert_ne!(page.sequence, before);
            assert_eq!(ram.u32(0), page.sequence);
        }
    }

    #[test]
    fn a_disabled_page_is_left_alone() {
        let ram = Ram::new(0x1000);
        let mut page = TscPage::default();
        page.publish(&line(), &ram);
        assert!(ram.writes().is_empty());
        assert_eq!(page.sequence, 0);
    }

    #[test]
    fn a_page_outside_memory_is_no_error() {
        let ram = Ram::new(0x1000);
        let mut page = TscPage {
            register: OverlayPage::at(Gpa1::new(!0xFFF)),
            sequence: 7,
        };
        page.publish(&line(), &ram);
        assert_eq!(page.sequence, 7);
    }
}
