//! How the payload is entered, and what the loader tells it.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

use super::memory;

/// The page that a start-up IPI names; below 1 MiB, and free under every loader.
pub const TRAMPOLINE: u64 = 0x8000;

global_asm!(
    include_str!("entry.s"),
    rust_entry = sym crate::rust_entry,
    ap_entry = sym super::smp::ap_entry,
    trampoline = const TRAMPOLINE,
);

/// The loader was PVH's: the payload is a guest of a hypervisor's own boot protocol.
const PVH: u64 = 1;
const START_INFO_CMDLINE: u64 = 24;
/// Multiboot2 tags: the command line, and the end.
const TAG_CMDLINE: u32 = 1;
const TAG_END: u32 = 0;

const LIMIT: usize = 512;
static mut COMMAND_LINE: [u8; LIMIT] = [0; LIMIT];
static IS_COPIED: AtomicBool = AtomicBool::new(false);

/// Copies the command line from what the loader left at `information`.
pub fn take_command_line(protocol: u64, information: u64) {
    let text = if protocol == PVH {
        memory::read::<u64>(information + START_INFO_CMDLINE)
    } else {
        multiboot2_command_line(information)
    };
    if text == 0 {
        return;
    }
    for i in 0..LIMIT as u64 - 1 {
        let byte = memory::read::<u8>(text + i);
        if byte == 0 {
            break;
        }
        // SAFETY: runs once, before anything reads the command line.
        unsafe {
            (&raw mut COMMAND_LINE)
                .cast::<u8>()
                .add(i as usize)
                .write(byte)
        };
    }
    IS_COPIED.store(true, Ordering::Release);
}

fn multiboot2_command_line(information: u64) -> u64 {
    let mut tag = information + 8;
    loop {
        let kind = memory::read::<u32>(tag);
        if kind == TAG_CMDLINE {
            return tag + 8;
        }
        if kind == TAG_END {
            return 0;
        }
        tag += u64::from(memory::read::<u32>(tag + 4)).next_multiple_of(8);
    }
}

/// The words of the command line.
pub fn words() -> impl Iterator<Item = &'static str> {
    let bytes: &'static [u8] = if IS_COPIED.load(Ordering::Acquire) {
        // SAFETY: written once, before `IS_COPIED`.
        unsafe { core::slice::from_raw_parts((&raw const COMMAND_LINE).cast(), LIMIT) }
    } else {
        &[]
    };
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end])
        .unwrap_or("")
        .split_ascii_whitespace()
}

/// The value of `key=value` on the command line.
pub fn option(key: &str) -> Option<&'static str> {
    words().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}
