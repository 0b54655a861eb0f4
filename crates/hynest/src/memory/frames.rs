//! L0's pool of 4 KiB frames.

use addr::{PAGE_SIZE, Spa};
use spin::Mutex;

use super::pointer;

/// A pool: frames never used yet, then a list of those given back, linked through their
/// first word.
struct Pool {
    next: u64,
    end: u64,
    free: u64,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    next: 0,
    end: 0,
    free: 0,
});

/// Gives the pool its memory.
///
/// # Safety
/// `[start, end)` is page-aligned ordinary memory, mapped, that nothing else uses.
pub unsafe fn initialise(start: Spa, end: Spa) {
    *POOL.lock() = Pool {
        next: start.raw(),
        end: end.raw(),
        free: 0,
    };
}

/// Gives the pool more memory.
///
/// # Safety
/// As [`initialise`].
pub unsafe fn add(start: Spa, end: Spa) {
    let mut at = start;
    while at < end {
        // SAFETY: the caller's promise.
        unsafe { free(at) };
        at = Spa::new(at.raw() + PAGE_SIZE);
    }
}

/// Takes a zeroed frame; `None` when there is none left.
pub fn allocate() -> Option<Spa> {
    let frame = {
        let mut pool = POOL.lock();
        let frame = if pool.free != 0 {
            let frame = pool.free;
            // SAFETY: a frame on the free list holds the next one's address in its first word.
            pool.free = unsafe { pointer::<u64>(Spa::new(frame)).read() };
            frame
        } else if pool.next < pool.end {
            let frame = pool.next;
            pool.next += PAGE_SIZE;
            frame
        } else {
            return None;
        };
        Spa::new(frame)
    };
    // SAFETY: the frame is ours alone now.
    unsafe { pointer::<u8>(frame).write_bytes(0, PAGE_SIZE as usize) };
    Some(frame)
}

/// Takes a zeroed frame that L0 cannot do without.
///
/// # Panics
/// When there is none left: for use while a partition is built, never for a guest's request.
pub fn allocate_at_boot() -> Spa {
    allocate().expect("L0's frame pool is empty while the partition is being built")
}

/// Takes two zeroed frames in a row, while the pool is new.
///
/// # Panics
/// As [`allocate_at_boot`], and when frames that were given back come between.
pub fn allocate_pair_at_boot() -> Spa {
    let mut pool = POOL.lock();
    assert!(
        pool.end - pool.next >= 2 * PAGE_SIZE,
        "L0's frame pool has no two frames in a row"
    );
    let pair = Spa::new(pool.next);
    pool.next += 2 * PAGE_SIZE;
    drop(pool);
    // SAFETY: both frames are ours alone now.
    unsafe { pointer::<u8>(pair).write_bytes(0, 2 * PAGE_SIZE as usize) };
    pair
}

/// Gives a frame back.
///
/// # Safety
/// The frame came from [`allocate`], and neither software nor a processor's translations
/// refer to it any more.
pub unsafe fn free(frame: Spa) {
    let mut pool = POOL.lock();
    // SAFETY: the frame is unused, by the caller's promise.
    unsafe { pointer::<u64>(frame).write(pool.free) };
    pool.free = frame.raw();
}
