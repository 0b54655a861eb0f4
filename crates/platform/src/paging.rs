//! A guest's own paging: from its linear addresses to its physical ones (SDM vol. 3, chapter 4).
//!
//! For what L0 does in a guest's name: reading the operands of instructions, the instruction that
//! touched a device register, the buffer of string I/O.

use addr::Gva;

#[cfg(test)]
mod tests;

/// Present.
const PRESENT: u64 = 1;
/// Writable.
const WRITE: u64 = 1 << 1;
/// Accessible at CPL 3.
const USER: u64 = 1 << 2;
/// Page size: the entry maps a large page.
const LARGE: u64 = 1 << 7;
/// Bits 51:12 of a 64-bit entry.
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

const CR0_PG: u64 = 1 << 31;
const CR0_WP: u64 = 1 << 16;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const EFER_LMA: u64 = 1 << 10;

/// The memory that page tables lie in and lead to.
pub trait PhysicalSpace {
    /// An address in it.
    type Address: Copy;
    /// Why it cannot be accessed: for an L2's memory, what its hypervisor's tables do not permit.
    type Error;

    /// The address with this number.
    fn address(raw: u64) -> Self::Address;

    /// Reads a table's entry of 4 or 8 bytes by one access; 0 where there is no memory.
    ///
    /// # Errors
    /// The address cannot be accessed.
    fn entry(&self, at: Self::Address, bytes: usize) -> Result<u64, Self::Error>;

    /// Reads bytes of one page; all ones where there is no memory.
    ///
    /// # Errors
    /// The address cannot be accessed.
    fn read(&self, at: Self::Address, to: &mut [u8]) -> Result<(), Self::Error>;

    /// Whether bytes at the address can be written.
    ///
    /// # Errors
    /// They cannot.
    fn check_write(&self, at: Self::Address) -> Result<(), Self::Error>;

    /// Writes bytes of one page; what is meant for no memory is dropped.
    ///
    /// # Errors
    /// The address cannot be accessed.
    fn write(&self, at: Self::Address, from: &[u8]) -> Result<(), Self::Error>;
}

/// A linear address that does not translate: the page fault it makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The faulting address, for CR2.
    pub address: Gva,
    /// The error code (SDM vol. 3, figure 4-12).
    pub error: u32,
}

/// Why an access fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError<E> {
    /// The guest's own tables do not permit it.
    Page(PageFault),
    /// What backs the guest's memory does not, at this linear address.
    Physical {
        /// The linear address being accessed.
        linear: Gva,
        /// Whether a table of the guest's was being read.
        is_table: bool,
        /// What is wrong.
        error: E,
    },
}

impl<E> From<PageFault> for AccessError<E> {
    fn from(fault: PageFault) -> Self {
        Self::Page(fault)
    }
}

/// In whose name an access is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// The supervisor's, to any page: SMAP is off, or RFLAGS.AC suspends it.
    Supervisor,
    /// The supervisor's, to its own pages alone.
    SupervisorPages,
    /// A program's at CPL 3.
    User,
}

/// A paging mode and the root of its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
}

/// Translates an address for 64-bit code of the supervisor that reads: the shortest way. `None` says
/// nothing but that [`Paging::translate`] has to look: something is not present, or it is a user's page.
#[inline(always)]
pub fn translate_kernel_read<S: PhysicalSpace>(space: &S, cr3: u64, linear: Gva) -> Option<u64> {
    let raw = linear.raw();
    let mut table = cr3 & ADDRESS;
    let mut user = USER;
    let mut step = |shift: u32| {
        let entry = space
            .entry(S::address(table + (raw >> shift & 511) * 8), 8)
            .ok()?;
        user &= entry;
        table = entry & ADDRESS;
        (entry & PRESENT != 0).then_some(entry)
    };
    let _ = step(39)?;
    let (page, offset) = if step(30)? & LARGE != 0 {
        (table, (1 << 30) - 1)
    } else if step(21)? & LARGE != 0 {
        (table, (1 << 21) - 1)
    } else {
        let _ = step(12)?;
        (table, (1 << 12) - 1)
    };
    (user == 0).then_some(page & !offset | raw & offset)
}

/// A walk: what is wanted, and what the entries on the way permit.
struct Walk {
    linear: Gva,
    write: bool,
    privilege: Privilege,
    write_protect: bool,
    permitted: u64,
}

impl Walk {
    fn fault(&self, present: bool) -> PageFault {
        let user = self.privilege == Privilege::User;
        PageFault {
            address: self.linear,
            error: u32::from(present) | u32::from(self.write) << 1 | u32::from(user) << 2,
        }
    }

    /// Takes the permissions of an entry into account.
    fn pass(&mut self, entry: u64) -> Result<(), PageFault> {
        if entry & PRESENT == 0 {
            return Err(self.fault(false));
        }
        self.permitted &= entry;
        Ok(())
    }

    /// The rights of the page at the end.
    fn arrive(&self) -> Result<(), PageFault> {
        let is_user_page = self.permitted & USER != 0;
        let is_writable = self.permitted & WRITE != 0;
        let permitted = match self.privilege {
            Privilege::User => is_user_page && (is_writable || !self.write),
            Privilege::SupervisorPages if is_user_page => false,
            _ => is_writable || !self.write || !self.write_protect,
        };
        if permitted {
            Ok(())
        } else {
            Err(self.fault(true))
        }
    }
}

impl Paging {
    /// Translates an address. Accessed and dirty flags are not set: the guest has touched what it
    /// hands to L0, or does so when it tries again.
    ///
    /// # Errors
    /// The page fault to inject, or what keeps the tables from being read.
    pub fn translate<S: PhysicalSpace>(
        &self,
        space: &S,
        linear: Gva,
        write: bool,
        privilege: Privilege,
    ) -> Result<S::Address, AccessError<S::Error>> {
        if self.cr0 & CR0_PG == 0 {
            return Ok(S::address(linear.raw() & 0xFFFF_FFFF));
        }
        let mut walk = Walk {
            linear,
            write,
            privilege,
            write_protect: self.cr0 & CR0_WP != 0,
            permitted: u64::MAX,
        };
        let entry = |at: u64, bytes: usize| {
            let entry = space.entry(S::address(at), bytes);
            entry.map_err(|error| AccessError::Physical {
                linear,
                is_table: true,
                error,
            })
        };
        let raw = linear.raw();
        if self.cr4 & CR4_PAE == 0 {
            return self.translate_32_bit(raw, &mut walk, entry).map(S::address);
        }
        let (mut table, mut shift) = if self.efer & EFER_LMA != 0 {
            (self.cr3 & ADDRESS, 39)
        } else {
            // PAE: four directory pointers, which have no permissions.
            let pointer = entry((self.cr3 & 0xFFFF_FFE0) + (raw >> 30 & 3) * 8, 8)?;
            if pointer & PRESENT == 0 {
                return Err(walk.fault(false).into());
            }
            (pointer & ADDRESS, 21)
        };
        loop {
            let found = entry(table + (raw >> shift & 511) * 8, 8)?;
            walk.pass(found)?;
            if shift == 12 || (shift <= 30 && found & LARGE != 0) {
                walk.arrive()?;
                let offset = (1u64 << shift) - 1;
                return Ok(S::address(found & ADDRESS & !offset | raw & offset));
            }
            table = found & ADDRESS;
            shift -= 9;
        }
    }

    fn translate_32_bit<E>(
        &self,
        raw: u64,
        walk: &mut Walk,
        entry: impl Fn(u64, usize) -> Result<u64, AccessError<E>>,
    ) -> Result<u64, AccessError<E>> {
        let directory = entry((self.cr3 & 0xFFFF_F000) + (raw >> 22 & 1023) * 4, 4)?;
        walk.pass(directory)?;
        let (page, offset) = if directory & LARGE != 0 && self.cr4 & CR4_PSE != 0 {
            // PSE-36: bits 20:13 hold address bits 39:32.
            let high = (directory >> 13 & 0xFF) << 32;
            (directory & 0xFFC0_0000 | high, 0x3F_FFFF)
        } else {
            let slot = (directory & 0xFFFF_F000) + (raw >> 12 & 1023) * 4;
            let found = entry(slot, 4)?;
            walk.pass(found)?;
            (found & 0xFFFF_F000, 0xFFF)
        };
        walk.arrive()?;
        Ok(page | raw & offset)
    }

    /// Reads bytes at a linear address, across pages.
    ///
    /// # Errors
    /// As for [`Paging::translate`]; what was read before stays.
    pub fn read<S: PhysicalSpace>(
        &self,
        space: &S,
        linear: Gva,
        privilege: Privilege,
        to: &mut [u8],
    ) -> Result<(), AccessError<S::Error>> {
        for (at, range) in pieces(linear, to.len()) {
            let physical = self.translate(space, at, false, privilege)?;
            space
                .read(physical, &mut to[range])
                .map_err(|error| at_data(at, error))?;
        }
        Ok(())
    }

    /// Whether `length` bytes at a linear address can be written.
    ///
    /// # Errors
    /// As for [`Paging::translate`].
    pub fn check_write<S: PhysicalSpace>(
        &self,
        space: &S,
        linear: Gva,
        privilege: Privilege,
        length: usize,
    ) -> Result<(), AccessError<S::Error>> {
        for (at, _) in pieces(linear, length) {
            let physical = self.translate(space, at, true, privilege)?;
            space
                .check_write(physical)
                .map_err(|error| at_data(at, error))?;
        }
        Ok(())
    }

    /// Writes bytes at a linear address, across pages; nothing is written if part of them cannot be.
    ///
    /// # Errors
    /// As for [`Paging::translate`].
    pub fn write<S: PhysicalSpace>(
        &self,
        space: &S,
        linear: Gva,
        privilege: Privilege,
        from: &[u8],
    ) -> Result<(), AccessError<S::Error>> {
        self.check_write(space, linear, privilege, from.len())?;
        for (at, range) in pieces(linear, from.len()) {
            let physical = self.translate(space, at, true, privilege)?;
            space
                .write(physical, &from[range])
                .map_err(|error| at_data(at, error))?;
        }
        Ok(())
    }
}

fn at_data<E>(linear: Gva, error: E) -> AccessError<E> {
    AccessError::Physical {
        linear,
        is_table: false,
        error,
    }
}

/// The pages that `length` bytes at `linear` lie in: where each part begins, and which it is.
fn pieces(linear: Gva, length: usize) -> impl Iterator<Item = (Gva, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = Gva::new(linear.raw().wrapping_add(done as u64));
        let take = (4096 - at.page_offset() as usize).min(length - done);
        let range = done..done + take;
        done += take;
        Some((at, range))
    })
}
