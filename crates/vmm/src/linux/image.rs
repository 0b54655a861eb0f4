//! A kernel or initramfs file that becomes guest memory.
//!
//! Whole pages of the file are mapped into guest memory, copy-on-write, instead of
//! being read: the guest pays for the pages it touches, and guests that run from
//! one file share its pages.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

use crate::error::{Error, Result};
use crate::paging::PAGE_SIZE;

/// An open file, to be loaded into anonymous private guest memory.
pub struct Image {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Image {
    /// Opens a file that must not be empty.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |cause| Error::File {
            path: path.into(),
            cause,
        };
        let file = File::open(path).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(error(io::Error::other("not a file with contents")));
        }
        Ok(Image {
            file,
            path: path.into(),
            bytes: metadata.len(),
        })
    }

    /// Its name, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// How much of `wanted` bytes at the file's offset can be mapped at `address`:
    /// whole pages, when offset and address are multiples of a page.
    fn mappable(address: u64, offset: u64, wanted: u64, bytes: u64) -> u64 {
        if !address.is_multiple_of(PAGE_SIZE) || !offset.is_multiple_of(PAGE_SIZE) {
            return 0;
        }
        let there = bytes.saturating_sub(offset).min(wanted);
        there - there % PAGE_SIZE
    }

    /// Puts `bytes` of the file, from `offset` on, in place of the memory at `address`.
    fn map(&self, address: *mut u8, offset: u64, bytes: u64) -> io::Result<()> {
        // SAFETY: the range was given as a volatile slice of guest memory, so it is
        // mapped, owned by the guest's memory and free of Rust references. The new
        // mapping is private, of the same protection, and goes when the region's
        // owner unmaps the whole range.
        let mapped = unsafe {
            libc::mmap(
                address.cast(),
                bytes as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                self.file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match mapped {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl Read for Image {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Image {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl ReadVolatile for Image {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buffer: &mut VolatileSlice<B>,
    ) -> std::result::Result<usize, VolatileMemoryError> {
        let offset = self
            .file
            .stream_position()
            .map_err(VolatileMemoryError::IOError)?;
        let guard = buffer.ptr_guard_mut();
        let address = guard.as_ptr();
        let bytes = Image::mappable(
            address.addr() as u64,
            offset,
            buffer.len() as u64,
            self.bytes,
        );
        if bytes == 0 {
            return self.file.read_volatile(buffer);
        }
        self.map(address, offset, bytes)
            .and_then(|()| self.file.seek(SeekFrom::Start(offset + bytes)))
            .map_err(VolatileMemoryError::IOError)?;
        // The caller wants all of it at once: what is left of a page is read.
        let rest = self
            .file
            .read_volatile(&mut buffer.offset(bytes as usize)?)?;
        Ok(bytes as usize + rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Mapped or copied, the guest sees the file's bytes, and only those it should.
        #[test]
        fn memory_shows_the_file(
            length in 1usize..40_000,
            offset in prop_oneof![Just(0u64), Just(4096), 0u64..9000],
            address in prop_oneof![Just(0u64), Just(8192), 0u64..9000],
        ) {
            let contents: Vec<u8> = (0..length).map(|n| (n * 7 % 251) as u8 + 1).collect();
            let path = std::env::temp_dir().join(format!("vmm-image-{}", std::process::id()));
            File::create(&path).unwrap().write_all(&contents).unwrap();
            let mut image = Image::open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            prop_assert_eq!(image.size(), length as u64);
            let memory: GuestMemoryMmap =
                GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
            let wanted = length.saturating_sub(offset as usize);
            image.seek(SeekFrom::Start(offset)).unwrap();
            memory.read_exact_volatile_from(GuestAddress(address), &mut image, wanted).unwrap();

            let mut seen = vec![0; 1 << 16];
            memory.read_slice(&mut seen, GuestAddress(0)).unwrap();
            let end = address as usize + wanted;
            prop_assert!(seen[..address as usize].iter().all(|&byte| byte == 0));
            prop_assert_eq!(&seen[address as usize..end], &contents[length - wanted..]);
            prop_assert!(seen[end..].iter().all(|&byte| byte == 0));
            // The guest's writes stay its own.
            memory.write_slice(&[0; 64], GuestAddress(address)).unwrap();
        }
    }

    #[test]
    fn an_empty_file_or_a_folder_is_refused() {
        let error = Image::open(&std::env::temp_dir()).err().unwrap();
        assert!(error.to_string().contains("not a file"), "{error}");
        let error = Image::open(Path::new("/nowhere/vmlinux")).err().unwrap();
        assert!(
            error.to_string().starts_with("/nowhere/vmlinux: "),
            "{error}"
        );
    }
}
