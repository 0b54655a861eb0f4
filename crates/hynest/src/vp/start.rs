//! Putting the partition together and starting its VPs.

use alloc::boxed::Box;

use ::nested::msr_bitmap::{MsrAccess, MsrFilter};
use addr::{Gpa1, PAGE_SIZE, Spa};
use hyperv::clock::{RateChange, Tsc, TscSource};
use platform::apic::{Inbox, LocalApic, TimerClock};
use platform::msr::{HostMsrs, MsrPolicy};
use spin::Once;
use tlfs::cpuid::HardwareFeatures;
use vmx::ept::{Access, Builder, EptCapabilities, MemoryType};
use vmx::{Capabilities, PrimaryControls, instructions};

use super::hardware::{self, Unfit};
use super::memory::L1Memory;
use super::nested::{self as nested_vp, NestedVp, ShadowBitmaps, TableAccess, TableSource};
use super::partition::{MsrInterception, Partition, Parts};
use super::vmcs01::{self, Controls, Structures};
use super::{Activity, Registers, Vp, cpuid, entry, loader, report, shootdown};
use crate::boot::information::{Information, Module};
use crate::boot::options::{Audit, Input, Options, VmcsShadowing};
use crate::cpu::{per_cpu, tsc};
use crate::fatal;
use crate::memory::layout::Range;
use crate::memory::lz4::Frame;
use crate::memory::{frames, pointer};
use crate::output::json::Escaped;
use crate::output::{self, Channel};

/// The one partition.
static PARTITION: Once<Partition> = Once::new();

/// Frames that EPT 01 may take: it has the largest pages there are.
const EPT01_FRAMES: usize = 4096;

/// Least memory that a Linux kernel comes up in.
const LEAST_MEMORY: u64 = 64 << 20;

/// Creates the partition, loads L1 and lets the other processors go.
pub fn create_partition(information: &mut Information, options: &Options, vps: usize, tsc_hz: u64) {
    let capabilities = begin_root_operation();
    let controls = match Controls::choose(&capabilities) {
        Ok(controls) => controls,
        Err(missing) => fatal::refuse(format_args!("{}", Unfit::Missing(missing))),
    };
    if options.input == Input::Com1 {
        // An emulator begins to take keys when the line has been set up.
        output::initialise_input();
    }
    let files = find_files(information);
    let memory = claim_memory(information, options);
    let entry = match loader::load(&memory, files.kernel, files.initrd, files.command_line, vps) {
        Ok(entry) => entry,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    for range in files.scratch.into_iter().flatten() {
        // SAFETY: the files have been copied to L1's memory; nothing refers to them any more.
        unsafe { frames::add(Spa::new(range.start), Spa::new(range.end)) };
    }
    let policy = cpuid::policy(vps, controls.secondary, tsc_hz);
    let msrs = MsrPolicy::new(&policy, host_msrs());
    let cr4_offered = cr4_offered(&capabilities);
    let address_width = cpuid::physical_address_bits();
    let ept = EptCapabilities::from_msr(capabilities.ept_vpid, u32::from(address_width));
    let mut source = TableSource::new(EPT01_FRAMES);
    let eptp01 = Builder::new(&TableAccess, &mut source, ept)
        .and_then(|mut builder| {
            builder.map(
                Gpa1::new(0),
                memory.base(),
                memory.size(),
                Access::RWX,
                MemoryType::WriteBack,
            )?;
            Ok(builder.eptp())
        })
        .unwrap_or_else(|error| panic!("EPT 01 cannot be built: {error:?}"));

    // L1's TSC counts from the partition's creation.
    let tsc_offset = tsc::now().wrapping_neg();
    let hyperv = hyperv::Partition::new(
        hyperv::Config {
            enlightenments: options.enlightenments,
            vps: vps as u32,
            tsc_hz,
            // One rate for both timers: CPUID leaf 0x15 can tell it exactly.
            apic_hz: tsc_hz,
            physical_address_bits: address_width,
            hardware: HardwareFeatures::new()
                .with_msr_bitmaps(true)
                .with_second_level_translation(true)
                .with_unrestricted_guest(true),
            evmcs_perf_global_ctrl: false,
        },
        Tsc(0),
    );
    let time = match TscSource::new(tsc_offset, tsc_hz) {
        Ok(time) => time,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    let hyperv = match hyperv {
        Ok(hyperv) => hyperv,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    let Some(clock) = TimerClock::new(tsc_hz, tsc_hz) else {
        fatal::refuse(format_args!("a TSC of {tsc_hz} Hz drives no APIC timer"))
    };
    let inboxes: Box<[Inbox]> = (0..vps)
        .map(|i| Inbox::new(LocalApic::new(i as u32, i == 0, clock).address()))
        .collect();

    let shadow_bitmaps = match options.vmcs_shadowing {
        VmcsShadowing::Auto => ShadowBitmaps::for_processor(&capabilities),
        VmcsShadowing::Off => None,
    };
    report_start(
        options,
        vps,
        memory.size(),
        tsc_hz,
        shadow_bitmaps.is_some(),
    );
    let offered = ::nested::caps::offer(&capabilities, cr4_offered);
    let shadows = nested_vp::for_partition(&capabilities, &offered, address_width, vps);
    let interception = msr_interception(&msrs, |_, _| true);
    let interception_of_tsc = msr_interception(&msrs, |msr, access| {
        (msr, access) != (TIME_STAMP_COUNTER, MsrAccess::Read)
    });
    let mut rate_changes: Box<[RateChange]> = options.rate_changes().collect();
    rate_changes.sort();
    let _ = PARTITION.call_once(|| {
        Partition::new(Parts {
            memory,
            inboxes,
            hyperv,
            interception,
            interception_of_tsc,
            time,
            rate_changes,
            msrs,
            cr4_offered,
            address_width,
            cpu_signature: u64::from(cpuid::signature()),
            cpuid: policy,
            capabilities,
            offered,
            controls,
            eptp01,
            shadow_bitmaps,
            shadows,
            began: crate::cpu::rtc::now(),
            tsc_hz,
            tsc_offset,
            has_input: options.input == Input::Com1,
            is_audited: options.audit == Audit::CleanFields,
            entry,
            clock,
        })
    });
}

/// The CR4 bits that L1 may set: those of features that its CPUID can show, where the processor has
/// them.
fn cr4_offered(capabilities: &Capabilities) -> u64 {
    /// VME to PCE, OSFXSR, OSXMMEXCPT, UMIP, VMXE, FSGSBASE, PCIDE, OSXSAVE, SMEP and SMAP.
    const KNOWN: u64 = 0x37_2FFF;
    capabilities.cr4_fixed1 & KNOWN
}

/// The hardware's MSRs that show through L1's.
fn host_msrs() -> HostMsrs {
    const BIOS_SIGN_ID: u32 = 0x8B;
    const ARCH_CAPABILITIES: u32 = 0x10A;
    const MISC_ENABLE: u32 = 0x1A0;
    let [max, ..] = crate::cpu::register::cpuid(0, 0);
    let has = max >= 7 && crate::cpu::register::cpuid(7, 0)[3] >> 29 & 1 != 0;
    // SAFETY: BIOS_SIGN_ID and MISC_ENABLE exist on every processor with VMX, the third where CPUID
    // says so.
    unsafe {
        HostMsrs {
            bios_sign_id: crate::cpu::msr::read(BIOS_SIGN_ID),
            misc_enable: crate::cpu::msr::read(MISC_ENABLE),
            arch_capabilities: if has {
                crate::cpu::msr::read(ARCH_CAPABILITIES)
            } else {
                0
            },
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

/// Takes L1's memory out of what is free: with 1 GiB pages where that loses nothing.
fn claim_memory(information: &mut Information, options: &Options) -> L1Memory {
    const MIB_2: u64 = 2 << 20;
    const GIB: u64 = 1 << 30;
    let limit = options
        .memory
        .unwrap_or(u64::MAX)
        .min(platform::layout::RAM_LIMIT.raw());
    let range = options
        .memory
        .filter(|wanted| wanted % GIB == 0)
        .and_then(|_| {
            information
                .free
                .take_largest_if(GIB, limit, |size| size == limit)
        })
        .or_else(|| information.free.take_largest(MIB_2, limit));
    let size = range.map_or(0, |range| range.size());
    let wanted = options.memory.unwrap_or(LEAST_MEMORY);
    let Some(range) = range.filter(|range| range.size() >= LEAST_MEMORY.max(wanted & !(MIB_2 - 1)))
    else {
        fatal::refuse(format_args!(
            "too little memory: L1 would get {} MiB in one piece, {} MiB are wanted (at least {} MiB); give the machine more or L1 less",
            size >> 20,
            wanted >> 20,
            LEAST_MEMORY >> 20,
        ))
    };
    // What the firmware and the loader left there stays: it is nothing of L0's or of another
    // partition's, and clearing hundreds of MiB would be most of an emulated start.
    // SAFETY: the range was just taken out of the free memory.
    unsafe { L1Memory::new(Spa::new(range.start), range.size()) }
}

fn report_start(options: &Options, vps: usize, memory: u64, tsc_hz: u64, shadows_vmcs: bool) {
    let brand = cpuid::brand();
    output::write(
        Channel::Report,
        format_args!(
            "{{\"event\":\"start\",\"version\":\"{}\",\"cpu\":\"{}\",\"vendor\":\"{}\",\"cpus\":{},\"vps\":{vps},\"memory\":{memory},\"tsc_hz\":{tsc_hz},\"vmcs_shadowing\":{shadows_vmcs},\"enlightenments\":[",
            env!("CARGO_PKG_VERSION"),
            Escaped(brand.text().trim()),
            Escaped(cpuid::vendor().text()),
            per_cpu::online().count(),
        ),
    );
    for (i, one) in options.enlightenments.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        output::write(Channel::Report, format_args!("{comma}\"{}\"", one.name()));
    }
    output::write(Channel::Report, format_args!("]}}\n"));
}

/// L1's files and its command line.
struct Files {
    kernel: &'static [u8],
    command_line: &'static str,
    initrd: Option<&'static [u8]>,
    /// Memory that unpacked files take until they are loaded.
    scratch: [Option<Range>; 2],
}

/// Finds L1's files among the modules and unpacks those that are packed.
fn find_files(information: &mut Information) -> Files {
    let Some(kernel) = information.module("l1-kernel") else {
        fatal::refuse(format_args!(
            "no L1 kernel: pass a module 'l1-kernel COMMAND LINE' (an ELF with a PVH note)"
        ))
    };
    let initrd = information.module("l1-initrd");
    let mut scratch = [None; 2];
    let mut unpack = |module: Module, slot: usize| {
        let frame = match Frame::open(module.bytes()) {
            Ok(None) => return module.bytes(),
            Ok(Some(frame)) => frame,
            Err(error) => fatal::refuse(format_args!("module {}: {error}", module.name())),
        };
        let room = frame.size().next_multiple_of(PAGE_SIZE);
        let Some(at) = information.free.take(room) else {
            fatal::refuse(format_args!(
                "too little memory: module {} unpacks to {} MiB",
                module.name(),
                room >> 20
            ))
        };
        // SAFETY: the range was just taken out of the free memory, and stays until it is given
        // to the frame pool, after the last use of what is unpacked here.
        let bytes: &'static mut [u8] =
            unsafe { core::slice::from_raw_parts_mut(pointer(at), frame.size() as usize) };
        if let Err(error) = frame.unpack(bytes) {
            fatal::refuse(format_args!("module {}: {error}", module.name()));
        }
        scratch[slot] = Some(Range {
            start: at.raw(),
            end: at.raw() + room,
        });
        &*bytes
    };
    Files {
        kernel: unpack(kernel, 0),
        initrd: initrd.map(|module| unpack(module, 1)),
        command_line: kernel.rest(),
        scratch,
    }
}

/// IA32_TIME_STAMP_COUNTER.
const TIME_STAMP_COUNTER: u32 = 0x10;

/// What of the MSRs L1 may access without an exit: everything exits but what the platform's
/// policy lets through and `is_open`, too.
fn msr_interception(
    policy: &MsrPolicy,
    is_open: impl Fn(u32, MsrAccess) -> bool,
) -> MsrInterception {
    let mut filter = MsrFilter::closed();
    for rule in policy.passthrough() {
        let accesses = [(rule.read, MsrAccess::Read), (rule.write, MsrAccess::Write)];
        let opens = |&(open, access): &(bool, MsrAccess)| open && is_open(rule.msr, access);
        for (_, access) in accesses.into_iter().filter(opens) {
            // An MSR outside of the bitmap's ranges exits, which its emulation allows for.
            let _ = filter.open(rule.msr, access);
        }
    }
    MsrInterception {
        bitmap: place_msr_bitmap(&filter),
        filter,
    }
}

/// Puts the bitmap of a filter where VMCS 01 can name it.
fn place_msr_bitmap(filter: &MsrFilter) -> Spa {
    let frame = frames::allocate_at_boot();
    for (i, word) in filter.bitmap().words().iter().enumerate() {
        // SAFETY: the frame is ours, and a bitmap has as many words as a frame.
        unsafe { pointer::<u64>(frame).add(i).write(*word) };
    }
    frame
}

/// Runs this processor's VP, from the moment the partition is there.
pub fn run(index: usize) -> ! {
    while !PARTITION.is_completed() {
        core::hint::spin_loop();
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
    if index == 0 {
        registers.set_rbx(partition.entry.rbx);
        vmcs01::write_entry_state(&partition.entry);
    } else {
        registers.set_rdx(partition.cpu_signature);
        vmcs01::write_startup(0);
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
        windows: PrimaryControls::empty(),
        eoi_assisted: false,
        deadline: u64::MAX,
        timer_target: 0,
        timer_shift: (partition.capabilities.misc & 31) as u32,
        tsc_offset: partition.tsc_offset,
        partition_offset: partition.tsc_offset,
        emulation: None,
        apic: LocalApic::new(index as u32, index == 0, partition.clock),
        hyperv: ::hyperv::Vp::new(index as u32),
        msrs: partition.msrs.initial_state(),
        nested,
        counters: Default::default(),
        latched: super::io::Latched::default(),
    });
    vp.update_deadline();
    vp.prepare_entry();
    let vp = Box::into_raw(vp);
    report::register(index, vp);
    // SAFETY: the VP is this processor's for good, VMCS 01 is current and complete, and the stack
    // is the processor's own with a word at `stack`.
    unsafe { entry::vp_enter(vp.cast(), stack) }
}
