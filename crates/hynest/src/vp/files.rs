//! What L1 is booted from: files that the loader placed in memory.

use addr::{PAGE_SIZE, Spa};

use crate::boot::information::{Information, Module};
use crate::fatal;
use crate::memory::layout::Range;
use crate::memory::lz4::Frame;
use crate::memory::{frames, pointer};

/// L1's files and its command line.
pub struct Files {
    /// An ELF with a PVH note.
    pub kernel: &'static [u8],
    /// L1's.
    pub command_line: &'static str,
    /// Its ramdisk.
    pub initrd: Option<&'static [u8]>,
    /// Memory that unpacked files take until they are loaded.
    scratch: [Option<Range>; 2],
}

/// Finds L1's files among the modules and unpacks those that are packed.
pub fn find(information: &mut Information) -> Files {
    let Some(kernel) = information.module("l1-kernel") else {
        fatal::refuse(format_args!(
            "no L1 kernel: pass a module 'l1-kernel COMMAND LINE' (an ELF with a PVH note)"
        ))
    };
    let initrd = information.module("l1-initrd");
    let mut scratch = [None; 2];
    let mut unpack = |module: Module, slot: usize| {
        let frame = match Frame::open(module.bytes()) {
            Ok(None) => return module.bytes(),
            Ok(Some(frame)) => frame,
            Err(error) => fatal::refuse(format_args!("module {}: {error}", module.name())),
        };
        let room = frame.size().next_multiple_of(PAGE_SIZE);
        let Some(at) = information.free.take(room) else {
            fatal::refuse(format_args!(
                "too little memory: module {} unpacks to {} MiB",
                module.name(),
                room >> 20
            ))
        };
        // SAFETY: the range was just taken out of the free memory, and stays until it is given
        // to the frame pool, after the last use of what is unpacked here.
        let bytes: &'static mut [u8] =
            unsafe { core::slice::from_raw_parts_mut(pointer(at), frame.size() as usize) };
        if let Err(error) = frame.unpack(bytes) {
            fatal::refuse(format_args!("module {}: {error}", module.name()));
        }
        scratch[slot] = Some(Range {
            start: at.raw(),
            end: at.raw() + room,
        });
        &*bytes
    };
    Files {
        kernel: unpack(kernel, 0),
        initrd: initrd.map(|module| unpack(module, 1)),
        command_line: kernel.rest(),
        scratch,
    }
}

impl Files {
    /// The files have been copied: the memory that unpacked ones took is free.
    pub fn release(self) {
        for range in self.scratch.into_iter().flatten() {
            // SAFETY: the files have been copied to L1's memory; nothing refers to them any more.
            unsafe { frames::add(Spa::new(range.start), Spa::new(range.end)) };
        }
    }
}
