use super::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Memory of 64-bit words; pages in `closed` cannot be accessed, or not be written.
#[derive(Default)]
struct Space {
    words: RefCell<BTreeMap<u64, u64>>,
    closed: Vec<u64>,
    read_only: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Closed(u64);

impl Space {
    fn set(&self, at: u64, value: u64) {
        self.words.borrow_mut().insert(at, value);
    }

    fn open(&self, at: u64) -> Result<(), Closed> {
        match self.closed.contains(&(at & !0xFFF)) {
            true => Err(Closed(at)),
            false => Ok(()),
        }
    }

    fn byte(&self, at: u64) -> u8 {
        let words = self.words.borrow();
        let word = words.get(&(at & !7)).copied().unwrap_or(0);
        (word >> (at % 8 * 8)) as u8
    }
}

impl PhysicalSpace for Space {
    type Address = u64;
    type Error = Closed;

    fn address(raw: u64) -> u64 {
        raw
    }

    fn entry(&self, at: u64, bytes: usize) -> Result<u64, Closed> {
        self.open(at)?;
        let entry = (0..bytes as u64).map(|i| u64::from(self.byte(at + i)) << (8 * i));
        Ok(entry.sum())
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Closed> {
        self.open(at)?;
        for (i, byte) in to.iter_mut().enumerate() {
            *byte = self.byte(at + i as u64);
        }
        Ok(())
    }

    fn check_write(&self, at: u64) -> Result<(), Closed> {
        self.open(at)?;
        match self.read_only.contains(&(at & !0xFFF)) {
            true => Err(Closed(at)),
            false => Ok(()),
        }
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), Closed> {
        self.check_write(at)?;
        for (i, byte) in from.iter().enumerate() {
            let at = at + i as u64;
            let shift = at % 8 * 8;
            let mut words = self.words.borrow_mut();
            let word = words.entry(at & !7).or_default();
            *word = *word & !(0xFF << shift) | u64::from(*byte) << shift;
        }
        Ok(())
    }
}

const LONG: Paging = Paging {
    cr0: CR0_PG | CR0_WP | 1,
    cr3: 0x1000,
    cr4: CR4_PAE,
    efer: EFER_LMA,
};

/// Tables that map 0x40_0000 by 4 KiB pages with these flags, page 0x40_1000 to 0x9000.
fn space(flags: u64) -> Space {
    let space = Space::default();
    space.set(0x1000, 0x2007);
    space.set(0x2000, 0x3007);
    space.set(0x3010, 0x4007);
    space.set(0x4000, 0x8000 | flags);
    space.set(0x4008, 0x9000 | flags);
    space
}

fn at(space: &Space, write: bool, privilege: Privilege) -> Result<u64, AccessError<Closed>> {
    LONG.translate(space, Gva::new(0x40_0123), write, privilege)
}

fn page_fault(error: u32) -> Result<u64, AccessError<Closed>> {
    let address = Gva::new(0x40_0123);
    Err(AccessError::Page(PageFault { address, error }))
}

#[test]
fn rights_go_by_privilege() {
    use Privilege::{Supervisor, SupervisorPages, User};
    let there = Ok(0x8123);
    for (flags, write, privilege, expected) in [
        (0, false, Supervisor, page_fault(0)),
        (0, true, User, page_fault(6)),
        // A supervisor's page.
        (3, true, Supervisor, there),
        (3, true, SupervisorPages, there),
        (3, false, User, page_fault(5)),
        (1, true, Supervisor, page_fault(3)),
        // A program's.
        (7, true, User, there),
        (5, true, User, page_fault(7)),
        (5, false, User, there),
        (7, true, Supervisor, there),
        (7, false, SupervisorPages, page_fault(1)),
    ] {
        let got = at(&space(flags), write, privilege);
        assert_eq!(got, expected, "{flags} {write} {privilege:?}");
    }
    // Without WP a supervisor writes to what is read-only, a program does not.
    let lax = Paging {
        cr0: CR0_PG | 1,
        ..LONG
    };
    let write = |privilege| lax.translate(&space(5), Gva::new(0x40_0123), true, privilege);
    assert_eq!(write(Supervisor), there);
    assert_eq!(write(User), page_fault(7));
}

#[test]
fn every_entry_on_the_way_has_its_say() {
    for entry in [0x1000, 0x2000, 0x3010, 0x4000] {
        let space = space(7);
        let old = space.words.borrow()[&entry];
        space.set(entry, old & !USER);
        assert_eq!(at(&space, false, Privilege::User), page_fault(5));
        assert_eq!(at(&space, false, Privilege::SupervisorPages), Ok(0x8123));
        space.set(entry, old & !WRITE);
        assert_eq!(at(&space, true, Privilege::User), page_fault(7));
        space.set(entry, old & !PRESENT);
        assert_eq!(at(&space, true, Privilege::User), page_fault(6));
    }
}

#[test]
fn large_pages_and_other_modes() {
    let space = space(7);
    space.set(0x3010, 0x60_0000 | LARGE | 7);
    assert_eq!(at(&space, true, Privilege::User), Ok(0x60_0123));
    space.set(0x2000, 0x4000_0000 | LARGE | 7);
    assert_eq!(at(&space, true, Privilege::User), Ok(0x4040_0123));
    // PAE: directory pointers without permissions.
    let pae = Paging { efer: 0, ..LONG };
    space.set(0x1000, 0x3001);
    space.set(0x3010, 0x4007);
    let found = pae.translate(&space, Gva::new(0x40_0123), true, Privilege::User);
    assert_eq!(found, Ok(0x8123));
    // 32-bit: 4 MiB with PSE-36, and tables.
    let narrow = Paging {
        cr4: CR4_PSE,
        efer: 0,
        ..LONG
    };
    space.set(0x1000, 0x00C0_2087u64 << 32);
    let found = narrow.translate(&space, Gva::new(0x40_0123), true, Privilege::User);
    assert_eq!(found, Ok(0x1_00C0_0123));
    space.set(0x1000, 0x4007u64 << 32);
    space.set(0x4000, 0x7005);
    let found = narrow.translate(&space, Gva::new(0x40_0123), false, Privilege::User);
    assert_eq!(found, Ok(0x7123));
    // No paging: 32 bits.
    let off = Paging { cr0: 1, ..LONG };
    let found = off.translate(&space, Gva::new(0x1_0000_0123), true, Privilege::User);
    assert_eq!(found, Ok(0x123));
}

#[test]
fn bytes_across_pages() {
    let space = space(7);
    let from = Gva::new(0x40_0FFE);
    LONG.write(&space, from, Privilege::User, &[1, 2, 3, 4])
        .unwrap();
    assert_eq!((space.byte(0x8FFF), space.byte(0x9000)), (2, 3));
    let mut bytes = [0; 4];
    LONG.read(&space, from, Privilege::User, &mut bytes)
        .unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    // The second page is not there: nothing is written, and the fault names it.
    space.set(0x4008, 0);
    let fault = PageFault {
        address: Gva::new(0x40_1000),
        error: 6,
    };
    let got = LONG.write(&space, from, Privilege::User, &[9; 4]);
    assert_eq!(got, Err(fault.into()));
    assert_eq!(space.byte(0x8FFE), 1);
}

#[test]
fn what_backs_the_memory_has_the_last_word() {
    let linear = Gva::new(0x40_0FFE);
    let mut space = space(7);
    space.closed.push(0x4000);
    let mut bytes = [0; 4];
    let table = AccessError::Physical {
        linear,
        is_table: true,
        error: Closed(0x4000),
    };
    assert_eq!(
        LONG.read(&space, linear, Privilege::User, &mut bytes),
        Err(table)
    );
    space.closed.clear();
    space.read_only.push(0x9000);
    let data = AccessError::Physical {
        linear: Gva::new(0x40_1000),
        is_table: false,
        error: Closed(0x9000),
    };
    assert_eq!(
        LONG.read(&space, linear, Privilege::User, &mut bytes),
        Ok(())
    );
    assert_eq!(
        LONG.write(&space, linear, Privilege::User, &[9; 4]),
        Err(data)
    );
    assert_eq!(space.byte(0x8FFE), 0);
}

#[test]
fn the_kernels_short_way_finds_what_the_long_one_does() {
    // Table bits on every level: absent, a kernel's, a user's, large where there is such a thing.
    for flags in [0, 1, 3, 7, 0x81, 0x83, 0x87] {
        for level in 0..4 {
            let space = space(3);
            let slots = [0x1000, 0x2000, 0x3010, 0x4008];
            let at = slots[level];
            let entry = space.entry(at, 8).unwrap();
            space.set(at, entry & !0xFFF | flags);
            let linear = Gva::new(0x40_1234);
            let long = LONG.translate(&space, linear, false, Privilege::SupervisorPages);
            let short = translate_kernel_read(&space, LONG.cr3, linear);
            // The top level has no large pages.
            if level == 0 && flags & LARGE != 0 {
                continue;
            }
            assert_eq!(short, long.ok(), "{flags:#x} on level {level}");
        }
    }
}
