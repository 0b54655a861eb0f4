//! The PVH start info: `hvm_start_info`, version 1, of Xen's `start_info.h`.

use addr::Gpa1;
use alloc::vec::Vec;

use super::{Blob, BootError};

/// The magic number a start info begins with: "xEn3", the E with its top bit set.
pub const MAGIC: u32 = 0x336E_C578;
const VERSION: u32 = 1;
const START_INFO_SIZE: usize = 56;
const MODULE_SIZE: usize = 32;
const MEMORY_ENTRY_SIZE: usize = 24;

/// What a range of the memory map is, by the numbers of ACPI's address range types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MemoryKind {
    /// RAM, free to use once what the start info names has been read.
    Ram = 1,
    /// Holds ACPI tables; RAM after those have been read.
    AcpiReclaimable = 3,
}

/// A range of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// Its first byte.
    pub start: Gpa1,
    /// Bytes in it.
    pub size: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// What a start info tells.
pub(super) struct StartInfo<'a> {
    pub cmdline: &'a [u8],
    /// The initial ramdisk: place and size.
    pub module: Option<(Gpa1, u64)>,
    pub rsdp: Gpa1,
    pub memory_map: &'a [MemoryRange],
}

impl StartInfo<'_> {
    /// The start info at `base`, followed by the module list, the memory map and
    /// the command line, all below `limit`.
    pub(super) fn place(&self, base: Gpa1, limit: Gpa1) -> Result<Blob, BootError> {
        if self.cmdline.contains(&0) {
            return Err(BootError::CmdlineNul);
        }
        let modules = START_INFO_SIZE;
        let memory_map = modules + MODULE_SIZE;
        let cmdline = memory_map + MEMORY_ENTRY_SIZE * self.memory_map.len();
        let room = (limit.raw() - base.raw()) as usize - cmdline - 1;
        if self.cmdline.len() > room {
            let length = self.cmdline.len();
            return Err(BootError::CmdlineTooLong { length, room });
        }
        let at = |offset: usize| base.raw() + offset as u64;
        let mut out = Writer(Vec::with_capacity(cmdline + self.cmdline.len() + 1));
        out.u32(MAGIC);
        out.u32(VERSION);
        out.u32(0); // flags
        out.u32(self.module.is_some().into());
        out.u64(at(modules));
        out.u64(at(cmdline));
        out.u64(self.rsdp.raw());
        out.u64(at(memory_map));
        out.u32(self.memory_map.len() as u32);
        out.u32(0);
        let (start, size) = self.module.unwrap_or_default();
        out.u64(start.raw());
        out.u64(size);
        out.u64(0); // the module's own command line
        out.u64(0);
        for range in self.memory_map {
            out.u64(range.start.raw());
            out.u64(range.size);
            out.u32(range.kind as u32);
            out.u32(0);
        }
        out.0.extend_from_slice(self.cmdline);
        out.0.push(0);
        Ok(Blob {
            at: base,
            bytes: out.0,
        })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}
