//! Features of paging, on a page in the window that is mapped for the purpose.

use core::arch::asm;

use crate::groups::audit::walk::{Verdict, equal, faults, holds, works};
use crate::rt::fault::{Fault, attempt};
use crate::rt::paging::{self, PRESENT, USER, WINDOW, WRITE};
use crate::rt::{cpu, memory};

/// A page's or table's address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Execution is forbidden.
const NX: u64 = 1 << 63;
/// The translation is of all address spaces.
const GLOBAL: u64 = 1 << 8;
/// Protection violation, and an instruction fetch.
const FETCH_VIOLATION: u32 = 0x11;
/// Protection violation by a read.
const READ_VIOLATION: u32 = 0x01;

/// Calls what lies at `at`.
fn call(at: u64) -> Result<(), Fault> {
    // SAFETY: a RET lies there, or nothing that can be fetched.
    attempt(|| unsafe { asm!("call {}", in(reg) at, clobber_abi("C")) })
}

/// Reads at `at`.
fn read(at: u64) -> Result<u64, Fault> {
    attempt(|| memory::read::<u64>(at))
}

/// A page that holds a RET.
fn page() -> u64 {
    let page = memory::page();
    memory::write(page, 0xc3u64);
    page
}

/// Where the last-level entry of the window's first page lies, which `paging::map` has made.
fn window_entry() -> u64 {
    [39, 30, 21]
        .iter()
        .fold(cpu::cr3() & ADDRESS, |table, shift| {
            memory::read::<u64>(table + (WINDOW >> shift & 511) * 8) & ADDRESS
        })
}

/// A page without the right to be executed, and EFER.NXE.
pub fn no_execute() -> Verdict {
    let page = page();
    let efer = cpu::msr(cpu::MSR_EFER);
    works("EFER.NXE", cpu::wrmsr(cpu::MSR_EFER, efer | 1 << 11))?;
    paging::map(WINDOW, page, PRESENT);
    works("an executable page", call(WINDOW))?;
    paging::map(WINDOW, page, PRESENT | NX);
    faults(
        "a page without execution",
        call(WINDOW),
        Fault::page(FETCH_VIOLATION),
    )?;
    equal("reading it", works("reading it", read(WINDOW))?, 0xc3u64)
}

/// With every page but the window's closed to ring 3, runs `f`.
fn as_supervisor(f: impl FnOnce() -> Verdict) -> Verdict {
    let entry = cpu::cr3() & ADDRESS;
    let first = memory::read::<u64>(entry);
    memory::write(entry, first & !USER);
    let _ = cpu::set_cr3(cpu::cr3());
    let verdict = f();
    let _ = cpu::set_cr4(cpu::cr4() & !(1 << 20 | 1 << 21));
    memory::write(entry, first);
    let _ = cpu::set_cr3(cpu::cr3());
    verdict
}

/// SMEP: ring 0 cannot execute ring 3's pages.
pub fn smep() -> Verdict {
    let page = page();
    paging::map(WINDOW, page, PRESENT | USER);
    works("without SMEP", call(WINDOW))?;
    as_supervisor(|| {
        super::system::cr4_takes(20)?;
        faults("ring 3's page", call(WINDOW), Fault::page(FETCH_VIOLATION))?;
        paging::map(WINDOW, page, PRESENT);
        works("ring 0's page", call(WINDOW))
    })
}

/// SMAP: ring 0 cannot read ring 3's pages, unless EFLAGS.AC is set.
pub fn smap() -> Verdict {
    let page = page();
    paging::map(WINDOW, page, PRESENT | USER | WRITE);
    as_supervisor(|| {
        super::system::cr4_takes(21)?;
        faults("ring 3's page", read(WINDOW), Fault::page(READ_VIOLATION))?;
        // SAFETY: sets and clears a flag around the read.
        let permitted = attempt(|| unsafe {
            let value: u64;
            asm!("stac", "mov {}, [{}]", "clac", out(reg) value, in(reg) WINDOW);
            value
        });
        equal("with AC", works("with AC", permitted)?, 0xc3u64)
    })
}

/// A page of 1 GiB.
pub fn page_1g() -> Verdict {
    let page = page();
    // The window's tables, for one page; then one entry of 1 GiB in place of the rest.
    paging::map(WINDOW, page, PRESENT | WRITE);
    let top = memory::read::<u64>((cpu::cr3() & ADDRESS) + (WINDOW >> 39 & 511) * 8) & ADDRESS;
    memory::write(top + 8, PRESENT | WRITE | 1 << 7);
    let at = WINDOW + (1 << 30) + page;
    holds(page < 1 << 30, "the page lies too high for this")?;
    paging::flush(at);
    equal("by the large page", works("reading", read(at))?, 0xc3u64)
}

/// Pages of 2 MiB, in which the payload itself runs.
pub fn page_2m() -> Verdict {
    let table = |at: u64| memory::read::<u64>(at) & ADDRESS;
    let entry = memory::read::<u64>(table(table(cpu::cr3() & ADDRESS)));
    holds(entry >> 7 & 1 != 0, "the payload's own pages are small")
}

/// A global page outlives a change of CR3, and a change of CR4.PGE ends it.
pub fn global_pages() -> Verdict {
    super::system::cr4_takes(7)?;
    let (first, second) = (memory::page(), memory::page());
    memory::write(first, 1u64);
    memory::write(second, 2u64);
    paging::map(WINDOW, first, PRESENT | GLOBAL);
    works("reading", read(WINDOW))?;
    memory::write(window_entry(), second | PRESENT | GLOBAL);
    // Whether the processor still has the first is its business; that it has not after this is not.
    works("CR4.PGE", cpu::set_cr4(cpu::cr4() & !cpu::CR4_PGE))?;
    equal("after the flush", works("reading", read(WINDOW))?, 2u64)
}

/// CR4.PCIDE, and a CR3 with an identifier.
pub fn process_context() -> Verdict {
    super::system::cr4_takes(17)?;
    let cr3 = cpu::cr3();
    works("CR3 with identifier 5", cpu::set_cr3(cr3 | 5))?;
    equal("CR3", cpu::cr3(), cr3 | 5)?;
    works("CR3 that keeps translations", cpu::set_cr3(cr3 | 1 << 63))?;
    equal("CR3 reads without bit 63", cpu::cr3(), cr3)
}

/// Without PCID bit 17 of CR4 is reserved.
pub fn no_process_context() -> Verdict {
    super::system::cr4_refuses(17)
}

/// INVPCID of each type, and of a type that there is not.
pub fn invpcid() -> Verdict {
    let invalidate = |kind: u64| {
        let descriptor = [0u64; 2];
        attempt(|| {
            // SAFETY: dropping translations is always sound.
            unsafe { asm!("invpcid {}, [{}]", in(reg) kind, in(reg) &raw const descriptor) };
        })
    };
    let (first, second) = (memory::page(), memory::page());
    memory::write(second, 2u64);
    paging::map(WINDOW, first, PRESENT);
    works("reading", read(WINDOW))?;
    memory::write(window_entry(), second | PRESENT);
    works("all contexts", invalidate(2))?;
    equal("after all contexts", works("reading", read(WINDOW))?, 2u64)?;
    for kind in [0, 1, 3] {
        works("another type", invalidate(kind))?;
    }
    faults("type 4", invalidate(4), Fault::GP)
}

/// What is written by one mapping is read by another that does not cache.
pub fn self_snoop() -> Verdict {
    let page = memory::page();
    paging::map(WINDOW, page, PRESENT | WRITE | 1 << 4);
    memory::write(page, 0x55u64);
    equal(
        "uncached, after a cached write",
        works("reading", read(WINDOW))?,
        0x55u64,
    )?;
    memory::write(WINDOW, 0xaau64);
    equal(
        "cached, after an uncached write",
        memory::read::<u64>(page),
        0xaau64,
    )
}
