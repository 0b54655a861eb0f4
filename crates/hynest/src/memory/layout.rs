//! Dividing the machine's memory: what firmware, the image and the modules hold, L0's own
//! share, and the largest contiguous rest for the partition.

use addr::{PAGE_SIZE, Spa};

/// A range of physical memory, `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

impl Range {
    /// Bytes in it.
    pub const fn size(self) -> u64 {
        self.end - self.start
    }
}

/// Most pieces that the free memory may fall into.
const CAPACITY: usize = 64;

/// The free memory, as disjoint ranges.
pub struct Free {
    ranges: [Range; CAPACITY],
    count: usize,
}

impl Free {
    /// No memory yet.
    pub const fn new() -> Self {
        Self {
            ranges: [Range { start: 0, end: 0 }; CAPACITY],
            count: 0,
        }
    }

    /// Adds a range the firmware calls usable. Pieces beyond the capacity are left unused.
    pub fn add(&mut self, start: u64, end: u64) {
        let start = start.next_multiple_of(PAGE_SIZE);
        let end = end & !(PAGE_SIZE - 1);
        if start < end && self.count < CAPACITY {
            self.ranges[self.count] = Range { start, end };
            self.count += 1;
        }
    }

    /// Takes `[start, end)` out of what is free.
    pub fn remove(&mut self, start: u64, end: u64) {
        let start = start & !(PAGE_SIZE - 1);
        let end = end.next_multiple_of(PAGE_SIZE);
        let mut i = 0;
        while i < self.count {
            let range = self.ranges[i];
            if end <= range.start || range.end <= start {
                i += 1;
                continue;
            }
            self.count -= 1;
            self.ranges[i] = self.ranges[self.count];
            if range.start < start {
                self.add(range.start, start);
            }
            if end < range.end {
                self.add(end, range.end);
            }
        }
    }

    /// The highest address that is free, plus one.
    pub fn top(&self) -> u64 {
        self.iter().map(|r| r.end).max().unwrap_or(0)
    }

    /// Bytes that are free.
    pub fn size(&self) -> u64 {
        self.iter().map(Range::size).sum()
    }

    /// Takes `size` bytes for L0 from the smallest range that holds them, so that the largest
    /// stays whole for the partition.
    pub fn take(&mut self, size: u64) -> Option<Spa> {
        let best = self
            .iter()
            .filter(|r| r.size() >= size)
            .min_by_key(|r| r.size())?;
        self.remove(best.start, best.start + size);
        Some(Spa::new(best.start))
    }

    /// Takes the largest contiguous range whose start is a multiple of `align`, at most `limit`
    /// bytes of it, rounded down to `align`.
    pub fn take_largest(&mut self, align: u64, limit: u64) -> Option<Range> {
        self.take_largest_if(align, limit, |size| size > 0)
    }

    /// As [`take_largest`](Self::take_largest), but only if its size satisfies `enough`.
    pub fn take_largest_if(
        &mut self,
        align: u64,
        limit: u64,
        enough: impl Fn(u64) -> bool,
    ) -> Option<Range> {
        let usable = |r: Range| {
            let start = r.start.next_multiple_of(align);
            let end = r.end & !(align - 1);
            let size = end.saturating_sub(start).min(limit & !(align - 1));
            // From the top end: firmware and loaders put their things low.
            Range {
                start: end.max(start) - size,
                end: end.max(start),
            }
        };
        let best = self.iter().map(usable).max_by_key(|r| r.size())?;
        if !enough(best.size()) {
            return None;
        }
        self.remove(best.start, best.end);
        Some(best)
    }

    fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges[..self.count].iter().copied()
    }
}
