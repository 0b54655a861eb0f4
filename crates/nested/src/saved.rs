//! A VP's nested VMX as plain data: what is saved with a partition and restored on another machine.
//!
//! State is the VMXON pointer, the current VMCS 12 and, while L2 runs, L2's registers, which VMCS
//! 02 alone holds then. They are saved in the layout of VMCS 12 as an entry would load them, with
//! the event that is on its way to L2, but apart from VMCS 12: what L1 finds there at the next exit
//! depends on its own controls, and an enlightened VMCS lies in L1's memory, which is L1's.
//!
//! Everything that follows from these starts cold on the other side: VMCS 02, the merged MSR
//! bitmap, the shadow EPT, and what of an enlightened VMCS was known to be clean.

use alloc::boxed::Box;

use addr::Gpa1;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vmx::{EntryControls, Field};

use crate::access::{Memory, Vmcs};
use crate::carry::Carry;
use crate::checks::{self, Rule, Violation};
use crate::state::{Current, Nested};
use crate::vmcs12::{SIZE, for_guest_basic, for_guest_grp1, for_guest_grp2, get, put};
use crate::{Dirty, L0Policy, L1Registers, Merged, Vmcs12, cr};

/// The state of a VP's nested VMX.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    vmxon: Option<Gpa1>,
    current: Current,
    /// L0's copy of the current VMCS 12, which of a plain one is the VMCS.
    vmcs12: Box<Vmcs12>,
    /// CR0.CD and CR0.NW as L1 has them.
    cache_bits: u64,
    left: Option<Carry>,
    running: Option<Running>,
}

/// An L2 in the middle of its run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its registers and the event on its way to it, where an entry would find them.
    state: Box<Vmcs12>,
    is_halted: bool,
}

/// Calls `$then` with the fields of VMCS 02 that L2 changes while it runs, and that are saved as they
/// are there.
macro_rules! for_each_of_l2 {
    ($then:ident) => {
        $then!(; GUEST_RIP, GUEST_CR3, GUEST_DR7);
        for_guest_basic!($then!());
        for_guest_grp1!($then!());
        for_guest_grp2!($then!());
        // These are as they were put there for the entry that is to come, or hold no valid event.
        $then!(; ENTRY_INTERRUPTION_INFO, ENTRY_EXCEPTION_ERROR_CODE, ENTRY_INSTRUCTION_LENGTH);
    };
}

const IA32E: u64 = EntryControls::IA32E_MODE_GUEST.bits() as u64;

impl Running {
    /// VMCS 12 as an entry would have it that goes on with L2: with nothing of L1's that is not in
    /// `vmcs12`, which L1 has been checked for.
    fn over(&self, vmcs12: &Vmcs12) -> Box<Vmcs12> {
        let mut all = Box::new(vmcs12.clone());
        let page: &mut Vmcs12 = &mut all;
        macro_rules! copy {
            (; $($field:ident),*) => {
                $(put!(*page, $field, get!(*self.state, $field));)*
            };
        }
        for_each_of_l2!(copy);
        copy!(; GUEST_CR0, GUEST_CR4);
        let controls = get!(*page, ENTRY_CONTROLS) & !IA32E;
        let mode = get!(*self.state, ENTRY_CONTROLS) & IA32E;
        put!(*page, ENTRY_CONTROLS, controls | mode);
        all
    }
}

/// Why what was saved cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadState {
    /// There is a current VMCS, or an L2 that runs, outside VMX operation.
    NotInVmxOperation,
    /// L2 runs without a current VMCS.
    NoVmcs,
    /// A VMXON region or VMCS is no page that L1 could have named.
    NoPage(Gpa1),
}

impl core::fmt::Display for BadState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotInVmxOperation => f.write_str("a VMCS is current outside VMX operation"),
            Self::NoVmcs => f.write_str("L2 runs without a current VMCS"),
            Self::NoPage(at) => write!(f, "no VMXON region or VMCS can lie at {:#x}", at.raw()),
        }
    }
}

impl core::error::Error for BadState {}

impl Saved {
    /// Whether L2 runs.
    pub fn is_in_l2(&self) -> bool {
        self.running.is_some()
    }

    /// The current VMCS.
    pub fn current(&self) -> Current {
        self.current
    }

    /// Whether a VP can be in this state whose partition has so many physical-address bits.
    ///
    /// # Errors
    ///
    /// [`BadState`].
    pub fn check(&self, physical_bits: u32) -> Result<(), BadState> {
        let at = match self.current {
            Current::None => None,
            Current::Plain(at) | Current::Enlightened(at) => Some(at),
        };
        if self.vmxon.is_none() && (at.is_some() || self.running.is_some()) {
            return Err(BadState::NotInVmxOperation);
        }
        if at.is_none() && self.running.is_some() {
            return Err(BadState::NoVmcs);
        }
        let is_page = |at: &Gpa1| at.page() == *at && at.raw() >> physical_bits.min(63) == 0;
        match [self.vmxon, at]
            .into_iter()
            .flatten()
            .find(|at| !is_page(at))
        {
            Some(at) => Err(BadState::NoPage(at)),
            None => Ok(()),
        }
    }
}

impl Nested {
    /// The state. While L2 runs VMCS 02 is current in `vmcs02`, which is not read otherwise; what
    /// hardware shadows of a plain VMCS has been collected.
    pub fn save<V: Vmcs>(&self, vmcs02: &V) -> Saved {
        Saved {
            vmxon: self.vmxon,
            current: self.current,
            vmcs12: Box::new(self.vmcs12.clone()),
            cache_bits: self.host.cache_bits(),
            left: self.left,
            running: self.in_l2.then(|| self.save_running(vmcs02)),
        }
    }

    fn save_running<V: Vmcs>(&self, vmcs02: &V) -> Running {
        let mut state = Box::new(self.vmcs12.clone());
        let page: &mut Vmcs12 = &mut state;
        macro_rules! read {
            (; $($field:ident),*) => {
                $(put!(*page, $field, vmcs02.read(Field::$field));)*
            };
        }
        for_each_of_l2!(read);
        let register = |hardware, shadow, l0_only| {
            cr::guest12_at_exit(vmcs02.read(hardware), vmcs02.read(shadow), l0_only)
        };
        let cr0 = register(Field::GUEST_CR0, Field::CR0_READ_SHADOW, self.cr0_l0_only);
        let cr4 = register(Field::GUEST_CR4, Field::CR4_READ_SHADOW, self.cr4_l0_only);
        put!(*page, GUEST_CR0, cr0);
        put!(*page, GUEST_CR4, cr4);
        let mode = EntryControls::from_bits_retain(vmcs02.read(Field::ENTRY_CONTROLS) as u32)
            & EntryControls::IA32E_MODE_GUEST;
        let entry = self
            .entry_controls()
            .difference(EntryControls::IA32E_MODE_GUEST)
            | mode;
        put!(*page, ENTRY_CONTROLS, entry.bits().into());
        Running {
            is_halted: self.l2_halted,
            state,
        }
    }

    /// Goes on from what was saved and found possible ([`Saved::check`]). `self` is new. Where L2
    /// runs, the caller makes VMCS 02 current and carries what is returned there by
    /// [`Nested::merge_running`] before anything else.
    ///
    /// # Errors
    ///
    /// What VM entry would have refused of an L2 that runs, as far as hardware is not to find it: L0
    /// relies on it until the next entry.
    pub fn restore<M: Memory>(
        &mut self,
        saved: Saved,
        registers: &L1Registers,
        memory: &M,
    ) -> Result<Option<Running>, Violation> {
        let running = saved.running.map(|running| Running {
            state: running.over(&saved.vmcs12),
            ..running
        });
        if let Some(running) = &running {
            self.check_running(&saved.vmcs12, running, memory)?;
        }
        self.vmxon = saved.vmxon;
        self.current = saved.current;
        self.vmcs12.clone_from(&saved.vmcs12);
        self.left = saved.left;
        self.host.prepare(&self.vmcs12, registers);
        self.set_cache_bits(saved.cache_bits & (cr::CR0_CD | cr::CR0_NW));
        self.forget();
        Ok(running)
    }

    /// A threshold for the TPR is not held against the page where L2 has it, which is memory of
    /// L1's and has changed: hardware will.
    fn check_running<M: Memory>(
        &self,
        vmcs12: &Vmcs12,
        running: &Running,
        memory: &M,
    ) -> Result<(), Violation> {
        let mut controls = Box::new(vmcs12.clone());
        put!(*controls, TPR_THRESHOLD, 0);
        checks::controls(&controls, &self.config, memory)?;
        checks::host(vmcs12, &self.config)?;
        let state = &running.state;
        checks::guest(state, &self.config, memory, Dirty::NONE)
            .and_then(|()| checks::guest_rip(state))
            .map_err(|(violation, _)| violation)?;
        // One that is halted is so in L0 alone.
        match get!(**state, GUEST_ACTIVITY_STATE) {
            0 => Ok(()),
            _ => Err(Violation {
                field: Field::GUEST_ACTIVITY_STATE,
                rule: Rule::Reserved,
            }),
        }
    }

    /// Puts an L2 that was saved in the middle of its run into VMCS 02, which is current in
    /// `vmcs02`, as [`Nested::merge`] puts one that L1 enters.
    pub fn merge_running<V: Vmcs, M: Memory>(
        &mut self,
        running: &Running,
        vmcs02: &mut V,
        policy: &L0Policy,
        memory: &M,
    ) -> Merged {
        let copy = Box::new(self.vmcs12.clone());
        self.vmcs12.clone_from(&running.state);
        self.pending = Dirty::ALL;
        self.pdptes = None;
        // What an entry loads only if L1's controls say so goes on, too.
        let carry = Carry {
            efer: get!(*running.state, GUEST_EFER),
            pat: get!(*running.state, GUEST_PAT),
            debugctl: get!(*running.state, GUEST_DEBUGCTL),
            dr7: get!(*running.state, GUEST_DR7),
        };
        let mut merged = self.merge(vmcs02, policy, &carry, memory);
        self.vmcs12.clone_from(&copy);
        self.l2_halted = running.is_halted;
        merged.halt = running.is_halted;
        // What is in VMCS 02 was in no page of L1's: the next entry reads all of it.
        self.stale = Dirty::ALL;
        self.steady = None;
        merged
    }
}

impl Serialize for Vmcs12 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.bytes())
    }
}

impl<'de> Deserialize<'de> for Vmcs12 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Vmcs12;

            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "the {SIZE} bytes of a VMCS 12")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vmcs12, E> {
                let bytes: &[u8; SIZE] = bytes
                    .try_into()
                    .map_err(|_| E::invalid_length(bytes.len(), &self))?;
                let mut page = Vmcs12::new();
                page.bytes_mut().copy_from_slice(bytes);
                Ok(page)
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests;
