//! The walk through EPT 12, in L1's memory.

use addr::{Gpa1, Gpa2};
use vmx::EptViolation;
use vmx::ept::{
    Access, EptCapabilities, EptEntry, Eptp, Level, MemoryType, Misconfiguration, PageSize,
    WIDTH_OF_4_LEVELS,
};

use super::L1Space;
use super::leaves::Source;

/// Where an address of L2 leads, according to L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// L1's address for the very byte.
    pub address: Gpa1,
    /// The size of L1's page around it.
    pub size: PageSize,
    /// What the entries on the path permit together.
    pub access: Access,
    /// The memory type that L1's leaf asks for.
    pub memory_type: MemoryType,
    /// Whether L1's leaf overrides L2's PAT.
    pub ignore_pat: bool,
}

/// An EPT violation that is L1's to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What L2 tried.
    pub access: Access,
    /// What EPT 12 permits at that address: nothing if an entry is absent.
    pub permitted: Access,
}

impl Violation {
    /// The exit qualification that L1 is to see, given that of the hardware
    /// exit: access and permissions are EPT 12's, and what concerns L2's own
    /// translation and NMI blocking (bits 12:7) is the hardware's.
    #[inline]
    pub const fn qualification(&self, hardware: EptViolation) -> EptViolation {
        const KEPT: u64 = 0x1f80;
        EptViolation::from_qualification(
            hardware.raw() & KEPT | (self.permitted.bits() as u64) << 3 | self.access.bits() as u64,
        )
    }
}

/// An EPT misconfiguration that is L1's to handle, with what is wrong for
/// whoever reads a log; the exit itself (reason 49) carries no qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misconfigured {
    /// The table the entry is in.
    pub level: Level,
    /// The entry.
    pub entry: EptEntry,
    /// The rule it breaks.
    pub rule: Misconfiguration,
}

/// Why EPT 12 does not translate an address for an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// Exit reason 48.
    Violation(Violation),
    /// Exit reason 49.
    Misconfigured(Misconfigured),
}

/// Translates `at` for `access` through the tables of `eptp`, judging each
/// entry by the capabilities that L1 was offered.
///
/// `eptp` has passed [`Eptp::check`]. Each entry is judged and used as read
/// once. A table outside
/// L1's memory reads as all ones, which is a misconfiguration. An empty
/// `access` asks for the mapping whatever it permits.
///
/// # Errors
/// What L2's access would raise on hardware that walked these tables: a
/// misconfiguration on the path takes precedence over missing permissions,
/// as these are the sum of the whole path.
#[inline]
pub fn walk(
    eptp: Eptp,
    offered: &EptCapabilities,
    l1: &impl L1Space,
    at: Gpa2,
    access: Access,
) -> Result<Translation, WalkError> {
    let found = Walker::<_, 1>::new(eptp, offered, l1).translate(at, access);
    found.map(|(translation, _)| translation)
}

/// What a walk has found on the way to a page table.
#[derive(Clone, Copy)]
struct Trail {
    /// The address of L2 above the bits that the page table translates.
    region: u64,
    table: u64,
    permitted: Access,
}

/// Several walks at one moment: what one of them has read, the next takes from
/// it. It must not outlive the call that made it, let alone a flush.
///
/// `TRAILS`, a power of two, is how many page tables are remembered.
pub(super) struct Walker<'a, L, const TRAILS: usize> {
    eptp: Eptp,
    offered: &'a EptCapabilities,
    l1: &'a L,
    /// By the lowest bits of the region.
    trails: [Option<Trail>; TRAILS],
}

impl<'a, L: L1Space, const TRAILS: usize> Walker<'a, L, TRAILS> {
    #[inline]
    pub fn new(eptp: Eptp, offered: &'a EptCapabilities, l1: &'a L) -> Self {
        Self {
            eptp,
            offered,
            l1,
            trails: [None; TRAILS],
        }
    }

    #[inline]
    fn trail(&self, region: u64) -> Option<Trail> {
        self.trails[region as usize % TRAILS].filter(|trail| trail.region == region)
    }

    #[inline]
    fn remember(&mut self, trail: Trail) {
        self.trails[trail.region as usize % TRAILS] = Some(trail);
    }

    /// Follows references that permit everything, which are nearly all there
    /// are, as far as they lead: the table, its level, and what was permitted.
    #[inline]
    fn descend(&mut self, at: Gpa2, region: u64) -> (u64, Level, Access) {
        let rights = u64::from(Access::RWX.bits());
        // The rules for a reference, all in one: see `EptEntry::check`.
        let judged = rights | 0xf8 | self.offered.reserved_address_bits();
        let mut table = self.eptp.root();
        for level in [Level::Pml4, Level::Pdpt, Level::Pd] {
            let slot = Gpa1::new(table + 8 * level.index(at.raw()) as u64);
            match self.l1.read_u64(slot) {
                Some(entry) if entry & judged == rights => {
                    table = EptEntry::from_raw(entry).address();
                }
                _ => return (table, level, Access::RWX),
            }
        }
        self.remember(Trail {
            region,
            table,
            permitted: Access::RWX,
        });
        (table, Level::Pt, Access::RWX)
    }

    /// Whether the page table's entry for `at` is the one that a leaf came
    /// from.
    #[inline]
    pub fn finds(&mut self, source: Source, at: Gpa2) -> bool {
        let region = at.raw() / Level::Pd.entry_bytes();
        if self.trail(region).is_none() {
            self.descend(at, region);
        }
        match self.trail(region) {
            Some(trail) if trail.permitted == Access::RWX => {
                let slot = Gpa1::new(trail.table + 8 * Level::Pt.index(at.raw()) as u64);
                self.l1.read_u64(slot).is_some_and(|entry| source.is(entry))
            }
            _ => false,
        }
    }

    /// As [`walk`], with the origin of the translation.
    #[inline]
    pub fn translate(
        &mut self,
        at: Gpa2,
        access: Access,
    ) -> Result<(Translation, Source), WalkError> {
        let denied = |permitted| WalkError::Violation(Violation { access, permitted });
        if at.raw() >> WIDTH_OF_4_LEVELS != 0 {
            return Err(denied(Access::empty()));
        }
        let region = at.raw() / Level::Pd.entry_bytes();
        let (mut table, mut level, mut permitted) = match self.trail(region) {
            Some(trail) => (trail.table, Level::Pt, trail.permitted),
            _ => self.descend(at, region),
        };
        loop {
            let slot = Gpa1::new(table + 8 * level.index(at.raw()) as u64);
            let entry = EptEntry::from_raw(self.l1.read_u64(slot).unwrap_or(u64::MAX));
            if !entry.is_present() {
                return Err(denied(Access::empty()));
            }
            let misconfigured =
                |rule| WalkError::Misconfigured(Misconfigured { level, entry, rule });
            entry.check(level, self.offered).map_err(misconfigured)?;
            let above = permitted;
            permitted &= entry.access();
            let (Some(below), false) = (level.below(), entry.is_leaf(level)) else {
                // `check` has passed: the level has pages and the type is known.
                let (Some(size), Some(memory_type)) = (level.page_size(), entry.memory_type())
                else {
                    return Err(misconfigured(Misconfiguration::MemoryType));
                };
                if !permitted.contains(access) {
                    return Err(denied(permitted));
                }
                let offset = at.raw() & (size.bytes() - 1);
                let translation = Translation {
                    address: Gpa1::new(entry.page_address(size) + offset),
                    size,
                    access: permitted,
                    memory_type,
                    ignore_pat: entry.ignores_pat(),
                };
                let source = if level == Level::Pt && above == Access::RWX {
                    Source::entry(entry)
                } else {
                    Source::OTHER
                };
                return Ok((translation, source));
            };
            table = entry.address();
            level = below;
            if level == Level::Pt {
                self.remember(Trail {
                    region,
                    table,
                    permitted,
                });
            }
        }
    }
}
