//! Linux in guest memory, ready for the 64-bit boot protocol
//! (Documentation/x86/boot.rst, "64-bit Boot Protocol").

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::image::Image;
use super::kernel::{self, Unfit};
use super::mptable;
use crate::error::{Error, Result};
use crate::{long_mode, memory, paging};

/// The guest's memory map below the kernel.
mod layout {
    pub const GDT: u64 = 0x1000;
    pub const BOOT_PARAMS: u64 = 0x7000;
    pub const PAGE_TABLES: u64 = 0x9000;
    pub const CMDLINE: u64 = 0x2_0000;
    /// Where the PC's hole for devices begins.
    pub const DEVICES: u64 = 0xC000_0000;
    pub const FOUR_GIB: u64 = 1 << 32;
}

/// The longest command line that Linux on x86 takes, without its final zero.
const CMDLINE_MAX: usize = 2047;

const MIB: u64 = 1 << 20;

/// How a vCPU enters the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// RIP.
    pub rip: u64,
    /// RSI: the boot parameters.
    pub rsi: u64,
    /// CR3.
    pub cr3: u64,
    /// Base of the GDT.
    pub gdt: u64,
}

/// Guest-physical ranges for that much memory, around the hole for devices.
pub fn ranges(mib: u64) -> Vec<(u64, u64)> {
    let bytes = mib * MIB;
    if bytes <= layout::DEVICES {
        vec![(0, bytes)]
    } else {
        vec![
            (0, layout::DEVICES),
            (layout::FOUR_GIB, bytes - layout::DEVICES),
        ]
    }
}

/// Loads kernel, initramfs, command line and tables.
pub fn load(
    guest: &GuestMemoryMmap,
    mib: u64,
    kernel: &mut Image,
    initrd: Option<&mut Image>,
    cmdline: &str,
    vcpus: u8,
) -> Result<Entry> {
    let not_a_kernel = |kernel: &Image, cause: String| Error::Kernel {
        path: kernel.path().into(),
        cause,
    };
    if cmdline.len() > CMDLINE_MAX || cmdline.contains('\0') {
        return Err(Error::Cmdline { most: CMDLINE_MAX });
    }
    // Below the hole, where page tables and 32-bit fields of the protocol reach.
    let low_end = ranges(mib)[0].1;
    let initrd_bytes = initrd.as_ref().map_or(0, |image| image.size());
    let too_little = |end: u64| Error::TooLittleMemory {
        memory: mib,
        needed: (end + initrd_bytes).div_ceil(MIB) + 16,
    };

    let loaded = kernel::load(guest, kernel, low_end).map_err(|unfit| match unfit {
        Unfit::NotAKernel(cause) => not_a_kernel(kernel, cause),
        Unfit::NeedsMemoryTo(end) => too_little(end),
    })?;
    let initrd_at = low_end.saturating_sub(initrd_bytes) & !(paging::PAGE_SIZE - 1);
    if initrd_at < loaded.end {
        return Err(too_little(loaded.end));
    }
    if let Some(image) = initrd {
        guest
            .read_exact_volatile_from(GuestAddress(initrd_at), image, initrd_bytes as usize)
            .map_err(|e| Error::Memory(format!("loading {}: {e}", image.path().display())))?;
    }

    let mut params = boot_params {
        hdr: loaded.header,
        ..Default::default()
    };
    params.hdr.type_of_loader = 0xFF; // none that has a number
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = cmdline.len() as u32;
    params.hdr.ramdisk_image = if initrd_bytes > 0 {
        initrd_at as u32
    } else {
        0
    };
    params.hdr.ramdisk_size = initrd_bytes as u32;
    for (n, entry) in memory_map(mib).into_iter().enumerate() {
        params.e820_table[n] = entry;
        params.e820_entries = n as u8 + 1;
    }
    guest
        .write_obj(params, GuestAddress(layout::BOOT_PARAMS))
        .map_err(|e| Error::Memory(e.to_string()))?;
    memory::write(guest, layout::CMDLINE, format!("{cmdline}\0").as_bytes())?;
    memory::write(guest, mptable::ADDRESS, &mptable::build(vcpus))?;
    memory::write_words(guest, layout::GDT, &long_mode::GDT)?;
    memory::write_words(
        guest,
        layout::PAGE_TABLES,
        &paging::identity_map(layout::PAGE_TABLES),
    )?;
    Ok(Entry {
        rip: loaded.entry,
        rsi: layout::BOOT_PARAMS,
        cr3: layout::PAGE_TABLES,
        gdt: layout::GDT,
    })
}

/// The memory map as the boot parameters have it: RAM, the table below 640 KiB
/// and the PC's hole reserved.
fn memory_map(mib: u64) -> Vec<boot_e820_entry> {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    let entry = |addr, end, r#type| boot_e820_entry {
        addr,
        size: end - addr,
        r#type,
    };
    let mut map = vec![
        entry(0, mptable::ADDRESS, RAM),
        entry(mptable::ADDRESS, mptable::ADDRESS + mptable::ROOM, RESERVED),
    ];
    for (start, bytes) in ranges(mib) {
        map.push(entry(start.max(kernel::HIGH), start + bytes, RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::kernel::tests::{bzimage, image};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn memory_is_all_there_and_not_in_the_hole(mib in 2u64..100_000) {
            let ranges = ranges(mib);
            prop_assert_eq!(ranges.iter().map(|r| r.1).sum::<u64>(), mib * MIB);
            prop_assert!(ranges[0].0 + ranges[0].1 <= layout::DEVICES);
            prop_assert!(ranges.iter().skip(1).all(|r| r.0 >= layout::FOUR_GIB));
            // The map covers each range and nothing overlaps.
            let mut next = 0;
            for entry in memory_map(mib) {
                let (addr, size) = (entry.addr, entry.size);
                prop_assert!(addr >= next && size > 0);
                next = addr + size;
            }
            let last = ranges.last().unwrap();
            prop_assert_eq!(next, last.0 + last.1);
        }
    }

    #[test]
    fn boot_parameters_name_what_was_loaded() {
        let mut kernel = image("boot-kernel", &bzimage(1));
        let mut initrd = image("boot-initrd", &[0xA5; 10_000]);
        let guest = memory::allocate(&ranges(64)).unwrap();
        let entry = load(&guest, 64, &mut kernel, Some(&mut initrd), "a=b c", 2).unwrap();
        let params: boot_params = guest.read_obj(GuestAddress(entry.rsi)).unwrap();
        let (at, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
        assert_eq!(size, 10_000);
        let mut bytes = vec![0; size as usize];
        guest
            .read_slice(&mut bytes, GuestAddress(at.into()))
            .unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0xA5));
        let mut cmdline = [0; 6];
        guest
            .read_slice(&mut cmdline, GuestAddress(params.hdr.cmd_line_ptr.into()))
            .unwrap();
        assert_eq!(&cmdline, b"a=b c\0");
        assert_eq!(params.e820_entries, 3);
    }

    #[test]
    fn too_little_memory_says_how_much() {
        let mut kernel = image("boot-big", &bzimage(1));
        let guest = memory::allocate(&ranges(8)).unwrap();
        let error = load(&guest, 8, &mut kernel, None, "", 1).unwrap_err();
        assert!(matches!(error, Error::TooLittleMemory { memory: 8, needed } if needed > 16));
    }

    #[test]
    fn a_command_line_that_linux_would_cut_is_refused() {
        let mut kernel = image("boot-cmdline", &bzimage(1));
        let guest = memory::allocate(&ranges(64)).unwrap();
        let mut load = |cmdline: &str| load(&guest, 64, &mut kernel, None, cmdline, 1).is_ok();
        assert!(load(&"x".repeat(CMDLINE_MAX)));
        assert!(!load(&"x".repeat(CMDLINE_MAX + 1)));
        assert!(!load("a\0b"));
    }
}
