//! The protocol of flushing, with threads for processors.
//!
//! Two VPs walk and remember, a third party remaps, flushes and hands frames
//! back, all at once. A freed frame is filled with garbage, so a walker that
//! reaches one notices; and once a flush is complete, no VP may reach what the
//! page was mapped to before.

extern crate std;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use addr::{Gpa1, Gpa2, PAGE_SIZE, Spa};
use vmx::ept::{
    Access, ENTRIES, EptEntry, Eptp, Level, MemoryType, PageSize, TableFrames, TableMemory,
};

use super::super::{Fill, Gpa2Range, L1Space, Region, ShadowSet, VpView};
use super::machine::{CAPABILITIES, G1, L1, M2, POLICY};

const GARBAGE: u64 = 0xdead_dead_dead_dead;
const FRAMES: u64 = 64;
const PAGES: u64 = 16;
/// Flushes at most, and at least, however slow the machine is.
const FLUSHES: u64 = 4000;
const ENOUGH: u64 = 50;
const TIME: Duration = Duration::from_millis(300);
const BACKING: u64 = 64 * G1;

/// Frames, or pages of L1: words from address 0 up.
#[derive(Clone)]
struct Words(Arc<[AtomicU64]>);

impl Words {
    fn new(pages: u64) -> Self {
        let words = 0..pages as usize * ENTRIES;
        Self(words.map(|_| AtomicU64::new(0)).collect())
    }

    fn at(&self, address: u64) -> &AtomicU64 {
        &self.0[address as usize / 8]
    }
}

impl TableMemory for Words {
    fn load(&self, at: Spa) -> u64 {
        self.at(at.raw()).load(SeqCst)
    }

    fn store(&self, at: Spa, value: u64) {
        self.at(at.raw()).store(value, SeqCst);
    }
}

struct Pool {
    memory: Words,
    free: Vec<Spa>,
}

impl Pool {
    fn fill(&self, frame: Spa, value: u64) {
        for offset in (0..PAGE_SIZE).step_by(8) {
            self.memory.at(frame.raw() + offset).store(value, SeqCst);
        }
    }
}

impl TableFrames for Pool {
    fn alloc(&mut self) -> Option<Spa> {
        let frame = self.free.pop()?;
        self.fill(frame, 0);
        Some(frame)
    }

    fn free(&mut self, frame: Spa) {
        self.fill(frame, GARBAGE);
        self.free.push(frame);
    }
}

impl L1Space for Words {
    type Word = Gpa1;

    fn word(&self, at: Gpa1) -> Option<Gpa1> {
        Some(at)
    }

    fn read_word(&self, at: Gpa1) -> u64 {
        self.at(at.raw()).load(SeqCst)
    }

    fn region(&self, at: Gpa1) -> Option<Region> {
        (at.raw() >= G1).then_some(Region {
            start: Gpa1::new(G1),
            bytes: 64 * G1,
            backing: Spa::new(BACKING),
            access: Access::RWX,
        })
    }
}

/// L2's address of a page: half of them in one page table, half in the next.
fn address(page: u64) -> Gpa2 {
    Gpa2::new(page % 2 * M2 + page * PAGE_SIZE)
}

/// Writes EPT 12's leaf for a page: each version leads to another place.
fn map(l1: &Words, page: u64, version: u64) {
    let table = 0x4000 + page % 2 * 0x1000;
    let to = G1 + (version * PAGES + page) * PAGE_SIZE;
    let write_back = MemoryType::WriteBack;
    let leaf = EptEntry::leaf(to, PageSize::Size4K, Access::RW, write_back, false);
    l1.at(table + 8 * Level::Pt.index(address(page).raw()) as u64)
        .store(leaf.raw(), SeqCst);
}

/// The version of a page that an access reached.
fn version(page: u64, reached: Spa) -> u64 {
    let number = (reached.raw() - BACKING) / PAGE_SIZE;
    assert_eq!(number % PAGES, page, "another page's memory");
    number / PAGES
}

/// The processor's walk.
fn hardware_walk(memory: &Words, eptp: Eptp, at: Gpa2) -> Option<Spa> {
    let mut table = eptp.root();
    for level in [Level::Pml4, Level::Pdpt, Level::Pd] {
        let slot = Spa::new(table + 8 * level.index(at.raw()) as u64);
        let entry = EptEntry::from_raw(memory.load(slot));
        assert_ne!(entry.raw(), GARBAGE, "walks a freed frame");
        if !entry.is_present() {
            return None;
        }
        assert_eq!(entry.check(level, &CAPABILITIES), Ok(()));
        table = entry.address();
    }
    let slot = Spa::new(table + 8 * Level::Pt.index(at.raw()) as u64);
    let entry = EptEntry::from_raw(memory.load(slot));
    assert_ne!(entry.raw(), GARBAGE, "walks a freed frame");
    entry.is_present().then_some(Spa::new(entry.address()))
}

/// What a VP lets the others see.
#[derive(Default)]
struct Public {
    in_l2: AtomicBool,
    kicked: AtomicBool,
    exits: AtomicU64,
    /// Accesses that reached memory.
    reached: AtomicU64,
}

struct Shared {
    set: Mutex<ShadowSet<Words, Pool>>,
    memory: Words,
    l1: Words,
    vps: [Public; 2],
    /// By page: the version below which no access may fall.
    floors: [AtomicU64; PAGES as usize],
    stop: AtomicBool,
}

/// Ends a test whose other threads wait for this one.
struct StopOnPanic<'a>(&'a Shared, usize);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
        self.0.vps[self.1].in_l2.store(false, SeqCst);
    }
}

fn run_vp(shared: &Shared, index: usize, mut view: VpView) {
    let _stop = StopOnPanic(shared, index);
    let public = &shared.vps[index];
    let mut tlb = BTreeMap::new();
    let mut random = index as u64 + 1;
    while !shared.stop.load(SeqCst) {
        public.in_l2.store(true, SeqCst);
        if view.take_invalidation().is_some() {
            tlb.clear();
        }
        let eptp = view.attachment().unwrap().eptp();
        let mut miss = None;
        while !public.kicked.load(SeqCst) && !shared.stop.load(SeqCst) {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            let page = (random >> 40) % PAGES;
            let floor = shared.floors[page as usize].load(SeqCst);
            let cached = tlb.get(&page).copied();
            match cached.or_else(|| hardware_walk(&shared.memory, eptp, address(page))) {
                Some(to) => {
                    tlb.insert(page, to);
                    let got = version(page, to);
                    assert!(got >= floor, "page {page}: {got} after {floor} was flushed");
                    if public.reached.fetch_add(1, SeqCst).is_multiple_of(PAGES) {
                        thread::yield_now();
                    }
                }
                None => {
                    miss = Some(page);
                    break;
                }
            }
        }
        public.in_l2.store(false, SeqCst);
        public.exits.fetch_add(1, SeqCst);
        public.kicked.store(false, SeqCst);
        if let Some(page) = miss {
            let on = view.attachment().unwrap();
            let mut set = shared.set.lock().unwrap();
            let fill = set.fill(on, &shared.l1, address(page), Access::READ);
            assert_eq!(fill, Fill::Filled(PageSize::Size4K));
        }
        thread::yield_now();
    }
}

/// Remaps and flushes, each time by another of the ways there are, and lets
/// the VPs reach memory in between.
fn run_l1(shared: &Shared, root: Gpa1) {
    let start = Instant::now();
    for version in 1..=FLUSHES {
        if version > ENOUGH && start.elapsed() > TIME {
            break;
        }
        let page = version * 7 % PAGES;
        map(&shared.l1, page, version);
        let retired = {
            let mut set = shared.set.lock().unwrap();
            let at = address(page);
            match version % 8 {
                0 => set.flush_all(),
                1 => set.flush_space(root, &shared.l1),
                2 => set.flush_ranges(root, [Gpa2Range::new(at.align_down(M2), M2)]),
                _ => set.flush_ranges(root, [Gpa2Range::pages(at, 1)]),
            }
        };
        if retired.needs_shootdown() {
            for vp in &shared.vps {
                let exits = vp.exits.load(SeqCst);
                vp.kicked.store(true, SeqCst);
                while vp.in_l2.load(SeqCst) && vp.exits.load(SeqCst) == exits {
                    thread::yield_now();
                }
            }
        }
        shared.set.lock().unwrap().release(retired);
        shared.floors[page as usize].store(version, SeqCst);
        for vp in &shared.vps {
            let reached = vp.reached.load(SeqCst);
            while vp.reached.load(SeqCst) < reached + PAGES && !shared.stop.load(SeqCst) {
                thread::yield_now();
            }
        }
    }
    shared.stop.store(true, SeqCst);
}

#[test]
fn a_completed_flush_holds_on_every_processor() {
    let memory = Words::new(FRAMES + 1);
    let pool = Pool {
        memory: memory.clone(),
        free: (1..=FRAMES).map(|n| Spa::new(n * PAGE_SIZE)).collect(),
    };
    // EPT 12: one table a level, and two page tables.
    let l1 = Words::new(8);
    let root = Gpa1::new(0x1000);
    l1.at(0x1000).store(EptEntry::table(0x2000).raw(), SeqCst);
    l1.at(0x2000).store(EptEntry::table(0x3000).raw(), SeqCst);
    l1.at(0x3000).store(EptEntry::table(0x4000).raw(), SeqCst);
    l1.at(0x3008).store(EptEntry::table(0x5000).raw(), SeqCst);
    for page in 0..PAGES {
        map(&l1, page, 0);
    }
    let mut set = ShadowSet::new(memory.clone(), pool, POLICY, 4);
    let mut views: Vec<VpView> = (0..2).map(|_| set.view()).collect();
    for (number, view) in (0..).zip(&mut views) {
        set.attach(view, number, L1::eptp(root)).unwrap();
    }
    let shared = Box::new(Shared {
        set: Mutex::new(set),
        memory,
        l1,
        vps: Default::default(),
        floors: core::array::from_fn(|_| AtomicU64::new(0)),
        stop: AtomicBool::new(false),
    });
    let shared = &*shared;
    thread::scope(|scope| {
        for (index, view) in views.into_iter().enumerate() {
            scope.spawn(move || run_vp(shared, index, view));
        }
        run_l1(shared, root);
    });
    assert!(shared.set.lock().unwrap().generation(root).unwrap() > ENOUGH / 2);
}
