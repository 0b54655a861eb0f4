//! What the unit tests of this crate share.

extern crate std;

use crate::config::Config;
use crate::enlightenments::Set;
use crate::memory::{ReadMemory, Unmapped, WriteMemory};
use addr::{Gpa1, Gpa2};
use std::cell::RefCell;
use std::vec;
use std::vec::Vec;
use tlfs::cpuid::HardwareFeatures;

/// Guest memory from address 0 on that remembers what was written to it.
pub struct Ram {
    bytes: RefCell<Vec<u8>>,
    writes: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl Ram {
    pub fn new(size: usize) -> Self {
        Self {
            bytes: RefCell::new(vec![0; size]),
            writes: RefCell::default(),
        }
    }

    /// Address and bytes of each write since the last call.
    pub fn writes(&self) -> Vec<(u64, Vec<u8>)> {
        self.writes.take()
    }

    pub fn u32(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(Gpa1::new(at), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn put(&self, at: u64, words: &[u64]) {
        for (n, word) in words.iter().enumerate() {
            let at = at as usize + n * 8;
            self.bytes.borrow_mut()[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn span(at: Gpa1, length: usize, size: usize) -> Result<core::ops::Range<usize>, Unmapped> {
    let start = usize::try_from(at.raw()).map_err(|_| Unmapped)?;
    let end = start
        .checked_add(length)
        .filter(|end| *end <= size)
        .ok_or(Unmapped)?;
    Ok(start..end)
}

impl ReadMemory<Gpa1> for Ram {
    fn read(&self, at: Gpa1, into: &mut [u8]) -> Result<(), Unmapped> {
        let bytes = self.bytes.borrow();
        into.copy_from_slice(&bytes[span(at, into.len(), bytes.len())?]);
        Ok(())
    }
}

impl WriteMemory<Gpa1> for Ram {
    fn write(&self, at: Gpa1, from: &[u8]) -> Result<(), Unmapped> {
        let mut bytes = self.bytes.borrow_mut();
        let size = bytes.len();
        bytes[span(at, from.len(), size)?].copy_from_slice(from);
        self.writes.borrow_mut().push((at.raw(), from.to_vec()));
        Ok(())
    }
}

/// A partition of two VPs with everything on.
pub const CONFIG: Config = Config {
    enlightenments: Set::ALL,
    vps: 2,
    tsc_hz: 2_000_000_000,
    apic_hz: 1_000_000_000,
    physical_address_bits: 46,
    hardware: HardwareFeatures::new(),
    evmcs_perf_global_ctrl: false,
};

/// An L2's view, in which its addresses are L1's.
impl ReadMemory<Gpa2> for Ram {
    fn read(&self, at: Gpa2, into: &mut [u8]) -> Result<(), Unmapped> {
        self.read(Gpa1::new(at.raw()), into)
    }
}
