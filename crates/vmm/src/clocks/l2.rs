//! L2's clocks: kvm-clock, the TSC and the reference TSC page, as L1's KVM gives them.

use std::sync::Arc;

use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::course::{Sample, compare};
use super::payload::{self, CLOCKS, Findings, PORT_BEGIN, PORT_END};
use super::{Count, Course, OfClock, OfVp, Shared, worst};
use crate::bare::{self, run_to};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::memory;
use crate::paging::PAGE_SIZE;

/// Readings between two samples.
const BURST: u64 = 300;

const KVM_CLOCK: usize = 0;
const REFERENCE: usize = 2;

/// The guest's memory map.
mod layout {
    pub const MEMORY: u64 = 2 << 20;
    /// The words that all vCPUs share.
    pub const LATEST: u64 = 0x3_0000;
    /// The reference TSC page.
    pub const REFERENCE_TSC: u64 = 0x3_1000;
    /// A page for each vCPU's kvm-clock, from here on.
    pub const CLOCKS: u64 = 0x4_0000;
    /// A page for each vCPU's findings.
    pub const FINDINGS: u64 = 0x10_0000;
}

/// The guest.
pub struct Guest {
    /// Its vCPUs, each with its memory.
    pub vcpus: Vec<Vcpu>,
}

/// A vCPU of it.
pub struct Vcpu {
    vcpu: VcpuFd,
    memory: Arc<GuestMemoryMmap>,
    findings: GuestAddress,
}

impl Guest {
    /// With so many vCPUs.
    pub fn create(vcpus: usize) -> Result<Self> {
        let host = Host::open()?;
        let vm = host.create_vm()?;
        let memory = Arc::new(memory::allocate(&[(0, layout::MEMORY)])?);
        memory::register(&vm, &memory)?;
        bare::write(&memory, payload::code())?;
        let vcpus = (0..vcpus)
            .map(|id| {
                let page = id as u64 * PAGE_SIZE;
                let regs = kvm_regs {
                    rdi: BURST,
                    rbx: layout::CLOCKS + page,
                    rbp: layout::REFERENCE_TSC,
                    rsi: layout::FINDINGS + page,
                    r15: layout::LATEST,
                    ..Default::default()
                };
                Ok(Vcpu {
                    vcpu: bare::create_hyperv_vcpu(&host, &vm, id, regs)?,
                    memory: memory.clone(),
                    findings: GuestAddress(layout::FINDINGS + page),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Guest { vcpus })
    }
}

impl Vcpu {
    fn run_to(&mut self, port: u16) -> Result<()> {
        run_to(&mut self.vcpu, port)
    }

    fn findings(&self) -> Result<Findings> {
        let mut words = [0; Findings::WORDS];
        for (n, word) in words.iter_mut().enumerate() {
            let at = GuestAddress(self.findings.0 + n as u64 * 8);
            let read = self.memory.read_obj(at);
            *word = read.map_err(|e| Error::Memory(e.to_string()))?;
        }
        Ok(Findings::from_words(words))
    }
}

/// What one vCPU found.
pub struct Found {
    /// By itself.
    pub payload: Findings,
    /// Samples of kvm-clock and of the reference TSC page.
    samples: [Vec<Sample>; 2],
    /// Beside these clocks.
    pub of_vp: OfVp,
}

/// Runs a vCPU on CPU `cpu` until all is over.
pub fn read(mut vcpu: Vcpu, shared: &Shared, cpu: usize) -> Result<Found> {
    let mut course = Course::begin(shared, cpu)?;
    let mut samples = [Vec::new(), Vec::new()];
    while course.goes_on() {
        vcpu.run_to(PORT_BEGIN)?;
        course.pass_point()?;
        let before = course.reference()?;
        vcpu.run_to(PORT_END)?;
        let after = course.reference()?;
        let now = vcpu.findings()?.now;
        let nanoseconds = [now[KVM_CLOCK], now[REFERENCE].wrapping_mul(100)];
        for (samples, clock) in samples.iter_mut().zip(nanoseconds) {
            samples.push(Sample {
                before,
                clock,
                after,
            });
        }
        course.pass_point()?;
    }
    Ok(Found {
        payload: vcpu.findings()?,
        samples,
        of_vp: course.end(),
    })
}

/// What all vCPUs found.
pub fn clocks(found: &[Found]) -> Vec<OfClock> {
    const NAMES: [(&str, Option<usize>); CLOCKS] = [
        ("L2 kvm-clock", Some(0)),
        ("L2 TSC", None),
        ("L2 reference TSC page", Some(1)),
    ];
    let of = |n: usize| {
        let count = Count::sum(found.iter().map(|found| Count {
            reads: found.payload.reads,
            backwards: found.payload.backwards[n],
        }));
        let (name, samples) = NAMES[n];
        let deviation =
            samples.map(|n| worst(found.iter().map(|found| compare(&found.samples[n]))));
        OfClock::new(name, count, deviation)
    };
    (0..CLOCKS).map(of).collect()
}
