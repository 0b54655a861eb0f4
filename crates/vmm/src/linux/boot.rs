//! Linux in guest memory, ready for the 64-bit boot protocol
//! (Documentation/x86/boot.rst, "64-bit Boot Protocol").

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::image::Image;
use super::mptable;
use crate::error::{Error, Result};
use crate::{long_mode, memory, paging};

/// The guest's memory map below the kernel.
mod layout {
    pub const GDT: u64 = 0x1000;
    pub const BOOT_PARAMS: u64 = 0x7000;
    pub const PAGE_TABLES: u64 = 0x9000;
    pub const CMDLINE: u64 = 0x2_0000;
    /// Where memory starts again above the PC's hole.
    pub const HIGH: u64 = 0x10_0000;
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
        let cause =
            format!("its command line is longer than {CMDLINE_MAX} bytes or has a zero in it");
        return Err(not_a_kernel(kernel, cause));
    }
    // Below the hole, where page tables and 32-bit fields of the protocol reach.
    let low_end = ranges(mib)[0].1;
    let initrd_bytes = initrd.as_ref().map_or(0, |image| image.size());
    let too_little = |end: u64| Error::TooLittleMemory {
        memory: mib,
        needed: (end + initrd_bytes).div_ceil(MIB) + 16,
    };

    let loaded = load_kernel(guest, kernel, low_end, &too_little)?;
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

struct Loaded {
    entry: u64,
    /// First address that the kernel does not claim.
    end: u64,
    header: setup_header,
}

fn load_kernel(
    guest: &GuestMemoryMmap,
    kernel: &mut Image,
    low_end: u64,
    too_little: &dyn Fn(u64) -> Error,
) -> Result<Loaded> {
    let mut start = [0u8; 0x206];
    let cause = |kernel: &Image, cause: String| Error::Kernel {
        path: kernel.path().into(),
        cause,
    };
    if std::io::Read::read_exact(kernel, &mut start).is_err() {
        return Err(cause(kernel, "it is too short".into()));
    }
    if start.starts_with(b"\x7FELF") {
        if !is_linked_for_the_kernel(&start) {
            return Err(cause(
                kernel,
                "an ELF file, but a program rather than a kernel".into(),
            ));
        }
        // Its segments may reach further than its file is long.
        if kernel.size() + layout::HIGH > low_end {
            return Err(too_little(kernel.size() + layout::HIGH));
        }
        let loaded = Elf::load(guest, None, kernel, Some(GuestAddress(layout::HIGH)))
            .map_err(|e| cause(kernel, e.to_string()))?;
        return Ok(Loaded {
            entry: loaded.kernel_load.0,
            end: loaded.kernel_end,
            header: setup_header {
                boot_flag: 0xAA55,
                header: u32::from_le_bytes(*b"HdrS"),
                version: 0x020F,
                loadflags: 1, // loaded high
                kernel_alignment: 0x100_0000,
                ..Default::default()
            },
        });
    }
    if &start[0x202..] != b"HdrS" {
        return Err(cause(kernel, "neither an ELF file nor a bzImage".into()));
    }
    let size = kernel.size();
    if size + 16 * MIB > low_end {
        return Err(too_little(size + 16 * MIB));
    }
    // Its preferred address: there it need not move itself before it unpacks.
    let preferred = preferred_address(kernel)?;
    let loaded = BzImage::load(guest, preferred, kernel, Some(GuestAddress(layout::HIGH)))
        .map_err(|e| cause(kernel, e.to_string()))?;
    let header = loaded.setup_header.unwrap_or_default();
    const XLF_KERNEL_64: u16 = 1;
    if header.version < 0x020C || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(cause(kernel, "it has no 64-bit entry point".into()));
    }
    Ok(Loaded {
        entry: loaded.kernel_load.0 + 0x200,
        end: loaded.kernel_load.0 + u64::from(header.init_size).max(size),
        header,
    })
}

/// Whether the first program header of an ELF64 file is loaded by Linux's own mapping
/// of the kernel, in the last 2 GiB of addresses; a user's program never is.
fn is_linked_for_the_kernel(start: &[u8]) -> bool {
    const KERNEL_MAPPING: u64 = 0xFFFF_FFFF_8000_0000;
    let word = |at: usize| {
        let bytes = start.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    // e_phoff, and p_vaddr in the first program header.
    let table = word(0x20).and_then(|offset| usize::try_from(offset).ok());
    table
        .and_then(|at| word(at.checked_add(16)?))
        .is_some_and(|address| address >= KERNEL_MAPPING)
}

/// `pref_address` of a bzImage's header, where it has one (boot protocol 2.10).
fn preferred_address(kernel: &mut Image) -> Result<Option<GuestAddress>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut address = [0u8; 8];
    let mut version = [0u8; 2];
    let mut read = |at: u64, bytes: &mut [u8]| {
        kernel
            .seek(SeekFrom::Start(at))
            .and_then(|_| kernel.read_exact(bytes))
    };
    let found = read(0x206, &mut version).and_then(|()| read(0x258, &mut address));
    match found {
        Ok(()) if u16::from_le_bytes(version) >= 0x020A => {
            Ok(Some(GuestAddress(u64::from_le_bytes(address))))
        }
        Ok(()) => Ok(None),
        Err(cause) => Err(Error::File {
            path: kernel.path().into(),
            cause,
        }),
    }
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
        map.push(entry(start.max(layout::HIGH), start + bytes, RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::path::PathBuf;

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

    fn image(name: &str, contents: &[u8]) -> (Image, PathBuf) {
        let path = std::env::temp_dir().join(format!("vmm-boot-{}-{name}", std::process::id()));
        std::fs::File::create(&path)
            .unwrap()
            .write_all(contents)
            .unwrap();
        (Image::open(&path).unwrap(), path)
    }

    fn try_load(name: &str, contents: &[u8], cmdline: &str) -> Result<Entry> {
        let (mut kernel, path) = image(name, contents);
        std::fs::remove_file(path).unwrap();
        let guest = memory::allocate(&ranges(64)).unwrap();
        load(&guest, 64, &mut kernel, None, cmdline, 1)
    }

    /// A bzImage with nothing in it but its header.
    fn bzimage(xloadflags: u8) -> Vec<u8> {
        let mut file = vec![0u8; 4096];
        file[0x1F1] = 1; // setup sectors
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x020Fu16.to_le_bytes());
        file[0x211] = 1; // loaded high
        file[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes()); // code32_start
        file[0x236] = xloadflags;
        file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        file[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
        file
    }

    /// Where Linux links its text.
    const KERNEL: u64 = 0xFFFF_FFFF_8100_0000;

    /// An ELF64 file with one segment, linked for `address` and loaded at 16 MiB.
    fn elf(address: u64) -> Vec<u8> {
        let mut file = vec![0u8; 4096];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7FELF\x02\x01\x01"); // 64 bits, little-endian
        put(16, &[2, 0, 62, 0]); // executable, x86-64
        put(24, &0x100_0000u64.to_le_bytes()); // entry
        put(32, &64u64.to_le_bytes()); // program headers
        put(52, &[64, 0, 56, 0, 1, 0]); // sizes of both headers, one of the second
        put(64, &[1, 0, 0, 0, 5, 0, 0, 0]); // to be loaded
        put(64 + 8, &4096u64.to_le_bytes());
        put(64 + 16, &address.to_le_bytes());
        put(64 + 24, &0x100_0000u64.to_le_bytes());
        put(64 + 32, &5000u64.to_le_bytes());
        put(64 + 40, &9000u64.to_le_bytes());
        file.extend_from_slice(&[0xEE; 5000]);
        file
    }

    #[test]
    fn an_elf_is_loaded_where_it_says_and_entered_there() {
        let (mut kernel, path) = image("elf", &elf(KERNEL));
        std::fs::remove_file(path).unwrap();
        let guest = memory::allocate(&ranges(64)).unwrap();
        let entry = load(&guest, 64, &mut kernel, None, "", 1).unwrap();
        assert_eq!(entry.rip, 0x100_0000);
        let mut bytes = [0; 5001];
        guest
            .read_slice(&mut bytes, GuestAddress(0x100_0000))
            .unwrap();
        assert!(bytes[..5000].iter().all(|&byte| byte == 0xEE));
        assert_eq!(bytes[5000], 0);
    }

    #[test]
    fn a_bzimage_is_entered_at_its_64_bit_entry() {
        let entry = try_load("bzimage", &bzimage(1), "quiet").unwrap();
        assert_eq!(entry.rip, 0x100_0200);
    }

    #[test]
    fn what_is_no_kernel_is_refused_in_one_line() {
        let mut big_endian = elf(KERNEL);
        big_endian[5] = 2;
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("short", b"\x7FELF".to_vec(), "too short"),
            (
                "text",
                vec![b'x'; 5000],
                "neither an ELF file nor a bzImage",
            ),
            ("program", elf(0x40_0000), "a program rather than a kernel"),
            ("big-endian", big_endian, "big-endian"),
            ("bzimage32", bzimage(0), "64-bit entry"),
        ];
        for (name, contents, expected) in cases {
            let message = try_load(name, contents, "").unwrap_err().to_string();
            assert!(
                message.contains(expected) && !message.contains('\n'),
                "{message}"
            );
        }
        let long = "x".repeat(CMDLINE_MAX + 1);
        assert!(try_load("cmdline", &bzimage(1), &long).is_err());
    }

    #[test]
    fn boot_parameters_name_what_was_loaded() {
        let (mut kernel, path) = image("kernel", &bzimage(1));
        std::fs::remove_file(path).unwrap();
        let (mut initrd, path) = image("initrd", &[0xA5; 10_000]);
        std::fs::remove_file(path).unwrap();
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
        let (mut kernel, path) = image("big", &bzimage(1));
        std::fs::remove_file(path).unwrap();
        let guest = memory::allocate(&ranges(8)).unwrap();
        let error = load(&guest, 8, &mut kernel, None, "", 1).unwrap_err();
        assert!(matches!(error, Error::TooLittleMemory { memory: 8, needed } if needed > 16));
    }
}
