//! A machine to test against: L0's frames, L1's memory, a processor's EPT
//! walk with a TLB. Using a frame that is not allocated ends the test.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use addr::{Gpa1, Gpa2, PAGE_SIZE, Spa};
use vmx::ept::{
    Access, ENTRIES, EptCapabilities, EptEntry, Eptp, Level, MemoryType, PageSize, TableFrames,
    TableMemory,
};

use super::super::{AttachError, Fill, L1Space, Policy, Region, Retired, ShadowSet, VpView};

pub const M2: u64 = 1 << 21;
pub const G1: u64 = 1 << 30;

/// Four levels, WB and UC tables, all page sizes, execute-only.
pub const CAPABILITIES: EptCapabilities =
    EptCapabilities::from_msr(1 | 1 << 6 | 1 << 8 | 1 << 14 | 1 << 16 | 1 << 17, 46);

pub const POLICY: Policy = Policy {
    offered: CAPABILITIES,
    hardware: CAPABILITIES,
    memory_type: MemoryType::WriteBack,
    ignore_pat: true,
};

type Frame = Box<[u64; ENTRIES]>;

/// L0's frames: those allocated, and how many are left.
pub struct Ram {
    used: BTreeMap<Spa, Frame>,
    /// The frame freed first is used first.
    free: VecDeque<Spa>,
}

/// A handle to L0's frames, as memory and as pool.
#[derive(Clone)]
pub struct Frames(Rc<RefCell<Ram>>);

impl Frames {
    pub fn new(count: usize) -> Self {
        let free = (1..=count as u64)
            .map(|n| Spa::new(n * PAGE_SIZE))
            .collect();
        Self(Rc::new(RefCell::new(Ram {
            used: BTreeMap::new(),
            free,
        })))
    }

    pub fn used(&self) -> usize {
        self.0.borrow().used.len()
    }
}

impl TableMemory for Frames {
    fn load(&self, at: Spa) -> u64 {
        let ram = self.0.borrow();
        let frame = ram.used.get(&at.page()).expect("reads a free frame");
        frame[at.page_offset() as usize / 8]
    }

    fn store(&self, at: Spa, value: u64) {
        let mut ram = self.0.borrow_mut();
        let frame = ram.used.get_mut(&at.page()).expect("writes a free frame");
        frame[at.page_offset() as usize / 8] = value;
    }
}

impl TableFrames for Frames {
    fn alloc(&mut self) -> Option<Spa> {
        let mut ram = self.0.borrow_mut();
        let frame = ram.free.pop_front()?;
        ram.used.insert(frame, Box::new([0; ENTRIES]));
        Some(frame)
    }

    fn free(&mut self, frame: Spa) {
        let mut ram = self.0.borrow_mut();
        ram.used.remove(&frame).expect("frees a free frame");
        ram.free.push_back(frame);
    }
}

/// L1: its regions, and those pages of them that hold something.
#[derive(Default)]
pub struct L1 {
    pub regions: Vec<Region>,
    pages: RefCell<BTreeMap<Gpa1, Frame>>,
    next_table: u64,
}

impl L1Space for L1 {
    type Word = Gpa1;

    fn word(&self, at: Gpa1) -> Option<Gpa1> {
        assert!(at.is_aligned(8));
        self.region(at).map(|_| at)
    }

    fn read_word(&self, at: Gpa1) -> u64 {
        let pages = self.pages.borrow();
        let page = pages.get(&at.page());
        page.map_or(0, |page| page[at.page_offset() as usize / 8])
    }

    fn region(&self, at: Gpa1) -> Option<Region> {
        let inside = |region: &&Region| region.translate(at).is_some();
        self.regions.iter().find(inside).copied()
    }
}

impl L1 {
    /// 16 MiB of table space at 0, and memory in three regions with a hole:
    /// 1-3 GiB, contiguous and aligned; 4 MiB at 4 GiB, backed at an address
    /// that fits 2 MiB pages; 4 MiB at 5 GiB that fits 4 KiB pages only.
    pub fn new() -> Self {
        let region = |start, bytes, backing, access| Region {
            start: Gpa1::new(start),
            bytes,
            backing: Spa::new(backing),
            access,
        };
        Self {
            regions: alloc::vec![
                region(0, 16 << 20, 64 * G1, Access::RWX),
                region(G1, 2 * G1, 66 * G1, Access::RWX),
                region(4 * G1, 2 * M2, 80 * G1 + M2, Access::RWX),
                region(5 * G1, 2 * M2, 90 * G1 + 0x1000, Access::RWX),
                region(6 * G1, M2, 100 * G1, Access::READ | Access::EXECUTE),
            ],
            pages: RefCell::default(),
            next_table: 0x1000,
        }
    }

    /// An empty page for a table.
    pub fn new_table(&mut self) -> Gpa1 {
        self.next_table += PAGE_SIZE;
        assert!(self.next_table < 16 << 20, "out of L1's table space");
        Gpa1::new(self.next_table)
    }

    pub fn write(&self, at: Gpa1, value: u64) {
        let mut pages = self.pages.borrow_mut();
        let page = pages
            .entry(at.page())
            .or_insert_with(|| Box::new([0; ENTRIES]));
        page[at.page_offset() as usize / 8] = value;
    }

    /// The address of the entry of `level` for `at`, with the tables above it
    /// made (whatever else is in the way is replaced).
    pub fn entry(&mut self, root: Gpa1, at: Gpa2, level: Level) -> Gpa1 {
        let mut table = root;
        let mut here = Level::Pml4;
        loop {
            let slot = Gpa1::new(table.raw() + 8 * here.index(at.raw()) as u64);
            if here == level {
                return slot;
            }
            let entry = EptEntry::from_raw(self.read_u64(slot).unwrap());
            let known = 0x2000..=self.next_table;
            table =
                if entry.is_present() && !entry.is_leaf(here) && known.contains(&entry.address()) {
                    Gpa1::new(entry.address())
                } else {
                    let table = self.new_table();
                    self.write(slot, EptEntry::table(table.raw()).raw());
                    table
                };
            here = here.below().unwrap();
        }
    }

    /// L1 maps a page for L2.
    pub fn map(&mut self, root: Gpa1, at: Gpa2, to: Gpa1, size: PageSize, access: Access) {
        let slot = self.entry(root, at, size.level());
        let leaf = EptEntry::leaf(to.raw(), size, access, MemoryType::WriteBack, true);
        self.write(slot, leaf.raw());
    }

    pub fn eptp(root: Gpa1) -> Eptp {
        Eptp::new(root.raw())
    }
}

/// A leaf as a processor's walk finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareLeaf {
    pub address: Spa,
    pub size: PageSize,
    pub access: Access,
}

/// The processor's walk of EPT 02. Ends the test on a misconfiguration: L0
/// never makes one.
pub fn hardware_walk(memory: &Frames, eptp: Eptp, at: Gpa2) -> Option<HardwareLeaf> {
    assert_eq!(eptp.check(&CAPABILITIES), Ok(()));
    let mut permitted = Access::RWX;
    let mut table = eptp.root();
    let mut level = Level::Pml4;
    loop {
        let slot = Spa::new(table + 8 * level.index(at.raw()) as u64);
        let entry = EptEntry::from_raw(memory.load(slot));
        assert_eq!(entry.check(level, &CAPABILITIES), Ok(()), "{entry:?}");
        if !entry.is_present() {
            return None;
        }
        permitted &= entry.access();
        if entry.is_leaf(level) {
            let size = level.page_size().unwrap();
            assert_eq!(entry.memory_type(), Some(MemoryType::WriteBack));
            assert!(entry.ignores_pat());
            let offset = at.raw() & (size.bytes() - 1);
            return Some(HardwareLeaf {
                address: Spa::new(entry.page_address(size) + offset),
                size,
                access: permitted,
            });
        }
        table = entry.address();
        level = level.below().unwrap();
    }
}

/// What the processor remembers: whatever it has used, until INVEPT.
pub struct Tlb(BTreeSet<(u64, u64, u64, u8)>);

impl Tlb {
    fn lookup(&self, eptp: Eptp, at: Gpa2, access: Access) -> Option<Spa> {
        let from = (eptp.root(), at.page().raw(), 0, 0);
        let to = (eptp.root(), at.page().raw(), u64::MAX, u8::MAX);
        self.0
            .range(from..=to)
            .find(|entry| Access::from_bits_truncate(entry.3).contains(access))
            .map(|entry| Spa::new(entry.2 + at.page_offset()))
    }

    fn learn(&mut self, eptp: Eptp, at: Gpa2, leaf: HardwareLeaf) {
        let page = leaf.address.page().raw();
        let access = leaf.access.bits();
        self.0.insert((eptp.root(), at.page().raw(), page, access));
    }

    /// A violation makes the processor forget the address.
    fn forget(&mut self, eptp: Eptp, at: Gpa2) {
        self.0
            .retain(|entry| (entry.0, entry.1) != (eptp.root(), at.page().raw()));
    }

    fn invept(&mut self, eptp: Eptp) {
        self.0.retain(|entry| entry.0 != eptp.root());
    }
}

/// A VP with its processor.
pub struct Vp {
    pub view: VpView,
    pub tlb: Tlb,
    /// Whether the VP is in L2 (on what it is attached to).
    pub in_l2: bool,
    pub shot: u64,
}

/// What an access of L2 came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reached this byte.
    Reached(Spa),
    /// It did not, and L0 was told this.
    Stopped(Fill),
}

/// The whole: one partition with its VPs.
pub struct Machine {
    pub frames: Frames,
    pub set: ShadowSet<Frames, Frames>,
    pub l1: L1,
    pub vps: Vec<Vp>,
}

impl Machine {
    pub fn new(frames: usize, slots: usize, vps: usize) -> Self {
        Self::with_policy(frames, slots, vps, POLICY)
    }

    pub fn with_policy(frames: usize, slots: usize, vps: usize, policy: Policy) -> Self {
        let frames = Frames::new(frames);
        let set = ShadowSet::new(frames.clone(), frames.clone(), policy, slots);
        let vp = |_| Vp {
            view: set.view(),
            tlb: Tlb(BTreeSet::new()),
            in_l2: false,
            shot: 0,
        };
        let vps = (0..vps).map(vp).collect();
        Self {
            frames,
            set,
            l1: L1::new(),
            vps,
        }
    }

    /// The second and third phase of a removal.
    pub fn complete(&mut self, retired: Retired) {
        for (number, vp) in (0..).zip(&mut self.vps) {
            if vp.in_l2 && retired.affects(number) {
                vp.in_l2 = false;
                vp.shot += 1;
            }
        }
        self.set.release(retired);
    }

    /// The first phase of a flush of the space.
    pub fn flush_space(&mut self, root: Gpa1) -> Retired {
        self.set.flush_space(root, &self.l1)
    }

    /// L1 enters L2 with this EPT 12.
    pub fn enter(&mut self, vp: usize, root: Gpa1) {
        self.vps[vp].in_l2 = false;
        let eptp = L1::eptp(root);
        loop {
            match self.set.attach(&mut self.vps[vp].view, vp as u8, eptp) {
                Ok(()) => break,
                Err(AttachError::OutOfFrames) => self.reclaim(None),
                Err(AttachError::NoSlot) => panic!("more VPs than slots"),
            }
        }
        self.resume(vp);
    }

    pub fn resume(&mut self, vp: usize) {
        let vp = &mut self.vps[vp];
        vp.in_l2 = true;
        if let Some(eptp) = vp.view.take_invalidation() {
            vp.tlb.invept(eptp);
        }
    }

    fn reclaim(&mut self, vp: Option<usize>) {
        let on = vp.and_then(|vp| self.vps[vp].view.attachment());
        let retired = self.set.reclaim(on);
        assert!(retired.frames() > 0, "nothing to reclaim");
        self.complete(retired);
    }

    /// L2 touches memory, on a VP that has entered; L0 fills as it must.
    pub fn touch(&mut self, vp: usize, at: Gpa2, access: Access) -> Outcome {
        for _ in 0..8 {
            if !self.vps[vp].in_l2 {
                self.resume(vp);
            }
            let eptp = self.vps[vp].view.attachment().unwrap().eptp();
            if let Some(to) = self.vps[vp].tlb.lookup(eptp, at, access) {
                return Outcome::Reached(to);
            }
            if let Some(leaf) = hardware_walk(&self.frames, eptp, at)
                && leaf.access.contains(access)
            {
                self.vps[vp].tlb.learn(eptp, at, leaf);
                return Outcome::Reached(leaf.address);
            }
            self.vps[vp].tlb.forget(eptp, at);
            self.vps[vp].in_l2 = false;
            let on = self.vps[vp].view.attachment().unwrap();
            match self.set.fill(on, &self.l1, at, access) {
                Fill::Filled(_) => {}
                Fill::OutOfFrames => self.reclaim(Some(vp)),
                stopped => return Outcome::Stopped(stopped),
            }
        }
        panic!("L2 does not get on at {at:?}");
    }

    /// All that EPT 02 has for the shadow a VP is on.
    pub fn leaves(&self, vp: usize) -> Vec<(Gpa2, HardwareLeaf)> {
        let eptp = self.vps[vp].view.attachment().unwrap().eptp();
        let mut tables = alloc::vec![(Spa::new(eptp.root()), Level::Pml4, 0)];
        let mut leaves = Vec::new();
        while let Some((table, level, base)) = tables.pop() {
            for index in 0..ENTRIES as u64 {
                let at = base + index * level.entry_bytes();
                let slot = Spa::new(table.raw() + 8 * index);
                let entry = EptEntry::from_raw(self.frames.load(slot));
                if entry.is_present() && !entry.is_leaf(level) {
                    let below = level.below().unwrap();
                    tables.push((Spa::new(entry.address()), below, at));
                } else if entry.is_present() {
                    let at = Gpa2::new(at);
                    leaves.push((at, hardware_walk(&self.frames, eptp, at).unwrap()));
                }
            }
        }
        leaves
    }

    /// What EPT 02 has at an address for the shadow a VP is on.
    pub fn shadow(&self, vp: usize, at: Gpa2) -> Option<HardwareLeaf> {
        let eptp = self.vps[vp].view.attachment().unwrap().eptp();
        hardware_walk(&self.frames, eptp, at)
    }
}
