//! Where things are in L1's physical address space.
//!
//! RAM runs from 0 to the partition's size, which ends below the hole for
//! devices at 3 GiB. The low mebibyte is ordinary RAM apart from the ACPI
//! tables, which lie where firmware has always put them, so that a kernel that
//! scans for the RSDP finds it too.

use addr::Gpa1;

/// First address after the highest possible RAM: the device hole begins.
pub const RAM_LIMIT: Gpa1 = Gpa1::new(0xC000_0000);
/// The IOAPIC's page.
pub const IOAPIC_BASE: Gpa1 = Gpa1::new(0xFEC0_0000);
/// The local APIC's page in xAPIC mode, each VP's its own.
pub const APIC_BASE: Gpa1 = Gpa1::new(0xFEE0_0000);
/// Where the PVH start info and what it points to lie.
pub const BOOT_INFO_BASE: Gpa1 = Gpa1::new(0x1000);
/// First address after the room for the PVH start info.
pub const BOOT_INFO_LIMIT: Gpa1 = Gpa1::new(0x9000);
/// Where the ACPI tables lie, the RSDP first.
pub const ACPI_BASE: Gpa1 = Gpa1::new(0xE_0000);
/// First address after the room for ACPI tables.
pub const ACPI_LIMIT: Gpa1 = Gpa1::new(0x10_0000);

/// Most VPs a partition can have: what an 8-bit APIC id can name, with the
/// broadcast id left out.
pub const MAX_VPS: u32 = 255;
