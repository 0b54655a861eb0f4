//! Copying L1's kernel and what it needs into its memory.

use addr::{Gpa1, PAGE_SIZE};
use platform::boot::{self, BootError, Config, EntryState};

use super::memory::L1Memory;

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
