//! A VP's nested VMX, taken from it and given to it: what [`nested::saved`] needs of the hardware.

use nested::Current;
use nested::saved::Saved;

use super::super::Vp;
use super::super::saving::Unacceptable;
use super::load;
use super::pages::{CurrentVmcs, L1Page};
use super::vmcs02::L1_REGISTERS;

impl Vp {
    /// The state of nested VMX, of a VP that is in no guest.
    pub fn nested_state(&mut self) -> Saved {
        if !self.nested.is_in_l2() {
            self.load_vmcs01();
            self.collect_shadow();
        }
        self.nested.logic.save(&CurrentVmcs)
    }

    /// Calls `access` with VMCS 01 current, whichever is before and after.
    pub fn with_vmcs01<T>(&self, access: impl FnOnce() -> T) -> T {
        if !self.nested.is_02_current {
            return access();
        }
        load(&self.vmcs01);
        let result = access();
        load(&self.nested.vmcs02);
        result
    }

    /// Goes on from what was saved: of a VP that is new, with VMCS 01 current, which stays so unless
    /// L2 runs.
    ///
    /// # Errors
    /// [`Unacceptable`] where L1 could not have entered an L2 as the one that runs, or its memory has no
    /// place for what that runs on.
    pub fn resume_nested(&mut self, saved: Saved) -> Result<(), Unacceptable> {
        let memory = self.partition.memory;
        let current = saved.current();
        let nested = &mut self.nested;
        nested.map_assist_page(self.hyperv.assist_page(), self.partition);
        if let Current::Enlightened(at) = current {
            nested.page = L1Page::map(&memory, at);
            if nested.page.is_none() && saved.is_in_l2() {
                return Err(Unacceptable::EnlightenedVmcs);
            }
        }
        let running = nested
            .logic
            .restore(saved, &L1_REGISTERS, &memory)
            .map_err(Unacceptable::Nested)?;
        if let Some(shadow) = &mut nested.shadow {
            nested.logic.resume_shadowing(shadow);
        }
        let Some(running) = running else {
            return Ok(());
        };
        self.load_vmcs02();
        let merged = self.nested.logic.merge_running(
            &running,
            &mut CurrentVmcs,
            &self.nested.policy,
            &memory,
        );
        self.follow_merge(&merged);
        self.publish_l2_context();
        Ok(())
    }
}
