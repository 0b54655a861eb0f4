//! L1's kernel as an ELF file: what of it goes where, and where it begins.

use core::fmt;
use core::ops::Range;

use addr::Gpa1;
use alloc::vec::Vec;
use elf::abi::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB};
use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use elf::{ElfBytes, ParseError};

/// XEN_ELFNOTE_PHYS32_ENTRY: the note that holds the PVH entry point.
const PHYS32_ENTRY: u64 = 18;

/// A part of the kernel's file to be copied to L1's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The bytes of the file.
    pub file: Range<usize>,
    /// Where they go.
    pub at: Gpa1,
    /// Bytes of memory the segment takes: what the file does not fill is zero.
    pub memory_size: u64,
}

impl Segment {
    fn overlaps(&self, other: &Self) -> bool {
        let end = |s: &Self| s.at.raw().saturating_add(s.memory_size);
        self.at.raw() < end(other) && other.at.raw() < end(self)
    }
}

/// What there is to know of a kernel file to load it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The PVH entry point.
    pub entry: Gpa1,
    /// What to load, none empty, none over another, each within the file.
    pub segments: Vec<Segment>,
}

/// Why a file is no kernel that hynest can start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelError {
    /// It does not begin as an ELF file does.
    NotElf,
    /// It is an ELF file of another class or byte order.
    NotElf64,
    /// It is for another machine (`e_machine`).
    NotX86_64(u16),
    /// It is no executable (`e_type`).
    NotExecutable(u16),
    /// A header or a segment points outside the file, or is malformed.
    Malformed,
    /// Nothing in it is to be loaded.
    NoSegments,
    /// The file part of the segment for this address is larger than its memory part.
    FileExceedsMemory(Gpa1),
    /// The segment for this address shares memory with another.
    Overlap(Gpa1),
    /// It has no PVH note (XEN_ELFNOTE_PHYS32_ENTRY).
    NoPvhNote,
    /// Its PVH entry point lies in none of its segments.
    EntryOutside(Gpa1),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "is not an ELF file"),
            Self::NotElf64 => write!(f, "is not a little-endian ELF64 file"),
            Self::NotX86_64(machine) => write!(f, "is for ELF machine {machine}, not x86-64"),
            Self::NotExecutable(kind) => write!(f, "is of ELF type {kind}, not an executable"),
            Self::Malformed => write!(f, "is a damaged or cut-off ELF file"),
            Self::NoSegments => write!(f, "has no segment to load"),
            Self::FileExceedsMemory(at) => {
                write!(f, "has a segment at {at} that is larger than its memory")
            }
            Self::Overlap(at) => write!(f, "has a segment at {at} that overlaps another"),
            Self::NoPvhNote => write!(f, "has no PVH entry note (is CONFIG_PVH set?)"),
            Self::EntryOutside(at) => write!(f, "has its PVH entry at {at}, outside its segments"),
        }
    }
}

impl From<ParseError> for KernelError {
    fn from(_: ParseError) -> Self {
        Self::Malformed
    }
}

impl Kernel {
    /// Reads the headers of `image`.
    ///
    /// # Errors
    ///
    /// Says why hynest cannot start it.
    pub fn parse(image: &[u8]) -> Result<Self, KernelError> {
        if !image.starts_with(b"\x7FELF") {
            return Err(KernelError::NotElf);
        }
        // Before the rest, whose shape depends on it.
        if !matches!(
            image.get(EI_CLASS..=EI_DATA),
            None | Some([ELFCLASS64, ELFDATA2LSB])
        ) {
            return Err(KernelError::NotElf64);
        }
        let elf = ElfBytes::<LittleEndian>::minimal_parse(image)?;
        if elf.ehdr.e_machine != EM_X86_64 {
            return Err(KernelError::NotX86_64(elf.ehdr.e_machine));
        }
        if !matches!(elf.ehdr.e_type, ET_EXEC | ET_DYN) {
            return Err(KernelError::NotExecutable(elf.ehdr.e_type));
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut entry = None;
        for header in elf.segments().ok_or(KernelError::NoSegments)? {
            if header.p_type == PT_NOTE && entry.is_none() {
                entry = elf
                    .segment_data_as_notes(&header)?
                    .find_map(|note| pvh_entry(&note));
            }
            if header.p_type != PT_LOAD || header.p_memsz == 0 {
                continue;
            }
            let at = Gpa1::new(header.p_paddr);
            if header.p_filesz > header.p_memsz {
                return Err(KernelError::FileExceedsMemory(at));
            }
            let start = usize::try_from(header.p_offset).map_err(|_| KernelError::Malformed)?;
            let size = elf.segment_data(&header)?.len();
            let segment = Segment {
                file: start..start + size,
                at,
                memory_size: header.p_memsz,
            };
            if segments.iter().any(|other| other.overlaps(&segment)) {
                return Err(KernelError::Overlap(at));
            }
            segments.push(segment);
        }
        if segments.is_empty() {
            return Err(KernelError::NoSegments);
        }
        let entry = entry.ok_or(KernelError::NoPvhNote)?;
        let inside =
            |s: &Segment| (s.at..s.at.checked_add(s.memory_size).unwrap_or(s.at)).contains(&entry);
        if !segments.iter().any(inside) {
            return Err(KernelError::EntryOutside(entry));
        }
        Ok(Self { entry, segments })
    }
}

/// The entry point, if this is the PVH note: a 32-bit address, which some linkers
/// write as 64 bits.
fn pvh_entry(note: &Note) -> Option<Gpa1> {
    let Note::Unknown(note) = note else {
        return None;
    };
    if note.n_type != PHYS32_ENTRY || note.name.strip_suffix(b"\0") != Some(b"Xen") {
        return None;
    }
    let address = note.desc.get(..4)?.try_into().ok()?;
    Some(Gpa1::new(u32::from_le_bytes(address).into()))
}
