//! The guest whose memory is changed: its vCPUs, each in a thread and on a CPU of its
//! own where there are enough, and the mailboxes between them and the script.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::content::{Content, WORDS};
use super::payload::{self, PORT_YIELD, TASK_FILL, mailbox};
use super::region::Region;
use super::script::{Answer, BATCH, Command, Machine};
use crate::affinity::{self, Cpus};
use crate::error::{Error, Result, last_system_error, refused};
use crate::host::Host;
use crate::paging::PAGE_SIZE;
use crate::{bare, memory};

/// The guest's memory map.
mod layout {
    /// Bytes of memory from address 0, which nothing changes under the guest.
    pub const MEMORY: u64 = 2 << 20;
    pub const MAILBOXES: u64 = 0x10_0000;
    /// One for each vCPU.
    pub const MAILBOX: u64 = 0x4000;
    /// The memory that is changed.
    pub const CHURNED: u64 = 0x4000_0000;
}

/// The slot of the memory that is changed; the other is 0.
const SLOT: u32 = 1;

/// How long a vCPU may take for a batch, also in an emulator.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a vCPU looks for work before it makes room for who gives it some. Where
/// it has a CPU of its own that is long, so that it does not exit between two batches.
const SPINS_ALONE: u64 = 1 << 16;
const SPINS_SHARED: u64 = 16;

/// Why a vCPU stopped, if one did.
type Stopped = Arc<Mutex<Option<String>>>;

/// A running guest.
pub struct Guest {
    // Dropped in this order: memory goes last.
    vm: VmFd,
    region: Region,
    memory: Arc<GuestMemoryMmap>,
    threads: Vec<Thread>,
    /// The number of each vCPU's batch.
    batches: Vec<u64>,
    stopped: Stopped,
    cpus: Cpus,
    turns: usize,
}

struct Thread {
    join: thread::JoinHandle<()>,
    id: affinity::ThreadId,
}

impl Guest {
    /// A guest with `bytes` of memory to be changed, its vCPUs running: the first on CPU
    /// `first` of those on which this process may run, the others on the next ones.
    pub fn start(host: &Host, vcpus: usize, bytes: u64, first: usize) -> Result<Self> {
        let vm = host.create_vm()?;
        let memory = memory::allocate(&[(0, layout::MEMORY)])?;
        memory::register(&vm, &memory)?;
        let cpus = Cpus::allowed()?;
        // The script itself runs on one.
        let spins = match cpus.count() > vcpus {
            true => SPINS_ALONE,
            false => SPINS_SHARED,
        };
        write_memory(&memory, vcpus, spins)?;
        let mut guest = Guest {
            vm,
            region: Region::new(bytes)?,
            memory: Arc::new(memory),
            threads: Vec::new(),
            batches: vec![0; vcpus],
            stopped: Stopped::default(),
            cpus,
            turns: first,
        };
        guest.set_slot(0)?;
        for id in 0..vcpus {
            let vcpu = bare::create_vcpu(host, &guest.vm, id, at_mailbox(id))?;
            guest.run(id, vcpu)?;
        }
        guest.place()?;
        Ok(guest)
    }

    fn run(&mut self, id: usize, vcpu: VcpuFd) -> Result<()> {
        let (stopped, memory) = (self.stopped.clone(), self.memory.clone());
        let (sender, receiver) = std::sync::mpsc::channel();
        let join = thread::Builder::new()
            .name(format!("vcpu {id}"))
            .spawn(move || {
                // Nobody listens when the thread could not be waited for.
                let _ = sender.send(affinity::this_thread());
                if let Err(why) = run_vcpu(vcpu) {
                    let text = format!("vCPU {id}: {why}");
                    stopped
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(text);
                }
                drop(memory);
            })
            .map_err(|_| last_system_error("start a thread for a vCPU"))?;
        let id = receiver
            .recv()
            .map_err(|_| Error::Guest("a vCPU's thread died".into()))?;
        self.threads.push(Thread { join, id });
        Ok(())
    }

    /// Puts the vCPUs on CPUs, each turn on other ones.
    fn place(&self) -> Result<()> {
        self.threads.iter().enumerate().try_for_each(|(n, thread)| {
            affinity::pin_thread(thread.id, self.cpus.nth(n + self.turns))
        })
    }

    fn set_slot(&self, flags: u32) -> Result<()> {
        // SAFETY: the range is a mapping that `self.region` owns, which goes after the VM.
        // This process accesses it as volatile memory alone.
        unsafe {
            self.vm.set_user_memory_region(kvm_userspace_memory_region {
                slot: SLOT,
                flags,
                guest_phys_addr: layout::CHURNED,
                memory_size: self.region.bytes(),
                userspace_addr: self.region.address(),
            })
        }
        .map_err(refused("give the guest its memory"))
    }

    fn load(&self, vcpu: usize, word: u64) -> Result<u64> {
        self.memory
            .load(GuestAddress(mailbox_of(vcpu) + word), Ordering::Acquire)
            .map_err(|e| Error::Memory(e.to_string()))
    }

    fn store(&self, vcpu: usize, word: u64, value: u64) -> Result<()> {
        self.memory
            .store(
                value,
                GuestAddress(mailbox_of(vcpu) + word),
                Ordering::Release,
            )
            .map_err(|e| Error::Memory(e.to_string()))
    }

    fn check_alive(&self) -> Result<()> {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stopped {
            Some(why) => Err(Error::Guest(why.clone())),
            None => Ok(()),
        }
    }

    fn post(&mut self, vcpu: usize, commands: u64) -> Result<()> {
        self.batches[vcpu] += 1;
        self.store(vcpu, mailbox::COUNT, commands)?;
        self.store(vcpu, mailbox::SEQUENCE, self.batches[vcpu])
    }

    /// Ends the vCPUs.
    fn stop(&mut self) -> Result<()> {
        for vcpu in 0..self.threads.len() {
            self.post(vcpu, 0)?;
        }
        for thread in self.threads.drain(..) {
            // What it died of, it said.
            let _ = thread.join.join();
        }
        Ok(())
    }
}

impl Drop for Guest {
    /// No vCPU may run on memory that goes away.
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("vmm: {error}");
        }
    }
}

impl Machine for Guest {
    fn vcpus(&self) -> usize {
        self.batches.len()
    }

    fn start(&mut self, vcpu: usize, batch: &[Command]) -> Result<()> {
        assert!((1..=BATCH).contains(&batch.len()));
        let words: Vec<u64> = batch.iter().flat_map(|command| encode(*command)).collect();
        let commands = mailbox_of(vcpu) + mailbox::COMMANDS;
        memory::write_words(&self.memory, commands, &words)?;
        self.store(vcpu, mailbox::WRONG, 0)?;
        self.post(vcpu, batch.len() as u64)
    }

    fn wait(&mut self, vcpu: usize) -> Result<Answer> {
        let started = Instant::now();
        while self.load(vcpu, mailbox::DONE)? != self.batches[vcpu] {
            self.check_alive()?;
            if started.elapsed() > PATIENCE {
                return Err(Error::Guest(format!("vCPU {vcpu} does not get on")));
            }
            thread::yield_now();
        }
        let wrong = match self.load(vcpu, mailbox::WRONG)? {
            0 => None,
            address => {
                let offset = address.wrapping_sub(layout::CHURNED);
                let found = self.load(vcpu, mailbox::FOUND)?;
                Some((offset / PAGE_SIZE, offset / 8 % WORDS, found))
            }
        };
        Ok(Answer {
            wrong,
            checksum: self.load(vcpu, mailbox::CHECKSUM)?,
        })
    }

    fn zap(&mut self, page: u64) -> Result<()> {
        self.region.zap(page)
    }

    fn swap(&mut self, one: u64, other: u64) -> Result<()> {
        self.region.swap(one, other)
    }

    fn write(&mut self, page: u64, content: Content) -> Result<()> {
        self.region.write(page, content)
    }

    fn read(&self, page: u64) -> Result<Vec<u64>> {
        self.region.read(page)
    }

    fn log(&mut self, on: bool) -> Result<()> {
        self.set_slot(if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
    }

    fn dirty(&mut self) -> Result<BTreeSet<u64>> {
        let bitmap = self
            .vm
            .get_dirty_log(SLOT, self.region.bytes() as usize)
            .map_err(refused("tell which pages the guest wrote"))?;
        let bits = |(n, word): (usize, &u64)| {
            let (n, word) = (n as u64, *word);
            (0..64)
                .filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| n * 64 + bit)
        };
        Ok(bitmap.iter().enumerate().flat_map(bits).collect())
    }

    fn rotate(&mut self) -> Result<()> {
        self.turns += 1;
        self.place()
    }
}

/// The registers with which vCPU `id` starts.
fn at_mailbox(id: usize) -> kvm_regs {
    kvm_regs {
        rdi: mailbox_of(id),
        ..Default::default()
    }
}

fn mailbox_of(vcpu: usize) -> u64 {
    layout::MAILBOXES + vcpu as u64 * layout::MAILBOX
}

fn encode(command: Command) -> [u64; 3] {
    let task = if command.fill { TASK_FILL } else { 0 };
    let address = layout::CHURNED + command.page * PAGE_SIZE;
    [address | task, command.content.first, command.content.step]
}

fn write_memory(memory: &GuestMemoryMmap, vcpus: usize, spins: u64) -> Result<()> {
    bare::write(memory, payload::code())?;
    (0..vcpus).try_for_each(|vcpu| {
        memory::write_words(memory, mailbox_of(vcpu) + mailbox::SPINS, &[spins])
    })
}

/// Runs a vCPU to its HLT.
fn run_vcpu(mut vcpu: VcpuFd) -> std::result::Result<(), String> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(()),
            Ok(VcpuExit::IoOut(PORT_YIELD, _)) => thread::yield_now(),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => {
                let exit = format!("{other:?}");
                let at = vcpu.get_regs().map(|regs| regs.rip).unwrap_or_default();
                return Err(format!("KVM ended it with {exit} at {at:#x}"));
            }
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => return Err(format!("KVM refused to run it: {errno}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_have_room_for_a_batch_and_end_within_memory() {
        assert!(mailbox::COMMANDS + BATCH as u64 * 24 <= layout::MAILBOX);
        assert!(mailbox_of(super::super::MAX_VCPUS) <= layout::MEMORY);
        assert!(bare::CODE + payload::code().len() as u64 <= layout::MAILBOXES);
    }

    #[test]
    fn a_command_names_page_and_task() {
        let content = Content { first: 5, step: 7 };
        let command = |fill| Command {
            page: 2,
            fill,
            content,
        };
        assert_eq!(encode(command(false)), [0x4000_2000, 5, 7]);
        assert_eq!(encode(command(true)), [0x4000_2001, 5, 7]);
    }
}
