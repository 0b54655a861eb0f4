//! The VM in which a payload runs: one vCPU in 64-bit mode, 4 MiB of memory, and
//! a window of pages of which the vmm decides what the host has behind them.

use std::time::Instant;

use kvm_bindings::{KVM_CAP_TSC_DEADLINE_TIMER, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::operation::MachineKind;
use super::payload::{self, EXCEPTION_STUB_SIZE, Entry, VECTOR, port};
use super::window::Window;
use crate::alarm::Alarm;
use crate::counters::{CounterPort, Reading};
use crate::cpuid::{self, Vcpu};
use crate::error::{Error, Result, refused};
use crate::host::Host;
use crate::{long_mode, memory, paging};

/// The guest's memory map.
mod layout {
    /// Bytes of memory from address 0.
    pub const MEMORY: u64 = 4 << 20;
    pub const GDT: u64 = 0x1000;
    pub const IDT: u64 = 0x2000;
    /// The Hyper-V hypercall page; the input page must follow it.
    pub const HYPERCALL_INPUT: u64 = 0x4000;
    pub const PAGE_TABLES: u64 = 0x1_0000;
    pub const CODE: u64 = 0x2_0000;
    pub const STACK_TOP: u64 = 0x4_0000;
    pub const SAMPLES: u64 = 0x10_0000;
    /// Pages for operations that fault, in a slot of their own.
    pub const WINDOW: u64 = 0x4000_0000;
    /// No memory here.
    pub const MMIO: u64 = 0xD000_0000;
}

/// The most repetitions that one run can have: one time stamp each, and one more.
pub const MAX_REPETITIONS: u64 = (layout::MEMORY - layout::SAMPLES) / 8 - 1;

/// How many seconds a run may take. The longest takes well under one, also in an emulator.
const PATIENCE: u32 = 60;

/// Slots of the VM.
const SLOT_WINDOW: u32 = 1;

/// What a run left behind.
pub struct Run {
    /// Ticks of each repetition, with the loop's own cost.
    pub samples: Vec<u64>,
    /// L0's counters when the loop began and when it had ended.
    pub counters: Option<(Reading, Reading)>,
    /// The last result of the operation, where it has one.
    pub result: u64,
}

/// A VM ready to run payloads.
pub struct Machine {
    // Dropped in this order: the memory goes last.
    vcpu: VcpuFd,
    vm: VmFd,
    window: Option<Window>,
    memory: GuestMemoryMmap,
    registers: kvm_regs,
}

impl Machine {
    /// Builds a VM of that kind.
    pub fn new(host: &Host, kind: MachineKind) -> Result<Self> {
        let vm = host.create_vm()?;
        let memory = memory::allocate(&[(0, layout::MEMORY)])?;
        memory::register(&vm, &memory)?;
        if kind == MachineKind::Apic {
            vm.create_irq_chip()
                .map_err(refused("create the interrupt controllers"))?;
        }
        let vcpu = vm.create_vcpu(0).map_err(refused("create a vCPU"))?;
        let is_hyper_v = matches!(kind, MachineKind::HyperV | MachineKind::HyperVDirect);
        set_cpuid(host, &vcpu, is_hyper_v)?;
        if kind == MachineKind::HyperVDirect {
            host.delegate_flushes(&vcpu)?;
        }

        write_memory(&memory)?;
        let mut sregs = vcpu
            .get_sregs()
            .map_err(refused("read a vCPU's system registers"))?;
        long_mode::enter(
            &mut sregs,
            layout::PAGE_TABLES,
            layout::GDT,
            Some(layout::IDT),
        );
        if kind == MachineKind::Apic {
            sregs.apic_base |= X2APIC_ENABLED;
        }
        vcpu.set_sregs(&sregs)
            .map_err(refused("set a vCPU's system registers"))?;
        let registers = vcpu
            .get_regs()
            .map_err(refused("read a vCPU's registers"))?;
        Ok(Machine {
            vcpu,
            vm,
            window: None,
            memory,
            registers,
        })
    }

    /// The address of page `n` of the window.
    pub fn window_page(n: u64) -> u64 {
        layout::WINDOW + n * paging::PAGE_SIZE
    }

    /// An address without memory.
    pub const MMIO: u64 = layout::MMIO;

    /// Where the input of the flush hypercall lies.
    pub const HYPERCALL_INPUT: u64 = layout::HYPERCALL_INPUT;

    /// Puts fresh pages into the window, taking out what was there. With `present`
    /// the host has allocated and mapped each of them; the guest's EPT has none.
    pub fn open_window(&mut self, pages: u64, present: bool) -> Result<()> {
        self.close_window()?;
        let window = Window::new(pages)?;
        if present {
            window.touch()?;
        }
        self.set_window(window.address(), window.bytes())?;
        self.window = Some(window);
        Ok(())
    }

    /// Takes the pages out of the window.
    pub fn close_window(&mut self) -> Result<()> {
        if let Some(window) = self.window.take() {
            self.set_window(window.address(), 0)?;
        }
        Ok(())
    }

    fn set_window(&self, address: u64, bytes: u64) -> Result<()> {
        // SAFETY: the range is a mapping that `self.window` owns for as long as the
        // slot exists, and nothing else refers to its contents.
        unsafe {
            self.vm.set_user_memory_region(kvm_userspace_memory_region {
                slot: SLOT_WINDOW,
                flags: 0,
                guest_phys_addr: layout::WINDOW,
                memory_size: bytes,
                userspace_addr: address,
            })
        }
        .map_err(refused("change the guest's memory"))
    }

    /// Runs a payload from its entry to its end marker.
    pub fn run(
        &mut self,
        name: &'static str,
        entry: Entry,
        argument: u64,
        repetitions: u64,
        port: Option<CounterPort>,
    ) -> Result<Run> {
        let regs = kvm_regs {
            rip: layout::CODE + entry.offset(),
            rsp: layout::STACK_TOP,
            rflags: 2,
            rdi: repetitions,
            rsi: layout::SAMPLES,
            rbx: argument,
            ..self.registers
        };
        self.vcpu
            .set_regs(&regs)
            .map_err(refused("set a vCPU's registers"))?;
        let counters = self.until_end(name, port)?;

        let regs = self
            .vcpu
            .get_regs()
            .map_err(refused("read a vCPU's registers"))?;
        let mut stamps = vec![0u8; (repetitions as usize + 1) * 8];
        self.memory
            .read_slice(&mut stamps, GuestAddress(layout::SAMPLES))
            .map_err(|e| Error::Memory(e.to_string()))?;
        let stamps: Vec<u64> = stamps
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes")))
            .collect();
        Ok(Run {
            samples: stamps
                .windows(2)
                .map(|pair| pair[1].wrapping_sub(pair[0]))
                .collect(),
            counters,
            result: regs.r9,
        })
    }

    fn until_end(
        &mut self,
        name: &'static str,
        port: Option<CounterPort>,
    ) -> Result<Option<(Reading, Reading)>> {
        let read = || port.map(CounterPort::read);
        let failed = |what| Error::Payload {
            operation: name,
            what,
        };
        let mut begin = None;
        let started = Instant::now();
        let _alarm = Alarm::after(PATIENCE)?;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port::OUT, _)) | Ok(VcpuExit::Hlt) => {}
                Ok(VcpuExit::MmioRead(layout::MMIO, data)) => data.fill(0),
                Ok(VcpuExit::IoOut(port::ZAP, _)) => match &self.window {
                    Some(window) => window.drop_first_page()?,
                    None => {
                        return Err(failed("asked for a page to be dropped without one".into()));
                    }
                },
                Ok(VcpuExit::IoOut(port::BEGIN, _)) => begin = read(),
                Ok(VcpuExit::IoOut(port::END, _)) => return Ok(begin.zip(read())),
                Ok(VcpuExit::IoOut(port::FAULT, vector)) => {
                    let vector = vector[0];
                    return Err(failed(format!("the guest took exception {vector}")));
                }
                Ok(other) => {
                    let exit = format!("{other:?}");
                    let at = self
                        .vcpu
                        .get_regs()
                        .map(|regs| regs.rip)
                        .unwrap_or_default();
                    return Err(failed(format!("KVM ended it with {exit} at {at:#x}")));
                }
                Err(errno) if errno.errno() == libc::EINTR => {
                    if started.elapsed().as_secs() >= PATIENCE.into() {
                        return Err(failed(format!("no end after {PATIENCE} seconds")));
                    }
                }
                Err(errno) => return Err(refused("run a vCPU")(errno)),
            }
        }
    }
}

/// IA32_APIC_BASE.EN and EXTD: the local APIC is on, in x2APIC mode.
const X2APIC_ENABLED: u64 = 1 << 11 | 1 << 10;

fn set_cpuid(host: &Host, vcpu: &VcpuFd, is_hyper_v: bool) -> Result<()> {
    let hyperv = if is_hyper_v {
        Some(host.hv_cpuid_of(vcpu)?)
    } else {
        None
    };
    let leaves = cpuid::leaves(
        &host.cpuid()?,
        hyperv.as_deref(),
        Vcpu {
            id: 0,
            tsc_deadline: host.offers(KVM_CAP_TSC_DEADLINE_TIMER) > 0,
        },
    );
    cpuid::set(vcpu, &leaves)
}

/// Writes tables, code and hypercall input into the guest's memory.
fn write_memory(memory: &GuestMemoryMmap) -> Result<()> {
    let mut hypercall = vec![0u64; 3];
    // HV_FLUSH_ALL_PROCESSORS and HV_FLUSH_ALL_VIRTUAL_ADDRESS_SPACES; the mask of
    // processors after the flags stays empty.
    hypercall[1] = 1 << 0 | 1 << 1;
    memory::write_words(memory, layout::GDT, &long_mode::GDT)?;
    memory::write_words(memory, layout::IDT, &interrupt_table())?;
    memory::write_words(memory, layout::HYPERCALL_INPUT, &hypercall)?;
    memory::write_words(
        memory,
        layout::PAGE_TABLES,
        &paging::identity_map(layout::PAGE_TABLES),
    )?;
    memory::write(memory, layout::CODE, payload::code())
}

/// The IDT: a stub for each exception, the handler for [`VECTOR`].
fn interrupt_table() -> Vec<u64> {
    let mut words = vec![0; 512];
    let mut set = |vector: u64, handler: u64| {
        let [low, high] = interrupt_gate(handler);
        words[vector as usize * 2] = low;
        words[vector as usize * 2 + 1] = high;
    };
    for vector in 0..32 {
        set(
            vector,
            layout::CODE + Entry::Exceptions.offset() + vector * EXCEPTION_STUB_SIZE,
        );
    }
    set(VECTOR.into(), layout::CODE + Entry::Interrupt.offset());
    words
}

/// A present 64-bit interrupt gate (SDM volume 3, figure 6-8).
fn interrupt_gate(handler: u64) -> [u64; 2] {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8E00 << 32;
    [
        handler & 0xFFFF
            | u64::from(long_mode::CODE_SELECTOR) << 16
            | PRESENT_INTERRUPT_GATE
            | (handler & 0xFFFF_0000) << 32,
        handler >> 32,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_its_handler() {
        let [low, high] = interrupt_gate(0x1234_5678_9ABC_DEF0);
        assert_eq!(low & 0xFFFF, 0xDEF0);
        assert_eq!(low >> 48, 0x9ABC);
        assert_eq!(high, 0x1234_5678);
        assert_eq!((low >> 16) as u16, long_mode::CODE_SELECTOR);
        assert_eq!(low >> 40 & 0xFF, 0x8E);
    }

    #[test]
    fn the_parts_of_memory_do_not_overlap() {
        let mut parts = [
            (layout::GDT, long_mode::GDT.len() as u64 * 8),
            (layout::IDT, 4096),
            (layout::HYPERCALL_INPUT - 4096, 8192),
            (layout::PAGE_TABLES, paging::PAGES * paging::PAGE_SIZE),
            (layout::CODE, payload::code().len() as u64),
            (layout::STACK_TOP - 4096, 4096),
            (layout::SAMPLES, (MAX_REPETITIONS + 1) * 8),
            (layout::MEMORY, 0),
        ];
        parts.sort();
        for pair in parts.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }
}
