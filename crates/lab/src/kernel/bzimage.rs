//! Reading a bzImage: Linux's Documentation/arch/x86/boot.rst describes the header.

use anyhow::{Result, bail};

/// The part of a bzImage that holds the compressed vmlinux.
#[derive(Debug)]
pub struct Payload<'a> {
    /// The compressed bytes. For every format but gzip the kernel's build appends the unpacked size in 4 bytes.
    pub bytes: &'a [u8],
}

/// Offsets into the file, by the names the boot protocol gives them.
mod offset {
    pub const SETUP_SECTS: usize = 0x1F1;
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const KERNEL_VERSION: usize = 0x20E;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24C;
}

/// The boot protocol that introduced `payload_offset` (2.08, Linux 2.6.26).
const FIRST_WITH_PAYLOAD: u16 = 0x208;

impl<'a> Payload<'a> {
    /// Finds the payload; `None` when `file` is no bzImage.
    ///
    /// # Errors
    ///
    /// A bzImage that is too old, or shorter than its header says.
    pub fn find(file: &'a [u8]) -> Result<Option<Self>> {
        if file.get(offset::HEADER..offset::HEADER + 4) != Some(b"HdrS") {
            return Ok(None);
        }
        let (Some(version), Some(start), Some(length)) = (
            u16_at(file, offset::VERSION),
            u32_at(file, offset::PAYLOAD_OFFSET),
            u32_at(file, offset::PAYLOAD_LENGTH),
        ) else {
            bail!("the bzImage ends within its header");
        };
        if version < FIRST_WITH_PAYLOAD {
            bail!(
                "the bzImage's boot protocol is {}.{:02}, and 2.08 is needed",
                version >> 8,
                version & 0xFF
            );
        }
        // A count of 0 means 4, from the days of LILO.
        let setup_sectors = match file[offset::SETUP_SECTS] {
            0 => 4,
            n => usize::from(n),
        };
        let start = (setup_sectors + 1) * 512 + start as usize;
        match file.get(start..start + length as usize) {
            Some(bytes) => Ok(Some(Self { bytes })),
            None => bail!(
                "the bzImage is cut short: {} bytes, and its payload ends at {}",
                file.len(),
                start + length as usize
            ),
        }
    }
}

/// The version string of a bzImage, from where its header points; not cut at its end.
pub fn version(file: &[u8]) -> Option<&[u8]> {
    if file.get(offset::HEADER..offset::HEADER + 4) != Some(b"HdrS") {
        return None;
    }
    match u16_at(file, offset::KERNEL_VERSION)? {
        0 => None,
        pointer => file.get(usize::from(pointer) + 0x200..),
    }
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    file.get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[offset::SETUP_SECTS] = 1;
        file[offset::HEADER..][..4].copy_from_slice(b"HdrS");
        file[offset::VERSION..][..2].copy_from_slice(&0x20F_u16.to_le_bytes());
        file[offset::PAYLOAD_OFFSET..][..4].copy_from_slice(&16_u32.to_le_bytes());
        file[offset::PAYLOAD_LENGTH..][..4].copy_from_slice(&3_u32.to_le_bytes());
        file[1024 + 16..][..3].copy_from_slice(b"abc");
        file
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        assert_eq!(Payload::find(&sample()).unwrap().unwrap().bytes, b"abc");
        let mut four_sectors = sample();
        four_sectors[offset::SETUP_SECTS] = 0;
        four_sectors[5 * 512 + 16..][..3].copy_from_slice(b"xyz");
        assert_eq!(Payload::find(&four_sectors).unwrap().unwrap().bytes, b"xyz");
    }

    #[test]
    fn what_is_no_bzimage_is_none_and_a_bad_one_an_error() {
        assert!(Payload::find(b"short").unwrap().is_none());
        assert!(Payload::find(&sample()[..0x240]).is_err());
        assert!(Payload::find(&sample()[..1030]).is_err());
        let mut old = sample();
        old[offset::VERSION..][..2].copy_from_slice(&0x207_u16.to_le_bytes());
        assert!(Payload::find(&old).is_err());
        let mut endless = sample();
        endless[offset::PAYLOAD_LENGTH..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Payload::find(&endless).is_err());
    }
}
