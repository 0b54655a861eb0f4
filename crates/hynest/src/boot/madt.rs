//! The processors and IOAPICs that ACPI's MADT lists (ACPI 6.5, 5.2.12).

use addr::Spa;

use crate::cpu::per_cpu::MAX_CPUS;
use crate::memory::pointer;

/// Most IOAPICs that are looked at.
const MAX_IOAPICS: usize = 16;

/// What the table lists, in its order.
pub struct Interrupts {
    processors: List<u32, MAX_CPUS>,
    ioapics: List<u64, MAX_IOAPICS>,
}

impl Interrupts {
    /// x2APIC identifiers of the enabled processors.
    pub fn processors(&self) -> &[u32] {
        self.processors.get()
    }

    /// Addresses of the IOAPICs' registers.
    pub fn ioapics(&self) -> &[u64] {
        self.ioapics.get()
    }
}

/// The first `N` different values.
struct List<T, const N: usize> {
    values: [T; N],
    count: usize,
}

impl<T: Copy + Default + PartialEq, const N: usize> List<T, N> {
    fn new() -> Self {
        Self {
            values: [T::default(); N],
            count: 0,
        }
    }

    fn get(&self) -> &[T] {
        &self.values[..self.count]
    }

    fn add(&mut self, value: T) {
        if self.count < N && !self.get().contains(&value) {
            self.values[self.count] = value;
            self.count += 1;
        }
    }
}

fn read<T: Copy>(address: u64) -> T {
    // SAFETY: the callers stay within tables whose length the firmware states; all of memory
    // is mapped.
    unsafe { pointer::<T>(Spa::new(address)).read_unaligned() }
}

/// A table's signature and length.
fn header(address: u64) -> ([u8; 4], u64) {
    (read(address), u64::from(read::<u32>(address + 4)))
}

/// Finds the MADT from a root pointer structure and reads it; `None` when there is no such table.
pub fn read_table(rsdp: &[u8; 36]) -> Option<Interrupts> {
    let word = |at: usize| u32::from_le_bytes(rsdp[at..at + 4].try_into().unwrap_or([0; 4]));
    let revision = rsdp[15];
    let xsdt = u64::from(word(24)) | u64::from(word(28)) << 32;
    let (root, width) = if revision >= 2 && xsdt != 0 {
        (xsdt, 8)
    } else {
        (u64::from(word(16)), 4)
    };
    let (_, length) = header(root);
    let entries = length.saturating_sub(36) / width;
    let madt = (0..entries)
        .map(|i| {
            let at = root + 36 + i * width;
            if width == 8 {
                read::<u64>(at)
            } else {
                u64::from(read::<u32>(at))
            }
        })
        .find(|&table| header(table).0 == *b"APIC")?;

    let (_, length) = header(madt);
    let mut found = Interrupts {
        processors: List::new(),
        ioapics: List::new(),
    };
    let mut at = madt + 44;
    while at + 2 <= madt + length {
        let (kind, size) = (read::<u8>(at), u64::from(read::<u8>(at + 1)));
        match kind {
            // Processor local APIC: id at 3, flags at 4.
            0 if read::<u32>(at + 4) & 1 != 0 => {
                found.processors.add(u32::from(read::<u8>(at + 3)));
            }
            // IOAPIC: address at 4.
            1 => found.ioapics.add(u64::from(read::<u32>(at + 4))),
            // Processor local x2APIC: id at 4, flags at 8.
            9 if read::<u32>(at + 8) & 1 != 0 => found.processors.add(read(at + 4)),
            _ => {}
        }
        if size < 2 {
            break;
        }
        at += size;
    }
    Some(found)
}

/// Searches the BIOS area for a root pointer, for loaders that pass none.
pub fn search() -> Option<[u8; 36]> {
    (0xE_0000u64..0x10_0000)
        .step_by(16)
        .find(|&at| read::<[u8; 8]>(at) == *b"RSD PTR ")
        .map(read)
}
