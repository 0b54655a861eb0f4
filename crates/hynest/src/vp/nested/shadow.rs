//! The shadow EPTs (EPT 02) of the partition: filling, flushing, and making every processor
//! forget.

use core::sync::atomic::Ordering;

use addr::{Gpa1, Gpa2};
use nested::ept::{AttachError, Fill, Gpa2Range, Policy, Retired, ShadowSet};
use platform::counters::Counter;
use vmx::ept::{Access, EptCapabilities, Eptp, MemoryType};
use vmx::instructions::{self, InveptScope};
use vmx::{Capabilities, EptViolation, Field};

use super::super::Vp;
use super::super::shootdown::shoot_down;
use super::super::vmcs::{read, write};
use super::pages::{TableAccess, TableSource};
use crate::cpu::per_cpu::MAX_CPUS;

/// The partition's shadows.
pub type Shadows = ShadowSet<TableAccess, TableSource>;

/// Frames that the shadows of a partition may take for each VP.
const FRAMES_PER_VP: usize = 1024;
/// Shadows that are kept beyond those in use.
const SPARE_SHADOWS: usize = 8;

/// The shadows of a new partition.
pub fn for_partition(
    hardware: &Capabilities,
    offered: &Capabilities,
    address_width: u8,
    vps: usize,
) -> Shadows {
    let width = u32::from(address_width);
    ShadowSet::new(
        TableAccess,
        TableSource::new(FRAMES_PER_VP * vps),
        Policy {
            offered: EptCapabilities::from_msr(offered.ept_vpid, width),
            hardware: EptCapabilities::from_msr(hardware.ept_vpid, width),
            memory_type: MemoryType::WriteBack,
            ignore_pat: true,
        },
        vps + SPARE_SHADOWS,
    )
}

/// What is left to do with an EPT violation of L2.
pub enum Violation {
    /// Nothing: L2 goes on.
    Handled,
    /// L2's instruction accesses a device of L1's, or nothing, at this address.
    Device(Gpa1),
    /// An exit to L1.
    Reflect(Reflection),
}

/// An EPT exit for L1, as EPT 12 has it.
pub enum Reflection {
    /// Exit 48 with this qualification.
    Violation(EptViolation),
    /// Exit 49.
    Misconfiguration,
}

/// Whether an instruction's own operand met the violation: not L2's page tables, and not the
/// delivery of an event.
fn is_by_instruction(qualification: EptViolation) -> bool {
    let is_delivery = read(Field::IDT_VECTORING_INFO) >> 31 & 1 != 0;
    qualification.linear_valid()
        && qualification.is_final()
        && !qualification.is_fetch()
        && !is_delivery
}

/// The number that the shadows know a VP by.
fn number(index: usize) -> u8 {
    const { assert!(MAX_CPUS <= 64) }
    index as u8
}

impl Vp {
    /// Takes something away from the shadows, makes processors forget it, and gives the frames back.
    ///
    /// Who finds nothing to remove may owe that to another VP's removal, whose processors have not
    /// all let go yet; so while one is under way, everyone waits for all processors. Nobody waits
    /// for another removal, only for guests.
    fn take_away(&self, remove: impl FnOnce(&mut Shadows) -> Retired) {
        let partition = self.partition;
        let (retired, others) = {
            let mut shadows = partition.shadows.lock();
            let retired = remove(&mut shadows);
            // Under the lock: who finds these entries gone finds this count, too.
            (
                retired,
                partition.flushing.fetch_add(1, Ordering::Relaxed) != 0,
            )
        };
        if others || retired.needs_shootdown() {
            // A VP that attaches to the shadow from now on has yet to look at what it forgets.
            let affected = |index| others || retired.affects(number(index));
            shoot_down(self.index, partition.inboxes.len(), affected);
        }
        if retired.frames() > 0 {
            partition.shadows.lock().release(retired);
        }
        partition.flushing.fetch_sub(1, Ordering::Release);
    }

    /// Forgets what is cached of one EPT 12 and no longer so.
    pub fn flush_space(&self, root: Gpa1) {
        let memory = &self.partition.memory;
        self.take_away(|shadows| shadows.flush_space(root, memory));
    }

    /// Forgets what is cached of ranges of one EPT 12.
    pub fn flush_ranges(&self, root: Gpa1, ranges: impl Iterator<Item = Gpa2Range>) {
        self.take_away(|shadows| shadows.flush_ranges(root, ranges));
    }

    /// Forgets all that is cached of every EPT 12.
    pub fn flush_all_spaces(&self) {
        self.take_away(ShadowSet::flush_all);
    }

    /// Puts VMCS 02, which is current, on the shadow of `eptp12`.
    pub fn attach_shadow(&mut self, eptp12: Eptp) {
        loop {
            let result = self.partition.shadows.lock().attach(
                &mut self.nested.view,
                number(self.index),
                eptp12,
            );
            match result {
                Ok(()) => break,
                Err(AttachError::OutOfFrames) => self.reclaim(),
                Err(AttachError::NoSlot) => panic!("more VPs than shadow slots"),
            }
        }
        if let Some(attachment) = self.nested.view.attachment() {
            write(Field::EPT_POINTER, attachment.eptp().raw());
        }
    }

    fn reclaim(&mut self) {
        self.take_away(|shadows| shadows.reclaim(self.nested.view.attachment()));
    }

    /// Whether L2's EPT violation at this address is a misconfiguration in EPT 12, as at the
    /// last exit there. Where it is not said to be, it may be one all the same.
    #[inline(always)]
    pub fn is_at_misconfigured_page(&self, at: Gpa2) -> bool {
        let root = || Some(self.nested.view.attachment()?.tag());
        let known = &self.nested.misconfigured;
        known.is_met(root, &self.partition.memory, at)
    }

    /// Answers an EPT violation or misconfiguration of L2, whose VMCS is current, at this address.
    pub fn shadow_violation(&mut self, qualification: EptViolation, at: Gpa2) -> Violation {
        let access = Access::from_qualification(qualification.raw());
        loop {
            let Some(attachment) = self.nested.view.attachment() else {
                panic!("an EPT violation of L2 without a shadow");
            };
            let fill =
                self.partition
                    .shadows
                    .lock()
                    .fill(attachment, &self.partition.memory, at, access);
            match fill {
                Fill::Filled(_) => {
                    self.count(Counter::ShadowFills);
                    return Violation::Handled;
                }
                Fill::Violation(violation) => {
                    self.nested.view.note_reflected(at, access);
                    return Violation::Reflect(Reflection::Violation(
                        violation.qualification(qualification),
                    ));
                }
                Fill::Misconfigured(_) => {
                    let (root, memory) = (attachment.tag(), &self.partition.memory);
                    self.nested
                        .misconfigured
                        .note(root, &self.nested.ept_offered, memory, at);
                    return Violation::Reflect(Reflection::Misconfiguration);
                }
                // L1 maps L2 to where it has no memory itself.
                Fill::NotBacked(at) if is_by_instruction(qualification) => {
                    return Violation::Device(at);
                }
                // No instruction can be executed for a walk or a delivery that leads there: it is
                // told to L1 as one that EPT 12 does not permit.
                Fill::NotBacked(_) | Fill::Protected(_) => {
                    return Violation::Reflect(Reflection::Violation(
                        qualification.with_permissions(false, false, false),
                    ));
                }
                Fill::OutOfFrames => self.reclaim(),
            }
        }
    }

    /// Before L1's entry into L2: gives L2 the page that L1 was last told to be missing, if L1 has
    /// mapped it. VMCS 02 is on the shadow of the EPT 12 that L1 asks for.
    #[inline(always)]
    pub fn prefill_shadow(&mut self) {
        if let Some((at, access)) = self.nested.view.take_reflected() {
            self.prefill(at, access);
        }
    }

    fn prefill(&mut self, at: Gpa2, access: Access) {
        let partition = &self.partition;
        if let Some(attachment) = self.nested.view.attachment()
            && let Fill::Filled(_) =
                partition
                    .shadows
                    .lock()
                    .fill(attachment, &partition.memory, at, access)
        {
            self.count(Counter::ShadowFills);
        }
    }

    /// Before L2 is entered, and after that has been published: forgets what was taken from its
    /// shadow since this processor last looked.
    pub fn settle_shadow(&mut self) {
        if let Some(eptp) = self.nested.view.take_invalidation() {
            // SAFETY: root operation, and L0 needs a processor with single-context INVEPT.
            let _ = unsafe { instructions::invept(InveptScope::Single(eptp.raw())) };
        }
    }
}
