//! Pages: numbers in them, and whether there is anything in them.

use crate::checksum;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A page of the file's own, a header or a table, while it is made or taken apart.
///
/// It begins with a name of 8 characters and the checksum of all after that.
pub struct Form<'p>(pub &'p mut [u8]);

/// Where a form's checksum begins, and where it ends.
const CHECKSUM: usize = 8;
const COVERED: usize = 16;

impl Form<'_> {
    /// Begins an empty one.
    pub fn begin(&mut self, name: &[u8; 8]) {
        self.0.fill(0);
        self.0[..8].copy_from_slice(name);
    }

    /// Puts a number in.
    pub fn put(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Ends it with its checksum, which it returns.
    pub fn seal(&mut self) -> u64 {
        let sum = checksum::of(&self.0[COVERED..]);
        self.put(CHECKSUM, sum);
        sum
    }
}

/// The number at this place.
pub fn number(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Whether a form has this name.
pub fn has_name(page: &[u8], name: &[u8; 8]) -> bool {
    page[..8] == *name
}

/// A form's checksum, if it is right.
pub fn sealed(page: &[u8]) -> Option<u64> {
    let sum = number(page, CHECKSUM);
    (checksum::of(&page[COVERED..]) == sum).then_some(sum)
}

/// Whether these bytes, a multiple of 128, are all zero. Memory is searched with it: little more
/// than one instruction for 8 bytes, and none for those behind the first word that is not zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.as_chunks::<128>().0.iter().all(|chunk| {
        let words = chunk.as_chunks::<8>().0;
        words
            .iter()
            .fold(0, |all, word| all | u64::from_le_bytes(*word))
            == 0
    })
}

/// The word that these bytes, a multiple of 128, repeat from the first to the last, if they do.
pub fn repeated(bytes: &[u8]) -> Option<u64> {
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    let is_repeated = match word {
        0 => is_zero(bytes),
        _ => bytes.as_chunks::<128>().0.iter().all(|chunk| {
            let words = chunk.as_chunks::<8>().0;
            words
                .iter()
                .fold(0, |all, next| all | (u64::from_le_bytes(*next) ^ word))
                == 0
        }),
    };
    is_repeated.then_some(word)
}

/// Fills these bytes, a multiple of 64, with a word.
pub fn fill(bytes: &mut [u8], word: u64) {
    for chunk in bytes.as_chunks_mut::<64>().0 {
        for place in chunk.as_chunks_mut::<8>().0 {
            *place = word.to_le_bytes();
        }
    }
}
