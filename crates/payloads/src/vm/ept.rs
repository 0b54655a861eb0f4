//! EPT tables that L1 builds for its L2s.

use vmx::ept::{Access, EptEntry, Eptp, Level, MemoryType};

use crate::rt::memory;

/// Extended page tables under construction, or being taken apart.
#[derive(Clone, Copy)]
pub struct Ept {
    root: u64,
}

/// Bytes of a 2 MiB page.
pub const SIZE_2M: u64 = 1 << 21;
/// Bytes of a 1 GiB page.
pub const SIZE_1G: u64 = 1 << 30;

/// Linear space that the identity map covers.
const COVERED_GIB: u64 = 4;

impl Ept {
    /// Tables that map nothing.
    pub fn empty() -> Self {
        Self {
            root: memory::page(),
        }
    }

    /// Tables that are there already, by their root.
    pub fn at(root: u64) -> Self {
        Self { root }
    }

    /// The first 4 GiB one to one in 2 MiB pages, with every right.
    pub fn identity() -> Self {
        Self::identity_with(Access::RWX)
    }

    /// The same without the right to write: for an L2 that nothing is known of.
    pub fn read_only() -> Self {
        Self::identity_with(Access::READ | Access::EXECUTE)
    }

    fn identity_with(access: Access) -> Self {
        let ept = Self::empty();
        for at in (0..COVERED_GIB * SIZE_1G).step_by(SIZE_2M as usize) {
            ept.set(at, Level::Pd, leaf(at, access, Level::Pd));
        }
        ept
    }

    /// The root table's address.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The EPTP: write-back, four levels.
    pub fn eptp(&self) -> u64 {
        Eptp::new(self.root).raw()
    }

    /// Where the entry of `level` for `address` lies. Missing tables above it are made, and a
    /// large page above it is split into pages that map the same.
    pub fn entry(&self, address: u64, level: Level) -> u64 {
        let mut table = self.root;
        let mut at = Level::Pml4;
        loop {
            let slot = table + at.index(address) as u64 * 8;
            if at == level {
                return slot;
            }
            let Some(below) = at.below() else {
                return slot;
            };
            let entry = EptEntry::from_raw(memory::read(slot));
            if !entry.is_present() {
                let page = memory::page();
                memory::write(slot, EptEntry::table(page).raw());
                table = page;
            } else if entry.is_leaf(at) {
                let page = memory::page();
                for i in 0..512 {
                    let start = entry.address() & !(at.entry_bytes() - 1);
                    let part = leaf(start + i * below.entry_bytes(), entry.access(), below);
                    memory::write(page + i * 8, part);
                }
                memory::write(slot, EptEntry::table(page).raw());
                table = page;
            } else {
                table = entry.address();
            }
            at = below;
        }
    }

    /// Stores an entry.
    pub fn set(&self, address: u64, level: Level, entry: u64) {
        memory::write(self.entry(address, level), entry);
    }

    /// Maps the 4 KiB page at `address` to `target`.
    pub fn map(&self, address: u64, target: u64, access: Access) {
        self.set(address, Level::Pt, leaf(target, access, Level::Pt));
    }

    /// Maps the 4 KiB page at `address` one to one with `access`.
    pub fn protect(&self, address: u64, access: Access) {
        self.map(address & !0xfff, address & !0xfff, access);
    }

    /// Takes the 4 KiB page at `address` away.
    pub fn unmap(&self, address: u64) {
        self.set(address, Level::Pt, 0);
    }
}

/// An entry that maps a page, of the size its level has, write-back.
pub fn leaf(target: u64, access: Access, level: Level) -> u64 {
    let large = if level == Level::Pt { 0 } else { 1 << 7 };
    target | u64::from(access.bits()) | (MemoryType::WriteBack as u64) << 3 | large
}
