//! What the loader tells: command line, memory, modules, ACPI. One form for both protocols.

use core::slice;

use addr::Spa;
use multiboot2::{BootInformation, BootInformationHeader, MemoryAreaType};

use crate::memory::layout::{Free, Range};
use crate::memory::pointer;

/// How the image was entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// GRUB and others.
    Multiboot2,
    /// A PVH loader: QEMU `-kernel`, Xen, hynest itself.
    Pvh,
}

impl Protocol {
    /// From the number that the entry code passes.
    pub const fn from_entry(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Multiboot2),
            2 => Some(Self::Pvh),
            _ => None,
        }
    }
}

/// A file that the loader placed in memory.
#[derive(Clone, Copy)]
pub struct Module {
    /// Its module string: a name, then whatever belongs to that name.
    pub line: &'static str,
    /// Where it lies.
    pub range: Range,
}

impl Module {
    /// The module string's first word.
    pub fn name(&self) -> &'static str {
        self.line.split_ascii_whitespace().next().unwrap_or("")
    }

    /// The module string behind its first word.
    pub fn rest(&self) -> &'static str {
        self.line
            .trim_start()
            .split_once(|c: char| c.is_ascii_whitespace())
            .map_or("", |(_, rest)| rest.trim())
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &'static [u8] {
        // SAFETY: the loader placed the file there, and `Information::collect` took the
        // range out of the free memory.
        unsafe {
            slice::from_raw_parts(
                pointer(Spa::new(self.range.start)),
                self.range.size() as usize,
            )
        }
    }
}

/// Most modules that are looked at.
const MODULES: usize = 8;

/// All the loader told.
pub struct Information {
    /// L0's command line.
    pub command_line: &'static str,
    /// Memory that is free for use: the image, the modules and the information are not.
    pub free: Free,
    /// Where the ACPI root pointer's structure lies, if the loader says.
    pub rsdp: Option<[u8; 36]>,
    modules: [Option<Module>; MODULES],
}

unsafe extern "C" {
    static __image_start: [u8; 0];
    static __image_end: [u8; 0];
}

impl Information {
    /// Reads the loader's information.
    ///
    /// # Errors
    /// A line that says what is wrong with it.
    ///
    /// # Safety
    /// `address` is what the loader passed under `protocol`.
    pub unsafe fn collect(protocol: Protocol, address: u64) -> Result<Self, &'static str> {
        let mut information = Self {
            command_line: "",
            free: Free::new(),
            rsdp: None,
            modules: [None; MODULES],
        };
        match protocol {
            // SAFETY: the caller's promise.
            Protocol::Multiboot2 => unsafe { information.read_multiboot2(address)? },
            // SAFETY: the caller's promise.
            Protocol::Pvh => unsafe { information.read_pvh(address)? },
        }
        let free = &mut information.free;
        // The first MiB: firmware data, the trampoline, legacy video.
        free.remove(0, 0x10_0000);
        free.remove(
            &raw const __image_start as u64,
            &raw const __image_end as u64,
        );
        for module in information.modules.iter().flatten() {
            free.remove(module.range.start, module.range.end);
        }
        Ok(information)
    }

    /// The first module whose string begins with the word `name`.
    pub fn module(&self, name: &str) -> Option<Module> {
        self.modules
            .iter()
            .flatten()
            .find(|module| module.name() == name)
            .copied()
    }

    fn add_module(&mut self, module: Module) -> Result<(), &'static str> {
        let slot = self
            .modules
            .iter_mut()
            .find(|m| m.is_none())
            .ok_or("the loader passes more than 8 modules")?;
        *slot = Some(module);
        Ok(())
    }

    unsafe fn read_multiboot2(&mut self, address: u64) -> Result<(), &'static str> {
        // SAFETY: GRUB passes the address of its information, which stays in place: it is
        // taken out of the free memory below.
        let information: BootInformation<'static> =
            unsafe { BootInformation::load(pointer::<BootInformationHeader>(Spa::new(address))) }
                .map_err(|_| "the multiboot2 information is malformed")?;
        if let Some(tag) = information.command_line_tag() {
            // SAFETY: the text lies in the information, which stays.
            self.command_line =
                unsafe { leak(tag.cmdline().map_err(|_| "the command line is not text")?) };
        }
        let map = information
            .memory_map_tag()
            .ok_or("the loader passes no memory map")?;
        for area in map.memory_areas() {
            if area.typ() == MemoryAreaType::Available {
                self.free.add(area.start_address(), area.end_address());
            }
        }
        for tag in information.module_tags() {
            // SAFETY: as for the command line.
            let line = unsafe { leak(tag.cmdline().map_err(|_| "a module string is not text")?) };
            self.add_module(Module {
                line,
                range: Range {
                    start: u64::from(tag.start_address()),
                    end: u64::from(tag.end_address()),
                },
            })?;
        }
        // The tags hold a copy of the root pointer: version 2 first.
        if let Some(tag) = information.rsdp_v2_tag() {
            // SAFETY: the tag's payload is the 36-byte structure, after 8 bytes of tag header.
            self.rsdp = Some(unsafe { copy_rsdp((tag as *const _ as *const u8).add(8), 36) });
        } else if let Some(tag) = information.rsdp_v1_tag() {
            // SAFETY: the same for the 20-byte structure of ACPI 1.0.
            self.rsdp = Some(unsafe { copy_rsdp((tag as *const _ as *const u8).add(8), 20) });
        }
        self.free
            .remove(address, address + information.total_size() as u64);
        Ok(())
    }

    unsafe fn read_pvh(&mut self, address: u64) -> Result<(), &'static str> {
        // struct hvm_start_info, version 1 (Xen, public/arch-x86/hvm/start_info.h).
        let word = |offset: u64| {
            // SAFETY: the loader's structure is 56 bytes long; unaligned reads are made as such.
            unsafe { pointer::<u32>(Spa::new(address + offset)).read_unaligned() }
        };
        let long = |base: u64, offset: u64| {
            // SAFETY: as above, for the lists the structure points to.
            unsafe { pointer::<u64>(Spa::new(base + offset)).read_unaligned() }
        };
        if word(0) != 0x336E_C578 {
            return Err("the PVH start info has the wrong magic");
        }
        if word(4) < 1 {
            return Err("the PVH start info is version 0: it carries no memory map");
        }
        let (modules, list, text, rsdp) = (
            word(12),
            long(address, 16),
            long(address, 24),
            long(address, 32),
        );
        let (map, entries) = (long(address, 40), word(48));
        for i in 0..u64::from(entries) {
            let at = map + i * 24;
            let (start, size, kind) = (long(at, 0), long(at, 8), long(at, 16) as u32);
            if kind == 1 {
                self.free.add(start, start.saturating_add(size));
            }
        }
        if text != 0 {
            // SAFETY: the loader's zero-terminated text, kept by the removal below.
            self.command_line = unsafe { text_at(text)? };
            self.free
                .remove(text, text + self.command_line.len() as u64 + 1);
        }
        for i in 0..u64::from(modules) {
            let at = list + i * 32;
            let (start, size, line) = (long(at, 0), long(at, 8), long(at, 16));
            let line = if line == 0 {
                ""
            } else {
                // SAFETY: as for the command line.
                unsafe { text_at(line)? }
            };
            self.add_module(Module {
                line,
                range: Range {
                    start,
                    end: start + size,
                },
            })?;
        }
        if rsdp != 0 {
            // SAFETY: the loader points to a root pointer structure.
            self.rsdp = Some(unsafe { copy_rsdp(pointer(Spa::new(rsdp)), 36) });
        }
        self.free.remove(address, address + 56);
        self.free.remove(map, map + u64::from(entries) * 24);
        Ok(())
    }
}

unsafe fn copy_rsdp(from: *const u8, length: usize) -> [u8; 36] {
    let mut copy = [0; 36];
    // SAFETY: `length` bytes are there, by the caller's word, and `length` is at most 36.
    unsafe { from.copy_to_nonoverlapping(copy.as_mut_ptr(), length) };
    copy
}

/// # Safety
/// The text stays in place for good.
unsafe fn leak(text: &str) -> &'static str {
    // SAFETY: the caller's promise.
    unsafe { &*(text as *const str) }
}

/// # Safety
/// Zero-terminated bytes lie at `address` and stay there.
unsafe fn text_at(address: u64) -> Result<&'static str, &'static str> {
    // SAFETY: the caller's promise.
    unsafe { core::ffi::CStr::from_ptr(pointer(Spa::new(address))) }
        .to_str()
        .map_err(|_| "a string of the loader is not text")
}
