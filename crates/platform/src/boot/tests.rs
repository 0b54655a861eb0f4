use super::*;
use alloc::vec;

const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// A program header: type, file range, address, memory size.
#[derive(Clone)]
struct Header(u32, core::ops::Range<u64>, u64, u64);

/// The bytes of an ELF64 executable with these program headers, and room for 0x1000
/// bytes of contents whose values are their offsets.
fn elf(headers: &[Header]) -> Vec<u8> {
    let mut image: Vec<u8> = vec![0; 64];
    image[..7].copy_from_slice(b"\x7FELF\x02\x01\x01");
    image[16..20].copy_from_slice(&[2, 0, 62, 0]);
    image[20] = 1;
    image[32] = 64; // e_phoff
    image[52] = 64; // e_ehsize
    image[54] = 56; // e_phentsize
    image[56] = headers.len() as u8;
    for Header(kind, file, at, memory) in headers {
        image.extend_from_slice(&kind.to_le_bytes());
        image.extend_from_slice(&7u32.to_le_bytes());
        for field in [file.start, 0xFFFF_FFFF_8000_0000 + at, *at] {
            image.extend_from_slice(&field.to_le_bytes());
        }
        for field in [file.end - file.start, *memory, 4] {
            image.extend_from_slice(&field.to_le_bytes());
        }
    }
    while image.len() < 0x1000 {
        image.push(image.len() as u8);
    }
    image
}

fn note(image: &mut [u8], at: usize, name: &[u8; 4], kind: u32, desc: &[u8]) {
    image[at..at + 4].copy_from_slice(&4u32.to_le_bytes());
    image[at + 4..at + 8].copy_from_slice(&(desc.len() as u32).to_le_bytes());
    image[at + 8..at + 12].copy_from_slice(&kind.to_le_bytes());
    image[at + 12..at + 16].copy_from_slice(name);
    image[at + 16..at + 16 + desc.len()].copy_from_slice(desc);
}

const ENTRY: u32 = 0x100_0100;

fn headers() -> Vec<Header> {
    vec![
        Header(LOAD, 0x400..0x800, 0x100_0000, 0x400),
        Header(LOAD, 0x800..0x900, 0x200_0000, 0x8000),
        Header(NOTE, 0x400..0x428, 0x100_0000, 0x28),
    ]
}

/// Two notes: Xen's hypercall page, then the PVH entry.
fn kernel_with(headers: &[Header]) -> Vec<u8> {
    let mut image = elf(headers);
    note(&mut image, 0x400, b"Xen\0", 2, &[]);
    note(
        &mut image,
        0x410,
        b"Xen\0",
        18,
        &u64::from(ENTRY).to_le_bytes(),
    );
    image
}

fn config(kernel: &[u8]) -> Config<'_> {
    Config {
        memory: 64 << 20,
        vps: 2,
        kernel,
        initrd: Some(0x12345),
        cmdline: b"console=ttyS0",
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn loads_what_the_headers_say() {
    let image = kernel_with(&headers());
    let kernel = Kernel::parse(&image).unwrap();
    assert_eq!(kernel.entry, Gpa1::new(ENTRY.into()));
    let expected = [
        (0x400..0x800, 0x100_0000, 0x400),
        (0x800..0x900, 0x200_0000, 0x8000),
    ];
    let found = kernel.segments.iter();
    let found: Vec<_> = found
        .map(|s| (s.file.clone(), s.at.raw(), s.memory_size))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_32_bit_note_will_do() {
    let mut headers = headers();
    headers[2] = Header(NOTE, 0x410..0x424, 0, 0);
    let mut image = kernel_with(&headers);
    note(&mut image, 0x410, b"Xen\0", 18, &ENTRY.to_le_bytes());
    assert_eq!(Kernel::parse(&image).unwrap().entry.raw(), ENTRY.into());
}

#[test]
fn says_why_a_file_is_no_kernel() {
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = kernel_with(&headers());
        change(&mut image);
        Kernel::parse(&image).unwrap_err()
    };
    assert_eq!(Kernel::parse(b"MZ"), Err(KernelError::NotElf));
    assert_eq!(Kernel::parse(b"\x7FELF"), Err(KernelError::Malformed));
    assert_eq!(broken(&|i| i[4] = 1), KernelError::NotElf64);
    assert_eq!(broken(&|i| i[5] = 2), KernelError::NotElf64);
    assert_eq!(broken(&|i| i[18] = 3), KernelError::NotX86_64(3));
    assert_eq!(broken(&|i| i[16] = 1), KernelError::NotExecutable(1));
    assert_eq!(broken(&|i| i.truncate(0x8FF)), KernelError::Malformed);
    assert_eq!(broken(&|i| i[0x412] = 1), KernelError::NoPvhNote);
    assert_eq!(broken(&|i| i[0x418] = 17), KernelError::NoPvhNote);
    assert_eq!(broken(&|i| i[0x41C] = b'x'), KernelError::NoPvhNote);
    assert_eq!(broken(&|i| i[56] = 0), KernelError::NoSegments);
    assert_eq!(
        broken(&|i| i[0x423] = 0x70),
        KernelError::EntryOutside(Gpa1::new(0x7000_0100))
    );
}

#[test]
fn says_what_is_wrong_with_segments() {
    let with = |header: Header| {
        let mut headers = headers();
        headers[1] = header;
        Kernel::parse(&kernel_with(&headers))
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(
        with(Header(LOAD, 0x800..0x900, 0x200_0000, 0xFF)),
        KernelError::FileExceedsMemory(Gpa1::new(0x200_0000))
    );
    assert_eq!(
        with(Header(LOAD, 0x800..0x900, 0x100_03FF, 0x100)),
        KernelError::Overlap(Gpa1::new(0x100_03FF))
    );
    assert_eq!(
        with(Header(LOAD, 0x800..0x900, 0, u64::MAX)),
        KernelError::Overlap(Gpa1::new(0))
    );
    let image = kernel_with(&headers()[1..]);
    assert_eq!(
        Kernel::parse(&image),
        Err(KernelError::EntryOutside(Gpa1::new(ENTRY.into())))
    );
}

#[test]
fn start_info_tells_everything() {
    let image = kernel_with(&headers());
    let plan = plan(&config(&image)).unwrap();
    let info = &plan.blobs[0];
    let base = info.at.raw();
    let bytes = &info.bytes;
    assert_eq!(plan.entry.rbx, base);
    assert_eq!(bytes[..4], [0x78, 0xC5, 0x6E, 0x33]);
    assert_eq!(u64_at(bytes, 8), 1 << 32, "no flags, one module");
    let follow = |offset| &bytes[(u64_at(bytes, offset) - base) as usize..];
    let module = follow(16);
    let initrd = plan.initrd.unwrap();
    assert_eq!(
        (u64_at(module, 0), u64_at(module, 8)),
        (initrd.raw(), 0x12345)
    );
    assert_eq!(initrd.raw(), (64 << 20) - 0x13000, "as high as it can be");
    assert_eq!(follow(24), b"console=ttyS0\0");
    let rsdp = u64_at(bytes, 32);
    assert_eq!(rsdp, plan.blobs[1].at.raw());
    assert_eq!(&plan.blobs[1].bytes[..8], b"RSD PTR ");
    assert_eq!(u64_at(bytes, 48), 3, "memory map entries");
    let map = follow(40);
    let mut next = 0;
    for (entry, range) in map.chunks(24).zip(&plan.memory_map) {
        assert_eq!(u64_at(entry, 0), range.start.raw());
        assert_eq!(u64_at(entry, 8), range.size);
        assert_eq!(u64_at(entry, 16), range.kind as u64);
        assert_eq!(range.start.raw(), next, "neither gap nor overlap");
        next += range.size;
    }
    assert_eq!(next, 64 << 20);
}

#[test]
fn no_initrd_no_module() {
    let image = kernel_with(&headers());
    for initrd in [None, Some(0)] {
        let plan = plan(&Config {
            initrd,
            ..config(&image)
        })
        .unwrap();
        assert_eq!(plan.initrd, None);
        assert_eq!(u64_at(&plan.blobs[0].bytes, 8), 0);
    }
}

#[test]
fn entry_state_is_protected_mode_without_paging() {
    let state = EntryState::pvh(Gpa1::new(ENTRY.into()), Gpa1::new(0x1000));
    assert_eq!((state.rip, state.rbx), (ENTRY.into(), 0x1000));
    assert_eq!((state.cr0 & 0x8000_0001, state.cr4), (1, 0));
    assert_eq!(state.rflags, 2);
    assert_eq!((state.cs.limit, state.data.limit), (u32::MAX, u32::MAX));
    assert_eq!(state.tr.limit, 0x67);
}

#[test]
fn says_what_does_not_fit() {
    let image = kernel_with(&headers());
    let error = |change: &dyn Fn(&mut Config)| {
        let mut config = config(&image);
        change(&mut config);
        plan(&config).map(|_| ()).unwrap_err()
    };
    assert_eq!(error(&|c| c.vps = 0), BootError::Vps(0));
    for memory in [(64 << 20) + 1, 1 << 20, (3 << 30) + 4096] {
        assert_eq!(error(&|c| c.memory = memory), BootError::Memory(memory));
    }
    let (end, memory) = (0x200_8000, 32 << 20);
    assert_eq!(
        error(&|c| c.memory = memory),
        BootError::KernelOutsideMemory { end, memory }
    );
    let (size, room) = ((32 << 20) - 0x7FFF, (32 << 20) - 0x8000);
    assert_eq!(
        error(&|c| c.initrd = Some(size)),
        BootError::InitrdTooLarge { size, room }
    );
    assert_eq!(error(&|c| c.cmdline = b"a\0b"), BootError::CmdlineNul);
    static LONG: [u8; 0x8000] = [b'x'; 0x8000];
    assert!(matches!(
        error(&|c| c.cmdline = &LONG),
        BootError::CmdlineTooLong { length: 0x8000, room } if room > 0x7F00
    ));
    for at in [0x8FFF, 0xE_0000, 0xF_FFFF] {
        let mut headers = headers();
        headers[1] = Header(LOAD, 0x800..0x900, at, 0x100);
        let image = kernel_with(&headers);
        assert_eq!(
            plan(&config(&image)).map(|_| ()).unwrap_err(),
            BootError::KernelOverReserved(Gpa1::new(at))
        );
    }
}

#[test]
fn a_damaged_file_never_panics() {
    let image = kernel_with(&headers());
    for at in 0..0x140 {
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let mut image = image.clone();
            image[at] = value;
            if let Ok(kernel) = Kernel::parse(&image) {
                let within = |s: &Segment| s.file.end <= image.len();
                assert!(kernel.segments.iter().all(within));
            }
        }
    }
}
