//! `vmm clocks`: whether clocks stay right while the machine's TSC changes its rate.
//!
//! The vCPUs of a guest read their clocks without pause, each on a CPU of its own, and so
//! does this program on every CPU. What they read is compared with L0's own reckoning,
//! TIME_REF_COUNT, around single readings. Where L0 allows it, the rate changes meanwhile,
//! at points that a seed chooses: between an exit of the guest and its next entry, or
//! between two readings of L1's.

mod changes;
mod course;
mod l1;
mod l2;
mod payload;
mod told;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use platform::counters::Counter;
use serde::Serialize;

use self::changes::Changes;
use self::course::Deviation;
use self::told::Told;
use crate::affinity::{self, Cpus};
use crate::counters::CounterPort;
use crate::error::{Error, Result, last_system_error};
use crate::reference::Reference;
use crate::report::Report;

/// What `vmm clocks` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// How often the TSC's rate changes; the last change restores it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub changes: u32,
    /// How often the machine is saved and restored meanwhile, by whoever runs it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub moves: u32,
    /// Which changes, and when
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How many samples each reader takes after the last change, when L1 has taken note of it
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub samples: u64,
    /// Where the finding goes: a JSON object, appended [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// The report's line.
#[derive(Serialize, Debug)]
struct Finding {
    event: &'static str,
    changes: u32,
    /// How often the machine was saved and restored.
    moves: u32,
    /// How often L1 had been told of either before.
    told_before: u64,
    seed: u64,
    /// How long it took, by L1's clock.
    seconds: f64,
    clocks: Vec<OfClock>,
    /// Readings of a page of kvm-clock that did not say that all vCPUs have the same.
    unstable: u64,
    /// Readings of L2's reference TSC page that told the guest to use the MSR.
    invalid: u64,
    /// TSC reads that L0 emulated; `null` where L0 is not hynest.
    emulated_reads: Option<u64>,
    /// Those after L1 had taken note of the last change.
    emulated_reads_after: Option<u64>,
}

/// What came of reading one clock.
#[derive(Serialize, Debug)]
struct OfClock {
    name: &'static str,
    /// How often it was read.
    reads: u64,
    /// Readings that were earlier than what any reader had read before.
    backwards: u64,
    /// Beside L0's reckoning; `null` for what does not count time.
    deviation: Option<Deviation>,
}

impl OfClock {
    fn new(name: &'static str, count: Count, deviation: Option<Deviation>) -> Self {
        OfClock {
            name,
            reads: count.reads,
            backwards: count.backwards,
            deviation,
        }
    }
}

/// What the readers share.
struct Shared {
    changes: Changes,
    /// What L1 has been told of.
    told: Told,
    /// L1 has been told of all and has taken note of it.
    is_settled: AtomicBool,
    /// How many readers still have to take samples after that.
    busy: AtomicUsize,
    began: Instant,
    samples: u64,
    /// The latest that any reader has read, of L1's clocks and of L0's.
    l1: l1::Latest,
    reference: AtomicU64,
}

/// How often a clock was read, and how often it was earlier than before.
#[derive(Clone, Copy, Default)]
struct Count {
    reads: u64,
    backwards: u64,
}

impl Count {
    /// Reads a clock that was at `latest` or later before.
    fn read(&mut self, latest: &AtomicU64, clock: impl FnOnce() -> Result<u64>) -> Result<u64> {
        let before = latest.load(Ordering::SeqCst);
        let now = clock()?;
        latest.fetch_max(now, Ordering::SeqCst);
        self.reads += 1;
        self.backwards += u64::from(now < before);
        Ok(now)
    }

    /// Several readers' counts as one.
    fn sum(counts: impl Iterator<Item = Self>) -> Self {
        counts.fold(Self::default(), |all, one| Count {
            reads: all.reads + one.reads,
            backwards: all.backwards + one.backwards,
        })
    }
}

/// A reader's part: it passes points and takes samples until all has come to its end.
struct Course<'a> {
    shared: &'a Shared,
    reference: Reference,
    port: Option<CounterPort>,
    of_vp: OfVp,
    /// L0's counts of emulated reads, at the beginning and when all was settled.
    emulated: [Option<u64>; 2],
    /// Samples still to be taken then.
    left: u64,
}

/// What a reader finds beside its clocks.
#[derive(Clone, Copy, Default)]
struct OfVp {
    /// Of L0's reckoning.
    reference: Count,
    /// Its VP's TSC reads that L0 emulated: in all, and after the last change.
    emulated: Option<[u64; 2]>,
}

impl<'a> Course<'a> {
    fn begin(shared: &'a Shared, cpu: usize) -> Result<Self> {
        affinity::pin(Some(cpu))?;
        let port = CounterPort::find();
        let count = port.map(|port| port.one(Counter::EmulatedTscReads));
        Ok(Course {
            shared,
            reference: Reference::of(cpu)?,
            port,
            of_vp: OfVp::default(),
            emulated: [count, None],
            left: shared.samples,
        })
    }

    /// L0's reckoning now.
    fn reference(&mut self) -> Result<u64> {
        let now = || self.reference.now();
        self.of_vp.reference.read(&self.shared.reference, now)
    }

    /// Is where the rate may change.
    fn pass_point(&self) -> Result<()> {
        if self.shared.changes.pass_point(self.port)? || self.is_settled() {
            return Ok(());
        }
        if self.shared.told.is_all()? && !self.reference.is_tsc_emulated()? {
            self.shared.is_settled.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.shared.is_settled.load(Ordering::SeqCst)
    }

    /// A sample has been taken. Returns whether another one is wanted: as long as any reader
    /// wants one all go on.
    fn goes_on(&mut self) -> bool {
        if !self.is_settled() {
            return true;
        }
        if self.emulated[1].is_none() {
            let port = self.port;
            self.emulated[1] = port.map(|port| port.one(Counter::EmulatedTscReads));
        }
        if self.left > 0 {
            self.left -= 1;
            if self.left == 0 {
                self.shared.busy.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.shared.busy.load(Ordering::SeqCst) != 0
    }

    fn end(self) -> OfVp {
        let emulated = || {
            let now = self.port?.one(Counter::EmulatedTscReads);
            let [begun, settled] = self.emulated;
            // L0 counts from anew where it takes up a saved machine.
            Some([begun?, settled?].map(|before| now.checked_sub(before).unwrap_or(now)))
        };
        OfVp {
            emulated: emulated(),
            ..self.of_vp
        }
    }
}

/// Reads clocks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = Report::open(arguments.report.as_deref())?;
    let cpus = Cpus::allowed()?;
    let original_hz = Reference::of(cpus.nth(0))?.tsc_hz()?;
    let original_hz = u32::try_from(original_hz).unwrap_or(u32::MAX);
    let guest = l2::Guest::create(cpus.count())?;
    let shared = Arc::new(Shared {
        changes: Changes::new(arguments.changes, arguments.seed, original_hz),
        told: Told::of(arguments.changes.into(), arguments.moves.into())?,
        is_settled: AtomicBool::new(false),
        busy: AtomicUsize::new(2 * cpus.count()),
        began: Instant::now(),
        samples: arguments.samples.max(1),
        l1: l1::Latest::default(),
        reference: AtomicU64::new(0),
    });
    let (mut l2_readers, mut l1_readers) = (Vec::new(), Vec::new());
    for (n, vcpu) in guest.vcpus.into_iter().enumerate() {
        let cpu = cpus.nth(n);
        let (of_l2, of_l1) = (shared.clone(), shared.clone());
        l2_readers.push(spawn(move || l2::read(vcpu, &of_l2, cpu))?);
        l1_readers.push(spawn(move || l1::read(&of_l1, cpu))?);
    }
    let of_l2 = join(l2_readers)?;
    let of_l1 = join(l1_readers)?;
    // Of each VP once: an L1 reader is on each.
    let emulated = |n: usize| {
        let counts = of_l1.iter().map(|found| Some(found.of_vp.emulated?[n]));
        counts.sum::<Option<u64>>()
    };
    let reference = (of_l1.iter().map(|found| found.of_vp.reference))
        .chain(of_l2.iter().map(|found| found.of_vp.reference));
    let reference = OfClock::new("L1 TIME_REF_COUNT", Count::sum(reference), None);
    let finding = Finding {
        event: "clocks",
        changes: arguments.changes,
        moves: arguments.moves,
        told_before: shared.told.before,
        seed: arguments.seed,
        seconds: shared.began.elapsed().as_secs_f64(),
        unstable: of_l2.iter().map(|found| found.payload.unstable).sum(),
        invalid: of_l2.iter().map(|found| found.payload.invalid).sum(),
        emulated_reads: emulated(0),
        emulated_reads_after: emulated(1),
        clocks: l1::clocks(&of_l1)
            .into_iter()
            .chain([reference])
            .chain(l2::clocks(&of_l2))
            .collect(),
    };
    report.event(&finding)
}

fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<thread::JoinHandle<Result<T>>> {
    let thread = thread::Builder::new().spawn(work);
    thread.map_err(|_| last_system_error("start a thread that reads clocks"))
}

fn join<T>(threads: Vec<thread::JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    let dead = || Error::Guest("a thread that reads clocks died".into());
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|_| Err(dead())))
        .collect()
}

/// Several readers' comparisons of one clock as one.
fn worst(deviations: impl Iterator<Item = Deviation>) -> Deviation {
    deviations.fold(Deviation::default(), |all, one| Deviation {
        samples: all.samples + one.samples,
        comparisons: all.comparisons + one.comparisons,
        ppm: all.ppm.max(one.ppm),
        jump: all.jump.max(one.jump),
    })
}
