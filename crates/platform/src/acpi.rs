//! The ACPI tables of a partition: a hardware-reduced platform (ACPI 6.5,
//! 4.1) with local APICs, one IOAPIC, two serial ports, and nothing that a
//! kernel would have to probe for.

use acpi_tables::aml::{
    self, Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use addr::Gpa1;
use alloc::vec;
use alloc::vec::Vec;

use crate::layout::{ACPI_BASE, ACPI_LIMIT, APIC_BASE, IOAPIC_BASE, MAX_VPS};
use crate::ports::{COM1, COM1_PIN, COM2, COM2_PIN, POWER};
use crate::power;

const OEM: [u8; 6] = *b"HYNEST";
const OEM_TABLE: [u8; 8] = *b"HYNESTL1";
const OEM_REVISION: u32 = 1;

/// IAPC_BOOT_ARCH: no VGA, no CMOS clock; by their absence, no legacy devices and no
/// 8042 either (ACPI 6.5, 5.2.9.3).
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// Tables as they lie in L1's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// Where [`bytes`](Self::bytes) go; the RSDP is first.
    pub base: Gpa1,
    /// All tables, with their gaps.
    pub bytes: Vec<u8>,
}

/// The tables of a partition with `vps` VPs whose APIC ids count from 0; `None` if
/// that is none or more than [`MAX_VPS`].
pub fn tables(vps: u32) -> Option<Tables> {
    if vps == 0 || vps > MAX_VPS {
        return None;
    }
    let mut area = Area {
        bytes: vec![0; Rsdp::len()],
    };
    let dsdt = area.place(&serialize(&Dsdt));
    let fadt = area.place(&serialize(&fadt(dsdt)));
    let madt = area.place(&serialize(&madt(vps)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt.raw());
    xsdt.add_entry(madt.raw());
    let xsdt = area.place(&serialize(&xsdt));
    let rsdp = serialize(&Rsdp::new(OEM, xsdt.raw()));
    area.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    (area.bytes.len() as u64 <= ACPI_LIMIT.raw() - ACPI_BASE.raw()).then_some(Tables {
        base: ACPI_BASE,
        bytes: area.bytes,
    })
}

/// The room for tables while it fills.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    fn place(&mut self, table: &[u8]) -> Gpa1 {
        let offset = self.bytes.len().next_multiple_of(64);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(table);
        Gpa1::new(ACPI_BASE.raw() + offset as u64)
    }
}

fn serialize(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: Gpa1) -> impl Aml {
    let register = |number: u8| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            (POWER + u16::from(number)).into(),
        )
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt.raw())
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // These two say that there is no fixed-hardware button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"hynest\0\0").into();
    fadt.finalize()
}

/// Flags without PCAT_COMPAT: there is no pair of 8259s to disable.
fn madt(vps: u32) -> MADT {
    let page = LocalInterruptController::Address(APIC_BASE.raw() as u32);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, page);
    for id in (0..=u8::MAX).take(vps as usize) {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC_BASE.raw() as u32, 0));
    madt
}

struct Dsdt;

impl Aml for Dsdt {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut code = Vec::new();
        let off = power::SOFT_OFF;
        Name::new("\\_S5_".into(), &Package::new(vec![&off, &off])).to_aml_bytes(&mut code);
        let com1 = SerialPort {
            name: "COM1",
            number: 1,
            port: COM1,
            pin: COM1_PIN,
        };
        let com2 = SerialPort {
            name: "COM2",
            number: 2,
            port: COM2,
            pin: COM2_PIN,
        };
        Scope::new("\\_SB_".into(), vec![&com1, &com2]).to_aml_bytes(&mut code);
        let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
        table.append_slice(&code);
        sink.vec(table.as_slice());
    }
}

/// A 16550A (PNP0501) with its eight ports and one interrupt.
struct SerialPort {
    name: &'static str,
    number: u8,
    port: u16,
    pin: u8,
}

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports = IO::new(self.port, self.port, 1, 8);
        // Edge-triggered, active high, not shared: as the ISA bus had it.
        let interrupt = Interrupt::new(true, true, false, false, self.pin.into());
        Device::new(
            self.name.into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &self.number),
                &Name::new("_DDN".into(), &self.name as &aml::AmlStr),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&ports, &interrupt]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tables: &Tables, address: u64) -> &[u8] {
        let start = (address - tables.base.raw()) as usize;
        let length = u32_at(&tables.bytes[start..], 4) as usize;
        &tables.bytes[start..start + length]
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// FADT, MADT, DSDT, found as a kernel finds them, checksums checked on the way.
    fn walk(tables: &Tables) -> [&[u8]; 3] {
        let rsdp = &tables.bytes[..36];
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
        let xsdt = table(tables, u64_at(rsdp, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        assert_eq!(xsdt.len(), 36 + 2 * 8);
        let fadt = table(tables, u64_at(xsdt, 36));
        let madt = table(tables, u64_at(xsdt, 44));
        let dsdt = table(tables, u64_at(fadt, 140));
        for (table, signature) in [(fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
            assert_eq!((&table[..4], sum(table)), (&signature[..], 0));
        }
        [fadt, madt, dsdt]
    }

    #[test]
    fn fadt_is_hardware_reduced() {
        let tables = tables(2).unwrap();
        let [fadt, ..] = walk(&tables);
        assert_eq!(fadt.len(), 276);
        let flags = u32_at(fadt, 112);
        assert_eq!(flags, 1 << 20 | 1 << 12 | 1 << 10 | 1 << 5 | 1 << 4 | 1);
        assert_eq!(fadt[109] as u16 | (fadt[110] as u16) << 8, 0x24);
        // Reset, sleep control, sleep status: I/O space, 8 bits, byte access.
        for (offset, port) in [(116, 0x5D2), (244, 0x5D0), (256, 0x5D1)] {
            assert_eq!(fadt[offset..offset + 4], [1, 8, 0, 1]);
            assert_eq!(u64_at(fadt, offset + 4), port);
        }
        assert_eq!(fadt[128], power::RESET_VALUE);
    }

    #[test]
    fn madt_has_each_vp_and_the_ioapic() {
        for vps in [1, 2, 17, 255] {
            let tables = tables(vps).unwrap();
            let [_, madt, _] = walk(&tables);
            assert_eq!(u32_at(madt, 36), 0xFEE0_0000);
            assert_eq!(u32_at(madt, 40), 0, "no PCAT_COMPAT");
            let mut rest = &madt[44..];
            for id in 0..vps as u8 {
                assert_eq!(rest[..8], [0, 8, id, id, 1, 0, 0, 0]);
                rest = &rest[8..];
            }
            assert_eq!(rest[..4], [1, 12, 0, 0]);
            assert_eq!(u32_at(rest, 4), 0xFEC0_0000);
            assert_eq!((u32_at(rest, 8), rest.len()), (0, 12));
        }
        assert_eq!((tables(0), tables(256)), (None, None));
    }

    #[test]
    fn dsdt_names_its_objects() {
        let tables = tables(1).unwrap();
        let [.., dsdt] = walk(&tables);
        let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(&[b'_', b'S', b'5', b'_', 0x12, 6, 2, 0x0A, 5, 0x0A, 5]));
        for (port, pin) in [(0x3F8u16, 4), (0x2F8, 3)] {
            let [low, high] = port.to_le_bytes();
            assert!(has(&[0x47, 1, low, high, low, high, 1, 8]));
            assert!(has(&[0x89, 6, 0, 0x03, 1, pin, 0, 0, 0]));
        }
        assert!(has(&[0x0C, 0x41, 0xD0, 0x05, 0x01]), "PNP0501");
    }
}
