//! What a VP's TSC comes from: the processor's own, or one at the rate that L1 knows, which hardware
//! makes of it by a multiplier or L0 by emulation.
//!
//! [`hyperv::clock::TscSource`] says which; it changes in a meeting of all VPs, and each VP has a
//! copy of what it needs of it. While there is a multiplier, VMCS 01 and VMCS 02 have TSC scaling.
//! While there is an emulation, they have RDTSC exiting and MSR bitmaps that intercept
//! IA32_TIME_STAMP_COUNTER, whatever L1 asks for.

use hyperv::Notice;
use hyperv::clock::{Conversion, TooSlow};
use nested::tsc::ONE;
use platform::counters::Counter;
use platform::interrupt::Trigger;

use super::{Registers, Vp};
use crate::cpu::{msr, per_cpu, tsc};
use crate::log;

/// IA32_TSC_AUX.
const TSC_AUX: u32 = 0xC000_0103;

#[cold]
fn converted(conversion: &Conversion, processor: u64) -> u64 {
    conversion.counter(processor)
}

/// What a conversion means to L1, behind a line of the log on the machine's rate.
pub fn effect(conversion: Option<Conversion>) -> &'static str {
    match conversion {
        Some(Conversion::Scaled(_)) => "; L1's stays as it is, scaled by hardware",
        Some(Conversion::Emulated(_)) => {
            "; L1's stays as it is, by emulation, until L1 has taken note"
        }
        None => "",
    }
}

impl Vp {
    /// What stands for the processor's TSC when that is `processor`; VPs' TSCs are offsets from it.
    #[inline(always)]
    pub fn tsc_counter(&self, processor: u64) -> u64 {
        match &self.conversion {
            None => processor,
            Some(conversion) => converted(conversion, processor),
        }
    }

    /// The same now.
    #[inline(always)]
    pub fn tsc_counter_now(&self) -> u64 {
        self.tsc_counter(tsc::now())
    }

    /// How far the processor's TSC goes from `processor` on while a VP's goes on by `ticks`.
    #[inline(always)]
    pub fn processor_ticks(&self, processor: u64, ticks: u64) -> u64 {
        match &self.conversion {
            None => ticks,
            Some(conversion) => conversion.machine_ticks(processor, ticks),
        }
    }

    /// Whether the guests' reads of the TSC are intercepted.
    pub fn is_tsc_emulated(&self) -> bool {
        matches!(self.conversion, Some(Conversion::Emulated(_)))
    }

    /// What hardware multiplies the processor's TSC by, for L1.
    pub fn tsc_multiplier(&self) -> u64 {
        match &self.conversion {
            Some(Conversion::Scaled(scaling)) => scaling.multiplier(),
            _ => ONE,
        }
    }

    /// The TSC of the guest whose VMCS is current.
    pub fn guest_tsc_now(&self) -> u64 {
        let l1 = self.tsc_now();
        if self.nested.is_in_l2() {
            self.nested.l2_tsc_at(l1)
        } else {
            l1
        }
    }

    /// RDTSC of either guest, which exits while it is emulated.
    pub fn rdtsc_exit(&mut self) {
        self.count(Counter::EmulatedTscReads);
        let now = self.guest_tsc_now();
        self.registers.set_edx_eax(now);
        self.advance();
    }

    /// RDTSCP of either guest.
    pub fn rdtscp_exit(&mut self) {
        // SAFETY: a guest that has RDTSCP is on a processor that has the MSR; it is the guest's own.
        let aux = unsafe { msr::read(TSC_AUX) };
        self.registers.0[Registers::RCX] = aux & 0xFFFF_FFFF;
        self.rdtsc_exit();
    }

    /// The machine's TSC is declared to run at `hz` from now on.
    pub fn change_tsc_rate(&mut self, hz: u64) {
        let partition = self.partition;
        let changed = self.with_all_stopped(|_| {
            let mut source = partition.time.lock();
            let now = tsc::now();
            partition.hyperv.change_tsc_rate(
                &mut source,
                now,
                hz,
                partition.scales_tsc,
                &partition.memory,
            )
        });
        if let Err(TooSlow { .. }) = changed {
            return log!("a TSC of {hz} Hz is too slow: the rate stays");
        }
        self.count(Counter::TscRateChanges);
        log!(
            "the TSC's rate is {hz} Hz from now on{}",
            effect(self.conversion)
        );
        if let Some(Notice { vp, vector }) = partition.hyperv.reenlightenment_notice() {
            let inbox = &partition.inboxes[vp as usize];
            if inbox.address().accepts_interrupts() && inbox.post_vector(vector, Trigger::Edge) {
                per_cpu::cpu(vp as usize).kick();
            }
        }
    }

    /// L1 has taken note of the rate: its TSC is the machine's.
    pub fn end_tsc_emulation(&mut self) {
        let partition = self.partition;
        self.with_all_stopped(|_| {
            // Another VP's acknowledgement may have come first.
            if partition.hyperv.is_tsc_emulated() {
                let mut source = partition.time.lock();
                let now = tsc::now();
                partition
                    .hyperv
                    .end_tsc_emulation(&mut source, now, &partition.memory);
            }
        });
        log!("L1 has taken note of the TSC's rate: no emulation any more");
    }

    /// After a meeting: takes what the partition's TSC comes from now. The VP is in no guest.
    pub fn follow_time(&mut self) {
        let source = *self.partition.time.lock();
        let step = source.offset().wrapping_sub(self.partition_offset);
        let (was_emulated, multiplier) = (self.is_tsc_emulated(), self.tsc_multiplier());
        self.partition_offset = source.offset();
        self.conversion = source.conversion();
        self.tsc_offset = self.tsc_offset.wrapping_add(step);
        if let Some(clock) = self.apic.clock().with_tsc_hz(source.guest_hz())
            && clock != self.apic.clock()
        {
            // The change may be long ago: a restored VP learns of it when its processor is ready.
            let ahead = self.tsc_offset.wrapping_sub(source.offset());
            self.apic
                .set_clock(clock, source.since().0.wrapping_add(ahead));
            self.partition.setup.cpuid.set_tsc_hz(source.guest_hz());
        }
        if step != 0 || multiplier != self.tsc_multiplier() {
            self.nested_follow_tsc();
        }
        if was_emulated != self.is_tsc_emulated() {
            self.nested_follow_emulation();
        }
        self.update_deadline();
        self.attention = true;
    }
}
