extern crate std;

use core::cell::RefCell;
use std::collections::BTreeMap;

use super::*;

/// Frames 1, 2, 3, ... as a map from entry address to value.
#[derive(Default)]
struct Ram(RefCell<BTreeMap<Spa, u64>>);

impl TableMemory for Ram {
    fn load(&self, at: Spa) -> u64 {
        assert!(at.is_aligned(8));
        self.0.borrow().get(&at).copied().unwrap_or(0)
    }

    fn store(&self, at: Spa, value: u64) {
        assert!(at.is_aligned(8));
        self.0.borrow_mut().insert(at, value);
    }
}

struct Pool {
    next: u64,
    left: usize,
}

impl TableFrames for Pool {
    fn alloc(&mut self) -> Option<Spa> {
        self.left = self.left.checked_sub(1)?;
        self.next += 1;
        Some(Spa::new(self.next * PAGE_SIZE))
    }

    fn free(&mut self, _: Spa) {
        self.left += 1;
    }
}

const M2: u64 = 1 << 21;
const G1: u64 = 1 << 30;

fn capabilities(gigabyte: bool) -> EptCapabilities {
    EptCapabilities::from_msr(1 << 6 | 1 << 14 | 1 << 16 | u64::from(gigabyte) << 17, 40)
}

fn with_builder(
    frames: usize,
    gigabyte: bool,
    test: impl FnOnce(&mut Builder<'_, Ram, Pool>),
) -> usize {
    let ram = Ram::default();
    let mut pool = Pool {
        next: 0,
        left: frames,
    };
    let mut builder = Builder::new(&ram, &mut pool, capabilities(gigabyte)).expect("one frame");
    test(&mut builder);
    frames - pool.left
}

#[test]
fn the_largest_pages_are_used() {
    let used = with_builder(100, true, |b| {
        // From 4 KiB below a gigabyte to 2 MiB + 4 KiB past the next one.
        let start = G1 - 0x1000;
        let bytes = 0x1000 + G1 + M2 + 0x1000;
        b.map(
            Gpa1::new(start),
            Spa::new(start + 4 * G1),
            bytes,
            Access::RWX,
            MemoryType::WriteBack,
        )
        .unwrap();
        let size = |at| b.lookup(Gpa1::new(at)).map(|leaf| leaf.size);
        assert_eq!(size(start - 1), None);
        assert_eq!(size(start), Some(PageSize::Size4K));
        assert_eq!(size(G1), Some(PageSize::Size1G));
        assert_eq!(size(2 * G1 - 1), Some(PageSize::Size1G));
        assert_eq!(size(2 * G1), Some(PageSize::Size2M));
        assert_eq!(size(2 * G1 + M2), Some(PageSize::Size4K));
        assert_eq!(size(start + bytes), None);
        for at in [start, G1 + 5, 2 * G1 + 0x12345, start + bytes - 1] {
            let leaf = b.lookup(Gpa1::new(at)).unwrap();
            assert_eq!(leaf.address, Spa::new(at + 4 * G1));
            assert_eq!(leaf.access, Access::RWX);
        }
    });
    // Root, one PDPT, two PDs and two PTs.
    assert_eq!(used, 6);
}

#[test]
fn without_gigabyte_pages_two_megabytes_are_the_largest() {
    with_builder(100, false, |b| {
        b.map(
            Gpa1::new(0),
            Spa::new(G1),
            G1,
            Access::RW,
            MemoryType::WriteBack,
        )
        .unwrap();
        let leaf = b.lookup(Gpa1::new(G1 - 1)).unwrap();
        assert_eq!(
            leaf,
            Leaf {
                address: Spa::new(2 * G1 - 1),
                size: PageSize::Size2M,
                access: Access::RW,
            }
        );
    });
}

#[test]
fn alignment_of_the_system_address_counts_too() {
    with_builder(100, true, |b| {
        b.map(
            Gpa1::new(0),
            Spa::new(0x1000),
            M2,
            Access::RWX,
            MemoryType::WriteBack,
        )
        .unwrap();
        let leaf = b.lookup(Gpa1::new(M2 - 1)).unwrap();
        assert_eq!(leaf.size, PageSize::Size4K);
        assert_eq!(leaf.address, Spa::new(M2 + 0xfff));
    });
}

#[test]
fn refusals() {
    let wb = MemoryType::WriteBack;
    with_builder(5, true, |b| {
        let map = |b: &mut Builder<'_, Ram, Pool>, guest, system, bytes, access| {
            b.map(Gpa1::new(guest), Spa::new(system), bytes, access, wb)
        };
        for (guest, system, bytes) in [(1, 0, 0x1000), (0, 8, 0x1000), (0, 0, 0x1800)] {
            assert_eq!(
                map(b, guest, system, bytes, Access::RWX),
                Err(MapError::Unaligned)
            );
        }
        let end = 1 << 48;
        for (guest, system) in [(end, 0), (end - 0x1000, 0), (0, (1 << 40) - 0x1000)] {
            assert_eq!(
                map(b, guest, system, 0x2000, Access::RWX),
                Err(MapError::TooFar)
            );
        }
        assert_eq!(
            map(b, !0xfff, 0, 0x2000, Access::RWX),
            Err(MapError::TooFar)
        );
        for access in [Access::empty(), Access::WRITE, Access::EXECUTE] {
            assert_eq!(
                map(b, 0, 0, 0x1000, access),
                Err(MapError::Inexpressible(access))
            );
        }
        assert_eq!(map(b, M2, M2, M2, Access::RWX), Ok(()));
        let inside = M2 + 0x5000;
        assert_eq!(
            map(b, inside, 0, 0x1000, Access::RWX),
            Err(MapError::Occupied(Gpa1::new(inside)))
        );
        assert_eq!(
            map(b, 0, 0, G1, Access::RWX),
            Err(MapError::Occupied(Gpa1::new(0))),
            "a table is in the way"
        );
        assert_eq!(map(b, 0, 0, 0x1000, Access::RWX), Ok(()));
        assert_eq!(
            map(b, 3 * G1, 0, 0x1000, Access::RWX),
            Err(MapError::OutOfFrames)
        );
        assert_eq!(b.lookup(Gpa1::new(3 * G1)), None);
        assert_eq!(b.lookup(Gpa1::new(1 << 48)), None);
    });
}

#[test]
fn a_hierarchy_can_be_continued() {
    let ram = Ram::default();
    let mut pool = Pool { next: 0, left: 10 };
    let wb = MemoryType::WriteBack;
    let root = {
        let mut b = Builder::new(&ram, &mut pool, capabilities(true)).unwrap();
        b.map(Gpa1::new(0), Spa::new(0), M2, Access::RWX, wb)
            .unwrap();
        assert_eq!(b.eptp().root(), b.root().raw());
        b.root()
    };
    let mut b = Builder::resume(&ram, &mut pool, capabilities(true), root);
    b.map(Gpa1::new(M2), Spa::new(M2), M2, Access::RWX, wb)
        .unwrap();
    assert!(b.lookup(Gpa1::new(0)).is_some());
    assert!(b.lookup(Gpa1::new(M2)).is_some());
}
