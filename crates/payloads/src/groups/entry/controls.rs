//! Control fields (SDM 27.2.1): VMfail(7).

use ::vmx::{ExitControls, Field, PinControls, PrimaryControls, SecondaryControls};

use super::{Case, each, each_good};
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::{L2, Outcome};

fn offered_primary(l2: &L2, bits: PrimaryControls) -> bool {
    l2.caps.true_primary.missing(bits.bits()) == 0
}

fn offered_pin(l2: &L2, bits: PinControls) -> bool {
    l2.caps.true_pin.missing(bits.bits()) == 0
}

fn beyond_memory() -> u64 {
    1 << cpu::physical_bits()
}

/// Turns a primary control on and puts `value` into the field that it needs.
fn with_primary(l2: &L2, control: PrimaryControls, field: Field, value: u64) -> bool {
    if !offered_primary(l2, control) {
        return false;
    }
    l2.use_primary(control);
    l2.set(field, value);
    true
}

/// The same with a secondary control.
fn with_secondary(l2: &L2, control: SecondaryControls, field: Field, value: u64) -> bool {
    if !l2.has_secondary(control) {
        return false;
    }
    l2.use_secondary(control);
    l2.set(field, value);
    true
}

fn with_tpr_shadow(l2: &L2) -> bool {
    with_primary(
        l2,
        PrimaryControls::USE_TPR_SHADOW,
        Field::VIRTUAL_APIC_ADDRESS,
        memory::page(),
    )
}

fn set(l2: &L2, field: Field, value: u64) -> bool {
    l2.set(field, value);
    true
}

/// A list of `count` entries at `address`.
fn list(l2: &L2, address: Field, at: u64, count: Field, entries: u64) -> bool {
    l2.set(address, at);
    l2.set(count, entries);
    true
}

const BAD: &[Case] = &[
    ("CR3-target count too large", |l2| {
        set(
            l2,
            Field::CR3_TARGET_COUNT,
            (l2.caps.misc >> 16 & 0x1ff) + 1,
        )
    }),
    ("I/O bitmap A unaligned", |l2| {
        with_primary(
            l2,
            PrimaryControls::USE_IO_BITMAPS,
            Field::IO_BITMAP_A,
            0x800,
        )
    }),
    ("I/O bitmap B unaligned", |l2| {
        with_primary(l2, PrimaryControls::USE_IO_BITMAPS, Field::IO_BITMAP_B, 1)
    }),
    ("I/O bitmap A beyond memory", |l2| {
        with_primary(
            l2,
            PrimaryControls::USE_IO_BITMAPS,
            Field::IO_BITMAP_A,
            beyond_memory(),
        )
    }),
    ("I/O bitmap B beyond memory", |l2| {
        with_primary(
            l2,
            PrimaryControls::USE_IO_BITMAPS,
            Field::IO_BITMAP_B,
            1 << 63,
        )
    }),
    ("MSR bitmap unaligned", |l2| {
        with_primary(
            l2,
            PrimaryControls::USE_MSR_BITMAPS,
            Field::MSR_BITMAP,
            0x10,
        )
    }),
    ("MSR bitmap beyond memory", |l2| {
        with_primary(
            l2,
            PrimaryControls::USE_MSR_BITMAPS,
            Field::MSR_BITMAP,
            beyond_memory(),
        )
    }),
    ("virtual-APIC page unaligned", |l2| {
        with_primary(
            l2,
            PrimaryControls::USE_TPR_SHADOW,
            Field::VIRTUAL_APIC_ADDRESS,
            0x100,
        )
    }),
    ("virtual-APIC page beyond memory", |l2| {
        with_primary(
            l2,
            PrimaryControls::USE_TPR_SHADOW,
            Field::VIRTUAL_APIC_ADDRESS,
            beyond_memory(),
        )
    }),
    ("TPR threshold above 15", |l2| {
        with_tpr_shadow(l2) && set(l2, Field::TPR_THRESHOLD, 0x10)
    }),
    ("TPR threshold above the virtual TPR", |l2| {
        with_tpr_shadow(l2) && set(l2, Field::TPR_THRESHOLD, 1)
    }),
    ("virtualize x2APIC without TPR shadow", |l2| {
        l2.has_secondary(SecondaryControls::VIRTUALIZE_X2APIC_MODE) && {
            l2.use_secondary(SecondaryControls::VIRTUALIZE_X2APIC_MODE);
            true
        }
    }),
    ("APIC-register virtualization without TPR shadow", |l2| {
        l2.has_secondary(SecondaryControls::APIC_REGISTER_VIRTUALIZATION) && {
            l2.use_secondary(SecondaryControls::APIC_REGISTER_VIRTUALIZATION);
            true
        }
    }),
    ("virtual NMIs without NMI exiting", |l2| {
        offered_pin(l2, PinControls::VIRTUAL_NMIS) && {
            l2.add(
                Field::PIN_BASED_CONTROLS,
                u64::from(PinControls::VIRTUAL_NMIS.bits()),
            );
            true
        }
    }),
    ("NMI-window exiting without virtual NMIs", |l2| {
        offered_primary(l2, PrimaryControls::NMI_WINDOW_EXITING) && {
            l2.add(
                Field::PIN_BASED_CONTROLS,
                u64::from(PinControls::NMI_EXITING.bits()),
            );
            l2.use_primary(PrimaryControls::NMI_WINDOW_EXITING);
            true
        }
    }),
    ("VPID 0", |l2| {
        with_secondary(l2, SecondaryControls::ENABLE_VPID, Field::VPID, 0)
    }),
    ("EPTP memory type 1", |l2| {
        set(l2, Field::EPT_POINTER, l2.ept.eptp() & !7 | 1)
    }),
    ("EPTP memory type 7", |l2| {
        set(l2, Field::EPT_POINTER, l2.ept.eptp() | 7)
    }),
    ("EPTP walk length 1", |l2| {
        set(l2, Field::EPT_POINTER, l2.ept.eptp() & !0x38)
    }),
    ("EPTP walk length 3", |l2| {
        set(l2, Field::EPT_POINTER, l2.ept.eptp() & !0x38 | 2 << 3)
    }),
    ("EPTP bit 7", |l2| {
        set(l2, Field::EPT_POINTER, l2.ept.eptp() | 1 << 7)
    }),
    ("EPTP bit 11", |l2| {
        set(l2, Field::EPT_POINTER, l2.ept.eptp() | 1 << 11)
    }),
    ("EPTP beyond memory", |l2| {
        set(l2, Field::EPT_POINTER, l2.ept.eptp() | beyond_memory())
    }),
    ("EPTP accessed/dirty where not offered", |l2| {
        l2.caps.ept_vpid & ::vmx::ept_vpid::ACCESSED_DIRTY == 0
            && set(l2, Field::EPT_POINTER, l2.ept.eptp() | 1 << 6)
    }),
    ("EPTP uncacheable where not offered", |l2| {
        l2.caps.ept_vpid & ::vmx::ept_vpid::MEMORY_TYPE_UC == 0
            && set(l2, Field::EPT_POINTER, l2.ept.eptp() & !7)
    }),
    ("unrestricted guest without EPT", |l2| {
        l2.has_secondary(SecondaryControls::UNRESTRICTED_GUEST)
            && set(
                l2,
                Field::SECONDARY_CONTROLS,
                u64::from(SecondaryControls::UNRESTRICTED_GUEST.bits()),
            )
    }),
    ("PML without EPT", |l2| {
        l2.has_secondary(SecondaryControls::ENABLE_PML)
            && set(l2, Field::PML_ADDRESS, memory::page())
            && set(
                l2,
                Field::SECONDARY_CONTROLS,
                u64::from(SecondaryControls::ENABLE_PML.bits()),
            )
    }),
    ("exit MSR-store list unaligned", |l2| {
        list(
            l2,
            Field::EXIT_MSR_STORE_ADDRESS,
            8,
            Field::EXIT_MSR_STORE_COUNT,
            1,
        )
    }),
    ("exit MSR-store list ends beyond memory", |l2| {
        list(
            l2,
            Field::EXIT_MSR_STORE_ADDRESS,
            beyond_memory() - 16,
            Field::EXIT_MSR_STORE_COUNT,
            2,
        )
    }),
    ("exit MSR-load list unaligned", |l2| {
        list(
            l2,
            Field::EXIT_MSR_LOAD_ADDRESS,
            4,
            Field::EXIT_MSR_LOAD_COUNT,
            1,
        )
    }),
    ("exit MSR-load list beyond memory", |l2| {
        list(
            l2,
            Field::EXIT_MSR_LOAD_ADDRESS,
            beyond_memory(),
            Field::EXIT_MSR_LOAD_COUNT,
            1,
        )
    }),
    ("entry MSR-load list unaligned", |l2| {
        list(
            l2,
            Field::ENTRY_MSR_LOAD_ADDRESS,
            1,
            Field::ENTRY_MSR_LOAD_COUNT,
            1,
        )
    }),
    ("entry MSR-load list beyond memory", |l2| {
        list(
            l2,
            Field::ENTRY_MSR_LOAD_ADDRESS,
            1 << 63,
            Field::ENTRY_MSR_LOAD_COUNT,
            1,
        )
    }),
    ("save preemption timer without the timer", |l2| {
        l2.caps
            .true_exit
            .missing(ExitControls::SAVE_PREEMPTION_TIMER.bits())
            == 0
            && {
                l2.add(
                    Field::EXIT_CONTROLS,
                    u64::from(ExitControls::SAVE_PREEMPTION_TIMER.bits()),
                );
                true
            }
    }),
    ("entry to SMM", |l2| {
        // Bochs takes it for a mistake of guest state.
        cpu::is_virtual() && {
            l2.add(Field::ENTRY_CONTROLS, 1 << 10);
            true
        }
    }),
    ("deactivate dual monitor", |l2| {
        l2.add(Field::ENTRY_CONTROLS, 1 << 11);
        true
    }),
];

/// What looks wrong but is not: fields whose control is off, and values at the edges.
const GOOD: &[Case] = &[
    ("I/O bitmaps wrong but unused", |l2| {
        set(l2, Field::IO_BITMAP_A, u64::MAX) && set(l2, Field::IO_BITMAP_B, 1)
    }),
    ("MSR bitmap wrong but unused", |l2| {
        set(l2, Field::MSR_BITMAP, u64::MAX)
    }),
    ("virtual-APIC page wrong but unused", |l2| {
        set(l2, Field::VIRTUAL_APIC_ADDRESS, u64::MAX)
    }),
    ("empty MSR lists at a wrong address", |l2| {
        set(l2, Field::EXIT_MSR_LOAD_ADDRESS, u64::MAX)
            && set(l2, Field::EXIT_MSR_STORE_ADDRESS, u64::MAX)
            && set(l2, Field::ENTRY_MSR_LOAD_ADDRESS, u64::MAX)
    }),
    ("secondary controls wrong but not activated", |l2| {
        l2.set(Field::SECONDARY_CONTROLS, 0xffff_ffff);
        l2.modify(
            Field::PRIMARY_CONTROLS,
            0,
            u64::from(PrimaryControls::ACTIVATE_SECONDARY.bits()),
        );
        true
    }),
    ("EPTP wrong but EPT off", |l2| {
        l2.set(Field::SECONDARY_CONTROLS, 0);
        set(l2, Field::EPT_POINTER, u64::MAX)
    }),
    ("VPID 0xffff", |l2| {
        with_secondary(l2, SecondaryControls::ENABLE_VPID, Field::VPID, 0xffff)
    }),
    ("TPR threshold equal to the virtual TPR", |l2| {
        let page = memory::page();
        memory::write(page + 0x80, 0x50u32);
        with_primary(
            l2,
            PrimaryControls::USE_TPR_SHADOW,
            Field::VIRTUAL_APIC_ADDRESS,
            page,
        ) && set(l2, Field::TPR_THRESHOLD, 5)
    }),
    ("no EPT", |l2| set(l2, Field::SECONDARY_CONTROLS, 0)),
    ("EPTP accessed/dirty", |l2| {
        l2.caps.ept_vpid & ::vmx::ept_vpid::ACCESSED_DIRTY != 0
            && set(l2, Field::EPT_POINTER, l2.ept.eptp() | 1 << 6)
    }),
    ("unrestricted guest", |l2| {
        l2.has_secondary(SecondaryControls::UNRESTRICTED_GUEST) && {
            l2.use_secondary(SecondaryControls::UNRESTRICTED_GUEST);
            true
        }
    }),
];

/// One wrong control field each.
pub fn controls(check: &Check) {
    each(check, BAD, Outcome::FailValid(7));
    each_good(check, GOOD);
}
