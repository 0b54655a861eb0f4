//! `vmm clock`: whether a guest can tell the time without an exit.
//!
//! Each vCPU reads kvm-clock as the vDSO of Linux does, on a CPU of its own, all at
//! once; exits are counted around the reads by KVM and, where L0 is hynest, by L0.

mod payload;

use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::thread;

use kvm_bindings::{KVM_CLOCK_TSC_STABLE, kvm_regs};
use kvm_ioctls::VcpuFd;
use platform::counters::Counter;
use serde::Serialize;
use vm_memory::GuestMemoryMmap;

use self::payload::{PORT_BEGIN, PORT_END};
use crate::affinity::{self, Cpus};
use crate::bare::{self, run_to};
use crate::counters::{CounterPort, Reading};
use crate::error::{Error, Result, last_system_error, refused};
use crate::host::Host;
use crate::memory;
use crate::paging::PAGE_SIZE;
use crate::report::Report;
use crate::stats::Stats;
use crate::trace::TracePoint;

/// The most vCPUs of such a guest.
const MAX_VCPUS: u8 = 16;

/// What `vmm clock` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// How many vCPUs [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=MAX_VCPUS as i64))]
    pub vcpus: Option<u8>,
    /// How often each reads the clock
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub reads: u64,
    /// Where the finding goes: a JSON object, appended [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// The guest's memory map.
mod layout {
    pub const MEMORY: u64 = 2 << 20;
    /// The word that all vCPUs share.
    pub const LAST: u64 = 0x3_0000;
    /// A page for each vCPU's clock.
    pub const CLOCKS: u64 = 0x4_0000;
}

/// The report's line.
#[derive(Serialize, Debug)]
struct Finding {
    event: &'static str,
    /// KVM_GET_CLOCK's flag KVM_CLOCK_TSC_STABLE: the master clock is in use.
    tsc_stable: bool,
    /// What the trace point kvm_update_master_clock said last; `null` without tracing.
    master_clock: Option<String>,
    /// Reads by each vCPU.
    reads: u64,
    vcpus: Vec<OfVcpu>,
}

/// What came of one vCPU's reads.
#[derive(Serialize, Debug)]
struct OfVcpu {
    /// Exits to KVM that were not for an interrupt of L1.
    exits: u64,
    /// Exits for L1's interrupts: timer ticks.
    interrupts: u64,
    /// Exits to L0, those for ticks among them; `null` where L0 is not hynest.
    exits_l0: Option<u64>,
    /// Reads that found the clock earlier than some vCPU had found it before.
    backwards: u64,
    /// Reads whose page did not say that the clock is the same on all vCPUs.
    unstable: u64,
    /// How far the clock went, in nanoseconds.
    nanoseconds: u64,
}

/// Reads clocks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = Report::open(arguments.report.as_deref())?;
    let host = Host::open()?;
    let cpus = Cpus::allowed()?;
    let count = match arguments.vcpus {
        Some(vcpus) => vcpus.into(),
        None => cpus.count().min(MAX_VCPUS.into()),
    };
    let traced = TracePoint::on("kvm/kvm_update_master_clock");
    let vm = host.create_vm()?;
    let memory = Arc::new(memory::allocate(&[(0, layout::MEMORY)])?);
    memory::register(&vm, &memory)?;
    bare::write(&memory, payload::code())?;
    let vcpus = (0..count)
        .map(|id| {
            let regs = kvm_regs {
                rdi: arguments.reads,
                rbx: layout::CLOCKS + id as u64 * PAGE_SIZE,
                r15: layout::LAST,
                ..Default::default()
            };
            let vcpu = bare::create_vcpu(&host, &vm, id, regs)?;
            let stats = Stats::of(&host, &vcpu)?;
            Ok((vcpu, stats))
        })
        .collect::<Result<Vec<_>>>()?;
    let vcpus = run_all(vcpus, &cpus, &memory)?;
    let clock = vm.get_clock().map_err(refused("tell the guest's time"))?;
    report.event(&Finding {
        event: "clock",
        tsc_stable: clock.flags & KVM_CLOCK_TSC_STABLE != 0,
        master_clock: traced.as_ref().and_then(TracePoint::last),
        reads: arguments.reads,
        vcpus,
    })
}

/// Runs all vCPUs, each in a thread of its own.
fn run_all(
    vcpus: Vec<(VcpuFd, Stats)>,
    cpus: &Cpus,
    memory: &Arc<GuestMemoryMmap>,
) -> Result<Vec<OfVcpu>> {
    let together = Arc::new(Barrier::new(vcpus.len()));
    let threads: Vec<_> = vcpus
        .into_iter()
        .enumerate()
        .map(|(n, (vcpu, stats))| {
            let (together, memory, cpu) = (together.clone(), memory.clone(), cpus.nth(n));
            thread::Builder::new()
                .name(format!("vcpu {n}"))
                .spawn(move || {
                    let found = read_clock(vcpu, &stats, &together, cpu);
                    drop(memory);
                    found
                })
                .map_err(|_| last_system_error("start a thread for a vCPU"))
        })
        .collect::<Result<_>>()?;
    threads
        .into_iter()
        .map(|thread| match thread.join() {
            Ok(found) => found,
            Err(_) => Err(Error::Guest("a vCPU's thread died".into())),
        })
        .collect()
}

/// What is counted of a vCPU.
struct Counted {
    exits: u64,
    interrupts: u64,
    l0: Option<Reading>,
}

impl Counted {
    fn now(stats: &Stats, port: Option<CounterPort>) -> Result<Self> {
        let read = |name| {
            let value = stats.read(name)?;
            value.ok_or(Error::NotOffered("a count of a vCPU's exits"))
        };
        Ok(Counted {
            exits: read("exits")?,
            interrupts: read("irq_exits")?,
            l0: port.map(CounterPort::read),
        })
    }
}

fn read_clock(mut vcpu: VcpuFd, stats: &Stats, together: &Barrier, cpu: usize) -> Result<OfVcpu> {
    let begin = affinity::pin(Some(cpu)).and_then(|()| run_to(&mut vcpu, PORT_BEGIN));
    let port = CounterPort::find();
    // Whatever came of it: the others wait.
    together.wait();
    begin?;
    let before = Counted::now(stats, port)?;
    run_to(&mut vcpu, PORT_END)?;
    let after = Counted::now(stats, port)?;
    let regs = vcpu
        .get_regs()
        .map_err(refused("read a vCPU's registers"))?;
    let interrupts = after.interrupts - before.interrupts;
    let l2_exits = |reading: Reading| reading[Counter::L2Exits as usize];
    Ok(OfVcpu {
        // The end marker is one.
        exits: (after.exits - before.exits).saturating_sub(interrupts + 1),
        interrupts,
        exits_l0: before
            .l0
            .zip(after.l0)
            .map(|(before, after)| (l2_exits(after) - l2_exits(before)).saturating_sub(1)),
        backwards: regs.r13,
        unstable: regs.r14,
        nanoseconds: regs.r9.wrapping_sub(regs.r8),
    })
}
