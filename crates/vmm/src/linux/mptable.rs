//! The MultiProcessor table (Intel MultiProcessor Specification 1.4), by which a
//! guest without ACPI finds its processors, its IOAPIC and the ISA interrupts.

/// Where the table lies: the last KiB below 640 KiB, where the specification has
/// the guest look for the floating pointer.
pub const ADDRESS: u64 = 0x9_FC00;
/// Room for it.
pub const ROOM: u64 = 0x400;

/// Local APIC and IOAPIC, where KVM has them.
const LOCAL_APIC: u32 = 0xFEE0_0000;
const IO_APIC: u32 = 0xFEC0_0000;

/// The most processors for which the table fits into [`ROOM`].
pub const MAX_PROCESSORS: u8 = 32;

const SPECIFICATION: u8 = 4;
const ISA: u8 = 0;
const APIC_VERSION: u8 = 0x14;

/// Interrupt types of the interrupt entries.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXTINT: u8 = 3;

/// All local APICs, as destination of a local interrupt.
const ALL_APICS: u8 = 0xFF;

/// Bytes of the floating pointer structure.
const POINTER: usize = 16;

/// The floating pointer, to lie at [`ADDRESS`], and the configuration table after it.
pub fn build(processors: u8) -> Vec<u8> {
    let io_apic = processors;
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..processors {
        const ENABLED: u8 = 1;
        const BOOT: u8 = 2;
        let flags = if id == 0 { ENABLED | BOOT } else { ENABLED };
        // Family 6 and "has an APIC and an FPU"; CPUID tells the guest more.
        let mut processor = [0; 20];
        processor[1..4].copy_from_slice(&[id, APIC_VERSION, flags]);
        processor[4..8].copy_from_slice(&0x600u32.to_le_bytes());
        processor[8..12].copy_from_slice(&0x201u32.to_le_bytes());
        entry(&processor);
    }
    entry(&[1, ISA, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut chip = [2, io_apic, 0x11, 1, 0, 0, 0, 0];
    chip[4..8].copy_from_slice(&IO_APIC.to_le_bytes());
    entry(&chip);
    for irq in 0..16 {
        // Polarity and trigger as the bus has them. The timer is on pin 2, and
        // the cascade, which is IRQ 2, reaches nobody.
        match irq {
            0 => entry(&[3, INT, 0, 0, ISA, 0, io_apic, 2]),
            2 => {}
            _ => entry(&[3, INT, 0, 0, ISA, irq, io_apic, irq]),
        }
    }
    entry(&[4, EXTINT, 0, 0, ISA, 0, 0, 0]);
    entry(&[4, NMI, 0, 0, ISA, 0, ALL_APICS, 1]);

    let mut table = Vec::with_capacity(44 + entries.len());
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&(44 + entries.len() as u16).to_le_bytes());
    table.extend_from_slice(&[SPECIFICATION, 0]);
    table.extend_from_slice(b"HYNEST  VMM         ");
    table.extend_from_slice(&[0; 6]); // no OEM table
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]); // no extended table
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);

    let mut pointer = [0; POINTER];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(ADDRESS as u32 + POINTER as u32).to_le_bytes());
    pointer[8] = 1; // in paragraphs of 16 bytes
    pointer[9] = SPECIFICATION;
    pointer[10] = checksum(&pointer);
    [&pointer, table.as_slice()].concat()
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn half(bytes: &[u8], at: usize) -> usize {
        u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
    }

    /// Reads the table as a guest does; the entries by type.
    fn parse(bytes: &[u8]) -> Vec<Vec<u8>> {
        assert_eq!(&bytes[..4], b"_MP_");
        assert_eq!(checksum(&bytes[..16]), 0);
        let at = (u64::from(word(bytes, 4)) - ADDRESS) as usize;
        let table = &bytes[at..];
        assert_eq!(&table[..4], b"PCMP");
        assert_eq!(half(table, 4), table.len());
        assert_eq!(checksum(table), 0);
        assert_eq!(word(table, 36), 0xFEE0_0000);
        let mut rest = &table[44..];
        let mut entries = Vec::new();
        while let Some(&kind) = rest.first() {
            let (entry, next) = rest.split_at(if kind == 0 { 20 } else { 8 });
            entries.push(entry.to_vec());
            rest = next;
        }
        assert_eq!(half(table, 34), entries.len());
        entries
    }

    proptest! {
        #[test]
        fn every_processor_is_there_once(processors in 1..=MAX_PROCESSORS) {
            let bytes = build(processors);
            prop_assert!(bytes.len() as u64 <= ROOM);
            let entries = parse(&bytes);
            let of = |kind: u8| entries.iter().filter(move |e| e[0] == kind);
            let ids: Vec<u8> = of(0).map(|e| e[1]).collect();
            prop_assert_eq!(ids, (0..processors).collect::<Vec<_>>());
            prop_assert_eq!(of(0).filter(|e| e[3] & 2 != 0).count(), 1);
            prop_assert!(of(0).all(|e| e[3] & 1 != 0));
            let io_apics: Vec<_> = of(2).collect();
            prop_assert_eq!(io_apics.len(), 1);
            prop_assert_eq!(io_apics[0][1], processors);
            prop_assert!(of(3).all(|e| e[6] == processors), "interrupts go to the IOAPIC");
        }
    }

    #[test]
    fn isa_interrupts_have_pins_of_their_own() {
        let entries = parse(&build(1));
        let mut pins: Vec<u8> = entries.iter().filter(|e| e[0] == 3).map(|e| e[7]).collect();
        assert_eq!(pins.len(), 15);
        pins.sort_unstable();
        pins.dedup();
        assert_eq!(pins.len(), 15);
        let serial = entries.iter().find(|e| e[0] == 3 && e[5] == 4).unwrap();
        assert_eq!(serial[7], 4);
    }
}
