//! Unpacking modules: LZ4 frames (LZ4 Frame Format 1.6) with independent blocks.
//!
//! Reading a module through the firmware costs an emulated machine more than unpacking it.

use core::fmt;

/// The frame's magic number.
const MAGIC: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];

/// What is wrong with a packed module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The frame ends early.
    Truncated,
    /// The frame's version, linked blocks or a dictionary, or a missing content size.
    Unsupported(&'static str),
    /// A block does not unpack, or not to the size that the header states.
    Corrupt,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the LZ4 frame ends early"),
            Self::Unsupported(what) => write!(f, "the LZ4 frame has {what}"),
            Self::Corrupt => f.write_str("the LZ4 frame is corrupt"),
        }
    }
}

/// A frame whose header has been read.
pub struct Frame<'a> {
    blocks: &'a [u8],
    size: u64,
    block_checksums: bool,
}

/// The first `N` bytes, and the rest.
fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(Error::Truncated)?;
    Ok((*head, rest))
}

impl<'a> Frame<'a> {
    /// Reads the header of `module`; `None` when it is no LZ4 frame, and to be used as it is.
    ///
    /// # Errors
    /// It is one that cannot be unpacked here.
    pub fn open(module: &'a [u8]) -> Result<Option<Self>, Error> {
        let Some(rest) = module.strip_prefix(&MAGIC) else {
            return Ok(None);
        };
        let ([flags, _], rest) = take::<2>(rest)?;
        if flags >> 6 != 1 {
            return Err(Error::Unsupported("an unknown version"));
        }
        if flags & 0x20 == 0 {
            return Err(Error::Unsupported("linked blocks"));
        }
        if flags & 0x08 == 0 {
            return Err(Error::Unsupported("no content size"));
        }
        if flags & 0x01 != 0 {
            return Err(Error::Unsupported("a dictionary"));
        }
        let (size, rest) = take::<8>(rest)?;
        let (_header_checksum, blocks) = take::<1>(rest)?;
        Ok(Some(Self {
            blocks,
            size: u64::from_le_bytes(size),
            block_checksums: flags & 0x10 != 0,
        }))
    }

    /// Bytes that unpack.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Unpacks into `to`, of [`size`](Self::size) bytes.
    ///
    /// # Errors
    /// The frame is cut or corrupt; what `to` holds then is unspecified.
    pub fn unpack(&self, mut to: &mut [u8]) -> Result<(), Error> {
        /// The block's data is stored as it is.
        const STORED: u32 = 1 << 31;
        let mut rest = self.blocks;
        loop {
            let (word, after) = take::<4>(rest)?;
            let word = u32::from_le_bytes(word);
            if word == 0 {
                return if to.is_empty() {
                    Ok(())
                } else {
                    Err(Error::Corrupt)
                };
            }
            let length = (word & !STORED) as usize;
            let block = after.get(..length).ok_or(Error::Truncated)?;
            rest = &after[length..];
            if self.block_checksums {
                (_, rest) = take::<4>(rest)?;
            }
            let written = if word & STORED != 0 {
                to.get_mut(..length)
                    .ok_or(Error::Corrupt)?
                    .copy_from_slice(block);
                length
            } else {
                lz4_flex::block::decompress_into(block, to).map_err(|_| Error::Corrupt)?
            };
            to = &mut to[written..];
        }
    }
}
