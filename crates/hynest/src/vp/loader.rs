//! Copying L1's kernel and what it needs into its memory.

use addr::{Gpa1, PAGE_SIZE};
use platform::boot::{self, BootError, Config, EntryState};
use platform::{ports, power};

use super::memory::L1Memory;

/// Where real-mode code jumps to reset a PC, F000:FFF0: Linux does when nothing else has helped.
const RESET_VECTOR: Gpa1 = Gpa1::new(0xF_FFF0);

/// What lies there in the place of a BIOS: a store to the platform's reset register, and a halt.
const RESET_CODE: [u8; 9] = {
    let [low, high] = (ports::POWER + power::RESET as u16).to_le_bytes();
    [
        0xBA,
        low,
        high, // mov dx, POWER + RESET
        0xB0,
        power::RESET_VALUE, // mov al, RESET_VALUE
        0xEE,               // out dx, al
        0xF4,               // hlt
        0xEB,
        0xFD, // jmp to the hlt
    ]
};

/// Loads an L1 with `vps` VPs; returns how its first VP begins.
///
/// # Errors
/// What is wrong with the kernel, the ramdisk or the command line.
pub fn load(
    memory: &L1Memory,
    kernel: &[u8],
    initrd: Option<&[u8]>,
    command_line: &str,
    vps: usize,
) -> Result<EntryState, BootError> {
    let plan = boot::plan(&Config {
        memory: memory.size(),
        vps: vps as u32,
        kernel,
        initrd: initrd.map(|bytes| bytes.len() as u64),
        cmdline: command_line.as_bytes(),
    })?;
    for segment in &plan.segments {
        let bytes = &kernel[segment.file.clone()];
        put(memory, segment.at, bytes);
        let filled = bytes.len() as u64;
        clear(memory, segment.at, filled, segment.memory_size);
    }
    if let (Some(at), Some(bytes)) = (plan.initrd, initrd) {
        put(memory, at, bytes);
    }
    for blob in &plan.blobs {
        put(memory, blob.at, &blob.bytes);
    }
    put(memory, RESET_VECTOR, &RESET_CODE);
    Ok(plan.entry)
}

/// Copies what the plan has found to fit.
fn put(memory: &L1Memory, at: Gpa1, bytes: &[u8]) {
    assert!(
        memory.load(at, bytes),
        "the boot plan leaves L1's memory at {at}"
    );
}

/// Clears `[at + from, at + to)`: what a segment has beyond its file.
fn clear(memory: &L1Memory, at: Gpa1, from: u64, to: u64) {
    const ZEROES: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    let mut done = from;
    while done < to {
        let take = (to - done).min(PAGE_SIZE);
        put(memory, Gpa1::new(at.raw() + done), &ZEROES[..take as usize]);
        done += take;
    }
}
