//! A text for L1's user space, which L0 is started with: read at the counter port.
//!
//! What boots has a command line. What is restored has that of its boot, and learns by this what it is to do now. Shared
//! by L0 and the vmm.

/// What is written to [`SELECT_PORT`](crate::counters::SELECT_PORT) to latch eight bytes of the text: this and their
/// number. Those behind its end are zero.
pub const TEXT: u32 = 0x5458_0000;

/// The number in whose place a write takes the text: there is none from then on.
pub const TAKE: u32 = 0xFFFF;

/// What a write to the port asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// These eight bytes.
    Piece(u16),
    /// That there be no text any more.
    Take,
}

impl Request {
    /// What this value asks for, if it is about the text.
    pub const fn decode(value: u32) -> Option<Self> {
        match value & 0xFFFF {
            _ if value & 0xFFFF_0000 != TEXT => None,
            TAKE => Some(Self::Take),
            number => Some(Self::Piece(number as u16)),
        }
    }
}

/// Eight bytes of a text, the first one lowest.
pub fn piece(text: &str, number: u16) -> u64 {
    let rest = text.as_bytes().get(usize::from(number) * 8..);
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{Counter, SAVE};

    #[test]
    fn requests_are_neither_counters_nor_a_save() {
        assert_eq!(Request::decode(TEXT), Some(Request::Piece(0)));
        assert_eq!(Request::decode(TEXT | 7), Some(Request::Piece(7)));
        assert_eq!(Request::decode(TEXT | TAKE), Some(Request::Take));
        assert_eq!(Request::decode(SAVE), None);
        assert!((0..=Counter::ALL.len() as u32).all(|n| Request::decode(n).is_none()));
    }

    #[test]
    fn a_text_is_its_pieces() {
        let text = "hynest.run=linux,measure";
        let pieces = (0..4).flat_map(|n| piece(text, n).to_le_bytes());
        let all: alloc::vec::Vec<u8> = pieces.collect();
        assert_eq!(&all[..text.len()], text.as_bytes());
        assert!(all[text.len()..].iter().all(|&byte| byte == 0));
        assert_eq!((piece(text, u16::MAX), piece("", 0)), (0, 0));
    }
}
