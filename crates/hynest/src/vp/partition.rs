//! A partition: what its VPs share.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use addr::Spa;
use hyperv::clock::{RateChange, TscSource};
use platform::apic::{self, Inbox};
use platform::boot::EntryState;
use platform::interrupt::Message;
use platform::ioapic::Ioapic;
use platform::ports::{COM1_PIN, COM2_PIN};
use platform::rtc::Rtc;
use platform::uart::Uart;
use spin::{Mutex, MutexGuard};
use state::Setup;
use vmx::Capabilities;
use vmx::ept::Eptp;

use super::memory::L1Memory;
use super::snapshots::SaveOrder;
use super::vmcs01::Controls;
use crate::cpu::per_cpu;
use crate::cpu::port::inb;
use crate::output::{self, Channel};

/// What the VPs of a partition share. Built before they run; what changes later is behind
/// locks or atomic, and none of it lies on the way of an L2 exit.
pub struct Partition {
    /// L1's memory.
    pub memory: L1Memory,
    /// Where each VP is reached.
    pub inboxes: Box<[Inbox]>,
    /// The Hv#1 server's shared state.
    pub hyperv: hyperv::Partition,
    /// What L1 was told of its machine.
    pub setup: Setup,
    /// Which MSRs L1 has.
    pub msrs: platform::msr::MsrPolicy,
    /// Removals from shadow tables whose processors have not all let go yet.
    pub flushing: AtomicUsize,
    /// What the hardware can do.
    pub capabilities: Capabilities,
    /// The controls that L1 runs with.
    pub controls: Controls,
    /// EPT 01.
    pub eptp01: Eptp,
    /// What VMCS 01s need where hardware shadows plain VMCSs for L1.
    pub shadow_bitmaps: Option<super::nested::ShadowBitmaps>,
    /// The MSRs that exit.
    pub interception: MsrInterception,
    /// Those that exit while TSC reads are emulated.
    pub interception_of_tsc: MsrInterception,
    /// What the partition's TSC comes from. It changes in meetings of all VPs only.
    pub time: Mutex<TscSource>,
    /// Whether hardware scales the TSC for it where the machine's takes on another rate.
    pub scales_tsc: bool,
    /// When the machine's TSC is to take on other rates, in order.
    rate_changes: Box<[RateChange]>,
    /// How many of them have come to pass.
    passed: AtomicUsize,
    /// The shadow tables of L1's EPTs.
    pub shadows: Mutex<super::nested::Shadows>,
    /// The time of day when the partition began, in seconds since 1970.
    pub began: u64,
    /// The rate of the processors' TSC.
    pub tsc_hz: u64,
    /// What is added to the processors' TSC to give the partition's at first.
    pub tsc_offset: u64,
    /// How its VPs begin.
    pub beginning: Beginning,
    /// How the APIC timers count.
    pub clock: platform::apic::TimerClock,
    /// Whether a guest may have the TSC's rate change, by the counter port.
    pub has_rate_port: bool,
    /// Whether console input comes by the physical UART.
    pub has_input: bool,
    /// What L1's user space finds at the counter port.
    text: &'static str,
    /// It has found it.
    is_text_taken: AtomicBool,
    /// A DLE came from there: what follows it is no input.
    is_escaped: AtomicBool,
    /// Whether, when and where to the partition is to be saved.
    pub save: Option<SaveOrder>,
    /// Whether the clean-field auditor looks at L1's entries.
    pub is_audited: bool,
    /// Whether the first VP has anything to look after beside its guests.
    pub has_agenda: bool,
    devices: Mutex<Devices>,
}

/// How VPs begin.
pub enum Beginning {
    /// The first begins so, the others wait for a start-up message.
    Boot(EntryState),
    /// Each goes on from its state, and takes it.
    Saved(Mutex<Vec<Option<state::Vp>>>),
}

/// Which MSRs L1 does not reach without an exit.
pub struct MsrInterception {
    /// L0's MSR bitmap for L1.
    pub bitmap: Spa,
    /// The rules behind that bitmap, which L2's is merged from.
    pub filter: nested::msr_bitmap::MsrFilter,
}

/// The devices that VPs share.
pub struct Devices {
    ioapic: Ioapic,
    uarts: [Uart; 2],
    rtc: Rtc,
}

impl Devices {
    /// As they were saved.
    pub fn restore(saved: &state::Partition) -> Self {
        Self {
            ioapic: saved.ioapic.clone(),
            uarts: saved.uarts.clone(),
            rtc: saved.rtc,
        }
    }

    /// As after reset.
    pub const fn new() -> Self {
        Self {
            ioapic: Ioapic::new(),
            uarts: [const { Uart::new() }; 2],
            rtc: Rtc::new(),
        }
    }
}

/// The devices while they are held, with the way their interrupts take.
pub struct DevicesGuard<'a> {
    partition: &'a Partition,
    devices: MutexGuard<'a, Devices>,
}

impl Partition {
    /// The devices, held.
    pub fn devices(&self) -> DevicesGuard<'_> {
        DevicesGuard {
            partition: self,
            devices: self.devices.lock(),
        }
    }

    /// The CR4 bits that L1 may not change without L0.
    pub fn cr4_mask(&self) -> u64 {
        super::vmcs01::CR4_OWNED | !self.setup.cr4_offered
    }

    /// The MSRs that exit, with the TSC among them or not.
    pub fn msr_interception(&self, tsc: bool) -> &MsrInterception {
        if tsc {
            &self.interception_of_tsc
        } else {
            &self.interception
        }
    }

    /// Delivers an interrupt message.
    pub fn send(&self, message: &Message, sender: Option<usize>) {
        apic::send(message, sender, &self.inboxes, |index| {
            per_cpu::cpu(index).kick();
        });
    }

    /// The next change of the TSC's rate.
    pub fn next_rate_change(&self) -> Option<RateChange> {
        let passed = self.passed.load(Ordering::Relaxed);
        self.rate_changes.get(passed).copied()
    }

    /// That change comes to pass. The first VP alone sees to them.
    pub fn pass_rate_change(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// What VPs share, as state, when the machine's TSC is `machine`. VPs are stopped.
    pub fn shared_state(&self, machine: u64) -> state::Partition {
        let source = *self.time.lock();
        let devices = self.devices.lock();
        let tsc = source.tsc(machine);
        state::Partition {
            tsc,
            tsc_hz: source.guest_hz(),
            hyperv: self.hyperv.save(tsc),
            ioapic: devices.ioapic.clone(),
            uarts: devices.uarts.clone(),
            rtc: devices.rtc,
        }
    }

    /// Hands what has been typed to the console UART. Returns whether the partition is to be saved:
    /// DLE and an S say so; DLE twice stands for one that was typed.
    pub fn poll_input(&self) -> bool {
        const DLE: u8 = 0x10;
        const LINE_STATUS: u16 = 0x3FD;
        let mut devices = self.devices();
        let mut is_save_asked = false;
        // As many as its FIFO holds: a line status of all ones would never end.
        for _ in 0..platform::uart::FIFO_DEPTH {
            // SAFETY: the first physical UART is L0's; reading its status takes nothing.
            let is_ready = unsafe { inb(LINE_STATUS) } & 1 != 0;
            if !is_ready || devices.devices.uarts[0].room() == 0 {
                break;
            }
            // SAFETY: reading takes the byte that the UART holds, which is for L1.
            let byte = unsafe { inb(0x3F8) };
            let is_escaped = self.is_escaped.load(Ordering::Relaxed);
            self.is_escaped
                .store(byte == DLE && !is_escaped, Ordering::Relaxed);
            match (is_escaped, byte) {
                (true, b'S') => is_save_asked = true,
                (false, DLE) => {}
                _ => devices.devices.uarts[0].receive(byte),
            }
        }
        devices.update_line(0);
        is_save_asked
    }

    /// What L1's user space finds at the counter port, until it has taken it.
    pub fn text(&self) -> &'static str {
        match self.is_text_taken.load(Ordering::Relaxed) {
            true => "",
            false => self.text,
        }
    }

    /// L1's user space has read its text.
    pub fn take_text(&self) {
        self.is_text_taken.store(true, Ordering::Relaxed);
    }

    /// Puts a partition together.
    pub fn new(parts: Parts) -> Self {
        Self {
            memory: parts.memory,
            inboxes: parts.inboxes,
            hyperv: parts.hyperv,
            setup: parts.setup,
            msrs: parts.msrs,
            flushing: AtomicUsize::new(0),
            capabilities: parts.capabilities,
            controls: parts.controls,
            eptp01: parts.eptp01,
            shadow_bitmaps: parts.shadow_bitmaps,
            interception: parts.interception,
            interception_of_tsc: parts.interception_of_tsc,
            time: Mutex::new(parts.time),
            scales_tsc: parts.scales_tsc,
            has_agenda: parts.has_input || parts.save.is_some() || !parts.rate_changes.is_empty(),
            rate_changes: parts.rate_changes,
            passed: AtomicUsize::new(0),
            shadows: Mutex::new(parts.shadows),
            began: parts.began,
            tsc_hz: parts.tsc_hz,
            tsc_offset: parts.tsc_offset,
            beginning: parts.beginning,
            clock: parts.clock,
            has_rate_port: parts.has_rate_port,
            has_input: parts.has_input,
            text: parts.text,
            is_text_taken: AtomicBool::new(false),
            is_escaped: AtomicBool::new(false),
            save: parts.save,
            is_audited: parts.is_audited,
            devices: Mutex::new(parts.devices),
        }
    }
}

/// What a [`Partition`] is put together from; its fields are documented there.
#[allow(missing_docs)]
pub struct Parts {
    pub memory: L1Memory,
    pub inboxes: Box<[Inbox]>,
    pub hyperv: hyperv::Partition,
    pub setup: Setup,
    pub msrs: platform::msr::MsrPolicy,
    pub capabilities: Capabilities,
    pub controls: Controls,
    pub eptp01: Eptp,
    pub shadow_bitmaps: Option<super::nested::ShadowBitmaps>,
    pub interception: MsrInterception,
    pub interception_of_tsc: MsrInterception,
    pub time: TscSource,
    pub scales_tsc: bool,
    pub rate_changes: Box<[RateChange]>,
    pub has_rate_port: bool,
    pub shadows: super::nested::Shadows,
    pub began: u64,
    pub tsc_hz: u64,
    /// What is added to the processors' TSC to give the partition's.
    pub tsc_offset: u64,
    pub has_input: bool,
    pub text: &'static str,
    pub is_audited: bool,
    pub beginning: Beginning,
    pub save: Option<SaveOrder>,
    pub devices: Devices,
    pub clock: platform::apic::TimerClock,
}

impl DevicesGuard<'_> {
    /// A load from a UART's register.
    pub fn uart_read(&mut self, number: usize, register: u8) -> u8 {
        let value = self.devices.uarts[number].read(register);
        self.update_line(number);
        value
    }

    /// A store to a UART's register.
    pub fn uart_write(&mut self, number: usize, register: u8, value: u8) {
        if let Some(byte) = self.devices.uarts[number].write(register, value) {
            let channel = [Channel::Console, Channel::Data][number];
            output::put(channel, byte);
        }
        self.update_line(number);
    }

    /// Selects a register of the clock.
    pub fn rtc_select(&mut self, index: u8) {
        self.devices.rtc.select(index);
    }

    /// A load from the clock, `now` in seconds since 1970.
    pub fn rtc_read(&self, now: u64) -> u8 {
        self.devices.rtc.read(now)
    }

    /// A load from the IOAPIC.
    pub fn ioapic_read(&self, offset: u16) -> u32 {
        self.devices.ioapic.read(offset)
    }

    /// A store to the IOAPIC.
    pub fn ioapic_write(&mut self, offset: u16, value: u32) {
        let partition = self.partition;
        self.devices
            .ioapic
            .write(offset, value, |message| partition.send(&message, None));
    }

    /// A level-triggered interrupt has ended at a local APIC.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        let partition = self.partition;
        self.devices
            .ioapic
            .end_of_interrupt(vector, |message| partition.send(&message, None));
    }

    fn update_line(&mut self, number: usize) {
        let pin = [COM1_PIN, COM2_PIN][number];
        let asserted = self.devices.uarts[number].interrupt();
        let partition = self.partition;
        self.devices
            .ioapic
            .set_line(pin, asserted, |message| partition.send(&message, None));
    }
}
