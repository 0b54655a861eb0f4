//! L0's reckoning of time, and of its TSC's rate: MSRs of Hyper-V's interface, by Linux's
//! `msr` module.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// HV_X64_MSR_TIME_REF_COUNT, in units of 100 ns.
const TIME_REF_COUNT: u64 = 0x4000_0020;
/// HV_X64_MSR_TSC_FREQUENCY, in Hz.
const TSC_FREQUENCY: u64 = 0x4000_0022;
/// HV_X64_MSR_TSC_EMULATION_STATUS: bit 0 says that TSC reads are emulated.
const TSC_EMULATION_STATUS: u64 = 0x4000_0108;

/// The MSRs of one CPU. A thread that reads them stays there, or its reads take an
/// interrupt of the other.
pub struct Reference {
    path: PathBuf,
    msrs: File,
}

impl Reference {
    /// Those of CPU `cpu`.
    pub fn of(cpu: usize) -> Result<Self> {
        let path = PathBuf::from(format!("/dev/cpu/{cpu}/msr"));
        let msrs = File::open(&path).map_err(|cause| Error::File {
            path: path.clone(),
            cause,
        })?;
        Ok(Reference { path, msrs })
    }

    fn read(&self, msr: u64) -> Result<u64> {
        let mut value = [0; 8];
        let read = self.msrs.read_exact_at(&mut value, msr);
        read.map_err(|cause| Error::File {
            path: self.path.clone(),
            cause,
        })?;
        Ok(u64::from_le_bytes(value))
    }

    /// The reference time in nanoseconds.
    pub fn now(&self) -> Result<u64> {
        Ok(self.read(TIME_REF_COUNT)?.wrapping_mul(100))
    }

    /// The TSC's rate in Hz.
    pub fn tsc_hz(&self) -> Result<u64> {
        self.read(TSC_FREQUENCY)
    }

    /// Whether L0 emulates the TSC.
    pub fn is_tsc_emulated(&self) -> Result<bool> {
        Ok(self.read(TSC_EMULATION_STATUS)? & 1 != 0)
    }
}
