//! Starting VPs, each on its processor.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};

use platform::apic::LocalApic;
use spin::Once;
use vmx::{Capabilities, PrimaryControls, instructions};

use super::hardware;
use super::nested::NestedVp;
use super::partition::{Beginning, Partition};
use super::vmcs01::{self, Structures};
use super::{Activity, Registers, Vp, create, entry, report, shootdown};
use crate::boot::information::Information;
use crate::boot::options::Options;
use crate::cpu::{idle, per_cpu};
use crate::fatal;

/// The one partition.
static PARTITION: Once<Partition> = Once::new();

/// How many VPs have been given the state that they were saved with.
static RESUMED: AtomicUsize = AtomicUsize::new(0);

/// Waits until all have: none runs if another one cannot.
fn meet_those_resumed(vps: usize) {
    RESUMED.fetch_add(1, Ordering::AcqRel);
    let mut wait = idle::Wait::new();
    while RESUMED.load(Ordering::Acquire) < vps {
        wait.pause();
    }
}

/// Creates the partition and lets the other processors go.
pub fn create_partition(information: &mut Information, options: &Options, vps: usize, tsc_hz: u64) {
    let capabilities = begin_root_operation();
    let partition = create::create(information, options, vps, tsc_hz, capabilities);
    let _ = PARTITION.call_once(|| partition);
    for cpu in per_cpu::online() {
        if cpu.number() != per_cpu::this().number() {
            cpu.kick();
        }
    }
}

/// Checks this processor and puts it into VMX root operation.
fn begin_root_operation() -> Capabilities {
    let result = hardware::check_processor().map(|()| hardware::capabilities());
    let entered = result.and_then(|capabilities| {
        hardware::enter_root_operation(&capabilities)?;
        Ok(capabilities)
    });
    match entered {
        Ok(capabilities) => capabilities,
        Err(unfit) => fatal::refuse(format_args!("{unfit}")),
    }
}

/// Runs this processor's VP, from the moment the partition is there.
pub fn run(index: usize) -> ! {
    // Asleep rather than turning round: an emulator runs all processors in turn, and the one that
    // loads L1 has all of its time so.
    while !PARTITION.is_completed() {
        idle::sleep_until(None);
    }
    let partition = PARTITION.wait();
    if index != 0 {
        let _ = begin_root_operation();
    }
    let cpu = per_cpu::cpu(index);
    // One word above HOST_RSP holds the VP's address; the stack below it is the handlers'.
    let stack = cpu.stack_top() - 16;
    let vmcs01 = hardware::new_region(&partition.capabilities);
    // SAFETY: root operation has begun, the region is new and this processor's own.
    unsafe {
        instructions::vmclear(vmcs01)
            .unwrap_or_else(|error| panic!("VMCS 01 cannot be cleared: {error:?}"));
    }
    let mut nested = NestedVp::new(partition, stack);
    // SAFETY: as above.
    unsafe { instructions::vmptrld(vmcs01) }
        .unwrap_or_else(|error| panic!("VMCS 01 cannot be loaded: {error:?}"));
    vmcs01::write_host_state(stack, entry::l1_exit_address(partition.is_audited));
    vmcs01::write_controls(
        &partition.controls,
        &Structures {
            eptp: partition.eptp01,
            msr_bitmap: partition.interception.bitmap,
            tsc_offset: partition.tsc_offset,
            cr4_mask: partition.cr4_mask(),
        },
    );
    nested.set_up_shadowing(partition, vmcs01);
    let mut registers = Registers::default();
    match &partition.beginning {
        Beginning::Boot(entry) if index == 0 => {
            registers.set_rbx(entry.rbx);
            vmcs01::write_entry_state(entry);
        }
        _ => {
            registers.set_rdx(partition.setup.cpu_signature);
            vmcs01::write_startup(0);
        }
    }
    let mut vp = Box::new(Vp {
        registers,
        index,
        cell: shootdown::cell(index),
        partition,
        vmcs01,
        attention: true,
        waiting: false,
        activity: if index == 0 {
            Activity::Running
        } else {
            Activity::WaitForStartup
        },
        nmi_pending: false,
        init_pending: false,
        save_asked: false,
        windows: PrimaryControls::empty(),
        eoi_assisted: false,
        deadline: u64::MAX,
        timer_target: 0,
        timer_shift: (partition.capabilities.misc & 31) as u32,
        tsc_offset: partition.tsc_offset,
        partition_offset: partition.tsc_offset,
        conversion: None,
        apic: LocalApic::new(index as u32, index == 0, partition.clock),
        hyperv: ::hyperv::Vp::new(index as u32),
        msrs: partition.msrs.initial_state(),
        nested,
        counters: Default::default(),
        latched: super::io::Latched::default(),
    });
    if let Beginning::Saved(vps) = &partition.beginning {
        let saved = vps.lock().get_mut(index).and_then(Option::take);
        let outcome = saved.map(|saved| vp.resume(saved));
        if let Some(Err(why)) = outcome {
            fatal::refuse(format_args!(
                "VP {index} cannot go on as it was saved: {why}"
            ))
        }
        meet_those_resumed(partition.inboxes.len());
    }
    vp.update_deadline();
    vp.prepare_entry();
    let vp = Box::into_raw(vp);
    report::register(index, vp);
    // SAFETY: the VP is this processor's for good, VMCS 01 is current and complete, and the stack
    // is the processor's own with a word at `stack`.
    unsafe { entry::vp_enter(vp.cast(), stack) }
}
