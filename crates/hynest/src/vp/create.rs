//! Putting the partition together: for an L1 that boots, or from a saved one.

use alloc::boxed::Box;

use ::nested::msr_bitmap::{MsrAccess, MsrFilter};
use addr::{Gpa1, Spa};
use hyperv::clock::{RateChange, Tsc, TscSource};
use platform::apic::{Inbox, LocalApic, TimerClock};
use platform::interrupt::Trigger;
use platform::msr::{HostMsrs, MsrPolicy};
use spin::Mutex;
use state::{Machine, Setup};
use tlfs::cpuid::HardwareFeatures;
use vmx::ept::{Access, Builder, EptCapabilities, Eptp, MemoryType};
use vmx::{Capabilities, SecondaryControls};

use super::hardware::Unfit;
use super::memory::L1Memory;
use super::nested::{self as nested_vp, ShadowBitmaps, TableAccess, TableSource};
use super::partition::{Beginning, Devices, MsrInterception, Partition, Parts};
use super::snapshots::{self, SaveOrder};
use super::time::effect;
use super::vmcs01::Controls;
use super::{cpuid, files, loader};
use crate::boot::information::Information;
use crate::boot::options::{Audit, Input, Options, TscScaling, VmcsShadowing};
use crate::cpu::{per_cpu, tsc};
use crate::memory::{frames, pointer};
use crate::output::json::Escaped;
use crate::output::{self, Channel};
use crate::{fatal, log};

/// Frames that EPT 01 may take: it has the largest pages there are.
const EPT01_FRAMES: usize = 4096;

/// Least memory that a Linux kernel comes up in.
const LEAST_MEMORY: u64 = 64 << 20;

/// What a partition begins with.
struct Origin {
    setup: Setup,
    memory: L1Memory,
    hyperv: hyperv::Partition,
    /// What its TSC comes from, from now on.
    time: TscSource,
    devices: Devices,
    inboxes: Box<[Inbox]>,
    /// The time of day when it began, in seconds since 1970.
    began: u64,
    beginning: Beginning,
}

/// Creates the partition of a machine with `vps` processors, this one in root operation.
pub fn create(
    information: &mut Information,
    options: &Options,
    vps: usize,
    tsc_hz: u64,
    capabilities: Capabilities,
) -> Partition {
    let controls = match Controls::choose(&capabilities) {
        Ok(controls) => controls,
        Err(missing) => fatal::refuse(format_args!("{}", Unfit::Missing(missing))),
    };
    if options.input == Input::Com1 {
        // An emulator begins to take keys when the line has been set up.
        output::initialise_input();
    }
    let scales_tsc = match options.tsc_scaling {
        TscScaling::Auto => {
            let scaling = SecondaryControls::TSC_SCALING.bits();
            capabilities.secondary.missing(scaling) == 0
        }
        TscScaling::Off => false,
    };
    let here = setup_here(&capabilities, &controls, options, vps, tsc_hz);
    let begun_at = tsc::now();
    let origin = match options.restore {
        Some(position) => match snapshots::open(position, tsc_hz, &here) {
            Ok(saved) => restore(information, saved, tsc_hz, scales_tsc),
            Err(why) => fatal::refuse(format_args!("{why}")),
        },
        None => boot(information, options, here, tsc_hz),
    };
    let Origin {
        setup,
        memory,
        hyperv,
        time,
        devices,
        inboxes,
        began,
        beginning,
    } = origin;
    let is_restored = matches!(beginning, Beginning::Saved(_));
    let load_ticks = is_restored.then(|| tsc::now().wrapping_sub(begun_at));
    let Some(clock) = TimerClock::new(time.guest_hz(), setup.apic_hz) else {
        fatal::refuse(format_args!("a TSC of {tsc_hz} Hz drives no APIC timer"))
    };
    let shadow_bitmaps = match options.vmcs_shadowing {
        VmcsShadowing::Auto => ShadowBitmaps::for_processor(&capabilities),
        VmcsShadowing::Off => None,
    };
    report_start(
        &setup,
        tsc_hz,
        shadow_bitmaps.is_some(),
        scales_tsc,
        load_ticks,
    );
    let address_width = setup.physical_address_bits;
    let shadows =
        nested_vp::for_partition(&capabilities, &setup.vmx, address_width, setup.vps as usize);
    let msrs = MsrPolicy::new(&setup.cpuid, setup.host_msrs);
    let interception = msr_interception(&msrs, |_, _| true);
    let interception_of_tsc = msr_interception(&msrs, |msr, access| {
        (msr, access) != (TIME_STAMP_COUNTER, MsrAccess::Read)
    });
    let mut rate_changes: Box<[RateChange]> = options.rate_changes().collect();
    rate_changes.sort();
    Partition::new(Parts {
        eptp01: map_memory(&memory, &capabilities, address_width),
        memory,
        inboxes,
        hyperv,
        setup,
        interception,
        interception_of_tsc,
        tsc_offset: time.offset(),
        time,
        scales_tsc,
        rate_changes,
        has_rate_port: options.has_rate_port,
        msrs,
        capabilities,
        controls,
        shadow_bitmaps,
        shadows,
        began,
        tsc_hz,
        has_input: options.input == Input::Com1,
        text: options.text,
        is_audited: options.audit == Audit::CleanFields,
        beginning,
        save: options.save.map(|to| {
            // A run that goes on has had instructions of its own for loading.
            let from = if is_restored { tsc::now() } else { 0 };
            SaveOrder::new(to, options.save_at.map(|at| from.saturating_add(at)))
        }),
        devices,
        clock,
    })
}

/// What a partition that is created on this machine is told of it; its memory is to come.
fn setup_here(
    capabilities: &Capabilities,
    controls: &Controls,
    options: &Options,
    vps: usize,
    tsc_hz: u64,
) -> Setup {
    let cr4_offered = cr4_offered(capabilities);
    let cpuid = cpuid::policy(vps, controls.secondary, tsc_hz);
    Setup {
        vps: vps as u32,
        memory: 0,
        enlightenments: options.enlightenments,
        // One rate for both timers, where CPUID leaf 0x15 can tell it.
        apic_hz: cpuid.apic_hz(),
        physical_address_bits: cpuid::physical_address_bits(),
        cpu_signature: u64::from(cpuid::signature()),
        cr4_offered,
        cpuid,
        host_msrs: host_msrs(),
        vmx: ::nested::caps::offer(capabilities, cr4_offered),
    }
}

/// An L1 that boots.
fn boot(information: &mut Information, options: &Options, here: Setup, tsc_hz: u64) -> Origin {
    let files = files::find(information);
    let memory = claim_memory(information, options.memory);
    let vps = here.vps as usize;
    let entry = match loader::load(&memory, files.kernel, files.initrd, files.command_line, vps) {
        Ok(entry) => entry,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    files.release();
    let setup = Setup {
        memory: memory.size(),
        ..here
    };
    // L1's TSC counts from the partition's creation.
    let time = match TscSource::new(tsc::now().wrapping_neg(), tsc_hz) {
        Ok(time) => time,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    let hyperv = match hyperv::Partition::new(config(&setup, tsc_hz), Tsc(0)) {
        Ok(hyperv) => hyperv,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    let Some(clock) = TimerClock::new(tsc_hz, setup.apic_hz) else {
        fatal::refuse(format_args!("a TSC of {tsc_hz} Hz drives no APIC timer"))
    };
    let inboxes = (0..setup.vps)
        .map(|i| Inbox::new(LocalApic::new(i, i == 0, clock).address()))
        .collect();
    Origin {
        setup,
        memory,
        hyperv,
        time,
        devices: Devices::new(),
        inboxes,
        began: crate::cpu::rtc::now(),
        beginning: Beginning::Boot(entry),
    }
}

/// A partition that goes on.
fn restore(
    information: &mut Information,
    saved: snapshots::Saved,
    tsc_hz: u64,
    scales_tsc: bool,
) -> Origin {
    let memory = claim_memory(information, Some(saved.machine.setup.memory));
    let Machine {
        setup,
        partition,
        vps,
    } = match saved.load_memory(&memory) {
        Ok(machine) => machine,
        Err(why) => fatal::refuse(format_args!("{why}")),
    };
    let hyperv = hyperv::Partition::restore(
        config(&setup, partition.tsc_hz),
        &partition.hyperv,
        partition.tsc,
    );
    let hyperv = match hyperv {
        Ok(hyperv) => hyperv,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    let inboxes: Box<[Inbox]> = vps
        .iter()
        .map(|vp| {
            let inbox = Inbox::new(vp.apic.address());
            inbox.restore(&vp.inbox);
            inbox
        })
        .collect();
    // From here on the partition's time goes on.
    let now = tsc::now();
    let source = TscSource::new(partition.tsc.0.wrapping_sub(now), partition.tsc_hz);
    let followed = source.and_then(|mut source| {
        if hyperv.is_tsc_emulated() || tsc_hz != partition.tsc_hz {
            hyperv.change_tsc_rate(&mut source, now, tsc_hz, scales_tsc, &memory)?;
            setup.cpuid.set_tsc_hz(source.guest_hz());
        }
        Ok(source)
    });
    let time = match followed {
        Ok(time) => time,
        Err(error) => fatal::refuse(format_args!("{error}")),
    };
    log!(
        "the partition goes on after {} s of its time; its TSC ran at {} Hz, the machine's runs at {tsc_hz} Hz{}",
        partition.hyperv.reference.seconds(),
        partition.tsc_hz,
        effect(time.conversion())
    );
    // L1 is told after every move, be it to its own like.
    if let Some(notice) = hyperv.reenlightenment_notice()
        && let Some(inbox) = inboxes.get(notice.vp as usize)
        && inbox.address().accepts_interrupts()
    {
        inbox.post_vector(notice.vector, Trigger::Edge);
    }
    Origin {
        setup,
        memory,
        hyperv,
        time,
        devices: Devices::restore(&partition),
        inboxes,
        began: crate::cpu::rtc::now().saturating_sub(partition.hyperv.reference.seconds()),
        beginning: Beginning::Saved(Mutex::new(vps.into_iter().map(Some).collect())),
    }
}

/// What the Hv#1 server is created with, for a TSC of `tsc_hz`.
fn config(setup: &Setup, tsc_hz: u64) -> hyperv::Config {
    hyperv::Config {
        enlightenments: setup.enlightenments,
        vps: setup.vps,
        tsc_hz,
        apic_hz: setup.apic_hz,
        physical_address_bits: setup.physical_address_bits,
        hardware: HardwareFeatures::new()
            .with_msr_bitmaps(true)
            .with_second_level_translation(true)
            .with_unrestricted_guest(true),
        evmcs_perf_global_ctrl: false,
    }
}

/// EPT 01.
fn map_memory(memory: &L1Memory, capabilities: &Capabilities, address_width: u8) -> Eptp {
    let ept = EptCapabilities::from_msr(capabilities.ept_vpid, u32::from(address_width));
    let mut source = TableSource::new(EPT01_FRAMES);
    Builder::new(&TableAccess, &mut source, ept)
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
        .unwrap_or_else(|error| panic!("EPT 01 cannot be built: {error:?}"))
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

/// Takes L1's memory out of what is free: with 1 GiB pages where that loses nothing.
fn claim_memory(information: &mut Information, wanted: Option<u64>) -> L1Memory {
    const MIB_2: u64 = 2 << 20;
    const GIB: u64 = 1 << 30;
    let limit = wanted
        .unwrap_or(u64::MAX)
        .min(platform::layout::RAM_LIMIT.raw());
    let range = wanted
        .filter(|wanted| wanted % GIB == 0)
        .and_then(|_| {
            information
                .free
                .take_largest_if(GIB, limit, |size| size == limit)
        })
        .or_else(|| information.free.take_largest(MIB_2, limit));
    let size = range.map_or(0, |range| range.size());
    let wanted = wanted.unwrap_or(LEAST_MEMORY);
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

fn report_start(
    setup: &Setup,
    tsc_hz: u64,
    shadows_vmcs: bool,
    scales_tsc: bool,
    load_ticks: Option<u64>,
) {
    let brand = cpuid::brand();
    output::write(
        Channel::Report,
        format_args!(
            "{{\"event\":\"start\",\"version\":\"{}\",\"cpu\":\"{}\",\"vendor\":\"{}\",\"cpus\":{},\"vps\":{},\"memory\":{},\"tsc_hz\":{tsc_hz},\"vmcs_shadowing\":{shadows_vmcs},\"tsc_scaling\":{scales_tsc},\"restored\":{},\"load_ticks\":{},\"enlightenments\":[",
            env!("CARGO_PKG_VERSION"),
            Escaped(brand.text().trim()),
            Escaped(cpuid::vendor().text()),
            per_cpu::online().count(),
            setup.vps,
            setup.memory,
            load_ticks.is_some(),
            load_ticks.unwrap_or(0),
        ),
    );
    for (i, one) in setup.enlightenments.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        output::write(Channel::Report, format_args!("{comma}\"{}\"", one.name()));
    }
    output::write(Channel::Report, format_args!("]}}\n"));
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
