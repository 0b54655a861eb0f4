use super::*;
use crate::cpuid::{Config, Registers};
use alloc::vec::Vec;

fn policy(leaf_7_edx: u32, extended: bool) -> MsrPolicy {
    let host = move |leaf: u32, subleaf: u32| {
        let mut registers = Registers::default();
        match (leaf, subleaf) {
            (0, _) => registers.eax = 0xD,
            (1, _) => registers.ecx = 1 << 26,
            (7, 0) => registers.edx = leaf_7_edx,
            (0xD, 0) => registers.eax = 3,
            (0xD, 1) => registers.eax = 0xF,
            (0x8000_0000, _) => registers.eax = 0x8000_0008,
            (0x8000_0001, _) => registers.edx = 1 << 27,
            _ => {}
        }
        registers
    };
    let config = Config {
        vps: 1,
        vmx: extended,
        invariant_tsc: true,
        rdtscp: extended,
        invpcid: true,
        xsaves: extended,
        xsavec: true,
        tsc_hz: 100_000_000,
    };
    let host_msrs = HostMsrs {
        arch_capabilities: u64::MAX,
        bios_sign_id: 0x0200_0065 << 32,
        misc_enable: 1,
    };
    MsrPolicy::new(&CpuidPolicy::new(host, &config), host_msrs)
}

fn passed(policy: &MsrPolicy, msr: u32) -> Option<(bool, bool)> {
    let found: Vec<_> = policy.passthrough().filter(|p| p.msr == msr).collect();
    assert!(found.len() <= 1, "{msr:#x} is listed twice");
    found.first().map(|p| (p.read, p.write))
}

#[test]
fn passes_what_is_the_guests_own() {
    let policy = policy(0, true);
    for msr in [
        0x174,
        0x175,
        0x176,
        0x277,
        0xC000_0080,
        0xC000_0100,
        0xC000_0102,
    ] {
        assert_eq!(passed(&policy, msr), Some((true, true)), "{msr:#x}");
    }
    for msr in [0x10, 0x1D9] {
        assert_eq!(passed(&policy, msr), Some((true, false)), "{msr:#x}");
    }
    for msr in [
        0x1B,
        0x3A,
        0x6E0,
        0x808,
        0x830,
        0x1A0,
        0x2FF,
        0x480,
        0x4000_0000,
    ] {
        assert_eq!(passed(&policy, msr), None, "{msr:#x}");
    }
}

#[test]
fn msrs_come_and_go_with_their_features() {
    let without = policy(0, false);
    for msr in [0x48, 0x49, 0x10B, 0xC000_0103] {
        assert_eq!(passed(&without, msr), None, "{msr:#x}");
    }
    let state = without.initial_state();
    for msr in [0x10A, 0xDA0] {
        assert_eq!(without.read(&state, msr), Err(GeneralProtection));
    }
    assert_eq!(without.read(&state, 0x3A), Ok(1));
    let with = policy(u32::MAX, true);
    assert_eq!(passed(&with, 0x48), Some((true, true)));
    assert_eq!(passed(&with, 0x49), Some((false, true)));
    assert_eq!(passed(&with, 0x10B), Some((false, true)));
    assert_eq!(passed(&with, 0xC000_0103), Some((true, true)));
    assert_eq!(with.read(&state, 0xDA0), Ok(0));
    assert_eq!(with.read(&state, 0x3A), Ok(5));
    let capabilities = with.read(&state, 0x10A).unwrap();
    assert_eq!(capabilities & 1, 1);
    assert_eq!(
        capabilities & (1 << 7 | 1 << 9 | 1 << 3),
        0,
        "TSX_CTRL, its like"
    );
}

#[test]
fn a_quiet_boot() {
    let policy = policy(0, true);
    let mut state = policy.initial_state();
    assert_eq!(policy.write(&mut state, 0x8B, 0), Ok(Effect::None));
    assert_eq!(policy.read(&state, 0x8B), Ok(0x0200_0065 << 32));
    assert_eq!(policy.read(&state, 0x17), Ok(0));
    assert_eq!(policy.read(&state, 0x179), Ok(0), "no banks");
    let cap = policy.read(&state, 0xFE).unwrap();
    assert_eq!(cap & 0x1FF, 0, "no ranges");
    assert_eq!(policy.read(&state, 0x2FF), Ok(0x806), "write-back");
    assert_eq!(policy.read(&state, 0x1A0), Ok(0x1801));
}

#[test]
fn stored_values_and_their_limits() {
    let policy = policy(0, true);
    let mut state = policy.initial_state();
    let mut write = |msr, value| policy.write(&mut state, msr, value);
    assert_eq!(write(0x2FF, 0xC00), Ok(Effect::None));
    for bad in [0x802, 0x8FF, 0x1806, 1 << 40] {
        assert_eq!(write(0x2FF, bad), Err(GeneralProtection), "{bad:#x}");
    }
    assert_eq!(write(0x1A0, 0x1800), Ok(Effect::None));
    assert_eq!(write(0x1A0, 0x5_1800), Err(GeneralProtection));
    assert_eq!(write(0x17A, 0), Ok(Effect::None));
    assert_eq!(write(0x17A, 4), Err(GeneralProtection));
    assert_eq!(write(0xDA0, 0), Ok(Effect::None));
    assert_eq!(write(0xDA0, 0x100), Err(GeneralProtection));
    assert_eq!(write(0x10, 77), Ok(Effect::Tsc(77)));
    assert_eq!(write(0x1D9, 2), Ok(Effect::Debugctl(2)));
    assert_eq!(write(0x1D9, 1), Err(GeneralProtection));
    assert_eq!(policy.read(&state, 0x2FF), Ok(0xC00));
    assert_eq!(policy.read(&state, 0x1A0), Ok(0x1800));
}

/// The list is the whole of it: outside, every MSR faults both ways.
#[test]
fn everything_else_faults() {
    let policy = policy(u32::MAX, true);
    let mut state = policy.initial_state();
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    let ranges = [
        0..0x2000,
        0x4000_0000..0x4000_0200,
        0xC000_0000..0xC000_2000,
    ];
    for msr in ranges.into_iter().flatten() {
        let read = policy.read(&state, msr);
        if read.is_ok() {
            reads.push(msr);
        }
        // What it holds, or 0, is a value it takes if it takes any.
        let value = read.unwrap_or(0);
        if policy.write(&mut state, msr, value).is_ok() {
            writes.push(msr);
        }
    }
    assert_eq!(
        reads,
        [
            0x17, 0x3A, 0x3B, 0x8B, 0xFE, 0x10A, 0x179, 0x17A, 0x1A0, 0x2FF, 0xDA0
        ]
    );
    assert_eq!(
        writes,
        [0x10, 0x3B, 0x8B, 0x17A, 0x1A0, 0x1D9, 0x2FF, 0xDA0]
    );
}

#[test]
fn hardware_that_is_open_to_more_is_told_apart() {
    let host = |arch_capabilities| HostMsrs {
        arch_capabilities,
        ..HostMsrs::default()
    };
    const RDCL_NO: u64 = 1 << 0;
    const RSBA: u64 = 1 << 2;
    const TSX_CTRL: u64 = 1 << 7;
    let open = |saved, here| host(saved).open_on(&host(here));
    assert_eq!(open(RDCL_NO | TSX_CTRL, RDCL_NO), 0);
    assert_eq!(open(0, RDCL_NO), 0);
    assert_eq!(open(RDCL_NO, 0), RDCL_NO);
    assert_eq!(open(RSBA, 0), 0);
    assert_eq!(open(0, RSBA), RSBA);
}

#[test]
fn fast_strings_are_the_hardwares_to_say() {
    for fast in [0, 1] {
        let host = HostMsrs {
            misc_enable: 0x85_0088 | fast,
            ..HostMsrs::default()
        };
        let policy = MsrPolicy {
            host,
            ..policy(0, true)
        };
        let mut state = policy.initial_state();
        assert_eq!(policy.read(&state, 0x1A0), Ok(0x1800 | fast));
        // L1 may change that bit, and no other.
        assert_eq!(policy.write(&mut state, 0x1A0, 0x1801), Ok(Effect::None));
        assert!(policy.write(&mut state, 0x1A0, 0x1800 ^ 1 << 18).is_err());
        assert_eq!(policy.read(&state, 0x1A0), Ok(0x1801));
    }
}

/// The two MSRs as L1 finds them: each moves the other, by as much (SDM vol. 3, 18.17.3).
#[test]
fn the_tsc_and_what_adjusts_it_move_together() {
    let policy = policy(0, false);
    let mut state = policy.initial_state();
    assert_eq!(passed(&policy, 0x3B), None);
    assert_eq!(policy.read(&state, 0x3B), Ok(0));
    let mut write = |msr, value| policy.write(&mut state, msr, value).unwrap();
    assert_eq!(write(0x3B, 1000), Effect::MoveTsc(1000));
    assert_eq!(write(0x3B, 400), Effect::MoveTsc(600u64.wrapping_neg()));
    assert_eq!(write(0x10, 7), Effect::Tsc(7));
    state.follow_tsc(50);
    assert_eq!(policy.read(&state, 0x3B), Ok(450));
    state.follow_tsc(451u64.wrapping_neg());
    assert_eq!(policy.read(&state, 0x3B), Ok(u64::MAX));
}
