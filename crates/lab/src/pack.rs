//! Packing what GRUB loads, as L0 unpacks it.

use anyhow::{Context, Result};
use lzzzz::lz4f::{self, BlockMode, BlockSize, ContentChecksum, PreferencesBuilder};

/// Packs `bytes` into one LZ4 frame: independent blocks of 4 MiB, the content's size in the header, no checksums (what
/// carries the frame is checked, and a checksum costs L0 an instruction or more a byte).
pub fn lz4_frame(bytes: &[u8]) -> Result<Vec<u8>> {
    let preferences = PreferencesBuilder::new()
        .block_size(BlockSize::Max4MB)
        .block_mode(BlockMode::Independent)
        .content_checksum(ContentChecksum::Disabled)
        .content_size(bytes.len())
        .compression_level(LEVEL)
        .build();
    let mut packed = Vec::new();
    lz4f::compress_to_vec(bytes, &mut packed, &preferences).context("LZ4 failed")?;
    Ok(packed)
}

/// The level at which LZ4's "high compression" stops paying: packing happens once, reading at each boot.
const LEVEL: i32 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_says_its_size_and_unpacks() {
        let bytes: Vec<u8> = (0..9_000_000_u32).map(|n| (n / 1000) as u8).collect();
        let packed = lz4_frame(&bytes).unwrap();
        assert_eq!(packed[..4], [0x04, 0x22, 0x4D, 0x18]);
        // FLG: version 1, independent blocks, content size; BD: 4 MiB.
        assert_eq!(packed[4], 0b0110_1000);
        assert_eq!(packed[5], 0x70);
        assert_eq!(packed[6..14], 9_000_000_u64.to_le_bytes());
        let mut unpacked = Vec::new();
        lz4f::decompress_to_vec(&packed, &mut unpacked).unwrap();
        assert_eq!(unpacked, bytes);
    }
}
