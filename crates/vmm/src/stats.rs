//! KVM's own statistics of a VM or a vCPU: what L1's KVM counts (KVM API,
//! "KVM_GET_STATS_FD").

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{KVM_CAP_BINARY_STATS_FD, KVMIO};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::{errno, ioctl_io_nr};

use crate::error::{Error, Result, refused};
use crate::host::Host;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Sizes of `struct kvm_stats_header` and, without its name, `struct kvm_stats_desc`.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;

/// More descriptors than any KVM has, and a longer name: what is beyond is a mistake.
const MOST: u32 = 4096;

/// The statistics of one VM or vCPU.
pub struct Stats {
    file: File,
    /// Names, and where their values are in the file.
    places: Vec<(String, u64)>,
}

impl Stats {
    /// Those of `file`, a VM or a vCPU.
    ///
    /// # Errors
    /// [`Error::NotOffered`] before Linux 5.14.
    pub fn of(host: &Host, file: &impl AsRawFd) -> Result<Self> {
        if host.offers(KVM_CAP_BINARY_STATS_FD) <= 0 {
            return Err(Error::NotOffered("statistics (KVM_CAP_BINARY_STATS_FD)"));
        }
        // SAFETY: the ioctl takes no argument and returns a new file.
        let fd = unsafe { ioctl(file, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return Err(refused(WHAT)(errno::Error::last()));
        }
        // SAFETY: the descriptor was just made for us and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        let places = places(|buffer, at| file.read_exact_at(buffer, at)).map_err(unreadable)?;
        Ok(Stats { file, places })
    }

    /// The value of that name; `None` if this KVM does not count it.
    pub fn read(&self, name: &str) -> Result<Option<u64>> {
        let place = self.places.iter().find(|(known, _)| known == name);
        let Some(&(_, at)) = place else {
            return Ok(None);
        };
        let mut value = [0; 8];
        self.file
            .read_exact_at(&mut value, at)
            .map_err(unreadable)?;
        Ok(Some(u64::from_le_bytes(value)))
    }
}

const WHAT: &str = "show its statistics";

fn unreadable(cause: std::io::Error) -> Error {
    Error::System {
        what: "read KVM's statistics",
        cause,
    }
}

/// The names and places that the file describes.
fn places(
    read: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
) -> std::io::Result<Vec<(String, u64)>> {
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let mut header = [0; HEADER];
    read(&mut header, 0)?;
    let (name_size, count) = (word(&header, 4), word(&header, 8));
    if name_size > MOST || count > MOST {
        return Err(std::io::Error::other("the description is too long"));
    }
    let (descriptors, data) = (word(&header, 16), word(&header, 20));
    let size = DESCRIPTOR + name_size as usize;
    let mut all = vec![0; size * count as usize];
    read(&mut all, descriptors.into())?;
    Ok(all
        .chunks_exact(size)
        .map(|one| {
            let name = one[DESCRIPTOR..].split(|&byte| byte == 0).next();
            let name = String::from_utf8_lossy(name.unwrap_or_default());
            let offset = u64::from(word(one, 8));
            (name.into_owned(), u64::from(data) + offset)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let mut file = vec![0u8; 24];
        let mut put =
            |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(4, 8); // name size
        put(8, 2); // descriptors
        put(16, 32); // where they are
        put(20, 96); // where the data is
        file.resize(96, 0);
        for (at, offset, name) in [(32, 0u32, b"exits"), (56, 8, b"halts")] {
            file[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            file[at + 16..at + 21].copy_from_slice(name);
        }
        let read = |buffer: &mut [u8], at: u64| {
            let at = at as usize;
            buffer.copy_from_slice(&file[at..at + buffer.len()]);
            Ok(())
        };
        let expected = [("exits".to_owned(), 96), ("halts".to_owned(), 104)];
        assert_eq!(places(read).unwrap(), expected);
    }

    #[test]
    fn a_description_that_cannot_be_is_refused() {
        let read = |buffer: &mut [u8], _| {
            buffer.fill(0xFF);
            Ok(())
        };
        assert!(places(read).is_err());
    }
}
