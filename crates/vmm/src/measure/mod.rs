//! `vmm measure`: what each operation of an L2 costs, by L2's own clock.
//!
//! A payload repeats one operation and takes a time stamp after each; the same
//! loop without the operation is subtracted. Where L0 is hynest, its counters are
//! read when the loop begins and ends; the same readings around the empty loop
//! are subtracted, so that the markers and the reading do not count.

mod companion;
mod emulated;
mod figure;
mod l1;
mod machine;
mod operation;
mod payload;
mod statistics;
mod window;

use std::path::PathBuf;

use kvm_bindings::{KVM_CAP_HYPERV_CPUID, KVM_CAP_HYPERV_DIRECT_TLBFLUSH};

pub use self::companion::Companion;
pub use self::machine::MAX_REPETITIONS;
pub use self::operation::Operation;
pub use self::window::Window;

use self::emulated::Emulated;
use self::figure::{Figure, Skipped};
use self::machine::{Machine, Run};
use self::operation::MachineKind;
use self::payload::Entry;
use self::statistics::{PerOperation, Ticks, loop_cost};
use crate::affinity::{self, Cpus};
use crate::counters::{CounterPort, Reading};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::report::Report;

/// What `vmm measure` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// How often each operation is repeated
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=MAX_REPETITIONS))]
    pub repetitions: u64,
    /// Repetitions before those that count
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=MAX_REPETITIONS))]
    pub warm_up: u64,
    /// Which operations; all that apply when not given
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub operations: Vec<Operation>,
    /// Also measure the operations that need KVM's Hyper-V leaves
    #[arg(long)]
    pub hyperv: bool,
    /// Where the figures go: one JSON object a line, appended [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// A word to carry in each figure
    #[arg(long)]
    pub label: Option<String>,
    /// The CPU to run on [default: the first that is allowed]
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

impl Arguments {
    /// The operations to measure. Those asked for by name are taken as they are;
    /// otherwise the Hyper-V ones need `--hyperv`.
    fn chosen(&self) -> Vec<Operation> {
        if self.operations.is_empty() {
            let applies = |o: &&Operation| self.hyperv || !o.is_hyper_v();
            Operation::all().iter().filter(applies).copied().collect()
        } else {
            self.operations.clone()
        }
    }
}

/// Measures and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = Report::open(arguments.report.as_deref())?;
    let host = Host::open()?;
    let cpus = Cpus::allowed()?;
    let cpu = arguments.cpu.unwrap_or(cpus.nth(0));
    affinity::pin(Some(cpu))?;
    let mut bench = Bench {
        arguments,
        cpu,
        other_cpu: (0..cpus.count()).map(|n| cpus.nth(n)).find(|&n| n != cpu),
        port: CounterPort::find(),
        host,
        machine: None,
    };
    for operation in arguments.chosen() {
        match bench.measure(operation) {
            Ok(figure) => report.event(&figure)?,
            // What was not asked for by name may be missing.
            Err(Error::NotMeasurable { operation, why }) if arguments.operations.is_empty() => {
                report.event(&Skipped::new(arguments.label.as_deref(), operation, why))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The VM at hand, with what its empty loop costs.
struct Calibrated {
    kind: MachineKind,
    machine: Machine,
    empty: Run,
}

struct Bench<'a> {
    arguments: &'a Arguments,
    /// The CPU on which this thread runs.
    cpu: usize,
    /// A CPU on which this thread does not run.
    other_cpu: Option<usize>,
    port: Option<CounterPort>,
    host: Host,
    machine: Option<Calibrated>,
}

impl Bench<'_> {
    fn measure(&mut self, operation: Operation) -> Result<Figure<'_>> {
        let repetitions = self.arguments.repetitions;
        let (samples, counters, empty, empty_counters) = match operation.payload() {
            None => {
                let run = |f: &mut dyn FnMut()| {
                    l1::repeat(self.arguments.warm_up, None, f);
                    l1::repeat(repetitions, self.port, f)
                };
                let empty = run(&mut l1::nothing);
                let run = match operation {
                    Operation::L1Clock => run(&mut l1::clock),
                    Operation::L1TlbFlush => {
                        let page = Window::new(1)?;
                        page.touch()?;
                        let _companion = self.companion(operation)?;
                        let mut failure = Ok(());
                        let run = run(&mut || failure = page.protect_and_open());
                        failure.map(|()| run)?
                    }
                    Operation::L1Ipi => {
                        l1::allow_barriers()?;
                        let _companion = self.companion(operation)?;
                        run(&mut l1::barrier)
                    }
                    _ => run(&mut l1::cpuid),
                };
                (run.0, run.1, empty.0, empty.1)
            }
            Some((kind, entry)) if operation == Operation::RdtscEmulated => {
                let (run, empty) = self.run_emulated(operation, kind, entry)?;
                (run.samples, run.counters, empty.samples, empty.counters)
            }
            Some((kind, entry)) => {
                self.check(operation, kind)?;
                let run = self.run_payload(operation, kind, entry)?;
                let empty = &self.calibrated(kind)?.empty;
                (
                    run.samples,
                    run.counters,
                    empty.samples.clone(),
                    empty.counters,
                )
            }
        };
        let ticks = Ticks::of(&samples, loop_cost(&empty)).ok_or(Error::Payload {
            operation: operation.name(),
            what: "no sample was taken".into(),
        })?;
        let counters = counters
            .zip(empty_counters)
            .map(|(run, empty): ((Reading, Reading), _)| PerOperation::of(run, empty, repetitions));
        Ok(Figure::new(self.arguments, operation, ticks, counters))
    }

    /// Has another CPU run this program for as long as the result lives.
    fn companion(&self, operation: Operation) -> Result<Companion> {
        match self.other_cpu {
            Some(cpu) => Companion::start(cpu),
            None => Err(Error::NotMeasurable {
                operation: operation.name(),
                why: "L1 has one CPU, and this takes two".into(),
            }),
        }
    }

    /// Whether KVM has what the operation needs.
    fn check(&self, operation: Operation, kind: MachineKind) -> Result<()> {
        if operation.is_hyper_v() && self.host.offers(KVM_CAP_HYPERV_CPUID) <= 0 {
            return Err(Error::NotMeasurable {
                operation: operation.name(),
                why: "KVM does not offer KVM_CAP_HYPERV_CPUID: it has no Hyper-V interface".into(),
            });
        }
        if kind == MachineKind::HyperVDirect
            && self.host.offers(KVM_CAP_HYPERV_DIRECT_TLBFLUSH) <= 0
        {
            return Err(Error::NotMeasurable {
                operation: operation.name(),
                why: "KVM does not offer KVM_CAP_HYPERV_DIRECT_TLBFLUSH: \
                      L0 has no direct flush, or the enlightened VMCS is off"
                    .into(),
            });
        }
        Ok(())
    }

    /// A VM of that kind; the one at hand when it is of that kind.
    fn calibrated(&mut self, kind: MachineKind) -> Result<&mut Calibrated> {
        if self
            .machine
            .as_ref()
            .is_none_or(|at_hand| at_hand.kind != kind)
        {
            // The one at hand goes first: its memory may be wanted.
            self.machine = None;
            let mut machine = Machine::new(&self.host, kind)?;
            let port = self.port;
            let mut empty = |repetitions| machine.run("empty", Entry::Empty, 0, repetitions, port);
            empty(self.arguments.warm_up.max(1))?;
            let empty = empty(self.arguments.repetitions)?;
            self.machine = Some(Calibrated {
                kind,
                machine,
                empty,
            });
        }
        // It was just put there when it was not.
        self.machine.as_mut().ok_or(Error::NotOffered("a VM"))
    }

    /// The payload and the empty loop, whose own reads of the TSC are emulated, too.
    fn run_emulated(
        &mut self,
        operation: Operation,
        kind: MachineKind,
        entry: Entry,
    ) -> Result<(Run, Run)> {
        let Arguments {
            warm_up,
            repetitions,
            ..
        } = *self.arguments;
        let (port, cpu, name) = (self.port, self.cpu, operation.name());
        let machine = &mut self.calibrated(kind)?.machine;
        machine.run(name, entry, 0, warm_up.max(1), None)?;
        let emulated = Emulated::begin(name, port, cpu)?;
        let empty = machine.run("empty", Entry::Empty, 0, repetitions, port)?;
        let run = machine.run(name, entry, 0, repetitions, port)?;
        let went_on = emulated.goes_on()?;
        emulated.end()?;
        match went_on {
            true => Ok((run, empty)),
            false => Err(Error::NotMeasurable {
                operation: name,
                why: "L1 took note of the TSC's rate too early".into(),
            }),
        }
    }

    fn run_payload(
        &mut self,
        operation: Operation,
        kind: MachineKind,
        entry: Entry,
    ) -> Result<Run> {
        let Arguments {
            warm_up,
            repetitions,
            ..
        } = *self.arguments;
        let port = self.port;
        let machine = &mut self.calibrated(kind)?.machine;
        match operation {
            Operation::EptPresent => machine.open_window(warm_up + repetitions, true)?,
            Operation::EptFresh => machine.open_window(warm_up + repetitions, false)?,
            Operation::Zap => machine.open_window(1, true)?,
            _ => {}
        }
        let argument = |done: u64| match operation {
            Operation::EptPresent | Operation::EptFresh => Machine::window_page(done),
            Operation::Zap => Machine::window_page(0),
            Operation::MmioRead => Machine::MMIO,
            Operation::HvFlush | Operation::HvFlushDirect => Machine::HYPERCALL_INPUT,
            Operation::TscDeadline => DEADLINE,
            _ => 0,
        };
        if warm_up > 0 {
            machine.run(operation.name(), entry, argument(0), warm_up, None)?;
        }
        let run = machine.run(
            operation.name(),
            entry,
            argument(warm_up),
            repetitions,
            port,
        );
        machine.close_window()?;
        let run = run?;
        if operation.is_hyper_v() && run.result & 0xFFFF != 0 {
            return Err(Error::Payload {
                operation: operation.name(),
                what: format!("the hypercall ended with status {:#x}", run.result & 0xFFFF),
            });
        }
        Ok(run)
    }
}

/// How far ahead the TSC-deadline timer is set, in ticks: it is due at once, so
/// that the figure is the way of the interrupt and no idle time.
const DEADLINE: u64 = 0;
