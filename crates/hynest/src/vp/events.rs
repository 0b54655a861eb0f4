//! What reaches L1 from outside its instructions: interrupts, NMIs, start-up messages, timers.

use platform::apic::{Effect, Signals};
use vmx::{EventType, Field, Interruptibility, InterruptionInfo, PrimaryControls};

use super::snapshots::SaveOrder;
use super::vmcs::{self, modify, read, write};
use super::{Activity, Vp, vmcs01};
use crate::cpu::{idle, register, tsc};
use crate::fatal::{self, End};

/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;

/// Timers fire at most this often, in a second.
const SHORTEST_PERIODS_PER_SECOND: u64 = 50_000;

/// How soon console input is looked for when there is any to come, in seconds' fraction.
const POLLS_PER_SECOND: u64 = 100;

impl Vp {
    /// L1's TSC now.
    #[inline(always)]
    pub fn tsc_now(&self) -> u64 {
        self.tsc_counter_now().wrapping_add(self.tsc_offset)
    }

    /// L1 and L2 take turns: what waits for L1 finds another guest, and windows another VMCS.
    #[inline(always)]
    pub fn attend_if_needed(&mut self) {
        self.attention |= self.waiting;
    }

    /// Whether [`Vp::attend_if_needed`] leaves anything to attend to, in one read of both flags.
    #[inline(always)]
    pub fn has_attention_due(&self) -> bool {
        u16::from_ne_bytes([self.attention.into(), self.waiting.into()]) != 0
    }

    /// Takes what others have put into the inbox. Returns whether there was anything.
    pub fn drain_inbox(&mut self) -> bool {
        let inbox = &self.partition.inboxes[self.index];
        if inbox.is_empty() {
            return false;
        }
        let signals = self.apic.drain(inbox);
        self.apply(signals);
        self.attention = true;
        true
    }

    fn apply(&mut self, signals: Signals) {
        if signals.init {
            self.receive_init();
        }
        if let Some(page) = signals.startup
            && self.activity == Activity::WaitForStartup
        {
            self.activity = Activity::Running;
            vmcs01::write_startup(page);
            super::nested::flush_vpid01();
        }
        self.nmi_pending |= signals.nmi;
    }

    /// INIT: the VP waits for a start-up message. The bootstrap VP would begin at the reset vector,
    /// where this platform has no firmware: for it INIT is a reset of the partition.
    fn receive_init(&mut self) {
        if self.init_is_blocked() {
            self.init_pending = true;
            self.attention = true;
            return;
        }
        if self.index == 0 {
            fatal::end(End::Reset, format_args!("L1 sent INIT to its bootstrap VP"))
        }
        self.apic.reset();
        self.publish_address();
        self.hv_reset();
        self.nmi_pending = false;
        self.nested_keep_cache_bits(0);
        self.registers = Default::default();
        self.registers.set_rdx(self.partition.setup.cpu_signature);
        // SAFETY: CR2 and the debug registers are L1's: L0's own code uses none of them.
        unsafe {
            register::set_cr2(0);
            register::reset_debug();
        }
        self.activity = Activity::WaitForStartup;
    }

    /// Tells senders what this VP's APIC now answers to.
    pub fn publish_address(&self) {
        self.partition.inboxes[self.index].publish(self.apic.address());
    }

    /// Does what a register write of the APIC asks for.
    pub fn apply_effect(&mut self, effect: Effect) {
        self.attention = true;
        match effect {
            Effect::None => {}
            Effect::Ipi(message) => self.partition.send(&message, Some(self.index)),
            Effect::Eoi(vector) => self.partition.devices().end_of_interrupt(vector),
            Effect::Timer => self.update_deadline(),
            Effect::Addressing => self.publish_address(),
        }
    }

    /// Finds the next moment at which a timer of this VP is due.
    pub fn update_deadline(&mut self) {
        // By what is left, not by moments: a guest's "never" is no moment of the processor's TSC.
        let now = tsc::now();
        let counter = self.tsc_counter(now);
        let left =
            |deadline: u64, offset: u64| deadline.saturating_sub(counter.wrapping_add(offset));
        let apic = self.apic.next_deadline_tsc();
        let synthetic = self.hv_next_deadline();
        let timers = [
            apic.map(|at| left(at, self.tsc_offset)),
            synthetic.map(|at| left(at, self.partition_offset)),
        ];
        let next = timers.into_iter().flatten().min();
        let mut deadline = next.map_or(u64::MAX, |left| {
            now.saturating_add(self.processor_ticks(now, left))
        });
        if self.index == 0 && self.partition.has_agenda {
            deadline = deadline.min(self.next_of_agenda(now));
        }
        self.set_deadline(deadline, now);
    }

    /// When L0 has something to do by itself, in the processor's TSC, which reads `now`.
    #[cold]
    fn next_of_agenda(&self, now: u64) -> u64 {
        let change = self.partition.next_rate_change().and_then(|change| {
            let due = self.partition.hyperv.clock().tsc_at(change.at)?;
            let tsc = self.tsc_counter(now).wrapping_add(self.partition_offset);
            let left = self.processor_ticks(now, due.0.saturating_sub(tsc));
            Some(now.saturating_add(left))
        });
        let save = self.partition.save.as_ref().and_then(SaveOrder::next);
        let poll = now + self.partition.tsc_hz / POLLS_PER_SECOND;
        let poll = self.partition.has_input.then_some(poll);
        [change, save, poll]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Looks for console input, and has the TSC's rate change or the partition saved if it is time.
    #[cold]
    fn attend_agenda(&mut self) {
        if self.partition.has_input && self.partition.poll_input() {
            self.ask_for_save();
        }
        let save = self.partition.save.as_ref();
        if save.is_some_and(|order| order.comes(tsc::now())) {
            self.ask_for_save();
        }
        while let Some(change) = self.partition.next_rate_change()
            && change.at <= self.reference_now()
        {
            self.partition.pass_rate_change();
            self.change_tsc_rate(change.hz.into());
        }
    }

    fn set_deadline(&mut self, deadline: u64, now: u64) {
        self.deadline = deadline;
        // Rounded up, for a timer is never early; a later deadline takes several runs.
        let due = (deadline >> self.timer_shift).saturating_add(1);
        let reach = (now >> self.timer_shift) + u64::from(u32::MAX);
        self.timer_target = due.min(reach);
    }

    /// Raises the interrupts of timers that are due.
    pub fn expire_timers(&mut self) {
        let now = self.tsc_now();
        let _ = self.apic.expire(now);
        self.hv_expire_timers();
        if self.index == 0 && self.partition.has_agenda {
            self.attend_agenda();
        }
        self.update_deadline();
        // A period shorter than an exit would leave the guest no instruction in between.
        let now = tsc::now();
        let soonest = now + self.partition.tsc_hz / SHORTEST_PERIODS_PER_SECOND;
        self.set_deadline(self.deadline.max(soonest), now);
        self.attention = true;
    }

    /// Whether something waits that ends HLT of the guest whose VMCS is current: an event that it
    /// takes, or that takes it away from L2.
    fn is_woken(&self) -> bool {
        let is_in_l2 = self.nested.is_in_l2();
        let (nmi_exits, interrupt_exits) = self.nested.l1_takes_events();
        let is_enabled = || read(Field::GUEST_RFLAGS) & RFLAGS_IF != 0;
        let blocking =
            Interruptibility::from_bits_retain(read(Field::GUEST_INTERRUPTIBILITY) as u32);
        (is_in_l2 && self.init_pending)
            || (self.nmi_pending && (nmi_exits || !blocking.contains(Interruptibility::NMI)))
            || (self.apic.pending().is_some() && (interrupt_exits || is_enabled()))
            // A single step over the HLT itself.
            || read(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) != 0
    }

    /// Sleeps until the VP has something to run for.
    pub fn sleep_while_idle(&mut self) {
        loop {
            // A kick from before this point is answered by the drain below.
            let _ = crate::cpu::per_cpu::this().take_kick();
            self.attend_meeting();
            self.drain_inbox();
            if tsc::now() >= self.deadline {
                self.expire_timers();
            }
            if self.save_asked {
                self.save_if_asked();
            }
            self.settle_eoi_assist();
            let asleep = match self.activity {
                Activity::Running => false,
                Activity::WaitForStartup => true,
                Activity::Halted => !self.is_woken(),
                Activity::Idle => !self.nmi_pending && self.apic.pending().is_none(),
            };
            if !asleep {
                self.activity = Activity::Running;
                return;
            }
            idle::sleep_until((self.deadline != u64::MAX).then_some(self.deadline));
        }
    }

    /// Gives L1, whose VMCS is current and which is about to be entered, the event that it can
    /// take now, and asks for a window for what it cannot.
    pub fn deliver_to_l1(&mut self) {
        let occupied = read(Field::ENTRY_INTERRUPTION_INFO) >> 31 & 1 != 0;
        let blocking =
            Interruptibility::from_bits_retain(read(Field::GUEST_INTERRUPTIBILITY) as u32);
        let shadow = blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS);
        let mut windows = PrimaryControls::empty();
        let mut taken = occupied;

        if self.nmi_pending {
            if !taken && !shadow && !blocking.contains(Interruptibility::NMI) {
                self.nmi_pending = false;
                taken = true;
                vmcs::write(
                    Field::ENTRY_INTERRUPTION_INFO,
                    u64::from(InterruptionInfo::nmi().raw()),
                );
            } else {
                windows |= PrimaryControls::NMI_WINDOW_EXITING;
            }
        }
        if self.apic.pending().is_some() {
            let enabled = read(Field::GUEST_RFLAGS) & RFLAGS_IF != 0;
            if !taken
                && !shadow
                && enabled
                && let Some(vector) = self.acknowledge_for_l1()
            {
                write(
                    Field::ENTRY_INTERRUPTION_INFO,
                    u64::from(InterruptionInfo::external_interrupt(vector).raw()),
                );
            }
            if self.apic.pending().is_some() {
                windows |= PrimaryControls::INTERRUPT_WINDOW_EXITING;
            }
        }
        if windows != self.windows {
            self.windows = windows;
            let both =
                PrimaryControls::INTERRUPT_WINDOW_EXITING | PrimaryControls::NMI_WINDOW_EXITING;
            modify(
                Field::PRIMARY_CONTROLS,
                u64::from(windows.bits()),
                u64::from((both & !windows).bits()),
            );
        }
    }

    /// Makes the guest take an exception instead of finishing its instruction; where L1 intercepts
    /// it from L2, L1 gets the exit.
    pub fn inject_exception(&mut self, vector: u8, error_code: Option<u32>) {
        if self.nested.is_in_l2() {
            return self.inject_into_l2(vector, error_code);
        }
        let (info, code) = exception(vector, error_code);
        write(Field::ENTRY_EXCEPTION_ERROR_CODE, u64::from(code));
        write(Field::ENTRY_INTERRUPTION_INFO, u64::from(info.raw()));
    }

    /// #GP(0).
    pub fn inject_gp(&mut self) {
        self.inject_exception(13, Some(0));
    }

    /// #UD.
    pub fn inject_ud(&mut self) {
        self.inject_exception(6, None);
    }

    /// #PF, with CR2 as L1 will read it.
    pub fn inject_page_fault(&mut self, fault: platform::paging::PageFault) {
        if self.nested.is_in_l2() && self.l1_wants_exception(14, fault.error) {
            // CR2 stays as it is: L1 finds the address in the qualification.
            return self.reflect_exception(14, Some(fault.error), fault.address.raw());
        }
        // SAFETY: CR2 is L1's: L0's own code takes no page faults, and VMX does not switch it.
        unsafe { register::set_cr2(fault.address.raw()) };
        self.inject_exception(14, Some(fault.error));
    }
}

/// A hardware exception as the guest whose VMCS is current takes it: in real mode it pushes no
/// error code.
pub fn exception(vector: u8, error_code: Option<u32>) -> (InterruptionInfo, u32) {
    /// CR0.PE.
    const CR0_PE: u64 = 1;
    let info = InterruptionInfo::new(EventType::HardwareException, vector);
    match error_code {
        Some(code) if read(Field::GUEST_CR0) & CR0_PE != 0 => (info.with_error_code(), code),
        _ => (info, 0),
    }
}
