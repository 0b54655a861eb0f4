//! How L1 starts: what is copied where, and the state of its first VP.
//!
//! L1 is an ELF64 entered by the PVH protocol (Xen, `docs/misc/pvh.pandoc`
//! and `start_info.h`): 32-bit protected mode, paging off, EBX pointing at a start info
//! that names the command line, the modules, the RSDP and the memory map.

mod entry;
mod kernel;
mod start_info;

#[cfg(test)]
mod tests;

pub use entry::{EntryState, SegmentState};
pub use kernel::{Kernel, KernelError, Segment};
pub use start_info::{MAGIC, MemoryKind, MemoryRange};

use addr::{Gpa1, PAGE_SIZE};
use alloc::vec::Vec;
use core::fmt;

use crate::acpi;
use crate::layout::{ACPI_BASE, ACPI_LIMIT, BOOT_INFO_BASE, BOOT_INFO_LIMIT, MAX_VPS, RAM_LIMIT};
use start_info::StartInfo;

/// What L1 is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Bytes of RAM, from address 0 on: a multiple of the page size.
    pub memory: u64,
    /// Number of VPs.
    pub vps: u32,
    /// L1's kernel: an ELF64 with a PVH note.
    pub kernel: &'a [u8],
    /// Size of the initial ramdisk in bytes, if there is one.
    pub initrd: Option<u64>,
    /// The kernel's command line, without a NUL.
    pub cmdline: &'a [u8],
}

/// Bytes made here, and where they go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob {
    /// The first byte's place.
    pub at: Gpa1,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Everything to do before the first VP runs. L1's memory is zero where the plan
/// says nothing.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Parts of the kernel's file to copy.
    pub segments: Vec<Segment>,
    /// Where the initial ramdisk goes.
    pub initrd: Option<Gpa1>,
    /// The start info with what it points to, and the ACPI tables.
    pub blobs: [Blob; 2],
    /// The memory map as the start info tells it.
    pub memory_map: Vec<MemoryRange>,
    /// The registers of the first VP.
    pub entry: EntryState,
}

/// Why L1 cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootError {
    /// The kernel cannot be used.
    Kernel(KernelError),
    /// The number of VPs is 0 or above [`MAX_VPS`].
    Vps(u32),
    /// The memory size is no multiple of a page, leaves nothing above the first
    /// mebibyte, or reaches into the device hole.
    Memory(u64),
    /// The kernel needs memory the partition does not have.
    KernelOutsideMemory {
        /// First address after the kernel's segment.
        end: u64,
        /// First address after RAM.
        memory: u64,
    },
    /// The kernel wants to lie where the start info or the ACPI tables are.
    KernelOverReserved(Gpa1),
    /// The initial ramdisk does not fit between the kernel and the end of memory.
    InitrdTooLarge {
        /// Its size.
        size: u64,
        /// The room there is.
        room: u64,
    },
    /// The command line holds a NUL.
    CmdlineNul,
    /// The command line is longer than the room there is for it.
    CmdlineTooLong {
        /// Its length.
        length: usize,
        /// The room there is.
        room: usize,
    },
}

impl From<KernelError> for BootError {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => write!(f, "L1's kernel {error}"),
            Self::Vps(vps) => write!(f, "{vps} VPs: 1 to {MAX_VPS} are possible"),
            Self::Memory(bytes) => write!(
                f,
                "{bytes:#x} bytes of memory: whole pages from 2 MiB to {RAM_LIMIT:#x} are possible"
            ),
            Self::KernelOutsideMemory { end, memory } => write!(
                f,
                "L1's kernel reaches up to {end:#x}, its memory only to {memory:#x}"
            ),
            Self::KernelOverReserved(at) => write!(
                f,
                "L1's kernel has a segment at {at}, where boot information lies"
            ),
            Self::InitrdTooLarge { size, room } => write!(
                f,
                "L1's initial ramdisk has {size:#x} bytes, its memory room for {room:#x}"
            ),
            Self::CmdlineNul => write!(f, "L1's command line holds a NUL"),
            Self::CmdlineTooLong { length, room } => write!(
                f,
                "L1's command line has {length} bytes, there is room for {room}"
            ),
        }
    }
}

/// Plans how to start L1.
///
/// # Errors
///
/// Says what does not fit, or what is wrong with the kernel.
pub fn plan(config: &Config) -> Result<Plan, BootError> {
    let memory = config.memory;
    if !memory.is_multiple_of(PAGE_SIZE) || memory < 2 << 20 || memory > RAM_LIMIT.raw() {
        return Err(BootError::Memory(memory));
    }
    let tables = acpi::tables(config.vps).ok_or(BootError::Vps(config.vps))?;
    let kernel = Kernel::parse(config.kernel)?;
    let kernel_end = place_kernel(&kernel, memory)?;
    let initrd = match config.initrd {
        None | Some(0) => None,
        Some(size) => Some((place_initrd(size, kernel_end, memory)?, size)),
    };
    let memory_map = memory_map(memory);
    let start_info = StartInfo {
        cmdline: config.cmdline,
        module: initrd,
        rsdp: tables.base,
        memory_map: &memory_map,
    };
    let info = start_info.place(BOOT_INFO_BASE, BOOT_INFO_LIMIT)?;
    Ok(Plan {
        entry: EntryState::pvh(kernel.entry, info.at),
        segments: kernel.segments,
        initrd: initrd.map(|(at, _)| at),
        blobs: [
            info,
            Blob {
                at: tables.base,
                bytes: tables.bytes,
            },
        ],
        memory_map,
    })
}

/// Checks that each segment lies in RAM and clear of what is placed here; returns
/// the first address after the highest.
fn place_kernel(kernel: &Kernel, memory: u64) -> Result<u64, BootError> {
    let mut kernel_end = 0;
    for segment in &kernel.segments {
        let start = segment.at.raw();
        let end = start.saturating_add(segment.memory_size);
        if end > memory {
            return Err(BootError::KernelOutsideMemory { end, memory });
        }
        for (base, limit) in [(BOOT_INFO_BASE, BOOT_INFO_LIMIT), (ACPI_BASE, ACPI_LIMIT)] {
            if start < limit.raw() && end > base.raw() {
                return Err(BootError::KernelOverReserved(segment.at));
            }
        }
        kernel_end = kernel_end.max(end);
    }
    Ok(kernel_end)
}

/// The ramdisk lies as high as it can: far from where a kernel unpacks or grows.
fn place_initrd(size: u64, kernel_end: u64, memory: u64) -> Result<Gpa1, BootError> {
    let lowest = kernel_end.max(ACPI_LIMIT.raw()).next_multiple_of(PAGE_SIZE);
    let room = memory.saturating_sub(lowest);
    if size > room {
        return Err(BootError::InitrdTooLarge { size, room });
    }
    Ok(Gpa1::new(memory - size).page())
}

fn memory_map(memory: u64) -> Vec<MemoryRange> {
    let range = |start: u64, end: u64, kind| MemoryRange {
        start: Gpa1::new(start),
        size: end - start,
        kind,
    };
    let (acpi, above) = (ACPI_BASE.raw(), ACPI_LIMIT.raw());
    alloc::vec![
        range(0, acpi, MemoryKind::Ram),
        range(acpi, above, MemoryKind::AcpiReclaimable),
        range(above, memory, MemoryKind::Ram),
    ]
}
