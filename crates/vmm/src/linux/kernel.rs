//! The kernel's file: an ELF vmlinux or a bzImage, and where it is entered.

use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::image::Image;

/// Where memory starts again above the PC's first hole. Kernels lie above it.
pub const HIGH: u64 = 0x10_0000;

/// A kernel in guest memory.
#[derive(Debug)]
pub struct Loaded {
    /// Its 64-bit entry point.
    pub entry: u64,
    /// First address that it does not claim.
    pub end: u64,
    /// The setup header for its boot parameters.
    pub header: setup_header,
}

/// Why a file cannot be booted.
#[derive(PartialEq, Eq, Debug)]
pub enum Unfit {
    /// It is no kernel, or none with a 64-bit entry; what is wrong with it.
    NotAKernel(String),
    /// It claims memory up to that address.
    NeedsMemoryTo(u64),
}

impl Unfit {
    fn because(cause: impl ToString) -> Self {
        Unfit::NotAKernel(cause.to_string())
    }
}

/// Loads a kernel into memory that reaches from 0 to `memory_end` at the least.
pub fn load(guest: &GuestMemoryMmap, kernel: &mut Image, memory_end: u64) -> Result<Loaded, Unfit> {
    let start = read_start(kernel)?;
    if start.starts_with(b"\x7FELF") {
        load_elf(guest, kernel, &start, memory_end)
    } else if start.get(offset::MAGIC..offset::MAGIC + 4) == Some(b"HdrS") {
        load_bzimage(guest, kernel, &start, memory_end)
    } else if start.len() < offset::END {
        Err(Unfit::because("it is too short"))
    } else {
        Err(Unfit::because("neither an ELF file nor a bzImage"))
    }
}

/// Offsets in a bzImage (Documentation/x86/boot.rst).
mod offset {
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const XLOADFLAGS: usize = 0x236;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    /// End of the fields that are read here.
    pub const END: usize = 0x264;
}

/// The first page of a file, or all of a shorter one.
fn read_start(kernel: &mut Image) -> Result<Vec<u8>, Unfit> {
    let mut start = Vec::new();
    kernel
        .seek(SeekFrom::Start(0))
        .and_then(|_| kernel.take(4096).read_to_end(&mut start))
        .map_err(Unfit::because)?;
    Ok(start)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

fn load_elf(
    guest: &GuestMemoryMmap,
    kernel: &mut Image,
    start: &[u8],
    memory_end: u64,
) -> Result<Loaded, Unfit> {
    /// Linux maps itself into the last 2 GiB of addresses; a user's program is never there.
    const KERNEL_MAPPING: u64 = 0xFFFF_FFFF_8000_0000;
    const LITTLE_ENDIAN: u8 = 1;
    // What the loader itself says of a big-endian file is clear enough.
    if start.get(5) == Some(&LITTLE_ENDIAN) {
        let segments = segments(start).ok_or_else(|| {
            Unfit::because("an ELF file whose program headers are not in its first page")
        })?;
        if !segments
            .iter()
            .any(|segment| segment.address >= KERNEL_MAPPING)
        {
            return Err(Unfit::because(
                "an ELF file, but a program rather than a kernel",
            ));
        }
        let end = segments
            .iter()
            .map(|segment| segment.end)
            .max()
            .unwrap_or(0);
        if end > memory_end {
            return Err(Unfit::NeedsMemoryTo(end));
        }
    }
    let loaded =
        Elf::load(guest, None, kernel, Some(GuestAddress(HIGH))).map_err(Unfit::because)?;
    Ok(Loaded {
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
    })
}

/// A loadable segment of an ELF file.
struct Segment {
    /// Where it is linked.
    address: u64,
    /// Guest-physical end of what it claims.
    end: u64,
}

/// The loadable segments of an ELF64 file; `None` when its headers are not all there.
fn segments(start: &[u8]) -> Option<Vec<Segment>> {
    const PT_LOAD: u32 = 1;
    const HEADER: usize = 56;
    let table = usize::try_from(long(start, 0x20)?).ok()?;
    let count = usize::from(half(start, 0x38)?);
    let mut segments = Vec::new();
    for n in 0..count {
        let at = table.checked_add(n * HEADER)?;
        let header = start.get(at..at.checked_add(HEADER)?)?;
        if word(header, 0)? == PT_LOAD {
            let address = long(header, 16)?;
            let end = long(header, 24)?.checked_add(long(header, 40)?.max(long(header, 32)?))?;
            segments.push(Segment { address, end });
        }
    }
    Some(segments)
}

fn load_bzimage(
    guest: &GuestMemoryMmap,
    kernel: &mut Image,
    start: &[u8],
    memory_end: u64,
) -> Result<Loaded, Unfit> {
    const XLF_KERNEL_64: u16 = 1;
    /// Boot protocol 2.12: the first with `xloadflags`.
    const WITH_XLOADFLAGS: u16 = 0x020C;
    let version = half(start, offset::VERSION).unwrap_or(0);
    let flags = half(start, offset::XLOADFLAGS).unwrap_or(0);
    if version < WITH_XLOADFLAGS || flags & XLF_KERNEL_64 == 0 {
        return Err(Unfit::because("it has no 64-bit entry point"));
    }
    let cut = || Unfit::because("its setup header is cut short");
    // At its preferred address it need not move itself before it unpacks.
    let address = long(start, offset::PREF_ADDRESS).ok_or_else(cut)?;
    let init_size = word(start, offset::INIT_SIZE).ok_or_else(cut)?;
    let end = address
        .checked_add(u64::from(init_size).max(kernel.size()))
        .ok_or_else(|| Unfit::because("its preferred address is no address"))?;
    if end > memory_end {
        return Err(Unfit::NeedsMemoryTo(end));
    }
    let loaded = BzImage::load(
        guest,
        Some(GuestAddress(address)),
        kernel,
        Some(GuestAddress(HIGH)),
    )
    .map_err(Unfit::because)?;
    Ok(Loaded {
        entry: address + 0x200,
        end,
        header: loaded.setup_header.unwrap_or_default(),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::memory;
    use proptest::prelude::*;
    use vm_memory::Bytes;

    const MEMORY: u64 = 64 << 20;

    /// A file with these contents, open and already without a name.
    pub fn image(name: &str, contents: &[u8]) -> Image {
        let path = std::env::temp_dir().join(format!("vmm-{}-{name}", std::process::id()));
        std::fs::write(&path, contents).unwrap();
        let image = Image::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        image
    }

    fn try_load(name: &str, contents: &[u8], memory_end: u64) -> Result<Loaded, Unfit> {
        let guest = memory::allocate(&[(0, MEMORY)]).unwrap();
        load(&guest, &mut image(name, contents), memory_end)
    }

    /// A bzImage with nothing in it but its header.
    pub fn bzimage(xloadflags: u8) -> Vec<u8> {
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
        let guest = memory::allocate(&[(0, MEMORY)]).unwrap();
        let loaded = load(&guest, &mut image("elf", &elf(KERNEL)), MEMORY).unwrap();
        assert_eq!((loaded.entry, loaded.end), (0x100_0000, 0x100_0000 + 9000));
        let mut bytes = [0; 5001];
        guest
            .read_slice(&mut bytes, GuestAddress(0x100_0000))
            .unwrap();
        assert!(bytes[..5000].iter().all(|&byte| byte == 0xEE));
        assert_eq!(bytes[5000], 0);
    }

    #[test]
    fn a_bzimage_is_entered_at_its_64_bit_entry() {
        let loaded = try_load("bzimage", &bzimage(1), MEMORY).unwrap();
        assert_eq!((loaded.entry, loaded.end), (0x100_0200, 0x110_0000));
    }

    #[test]
    fn what_is_no_kernel_is_refused_in_one_line() {
        let mut big_endian = elf(KERNEL);
        big_endian[5] = 2;
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("short", b"x".to_vec(), "too short"),
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
            match try_load(name, contents, MEMORY) {
                Err(Unfit::NotAKernel(cause)) => {
                    assert!(
                        cause.contains(expected) && !cause.contains('\n'),
                        "{name}: {cause}"
                    );
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_end_of_a_kernel_decides_and_not_the_size_of_its_file() {
        let mut file = elf(KERNEL);
        let end = 0x100_0000 + 9000;
        file.resize(end as usize + 1, 0); // symbols and such
        assert!(try_load("symbols", &file, end).is_ok());
        let refused = try_load("high", &elf(KERNEL), end - 1);
        assert!(
            matches!(refused, Err(Unfit::NeedsMemoryTo(e)) if e == end),
            "{refused:?}"
        );
        let refused = try_load("unpacked", &bzimage(1), 0x110_0000 - 1);
        assert!(
            matches!(refused, Err(Unfit::NeedsMemoryTo(0x110_0000))),
            "{refused:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever a file's headers say, loading ends without a panic.
        #[test]
        fn damaged_headers_do_no_harm(
            is_elf: bool,
            damage in proptest::collection::vec((0usize..0x270, any::<u8>()), 1..12),
        ) {
            let mut file = if is_elf { elf(KERNEL) } else { bzimage(1) };
            for (at, byte) in damage {
                file[at] = byte;
            }
            let loaded = try_load("damaged", &file, MEMORY);
            if let Ok(loaded) = loaded {
                prop_assert!(loaded.end <= MEMORY);
            }
        }
    }
}
