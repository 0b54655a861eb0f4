//! EOI assist: L1 ends an interrupt by taking a bit out of its VP assist page, without an exit
//! (TLFS, "EOI Assist").
//!
//! L0 sets the bit with an interrupt after whose end nothing is to be done: it is edge-triggered,
//! and no other is requested. The APIC has it in service until L0 looks, which it does where that
//! makes a difference: before anything that reads the APIC's state, and when another interrupt is
//! requested. If L1 has not ended the interrupt by then, L0 takes the bit back, so that the end
//! comes to it as a write of the EOI register.

use hyperv::enlightenments::Enlightenment;
use platform::counters::Counter;

use super::Vp;

impl Vp {
    /// Takes the pending interrupt of highest priority for L1, sparing L1 its EOI where it can.
    pub fn acknowledge_for_l1(&mut self) -> Option<u8> {
        let vector = self.apic.acknowledge()?;
        self.count(Counter::Interrupts);
        let offered = self.partition.hyperv.config().enlightenments;
        self.eoi_assisted = offered.has(Enlightenment::ApicMsrs)
            && self.apic.ends_unnoticed(vector)
            && self.nested.set_no_eoi_required(true);
        Some(vector)
    }

    /// Something may have been requested: brings the APIC up to date if L1 has ended the assisted
    /// interrupt, and sees to it that its end will be noticed if others wait for that.
    #[inline]
    pub fn settle_eoi_assist(&mut self) {
        if self.eoi_assisted
            && (!self.nested.no_eoi_required() || !self.apic.requested().is_empty())
        {
            self.end_eoi_assist();
        }
    }

    /// Brings the APIC up to date; an assisted interrupt that L1 has not ended yet becomes one
    /// whose end L0 notices.
    #[inline]
    pub fn withdraw_eoi_assist(&mut self) {
        if self.eoi_assisted {
            self.end_eoi_assist();
        }
    }

    #[cold]
    fn end_eoi_assist(&mut self) {
        self.eoi_assisted = false;
        if self.nested.no_eoi_required() {
            self.nested.set_no_eoi_required(false);
        } else {
            self.count(Counter::SparedEois);
            // The end of an edge-triggered interrupt has no further effect.
            let _ = self.apic.end_of_interrupt();
        }
    }
}
