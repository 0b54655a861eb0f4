//! VMCS 02, on which a VP runs L2: what never depends on L1.

use addr::Spa;
use nested::tsc::{self, L1Tsc};
use nested::{L0Policy, L1Registers, exceptions};
use vmx::{EntryControls, Field, PrimaryControls, instructions};

use super::super::entry::l2_exit_address;
use super::super::hardware;
use super::super::partition::Partition;
use super::super::vmcs::write;
use super::super::vmcs01::{CR0_CACHE, CR0_OWNED, CR4_OWNED, Controls, write_host_state};

/// VPID of L2 on every processor.
pub const VPID02: u16 = 2;

/// Makes VMCS 02 of the VP that runs on this processor, with handlers on `stack`. Leaves it
/// current.
pub fn create(partition: &Partition, stack: u64) -> Spa {
    let region = hardware::new_region(&partition.capabilities);
    // SAFETY: root operation has begun, the region is new and this processor's own.
    unsafe {
        instructions::vmclear(region)
            .and_then(|()| instructions::vmptrld(region))
            .unwrap_or_else(|error| panic!("VMCS 02 cannot be loaded: {error:?}"));
    }
    write_host_state(stack, l2_exit_address(partition.is_audited));
    write(
        Field::EXIT_CONTROLS,
        u64::from(partition.controls.exit.bits()),
    );
    write(Field::VPID, u64::from(VPID02));
    write(Field::VMCS_LINK_POINTER, u64::MAX);
    for field in [
        Field::CR3_TARGET_COUNT,
        Field::EXIT_MSR_STORE_COUNT,
        Field::EXIT_MSR_LOAD_COUNT,
        Field::ENTRY_MSR_LOAD_COUNT,
    ] {
        write(field, 0);
    }
    region
}

/// What L0 asks of VMCS 02.
pub fn policy(partition: &Partition, msr_bitmap: Spa) -> L0Policy {
    let Controls {
        pin,
        primary,
        secondary,
        entry,
        ..
    } = partition.controls;
    L0Policy {
        pin,
        primary: primary.difference(
            PrimaryControls::USE_MSR_BITMAPS
                | PrimaryControls::CR8_LOAD_EXITING
                | PrimaryControls::CR8_STORE_EXITING,
        ),
        secondary: secondary
            & (vmx::SecondaryControls::ENABLE_EPT | vmx::SecondaryControls::ENABLE_VPID),
        entry: entry.difference(EntryControls::IA32E_MODE_GUEST),
        exception_bitmap: exceptions::ENDLESS,
        cr0_mask: CR0_CACHE,
        cr4_mask: !partition.setup.cr4_offered,
        tsc: L1Tsc {
            multiplier: tsc::ONE,
            // L1's TSC began at 0, at a moment of the processor's.
            offset: i128::from(partition.tsc_offset as i64),
        },
        msr_bitmap,
    }
}

/// How L0 keeps L1's control registers in VMCS 01.
pub const L1_REGISTERS: L1Registers = L1Registers {
    cr0_set: CR0_OWNED,
    cr0_clear: 0,
    cr4_set: CR4_OWNED,
    cr4_clear: 0,
};
