//! The part of the VP assist page by which L1 enters enlightened VMCSs.

use crate::memory::{ReadMemory, Unmapped};
use addr::Gpa1;
use tlfs::page::assist::{NESTED_CONTROL, NestedControl};

/// What L1 has said in its VP assist page, read once at a VM entry. L1 may
/// change the page at any time; the entry goes by this copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AssistSnapshot {
    /// NestedEnlightenmentsControl.
    pub control: NestedControl,
    /// VM entries use the enlightened VMCS.
    pub enlighten_vm_entry: bool,
    /// The enlightened VMCS to enter, as L1 wrote it: nothing is known of it
    /// but that it is a number.
    pub current_nested_vmcs: Gpa1,
}

impl AssistSnapshot {
    /// Where the snapshot's words lie in the page: three of 8 bytes, aligned.
    pub const OFFSET: u64 = NESTED_CONTROL;

    /// Decodes the three words at [`Self::OFFSET`].
    #[inline]
    pub const fn from_words([control, entry, vmcs]: [u64; 3]) -> Self {
        Self {
            control: NestedControl::from_bits(control),
            // One byte; the seven after it are reserved.
            enlighten_vm_entry: entry as u8 != 0,
            current_nested_vmcs: Gpa1::new(vmcs),
        }
    }

    /// The enlightened VMCS that the second and third of the words at [`Self::OFFSET`] name, if
    /// entries use one: all that an entry needs to know.
    #[inline(always)]
    pub const fn enlightened_vmcs([entry, vmcs]: [u64; 2]) -> Option<Gpa1> {
        if entry as u8 != 0 {
            Some(Gpa1::new(vmcs))
        } else {
            None
        }
    }

    /// Reads the snapshot from the assist page at `page`.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] if L1 has no memory there.
    pub fn read(page: Gpa1, memory: &impl ReadMemory<Gpa1>) -> Result<Self, Unmapped> {
        let mut bytes = [0; 24];
        memory.read(Gpa1::new(page.page().raw() | Self::OFFSET), &mut bytes)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(Self::from_words(
            [0, 1, 2].map(|n| u64::from_le_bytes(words[n])),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;
    use tlfs::page::assist::{CURRENT_NESTED_VMCS, ENLIGHTEN_VM_ENTRY};

    #[test]
    fn fields_are_found_where_they_lie() {
        let ram = Ram::new(0x3000);
        let page = Gpa1::new(0x1000);
        let read = || AssistSnapshot::read(page, &ram).unwrap();
        assert!(!read().enlighten_vm_entry);

        ram.put(0x1000 + CURRENT_NESTED_VMCS, &[0x0123_4567_89AB_C000]);
        ram.put(0x1000 + NESTED_CONTROL, &[1]);
        // The reserved bytes after the flag do not count.
        ram.put(0x1000 + ENLIGHTEN_VM_ENTRY, &[!0xFF]);
        assert!(!read().enlighten_vm_entry);
        ram.put(0x1000 + ENLIGHTEN_VM_ENTRY, &[1]);
        assert_eq!(
            AssistSnapshot::enlightened_vmcs([1, 0x5000]),
            Some(Gpa1::new(0x5000))
        );
        assert_eq!(AssistSnapshot::enlightened_vmcs([!0xFF, 0x5000]), None);
        let snapshot = read();
        assert!(snapshot.enlighten_vm_entry && snapshot.control.direct_hypercall());
        assert_eq!(
            snapshot.current_nested_vmcs,
            Gpa1::new(0x0123_4567_89AB_C000)
        );
    }

    #[test]
    fn a_page_outside_memory() {
        let ram = Ram::new(0x1000);
        assert_eq!(AssistSnapshot::read(Gpa1::new(0x1000), &ram), Err(Unmapped));
        assert_eq!(AssistSnapshot::read(Gpa1::new(!0xFFF), &ram), Err(Unmapped));
    }
}
