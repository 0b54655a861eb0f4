//! L1's own paging: from its linear addresses to its physical ones (SDM vol. 3, chapter 4).

use addr::{Gpa1, Gva};
use vmx::Field;

use super::memory::L1Memory;
use super::vmcs;

/// Present.
const PRESENT: u64 = 1;
/// Writable.
const WRITE: u64 = 1 << 1;
/// Page size: the entry maps a large page.
const LARGE: u64 = 1 << 7;
/// Bits 51:12 of a 64-bit entry.
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

const CR0_PG: u64 = 1 << 31;
const CR0_WP: u64 = 1 << 16;
const CR4_PAE: u64 = 1 << 5;
const CR4_PSE: u64 = 1 << 4;
const EFER_LMA: u64 = 1 << 10;

/// A linear address that does not translate: the page fault it makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The faulting address, for CR2.
    pub address: Gva,
    /// The error code (SDM vol. 3, figure 4-12) of a supervisor access.
    pub error: u32,
}

/// The paging mode and root of the VP, read from VMCS 01 while it is current.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl Paging {
    /// That of L1 as it stands.
    pub fn current() -> Self {
        Self {
            cr0: vmcs::read(Field::GUEST_CR0),
            cr3: vmcs::read(Field::GUEST_CR3),
            cr4: vmcs::read(Field::GUEST_CR4),
            efer: vmcs::read(Field::GUEST_EFER),
        }
    }

    /// Translates an address for a supervisor's data access, as L0 makes it for L1.
    ///
    /// Accessed and dirty flags are not set: L1's kernel has touched what it hands to L0.
    ///
    /// # Errors
    /// The page fault to inject. An entry outside of L1's memory counts as not present.
    pub fn translate(
        &self,
        memory: &L1Memory,
        address: Gva,
        write: bool,
    ) -> Result<Gpa1, PageFault> {
        if self.cr0 & CR0_PG == 0 {
            return Ok(Gpa1::new(address.raw() & 0xFFFF_FFFF));
        }
        let linear = address.raw();
        let fault = |present: bool| PageFault {
            address,
            error: u32::from(present) | u32::from(write) << 1,
        };
        if self.cr4 & CR4_PAE == 0 {
            return self.translate_32_bit(memory, linear, write, fault);
        }
        let (mut table, mut shift) = if self.efer & EFER_LMA != 0 {
            (self.cr3 & ADDRESS, 39)
        } else {
            // PAE: four directory pointers, which have no permissions.
            let slot = (self.cr3 & 0xFFFF_FFE0) + (linear >> 30 & 3) * 8;
            let entry = memory.read_u64(Gpa1::new(slot)).unwrap_or(0);
            if entry & PRESENT == 0 {
                return Err(fault(false));
            }
            (entry & ADDRESS, 21)
        };
        let mut writable = true;
        loop {
            let slot = table + (linear >> shift & 511) * 8;
            let entry = memory.read_u64(Gpa1::new(slot)).unwrap_or(0);
            if entry & PRESENT == 0 {
                return Err(fault(false));
            }
            writable &= entry & WRITE != 0;
            if shift == 12 || (shift <= 30 && entry & LARGE != 0) {
                if write && !writable && self.cr0 & CR0_WP != 0 {
                    return Err(fault(true));
                }
                let offset = (1u64 << shift) - 1;
                return Ok(Gpa1::new(entry & ADDRESS & !offset | linear & offset));
            }
            table = entry & ADDRESS;
            shift -= 9;
        }
    }

    fn translate_32_bit(
        &self,
        memory: &L1Memory,
        linear: u64,
        write: bool,
        fault: impl Fn(bool) -> PageFault,
    ) -> Result<Gpa1, PageFault> {
        let directory = memory
            .read_u32(Gpa1::new(
                (self.cr3 & 0xFFFF_F000) + (linear >> 22 & 1023) * 4,
            ))
            .map_or(0, u64::from);
        if directory & PRESENT == 0 {
            return Err(fault(false));
        }
        let mut writable = directory & WRITE != 0;
        let (entry, offset) = if directory & LARGE != 0 && self.cr4 & CR4_PSE != 0 {
            // PSE-36: bits 20:13 hold address bits 39:32.
            (
                directory & 0xFFC0_0000 | (directory >> 13 & 0xFF) << 32,
                0x3F_FFFF,
            )
        } else {
            let slot = (directory & 0xFFFF_F000) + (linear >> 12 & 1023) * 4;
            let entry = memory.read_u32(Gpa1::new(slot)).map_or(0, u64::from);
            if entry & PRESENT == 0 {
                return Err(fault(false));
            }
            writable &= entry & WRITE != 0;
            (entry & 0xFFFF_F000, 0xFFF)
        };
        if write && !writable && self.cr0 & CR0_WP != 0 {
            return Err(fault(true));
        }
        Ok(Gpa1::new(entry & !offset | linear & offset))
    }

    /// Reads bytes at a linear address, across pages.
    ///
    /// # Errors
    /// The page fault to inject. Memory that L1 maps but does not have reads as all ones.
    pub fn read(&self, memory: &L1Memory, address: Gva, to: &mut [u8]) -> Result<(), PageFault> {
        self.pieces(memory, address, to.len(), false, |at, range| {
            if !memory.read(at, &mut to[range.clone()]) {
                to[range].fill(0xFF);
            }
        })
    }

    /// Writes bytes at a linear address, across pages; nothing is written on a fault.
    ///
    /// # Errors
    /// The page fault to inject. Writes to where L1 has no memory are dropped.
    pub fn write(&self, memory: &L1Memory, address: Gva, from: &[u8]) -> Result<(), PageFault> {
        self.pieces(memory, address, from.len(), true, |_, _| {})?;
        self.pieces(memory, address, from.len(), true, |at, range| {
            memory.write(at, &from[range]);
        })
    }

    fn pieces(
        &self,
        memory: &L1Memory,
        address: Gva,
        length: usize,
        write: bool,
        mut piece: impl FnMut(Gpa1, core::ops::Range<usize>),
    ) -> Result<(), PageFault> {
        let mut done = 0;
        while done < length {
            let at = Gva::new(address.raw().wrapping_add(done as u64));
            let take = (4096 - at.page_offset() as usize).min(length - done);
            let physical = self.translate(memory, at, write)?;
            piece(physical, done..done + take);
            done += take;
        }
        Ok(())
    }
}
