//! L1's MSR lists (SDM 25.7.2, 25.8.2, 27.4, 28.4, 28.6), walked in software.
//!
//! Hardware's own lists in VMCS 02 are L0's. Linux uses L1's lists for little
//! or nothing; [`Nested::has_msr_lists`] tells in one test whether there is
//! anything to walk.

use addr::Gpa1;

use crate::access::Memory;
use crate::state::Nested;
use crate::vmcs12::get;

/// Bytes of an entry: index (u32), reserved (u32), value (u64).
const ENTRY_BYTES: u64 = 16;

/// MSRs of the VP, as RDMSR and WRMSR of L1 would see them.
pub trait Msrs {
    /// WRMSR; `Err` where it would raise #GP.
    fn load(&mut self, msr: u32, value: u64) -> Result<(), Refused>;
    /// RDMSR; `Err` where it would raise #GP.
    fn store(&mut self, msr: u32) -> Result<u64, Refused>;
    /// Whether the local APIC is in x2APIC mode.
    fn is_x2apic(&self) -> bool;
}

/// An MSR access that would raise #GP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The entry of a list, counted from 1, at which it failed: the exit
/// qualification of a failed entry for reason 34.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailedAt(
    /// Its number.
    pub u32,
);

/// VMX-abort indicators (SDM 28.7): the VP shuts down, and the indicator is
/// stored at offset 4 of VMCS 12.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum VmxAbort {
    /// An MSR could not be stored.
    StoreMsrs = 1,
    /// A PDPTE of the host is invalid.
    HostPdpte = 2,
    /// An MSR could not be loaded.
    LoadMsrs = 4,
}

/// One of L1's MSR lists, as VMCS 12 names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsrList {
    address: u64,
    count: u32,
}

impl Nested {
    /// The entry MSR-load list: L2's MSRs. Where it fails, the entry fails with
    /// reason 34 ([`Nested::fail_entry`]).
    pub fn entry_msr_load_list(&self) -> MsrList {
        MsrList {
            address: get!(self.vmcs12, ENTRY_MSR_LOAD_ADDRESS),
            count: get!(self.vmcs12, ENTRY_MSR_LOAD_COUNT) as u32,
        }
    }

    /// The exit MSR-store list: before L1's host state is loaded. A failure is
    /// [`VmxAbort::StoreMsrs`].
    pub fn exit_msr_store_list(&self) -> MsrList {
        MsrList {
            address: get!(self.vmcs12, EXIT_MSR_STORE_ADDRESS),
            count: get!(self.vmcs12, EXIT_MSR_STORE_COUNT) as u32,
        }
    }

    /// The exit MSR-load list: after L1's host state is loaded, and after a
    /// failed entry too. A failure is [`VmxAbort::LoadMsrs`].
    pub fn exit_msr_load_list(&self) -> MsrList {
        MsrList {
            address: get!(self.vmcs12, EXIT_MSR_LOAD_ADDRESS),
            count: get!(self.vmcs12, EXIT_MSR_LOAD_COUNT) as u32,
        }
    }
}

impl MsrList {
    /// Loads the MSRs, in order.
    ///
    /// # Errors
    /// The first entry that cannot be loaded; those before it are.
    pub fn load<M: Memory, S: Msrs>(self, memory: &M, msrs: &mut S) -> Result<(), FailedAt> {
        self.walk(|at| load_entry(memory, msrs, at))
    }

    /// Stores the MSRs, in order.
    ///
    /// # Errors
    /// The first entry that cannot be stored; those before it are.
    pub fn store<M: Memory, S: Msrs>(self, memory: &mut M, msrs: &mut S) -> Result<(), FailedAt> {
        self.walk(|at| store_entry(memory, msrs, at))
    }

    fn walk(self, mut each: impl FnMut(Gpa1) -> Option<()>) -> Result<(), FailedAt> {
        for n in 0..self.count {
            let at = Gpa1::new(self.address).checked_add(u64::from(n) * ENTRY_BYTES);
            at.and_then(&mut each).ok_or(FailedAt(n + 1))?;
        }
        Ok(())
    }
}

fn load_entry<M: Memory, S: Msrs>(memory: &M, msrs: &mut S, at: Gpa1) -> Option<()> {
    let mut bytes = [0; ENTRY_BYTES as usize];
    memory.read(at, &mut bytes).ok()?;
    let words = u128::from_le_bytes(bytes);
    let msr = words as u32;
    let reserved = (words >> 32) as u32;
    if reserved != 0 || is_unloadable(msr, msrs.is_x2apic()) {
        return None;
    }
    msrs.load(msr, (words >> 64) as u64).ok()
}

fn store_entry<M: Memory, S: Msrs>(memory: &mut M, msrs: &mut S, at: Gpa1) -> Option<()> {
    let head = memory.read_u64(at).ok()?;
    let msr = head as u32;
    if head >> 32 != 0 || is_unstorable(msr, msrs.is_x2apic()) {
        return None;
    }
    let value = msrs.store(msr).ok()?;
    memory.write(at.checked_add(8)?, &value.to_le_bytes()).ok()
}

/// MSRs that a list may not load (SDM 27.4).
const fn is_unloadable(msr: u32, is_x2apic: bool) -> bool {
    matches!(
        msr,
        // IA32_FS_BASE, IA32_GS_BASE, IA32_SMM_MONITOR_CTL, IA32_SMBASE,
        // IA32_BIOS_UPDT_TRIG, IA32_BIOS_SIGN_ID.
        0xc000_0100 | 0xc000_0101 | 0x9b | 0x9e | 0x79 | 0x8b
    ) || is_x2apic && msr >> 8 == 8
}

/// MSRs that a list may not store (SDM 28.4).
const fn is_unstorable(msr: u32, is_x2apic: bool) -> bool {
    msr == 0x9e || is_x2apic && msr >> 8 == 8
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::testing::{FakeMemory, nested};
    use crate::vmcs12::put;
    use std::vec::Vec;

    #[derive(Default)]
    struct FakeMsrs {
        loaded: Vec<(u32, u64)>,
        x2apic: bool,
    }

    impl Msrs for FakeMsrs {
        fn load(&mut self, msr: u32, value: u64) -> Result<(), Refused> {
            if msr == 0xdead {
                return Err(Refused);
            }
            self.loaded.push((msr, value));
            Ok(())
        }

        fn store(&mut self, msr: u32) -> Result<u64, Refused> {
            if msr == 0xdead {
                Err(Refused)
            } else {
                Ok(u64::from(msr) * 3)
            }
        }

        fn is_x2apic(&self) -> bool {
            self.x2apic
        }
    }

    fn list(memory: &mut FakeMemory, entries: &[(u32, u32, u64)]) {
        for (n, (msr, reserved, value)) in entries.iter().enumerate() {
            let words = u128::from(*msr) | u128::from(*reserved) << 32 | u128::from(*value) << 64;
            memory.0[0x1000 + n * 16..][..16].copy_from_slice(&words.to_le_bytes());
        }
    }

    fn with_lists(count: u64) -> Nested {
        let mut nested = nested();
        put!(nested.vmcs12, ENTRY_MSR_LOAD_ADDRESS, 0x1000);
        put!(nested.vmcs12, ENTRY_MSR_LOAD_COUNT, count);
        put!(nested.vmcs12, EXIT_MSR_STORE_ADDRESS, 0x1000);
        put!(nested.vmcs12, EXIT_MSR_STORE_COUNT, count);
        put!(nested.vmcs12, EXIT_MSR_LOAD_ADDRESS, 0x1000);
        put!(nested.vmcs12, EXIT_MSR_LOAD_COUNT, count);
        nested
    }

    #[test]
    fn lists_are_walked_in_order_until_one_fails() {
        let mut memory = FakeMemory::new(0x2000);
        list(
            &mut memory,
            &[(0x10, 0, 7), (0x174, 0, 8), (0xdead, 0, 9), (0x175, 0, 1)],
        );
        let mut msrs = FakeMsrs::default();
        assert_eq!(
            with_lists(2).entry_msr_load_list().load(&memory, &mut msrs),
            Ok(())
        );
        assert_eq!(msrs.loaded, [(0x10, 7), (0x174, 8)]);
        msrs.loaded.clear();
        let failed = with_lists(4).entry_msr_load_list().load(&memory, &mut msrs);
        assert_eq!(failed, Err(FailedAt(3)));
        assert_eq!(msrs.loaded.len(), 2);
        let failed = with_lists(4).exit_msr_load_list().load(&memory, &mut msrs);
        assert_eq!(failed, Err(FailedAt(3)));
    }

    #[test]
    fn what_a_list_may_not_name() {
        let mut memory = FakeMemory::new(0x2000);
        let mut msrs = FakeMsrs::default();
        for entry in [
            (0xc000_0100, 0, 0),
            (0xc000_0101, 0, 0),
            (0x9b, 0, 0),
            (0x10, 1, 0),
        ] {
            list(&mut memory, &[entry]);
            let failed = with_lists(1).entry_msr_load_list().load(&memory, &mut msrs);
            assert_eq!(failed, Err(FailedAt(1)), "{entry:x?}");
        }
        list(&mut memory, &[(0x808, 0, 0)]);
        assert!(
            with_lists(1)
                .entry_msr_load_list()
                .load(&memory, &mut msrs)
                .is_ok()
        );
        msrs.x2apic = true;
        assert!(
            with_lists(1)
                .entry_msr_load_list()
                .load(&memory, &mut msrs)
                .is_err()
        );
    }

    #[test]
    fn stores_put_the_value_and_nothing_else() {
        let mut memory = FakeMemory::new(0x2000);
        list(&mut memory, &[(0x10, 0, 0), (0x11, 0, 0)]);
        let mut msrs = FakeMsrs::default();
        assert!(
            with_lists(2)
                .exit_msr_store_list()
                .store(&mut memory, &mut msrs)
                .is_ok()
        );
        assert_eq!(memory.read_u64(Gpa1::new(0x1000)), Ok(0x10));
        assert_eq!(memory.read_u64(Gpa1::new(0x1008)), Ok(0x30));
        assert_eq!(memory.read_u64(Gpa1::new(0x1018)), Ok(0x33));
        let beyond = {
            let mut nested = with_lists(1);
            put!(nested.vmcs12, EXIT_MSR_STORE_ADDRESS, 0x8000);
            nested.exit_msr_store_list().store(&mut memory, &mut msrs)
        };
        assert_eq!(beyond, Err(FailedAt(1)));
    }
}
