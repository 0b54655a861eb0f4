//! The local APIC of a VP: xAPIC and x2APIC over one register file.
//! SDM vol. 3, chapter 11.
//!
//! The CPU that runs the VP owns its [`LocalApic`]; others reach it through its
//! [`Inbox`]. Before each entry the owner drains the inbox and asks
//! [`pending`](LocalApic::pending), both a load and a test when there is nothing.

mod access;
mod address;
mod command;
mod inbox;
mod register;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

pub use address::{ApicAddress, Mode};
pub use inbox::{Inbox, InboxState, Signals, send};
pub use timer::{TimerClock, TimerMode};
pub use vectors::VectorSet;

use crate::GeneralProtection;
use crate::interrupt::{Message, Trigger};
use crate::layout::APIC_BASE;
use register::{LocalVector, error};
use serde::{Deserialize, Serialize};
use timer::Timer;

/// What the caller has to do after a register was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing, beyond asking [`LocalApic::pending`] before the next entry.
    None,
    /// Send this message, by [`send`].
    Ipi(Message),
    /// Tell the IOAPIC that a level-triggered interrupt with this vector is over.
    Eoi(u8),
    /// [`LocalApic::next_deadline_tsc`] may have changed.
    Timer,
    /// [`LocalApic::address`] may have changed: publish it.
    Addressing,
}

/// The state of one local APIC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalApic {
    /// The highest vector that is requested and above the processor priority, 0 if
    /// there is none. A cache: follows from the state below.
    #[serde(skip)]
    deliverable: u8,
    requested: VectorSet,
    in_service: VectorSet,
    trigger_mode: VectorSet,
    task_priority: u8,
    mode: Mode,
    bootstrap: bool,
    id: u32,
    /// LDR bits 31:24, as software set them in xAPIC mode.
    logical: u8,
    /// DFR bits 31:28: 0xF is the flat model, 0 the cluster model.
    model: u8,
    spurious: u32,
    /// The error status register as a read shows it.
    error_status: u32,
    /// Errors since the register was last written.
    errors: u32,
    command: u64,
    local: [u32; LocalVector::COUNT],
    timer: Timer,
}

impl LocalApic {
    /// The APIC with this id as it is after power-up: xAPIC mode, software-disabled.
    /// `bootstrap` marks the VP that starts the partition.
    pub fn new(id: u32, bootstrap: bool, clock: TimerClock) -> Self {
        let mut apic = Self {
            deliverable: 0,
            requested: VectorSet::EMPTY,
            in_service: VectorSet::EMPTY,
            trigger_mode: VectorSet::EMPTY,
            task_priority: 0,
            mode: Mode::XApic,
            bootstrap,
            id,
            logical: 0,
            model: 0,
            spurious: 0,
            error_status: 0,
            errors: 0,
            command: 0,
            local: [0; LocalVector::COUNT],
            timer: Timer::new(clock),
        };
        apic.reset();
        apic
    }

    /// Takes up what was saved of the APIC with this id. Returns whether it can have been so.
    pub fn resume(&mut self, id: u32, bootstrap: bool) -> bool {
        self.update();
        self.id == id && self.bootstrap == bootstrap && self.timer.is_possible()
    }

    /// What INIT does: every register but the id and IA32_APIC_BASE returns to
    /// its reset value (SDM 11.4.7.3, 11.12.5.1). The caller publishes the address.
    pub fn reset(&mut self) {
        self.requested = VectorSet::EMPTY;
        self.in_service = VectorSet::EMPTY;
        self.trigger_mode = VectorSet::EMPTY;
        self.task_priority = 0;
        self.logical = 0;
        self.model = 0xF;
        self.spurious = 0xFF;
        self.error_status = 0;
        self.errors = 0;
        self.command = 0;
        self.local = [LocalVector::MASKED; LocalVector::COUNT];
        self.timer.reset();
        self.deliverable = 0;
    }

    /// The interrupt to deliver now: the highest requested vector whose priority
    /// class is above the processor priority.
    #[inline]
    pub fn pending(&self) -> Option<u8> {
        (self.deliverable != 0).then_some(self.deliverable)
    }

    /// Takes the [`pending`](Self::pending) interrupt: it is in service from now on.
    #[inline]
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.remove(vector);
        self.in_service.insert(vector);
        self.update();
        Some(vector)
    }

    /// Ends the interrupt of highest priority in service, as a write of the EOI
    /// register does.
    #[inline]
    pub fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else {
            return Effect::None;
        };
        self.in_service.remove(vector);
        self.update();
        if self.trigger_mode.contains(vector) {
            Effect::Eoi(vector)
        } else {
            Effect::None
        }
    }

    /// Whether the end of `vector`, the interrupt of highest priority in service, would change
    /// nothing that others see: it is edge-triggered, and no other waits for its end.
    #[inline]
    pub fn ends_unnoticed(&self, vector: u8) -> bool {
        !self.trigger_mode.contains(vector) && self.requested.is_empty()
    }

    /// Requests an interrupt at this APIC: what arrives by message, from the VP itself
    /// or from a synthetic timer. A software-disabled APIC takes none.
    pub fn accept(&mut self, vector: u8, trigger: Trigger) {
        if vector < 16 {
            self.log_error(error::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        if self.is_enabled() {
            self.request(vector, trigger);
        }
    }

    fn request(&mut self, vector: u8, trigger: Trigger) {
        self.requested.insert(vector);
        match trigger {
            Trigger::Edge => self.trigger_mode.remove(vector),
            Trigger::Level => self.trigger_mode.insert(vector),
        }
        self.update();
    }

    /// Takes in what other CPUs have sent. One load when that is nothing.
    #[inline]
    pub fn drain(&mut self, inbox: &Inbox) -> Signals {
        inbox.drain(|pending, level| {
            let mut left = *pending;
            while let Some(vector) = left.highest() {
                left.remove(vector);
                let trigger = if level.contains(vector) {
                    Trigger::Level
                } else {
                    Trigger::Edge
                };
                self.accept(vector, trigger);
            }
        })
    }

    /// What this APIC answers to, for [`Inbox::publish`].
    pub fn address(&self) -> ApicAddress {
        ApicAddress {
            mode: self.mode,
            id: self.id,
            logical: self.logical,
            cluster: self.model == 0,
            enabled: self.is_enabled(),
        }
    }

    /// The operating mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The vectors that are requested and not yet in service (IRR).
    pub fn requested(&self) -> &VectorSet {
        &self.requested
    }

    /// The vectors in service (ISR).
    pub fn in_service(&self) -> &VectorSet {
        &self.in_service
    }

    /// The task priority register; CR8 is its bits 7:4.
    #[inline]
    pub fn task_priority(&self) -> u8 {
        self.task_priority
    }

    /// Sets the task priority register; a MOV to CR8 writes `cr8 << 4`.
    #[inline]
    pub fn set_task_priority(&mut self, priority: u8) {
        self.task_priority = priority;
        self.update();
    }

    /// The processor priority register (SDM 11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let service = self.in_service.highest().unwrap_or(0) & 0xF0;
        if self.task_priority & 0xF0 >= service {
            self.task_priority
        } else {
            service
        }
    }

    /// TSC value at which [`expire`](Self::expire) must be called; `None` while
    /// the timer is stopped or would interrupt nobody.
    #[inline]
    pub fn next_deadline_tsc(&self) -> Option<u64> {
        let lvt = self.local[LocalVector::Timer as usize];
        if lvt & LocalVector::MASKED != 0 {
            return None;
        }
        self.timer.deadline()
    }

    /// Lets the timer end if its time has come by `now`, a TSC value of this VP.
    /// Returns whether it did: [`next_deadline_tsc`](Self::next_deadline_tsc) has changed.
    pub fn expire(&mut self, now: u64) -> bool {
        let expired = self.timer.expire(now);
        if expired {
            self.raise_local(LocalVector::Timer);
        }
        expired
    }

    /// The rates that the timer goes by.
    pub fn clock(&self) -> TimerClock {
        self.timer.clock()
    }

    /// The TSC has another rate from `now` on, a TSC value of this VP: a running
    /// count goes on at its own rate, and what has ended by then has. A TSC deadline
    /// stays the value it is.
    pub fn set_clock(&mut self, clock: TimerClock, now: u64) {
        self.expire(now);
        self.timer.set_clock(clock, now);
    }

    /// L1 has written the VP's TSC, which read `from` and reads `to`: a running
    /// count goes on as if it had not, and what has ended by then has. A TSC deadline
    /// stays the value it is.
    pub fn follow_tsc(&mut self, from: u64, to: u64) {
        self.expire(from);
        self.timer.follow_tsc(from, to);
    }

    /// IA32_TSC_DEADLINE as RDMSR shows it.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// What a WRMSR to IA32_TSC_DEADLINE does. A value in the past ends at the
    /// next [`expire`](Self::expire).
    pub fn set_tsc_deadline(&mut self, tsc: u64) -> Effect {
        self.timer.set_tsc_deadline(tsc);
        Effect::Timer
    }

    /// IA32_APIC_BASE as RDMSR shows it.
    pub fn base(&self) -> u64 {
        let mode = match self.mode {
            Mode::Disabled => 0,
            Mode::XApic => base::ENABLE,
            Mode::X2Apic => base::ENABLE | base::X2APIC,
        };
        let bootstrap = if self.bootstrap { base::BOOTSTRAP } else { 0 };
        APIC_BASE.raw() | mode | bootstrap
    }

    /// What a WRMSR to IA32_APIC_BASE does (SDM 11.12.5, figure 11-27). The
    /// bootstrap flag keeps its value.
    ///
    /// # Errors
    ///
    /// #GP for reserved bits and for the transitions the SDM forbids. Also for
    /// an address other than the default one: hynest does not move the page,
    /// and a fault says so where silence would mislead.
    pub fn set_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        let flags = base::ENABLE | base::X2APIC | base::BOOTSTRAP;
        if value & !flags != APIC_BASE.raw() {
            return Err(GeneralProtection);
        }
        let mode = match (value & base::ENABLE != 0, value & base::X2APIC != 0) {
            (false, false) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
            (false, true) => return Err(GeneralProtection),
        };
        match (self.mode, mode) {
            (from, to) if from == to => return Ok(Effect::None),
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => {
                return Err(GeneralProtection);
            }
            // Enabled again, it is as after power-up (SDM 11.4.3).
            (_, Mode::Disabled) => self.reset(),
            // The command register's other half does not survive (SDM 11.12.5.1).
            (_, Mode::X2Apic) => self.command &= u32::MAX as u64,
            _ => {}
        }
        self.mode = mode;
        Ok(Effect::Addressing)
    }

    /// Whether software has enabled the APIC, globally and by the spurious register.
    fn is_enabled(&self) -> bool {
        self.mode != Mode::Disabled && self.spurious & spurious::ENABLE != 0
    }

    /// Delivers the interrupt of a local vector table entry, if it is a fixed one.
    fn raise_local(&mut self, entry: LocalVector) {
        let lvt = self.local[entry as usize];
        // The timer's and the error entry have no delivery mode: bits 10:8 are 0.
        if lvt & (LocalVector::MASKED | 7 << 8) == 0 {
            let vector = lvt as u8;
            if vector >= 16 {
                self.accept(vector, Trigger::Edge);
            } else if entry != LocalVector::Error {
                self.log_error(error::RECEIVE_ILLEGAL_VECTOR);
            }
        }
    }

    /// Notes an error for the error status register and interrupts if it is the
    /// first of its kind since that was written (SDM 11.5.3).
    fn log_error(&mut self, bit: u32) {
        if self.errors & bit == 0 {
            self.errors |= bit;
            self.raise_local(LocalVector::Error);
        }
    }

    /// Recomputes the cache after any change of requests, service or priority.
    #[inline]
    fn update(&mut self) {
        self.deliverable = match self.requested.highest() {
            Some(vector) if vector >> 4 > self.processor_priority() >> 4 => vector,
            _ => 0,
        };
    }
}

/// Bits of IA32_APIC_BASE.
mod base {
    pub(super) const BOOTSTRAP: u64 = 1 << 8;
    pub(super) const X2APIC: u64 = 1 << 10;
    pub(super) const ENABLE: u64 = 1 << 11;
}

/// Bits of the spurious-interrupt vector register.
mod spurious {
    /// The APIC is enabled by software.
    pub(super) const ENABLE: u32 = 1 << 8;
    /// Vector, enable, focus-processor checking. EOI-broadcast suppression
    /// (bit 12) is not offered by the version register.
    pub(super) const WRITABLE: u32 = 0x3FF;
}
