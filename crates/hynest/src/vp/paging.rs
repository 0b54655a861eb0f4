//! The memory of the guest whose VMCS is current, by its linear addresses.

use core::convert::Infallible;

use addr::{Gpa1, Gva};
use platform::paging::{AccessError, PageFault, Paging, PhysicalSpace, Privilege};
use vmx::Field;

use super::Vp;
use super::memory::L1Memory;
use super::nested::{NotPermitted, current_cpl};
use super::vmcs::read;

/// CR4.SMAP.
const CR4_SMAP: u64 = 1 << 21;
/// RFLAGS.AC, which suspends SMAP.
const RFLAGS_AC: u64 = 1 << 18;

/// Why an access in a guest's name fails; [`Vp::give_fault`] tells the guest, or its hypervisor.
pub type Blocked = AccessError<NotPermitted>;

/// The paging mode of the guest whose VMCS is current.
pub fn current() -> Paging {
    Paging {
        cr0: read(Field::GUEST_CR0),
        cr3: read(Field::GUEST_CR3),
        cr4: read(Field::GUEST_CR4),
        efer: read(Field::GUEST_EFER),
    }
}

/// In whose name its current instruction accesses data.
pub fn data_privilege() -> Privilege {
    if current_cpl() == 3 {
        Privilege::User
    } else if read(Field::GUEST_CR4) & CR4_SMAP != 0 && read(Field::GUEST_RFLAGS) & RFLAGS_AC == 0 {
        Privilege::SupervisorPages
    } else {
        Privilege::Supervisor
    }
}

/// Nothing backs L1's memory but L0: what fails is L1's own paging.
pub fn page_fault(error: AccessError<Infallible>) -> PageFault {
    match error {
        AccessError::Page(fault) => fault,
        AccessError::Physical { error, .. } => match error {},
    }
}

impl PhysicalSpace for L1Memory {
    type Address = Gpa1;
    type Error = Infallible;

    fn address(raw: u64) -> Gpa1 {
        Gpa1::new(raw)
    }

    fn entry(&self, at: Gpa1, bytes: usize) -> Result<u64, Infallible> {
        let entry = match bytes {
            4 => self.read_u32(at).map(u64::from),
            _ => self.read_u64(at),
        };
        Ok(entry.unwrap_or(0))
    }

    fn read(&self, at: Gpa1, to: &mut [u8]) -> Result<(), Infallible> {
        if !L1Memory::read(self, at, to) {
            to.fill(0xFF);
        }
        Ok(())
    }

    fn check_write(&self, _: Gpa1) -> Result<(), Infallible> {
        Ok(())
    }

    fn write(&self, at: Gpa1, from: &[u8]) -> Result<(), Infallible> {
        // Dropped where L1 has no memory.
        let _ = L1Memory::write(self, at, from);
        Ok(())
    }
}

/// Does what the method of [`Paging`] does, in the memory of the guest that runs.
macro_rules! in_guest {
    ($vp:ident, $method:ident, $($argument:expr),*) => {
        match $vp.l2_space() {
            Some(space) => current().$method(&space, $($argument),*),
            None => current()
                .$method(&$vp.partition.memory, $($argument),*)
                .map_err(|error| page_fault(error).into()),
        }
    };
}

impl Vp {
    /// Reads bytes of the guest.
    pub fn read_guest(&self, at: Gva, privilege: Privilege, to: &mut [u8]) -> Result<(), Blocked> {
        in_guest!(self, read, at, privilege, to)
    }

    /// Whether bytes of the guest can be written.
    pub fn check_guest_write(
        &self,
        at: Gva,
        privilege: Privilege,
        length: usize,
    ) -> Result<(), Blocked> {
        in_guest!(self, check_write, at, privilege, length)
    }

    /// Writes bytes of the guest, all or none.
    pub fn write_guest(&self, at: Gva, privilege: Privilege, from: &[u8]) -> Result<(), Blocked> {
        in_guest!(self, write, at, privilege, from)
    }

    /// Ends the guest's instruction with what it has met.
    pub fn give_fault(&mut self, blocked: Blocked) {
        match blocked {
            AccessError::Page(fault) => self.inject_page_fault(fault),
            AccessError::Physical {
                linear,
                is_table,
                error,
            } => self.reflect_not_permitted(linear, is_table, &error),
        }
    }
}
