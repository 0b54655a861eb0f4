//! hynest, the bare-metal image: a Type-1 hypervisor for nested virtualization.
//!
//! `boot` brings the machine up, `memory` divides it, `cpu` is the physical processor as L0
//! uses it, `vp` runs a partition's virtual processors, `output` carries the log, the consoles
//! and the reports out, `disk` is where saved partitions go.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod cpu;
mod disk;
mod fatal;
mod memory;
mod output;
mod vp;

use addr::Spa;
use boot::information::{Information, Protocol};
use boot::options::Options;
use boot::{madt, smp};
use cpu::{interrupt, ioapic, per_cpu, tsc};
use memory::{frames, heap, mapping};

/// L0's share of memory for frames: shadow tables, VMCSs, page tables.
const FRAME_POOL: u64 = 24 << 20;

/// Where the boot code enters, on the boot stack, with 4 GiB mapped one to one.
extern "C" fn rust_entry(protocol: u64, information: u64) -> ! {
    // The others are taken to be of the same kind: all of a machine share their CPUID.
    if let Err(unfit) = vp::check_processor() {
        fatal::refuse_early(format_args!("{unfit}"))
    }
    // SAFETY: this is the only processor that runs, and these are called once.
    unsafe {
        interrupt::initialise();
        per_cpu::adopt(0);
    }
    interrupt::mask_legacy_controllers();
    let Some(protocol) = Protocol::from_entry(protocol) else {
        fatal::refuse(format_args!(
            "entered by an unknown loader: hynest starts by multiboot2 (GRUB) or PVH"
        ))
    };
    // SAFETY: the loader passed this address under this protocol.
    let mut information = match unsafe { Information::collect(protocol, information) } {
        Ok(information) => information,
        Err(message) => fatal::refuse(format_args!("{message}")),
    };
    let options = match Options::parse(information.command_line) {
        Ok(options) => options,
        Err(wrong) => fatal::refuse(format_args!("{wrong}")),
    };
    output::select(options.output);
    log!(
        "hynest {} ({protocol:?}), {} MiB up to {:#x}",
        env!("CARGO_PKG_VERSION"),
        information.free.size() >> 20,
        information.free.top()
    );

    let top = information.free.top();
    let (Some(pool), Some(heap)) = (
        information.free.take(FRAME_POOL),
        information.free.take(heap::SIZE),
    ) else {
        fatal::refuse(format_args!(
            "the machine has too little memory: L0 needs {} MiB for itself",
            (FRAME_POOL + heap::SIZE) >> 20
        ))
    };
    // SAFETY: both ranges were just taken out of the free memory.
    unsafe {
        frames::initialise(pool, pool.checked_add(FRAME_POOL).unwrap_or(pool));
        heap::initialise(heap);
        mapping::extend(top);
    }
    let tsc_hz = match options.tsc_hz.or_else(tsc::calibrate) {
        Some(hz) => hz,
        None => fatal::refuse(format_args!(
            "the TSC's rate cannot be measured: pass tsc_hz=N"
        )),
    };
    let Some(interrupts) = information
        .rsdp
        .or_else(madt::search)
        .and_then(|rsdp| madt::read_table(&rsdp))
    else {
        fatal::refuse(format_args!(
            "the firmware's ACPI tables list no processors"
        ))
    };
    for &controller in interrupts.ioapics() {
        // SAFETY: the firmware says that it is there, and L0 uses no line of it.
        unsafe { ioapic::mask(Spa::new(controller)) };
    }
    // SAFETY: memory, tables and the IDT are ready for the other processors, which wait in
    // `run_processor` for the partition.
    let count = match unsafe {
        smp::start(
            interrupts.processors(),
            options.vps.unwrap_or(per_cpu::MAX_CPUS),
            tsc_hz,
        )
    } {
        Ok(count) => count,
        Err(silent) => fatal::refuse(format_args!("processor {} does not start", silent.apic_id)),
    };
    vp::create_partition(&mut information, &options, count, tsc_hz);
    assert!(boot::stack::has_sufficed(), "the boot stack is too small");
    run_processor(0)
}

/// Runs this processor's VP once the partition is there.
fn run_processor(number: usize) -> ! {
    vp::run(number)
}
