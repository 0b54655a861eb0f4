//! The clean-field auditor at work: the exits of an audited VP arrive elsewhere (see `vp/entry.rs`), so
//! that any other VP does nothing for it.

use alloc::boxed::Box;

use addr::Gpa1;
use nested::audit::{Auditor, Places, Stale};
use platform::counters::Counter;
use vmx::{BasicExitReason, ExitReason, Field};

use super::super::Vp;
use super::super::vmcs::read;
use super::pages::L1Page;
use super::{current_cpl, read_assist};
use crate::log;
use crate::output::{self, Channel};

/// What an audited VP keeps.
pub struct Audit {
    auditor: Auditor,
    places: Places,
    /// The enlightened VMCS that L1 asked to enter, until L1 goes on.
    entered: Option<L1Page>,
}

impl Audit {
    /// For a VP that has entered nothing.
    pub fn new() -> Box<Self> {
        Box::new(Self {
            auditor: Auditor::new(),
            places: Places::new(),
            entered: None,
        })
    }
}

/// Where the entry code comes first after an exit of an audited VP's L1.
pub extern "C" fn audit_entry(vp: &mut Vp) {
    vp.audit_entry();
}

/// Where it comes last before it enters an audited VP's guest.
pub extern "C" fn audit_end(vp: &mut Vp) {
    vp.audit_end();
}

impl Vp {
    /// Looks at the enlightened VMCS that L1 is about to enter, if that is why it exited.
    fn audit_entry(&mut self) {
        let nested = &mut self.nested;
        let Some(audit) = nested.audit.as_deref_mut() else {
            return;
        };
        if nested.logic.in_l2() || !nested.logic.in_vmx_operation() || current_cpl() != 0 {
            return;
        }
        let is_launch = match ExitReason::from_raw(read(Field::EXIT_REASON) as u32).basic() {
            Some(BasicExitReason::Vmlaunch) => true,
            Some(BasicExitReason::Vmresume) => false,
            _ => return,
        };
        let Some(assist) = read_assist(nested.assist.as_ref()).filter(|a| a.enlighten_vm_entry)
        else {
            return;
        };
        let at = assist.current_nested_vmcs;
        let memory = &self.partition.memory;
        let Some(page) = L1Page::map(memory, at) else {
            return;
        };
        let rip = read(Field::GUEST_RIP);
        let mut count = 0;
        let Audit {
            auditor, places, ..
        } = audit;
        let map = |at| L1Page::map(memory, at);
        auditor.look(&nested.logic, at, is_launch, &page, map, |stale| {
            count += 1;
            if places.enter(&stale.subject, rip) {
                report(self.index, at, rip, &stale);
            }
        });
        audit.entered = Some(page);
        self.count_more(Counter::StaleFields, count);
        self.count(Counter::AuditedEntries);
    }

    /// Where L1 goes on after an entry: takes note of what L0 wrote into the page.
    pub fn audit_end(&mut self) {
        if let Some(audit) = self.nested.audit.as_deref_mut()
            && !self.nested.logic.in_l2()
            && let Some(page) = audit.entered.take()
        {
            audit.auditor.follow(&page);
        }
    }
}

fn report(vp: usize, at: Gpa1, rip: u64, stale: &Stale) {
    let Stale {
        subject,
        known,
        found,
    } = stale;
    let (name, group) = (subject.name(), subject.group().name());
    let offset = subject.offset();
    let at = at.raw();
    log!(
        "VP {vp}: L1 enters {at:#x} at {rip:#x} with a stale {name} ({group} is clean, offset {offset:#x}): \
         {known:#x} when it was declared, {found:#x} now"
    );
    output::write(
        Channel::Report,
        format_args!(
            "{{\"event\":\"stale-field\",\"vp\":{vp},\"evmcs\":\"{at:#x}\",\"rip\":\"{rip:#x}\",\"field\":\"{name}\",\
             \"group\":\"{group}\",\"offset\":{offset},\"known\":\"{known:#x}\",\"found\":\"{found:#x}\"}}\n"
        ),
    );
}
