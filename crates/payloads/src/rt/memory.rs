//! Memory: all of it is the payload's, mapped one to one.
//!
//! The functions are safe to call because the payload owns the machine it runs in: nothing
//! but its own tests can come to harm, and those mean it.

use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in a page.
pub const PAGE: u64 = 4096;

const POOL_PAGES: usize = 3072;

#[repr(C, align(4096))]
struct Pool([[u8; PAGE as usize]; POOL_PAGES]);

static mut POOL: Pool = Pool([[0; PAGE as usize]; POOL_PAGES]);
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A fresh page, filled with zeroes. Returns its address, linear and physical.
///
/// # Panics
/// When the pool is used up: a test forgot to give its pages back.
pub fn page() -> u64 {
    pages(1, 1)
}

/// `count` fresh pages in a row, aligned to `align` pages.
///
/// # Panics
/// When the pool is used up.
pub fn pages(count: usize, align: usize) -> u64 {
    let base = (&raw const POOL) as u64;
    let first_page = (base / PAGE) as usize;
    let next = NEXT.load(Ordering::Relaxed);
    let start = (first_page + next).next_multiple_of(align) - first_page;
    assert!(start + count <= POOL_PAGES, "the page pool is used up");
    NEXT.store(start + count, Ordering::Relaxed);
    let address = base + start as u64 * PAGE;
    for i in (0..count as u64 * PAGE).step_by(8) {
        write::<u64>(address + i, 0);
    }
    address
}

/// How far the pool is used.
pub fn mark() -> usize {
    NEXT.load(Ordering::Relaxed)
}

/// Gives back every page taken since `mark`.
pub fn release(mark: usize) {
    NEXT.store(mark, Ordering::Relaxed);
}

/// Loads a `T` from `address`.
#[inline]
pub fn read<T: Copy>(address: u64) -> T {
    // SAFETY: see the module.
    unsafe { (address as *const T).read_volatile() }
}

/// Stores a `T` at `address`.
#[inline]
pub fn write<T: Copy>(address: u64, value: T) {
    // SAFETY: see the module.
    unsafe { (address as *mut T).write_volatile(value) }
}

/// Fills `bytes` bytes, a multiple of 8, from `address` on with copies of `word`.
pub fn fill(address: u64, bytes: u64, word: u64) {
    for offset in (0..bytes).step_by(8) {
        write(address + offset, word);
    }
}

// What the compiler calls; there is no library to bring it.

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: forwarded from the caller.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _,
            inout("rsi") from => _, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: a forward copy does not overwrite what it has yet to read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: forwarded from the caller; backwards, with the direction flag restored.
    unsafe {
        core::arch::asm!("std", "rep movsb", "cld", inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: forwarded from the caller.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _,
            in("al") byte as u8, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for i in 0..count {
        // SAFETY: forwarded from the caller; volatile, so that this is not compiled into a
        // call of itself.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: forwarded from the caller.
    unsafe { memcmp(a, b, count) }
}
