//! Reducing a vmlinux to what gets loaded.

use anyhow::{Context, Result, bail};
use object::LittleEndian as LE;
use object::elf::{FileHeader64, NoteType, PT_LOAD, PT_NOTE, ProgramHeader64, SymbolSection};
use object::pod::bytes_of;
use object::read::elf::{FileHeader, ProgramHeader};

/// The first bytes of an ELF file.
pub const MAGIC: &[u8] = b"\x7FELF";

/// Note of owner "Xen" whose 4 or 8 bytes are the physical address of the PVH entry (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PHYS32_ENTRY: NoteType = NoteType(18);

/// Makes of a vmlinux one with the loadable segments and the notes alone: no sections, no symbols, no zeros at the
/// ends of segments.
///
/// # Errors
///
/// A file that is not an x86-64 executable, that is damaged, or that lacks the PVH note by which L0 enters it.
pub fn reduce(file: &[u8]) -> Result<Vec<u8>> {
    let header =
        FileHeader64::<LE>::parse(file).context("the ELF file is damaged or not a 64-bit one")?;
    if header.e_machine(LE) != object::elf::EM_X86_64 || header.endian().is_err() {
        bail!("the ELF file is not for x86-64");
    }
    let segments = header
        .program_headers(LE, file)
        .context("the ELF file's program headers are damaged")?;
    let mut entry_note = false;
    for segment in segments {
        if let Some(notes) = segment
            .notes(LE, file)
            .context("the ELF file's notes are damaged")?
        {
            let mut notes = notes;
            while let Some(note) = notes.next().context("the ELF file's notes are damaged")? {
                entry_note |= note.name() == b"Xen" && note.n_type(LE) == PHYS32_ENTRY;
            }
        }
    }
    if !entry_note {
        bail!("the kernel has no PVH entry; it must be built with CONFIG_PVH=y");
    }

    let loads: Vec<&ProgramHeader64<LE>> = segments
        .iter()
        .filter(|s| s.p_type(LE) == PT_LOAD)
        .collect();
    let table_size = size_of_val(segments);
    let mut kept: Vec<ProgramHeader64<LE>> = Vec::new();
    let mut data: Vec<u8> =
        vec![0; (size_of::<FileHeader64<LE>>() + table_size).next_multiple_of(4096)];
    // Where each loadable segment lies in the file, before and after.
    let mut moved: Vec<(std::ops::Range<u64>, u64)> = Vec::new();
    for load in &loads {
        let bytes = load
            .data(LE, file)
            .ok()
            .context("the ELF file is cut short: a segment reaches past its end")?;
        let used = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let mut copy = **load;
        let offset = data.len() as u64;
        copy.p_offset.set(LE, offset);
        copy.p_filesz.set(LE, used as u64);
        kept.push(copy);
        moved.push((
            load.p_offset(LE)..load.p_offset(LE) + load.p_filesz(LE),
            offset,
        ));
        data.extend_from_slice(&bytes[..used]);
        data.resize(data.len().next_multiple_of(4096), 0);
    }
    if kept.is_empty() {
        bail!("the ELF file has nothing to load");
    }
    for note in segments.iter().filter(|s| s.p_type(LE) == PT_NOTE) {
        let mut copy = *note;
        let old = note.p_offset(LE);
        let offset = match moved.iter().find(|(range, _)| range.contains(&old)) {
            Some((range, new)) => new + (old - range.start),
            None => {
                let bytes = note
                    .data(LE, file)
                    .ok()
                    .context("the ELF file is cut short: its notes reach past its end")?;
                let offset = data.len() as u64;
                data.extend_from_slice(bytes);
                data.resize(data.len().next_multiple_of(16), 0);
                offset
            }
        };
        copy.p_offset.set(LE, offset);
        kept.push(copy);
    }

    let mut header = *header;
    header.e_phoff.set(LE, size_of::<FileHeader64<LE>>() as u64);
    header.e_phnum.set(LE, kept.len() as u16);
    header.e_shoff.set(LE, 0);
    header.e_shnum.set(LE, 0);
    header.e_shstrndx.set(LE, SymbolSection(0));
    let mut front = bytes_of(&header).to_vec();
    for segment in &kept {
        front.extend_from_slice(bytes_of(segment));
    }
    data[..front.len()].copy_from_slice(&front);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vmlinux in small: two segments (one with zeros at its end), the note inside the first, a symbol-like tail.
    fn sample(note_type: NoteType) -> Vec<u8> {
        let mut file = vec![0_u8; 0x8000];
        let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes)
        };
        put(&mut file, 0, b"\x7FELF\x02\x01\x01");
        put(&mut file, 16, &2_u16.to_le_bytes());
        put(&mut file, 18, &62_u16.to_le_bytes());
        put(&mut file, 20, &1_u32.to_le_bytes());
        put(&mut file, 24, &0x100_0000_u64.to_le_bytes());
        put(&mut file, 32, &64_u64.to_le_bytes());
        put(&mut file, 40, &0x2800_u64.to_le_bytes());
        put(&mut file, 52, &64_u16.to_le_bytes());
        put(&mut file, 54, &56_u16.to_le_bytes());
        put(&mut file, 56, &3_u16.to_le_bytes());
        let mut segment = |index: usize, kind: u32, offset: u64, address: u64, size: u64| {
            let at = 64 + 56 * index;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            for (slot, value) in [
                (8, offset),
                (16, address),
                (24, address),
                (32, size),
                (40, size),
                (48, 4),
            ] {
                file[at + slot..at + slot + 8].copy_from_slice(&value.to_le_bytes());
            }
        };
        segment(0, PT_LOAD.0, 0x1000, 0x100_0000, 0x100);
        segment(1, PT_LOAD.0, 0x2000, 0x200_0000, 0x400);
        segment(2, PT_NOTE.0, 0x1040, 0x100_0040, 20);
        file[0x1000..0x1100].fill(0xAA);
        put(&mut file, 0x1040, &4_u32.to_le_bytes());
        put(&mut file, 0x1044, &4_u32.to_le_bytes());
        put(&mut file, 0x1048, &note_type.0.to_le_bytes());
        put(&mut file, 0x104C, b"Xen\0\x00\x00\x00\x01");
        file[0x2000..0x2010].fill(0xBB);
        file
    }

    #[test]
    fn segments_and_notes_survive_and_the_rest_goes() {
        let before = sample(PHYS32_ENTRY);
        let after = reduce(&before).unwrap();
        assert!(after.len() < before.len());
        let header = FileHeader64::<LE>::parse(&*after).unwrap();
        let segments = header.program_headers(LE, &*after).unwrap();
        assert_eq!(segments.len(), 3);
        assert_eq!(
            segments[0].data(LE, &*after).unwrap(),
            &before[0x1000..0x1100]
        );
        assert_eq!(
            segments[1].data(LE, &*after).unwrap(),
            &before[0x2000..0x2010]
        );
        assert_eq!(segments[1].p_memsz(LE), 0x400);
        let note = segments[2]
            .notes(LE, &*after)
            .unwrap()
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(
            (note.name(), note.n_type(LE), note.desc()),
            (&b"Xen"[..], PHYS32_ENTRY, &[0, 0, 0, 1][..])
        );
        // Reducing twice changes nothing more.
        assert_eq!(reduce(&after).unwrap(), after);
    }

    #[test]
    fn a_kernel_without_the_note_and_damaged_ones_are_refused() {
        assert!(
            reduce(&sample(NoteType(6)))
                .unwrap_err()
                .to_string()
                .contains("CONFIG_PVH")
        );
        let good = sample(PHYS32_ENTRY);
        for length in [0, 10, 64, 100, 0x1020, 0x2200] {
            assert!(reduce(&good[..length]).is_err(), "cut at {length}");
        }
        let mut other = good.clone();
        other[18] = 183;
        assert!(reduce(&other).unwrap_err().to_string().contains("x86-64"));
    }
}
