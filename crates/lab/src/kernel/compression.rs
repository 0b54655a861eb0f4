//! The compressions a kernel can be built with (`CONFIG_KERNEL_GZIP` and its siblings).
//!
//! Each payload may be followed by other bytes (the build appends the unpacked size to most), so every decoder here
//! stops at the end of its own stream and leaves the rest alone.

use std::io::Read;

use anyhow::{Context, Result, bail};

/// A compression, known by the first bytes of what it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    Lz4Legacy,
    Zstd,
    None,
}

impl Compression {
    const MAGICS: [(&'static [u8], Self); 8] = [
        (b"\x1F\x8B", Self::Gzip),
        (b"BZh", Self::Bzip2),
        (b"\x5D\0\0", Self::Lzma),
        (b"\xFD7zXZ\0", Self::Xz),
        (lzop::MAGIC, Self::Lzo),
        (&[0x02, 0x21, 0x4C, 0x18], Self::Lz4Legacy),
        (&[0x28, 0xB5, 0x2F, 0xFD], Self::Zstd),
        (super::elf::MAGIC, Self::None),
    ];

    fn of(bytes: &[u8]) -> Option<Self> {
        Self::MAGICS
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|&(_, compression)| compression)
    }
}

/// No kernel is larger than this when unpacked; a stream that claims more is damaged or malicious.
const LARGEST: u64 = 1 << 30;

/// Unpacks `bytes`, by whichever of the kernel's compressions they were packed with.
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
    let Some(compression) = Compression::of(bytes) else {
        bail!(
            "its payload is in a compression unknown to the kernel's build (first bytes {:02x?})",
            &bytes[..bytes.len().min(6)]
        );
    };
    let unpacked = match compression {
        Compression::Gzip => read_all(flate2::read::GzDecoder::new(bytes)),
        Compression::Bzip2 => read_all(bzip2::read::BzDecoder::new(bytes)),
        Compression::Lzma => liblzma::stream::Stream::new_lzma_decoder(u64::MAX)
            .context("no LZMA decoder")
            .and_then(|stream| read_all(liblzma::read::XzDecoder::new_stream(bytes, stream))),
        Compression::Xz => read_all(liblzma::read::XzDecoder::new(bytes)),
        Compression::Lzo => lzop::unpack(bytes),
        Compression::Lz4Legacy => lz4_legacy(bytes),
        Compression::Zstd => zstd_frame(bytes),
        Compression::None => Ok(bytes.to_vec()),
    };
    unpacked.with_context(|| format!("its {compression:?} payload is damaged"))
}

fn read_all(reader: impl Read) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(LARGEST).read_to_end(&mut out)?;
    Ok(out)
}

fn zstd_frame(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
    // The kernel's build compresses from a pipe with the largest window there is.
    decoder.window_log_max(31)?;
    read_all(decoder)
}

/// The format of `lz4 -l`: the magic, then blocks of at most 8 MiB unpacked, each after its packed size.
fn lz4_legacy(bytes: &[u8]) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    let mut rest = &bytes[4..];
    let mut block = vec![0; BLOCK];
    while let Some((size, after)) = rest.split_first_chunk() {
        let size = u32::from_le_bytes(*size) as usize;
        // The last 4 bytes are the unpacked size, not a block's: nothing follows them.
        if after.is_empty() || size == 0 {
            break;
        }
        let Some(packed) = after.get(..size) else {
            bail!("a block reaches past the end")
        };
        let unpacked = lzzzz::lz4::decompress(packed, &mut block)?;
        out.extend_from_slice(&block[..unpacked]);
        rest = &after[size..];
    }
    Ok(out)
}

/// The file format of the lzop tool, as far as the kernel's build uses it.
mod lzop {
    use anyhow::{Result, bail};

    pub const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1A\n";

    /// Flags in the header that say which checksums come with a block.
    const ADLER32_UNPACKED: u32 = 1 << 0;
    const ADLER32_PACKED: u32 = 1 << 1;
    const CRC32_UNPACKED: u32 = 1 << 8;
    const CRC32_PACKED: u32 = 1 << 9;
    const HAS_FILTER: u32 = 1 << 11;

    struct Cursor<'a>(&'a [u8]);

    impl<'a> Cursor<'a> {
        fn take(&mut self, count: usize) -> Result<&'a [u8]> {
            match self.0.split_at_checked(count) {
                Some((head, tail)) => {
                    self.0 = tail;
                    Ok(head)
                }
                None => bail!("it ends too early"),
            }
        }

        fn number(&mut self, bytes: usize) -> Result<u32> {
            Ok(self
                .take(bytes)?
                .iter()
                .fold(0, |value, &byte| value << 8 | u32::from(byte)))
        }
    }

    pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut cursor = Cursor(bytes);
        cursor.take(MAGIC.len())?;
        let version = cursor.number(2)?;
        cursor.number(2)?; // the library's version
        if version >= 0x940 {
            cursor.number(2)?; // the version needed to extract
        }
        cursor.number(1)?; // method
        if version >= 0x940 {
            cursor.number(1)?; // level
        }
        let flags = cursor.number(4)?;
        if flags & HAS_FILTER != 0 {
            cursor.number(4)?;
        }
        cursor.number(4)?; // mode
        cursor.number(4)?; // modification time
        if version >= 0x940 {
            cursor.number(4)?; // its upper half
        }
        let name = cursor.number(1)?;
        cursor.take(name as usize)?;
        cursor.number(4)?; // the header's checksum

        let count = |wanted: u32| (flags & wanted).count_ones() as usize;
        let mut out = Vec::new();
        loop {
            let unpacked = cursor.number(4)? as usize;
            if unpacked == 0 {
                return Ok(out);
            }
            let packed = cursor.number(4)? as usize;
            if unpacked > 64 << 20 || packed > unpacked {
                bail!("a block of {packed} bytes claims to unpack to {unpacked}");
            }
            cursor.take(4 * count(ADLER32_UNPACKED | CRC32_UNPACKED))?;
            // A block that did not shrink is stored, and has no checksum of its packed form.
            if packed == unpacked {
                out.extend_from_slice(cursor.take(packed)?);
                continue;
            }
            cursor.take(4 * count(ADLER32_PACKED | CRC32_PACKED))?;
            let start = out.len();
            out.resize(start + unpacked, 0);
            match lzokay::decompress::decompress(cursor.take(packed)?, &mut out[start..]) {
                Ok(size) if size == unpacked => {}
                Ok(size) => bail!("a block of {unpacked} bytes unpacked to {size}"),
                Err(error) => bail!("a block does not unpack: {error:?}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn sample() -> Vec<u8> {
        (0..200_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect()
    }

    /// What the kernel's build does: compress, then append the size.
    fn with_size(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend((sample().len() as u32).to_le_bytes());
        packed
    }

    #[test]
    fn gzip() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&sample()).unwrap();
        assert_eq!(unpack(&encoder.finish().unwrap()).unwrap(), sample());
    }

    #[test]
    fn bzip2() {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(&sample()).unwrap();
        assert_eq!(
            unpack(&with_size(encoder.finish().unwrap())).unwrap(),
            sample()
        );
    }

    #[test]
    fn xz_and_lzma() {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(&sample()).unwrap();
        assert_eq!(
            unpack(&with_size(encoder.finish().unwrap())).unwrap(),
            sample()
        );

        let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(&sample()).unwrap();
        assert_eq!(
            unpack(&with_size(encoder.finish().unwrap())).unwrap(),
            sample()
        );
    }

    #[test]
    fn zstd() {
        let packed = zstd::encode_all(&sample()[..], 1).unwrap();
        assert_eq!(unpack(&with_size(packed)).unwrap(), sample());
    }

    #[test]
    fn lz4_in_several_blocks() {
        let mut packed = vec![0x02, 0x21, 0x4C, 0x18];
        for part in sample().chunks(300_000) {
            let mut block = Vec::new();
            lzzzz::lz4::compress_to_vec(part, &mut block, 1).unwrap();
            packed.extend((block.len() as u32).to_le_bytes());
            packed.extend(block);
        }
        assert_eq!(unpack(&with_size(packed.clone())).unwrap(), sample());
        packed.truncate(packed.len() - 100);
        assert!(unpack(&packed).is_err());
    }

    #[test]
    fn lzo_packed_and_stored() {
        let mut packed = lzop::MAGIC.to_vec();
        packed.extend([0x10, 0x30, 0x20, 0xA0, 0x09, 0x40, 3, 9]); // versions, method, level
        packed.extend(0x0000_0003_u32.to_be_bytes()); // flags: adler32 of both forms
        packed.extend([0; 12]); // mode, modification time
        packed.extend([0; 5]); // no name, checksum
        let (first, second) = (&sample()[..100_000], &sample()[100_000..]);
        let block = lzokay::compress::compress(first).unwrap();
        packed.extend((first.len() as u32).to_be_bytes());
        packed.extend((block.len() as u32).to_be_bytes());
        packed.extend([0; 8]);
        packed.extend(block);
        packed.extend((second.len() as u32).to_be_bytes());
        packed.extend((second.len() as u32).to_be_bytes());
        packed.extend([0; 4]);
        packed.extend(second);
        packed.extend([0; 4]);
        assert_eq!(unpack(&with_size(packed.clone())).unwrap(), sample());
        packed.truncate(5_000);
        assert!(unpack(&packed).is_err());
    }

    #[test]
    fn damage_is_an_error() {
        let mut packed = zstd::encode_all(&sample()[..], 1).unwrap();
        packed.truncate(packed.len() / 2);
        assert!(unpack(&packed).is_err());
        assert!(
            unpack(b"plain text")
                .unwrap_err()
                .to_string()
                .contains("unknown")
        );
    }
}
