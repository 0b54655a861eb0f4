use super::*;
use proptest::prelude::*;

fn config(vps: u32) -> Config {
    Config {
        vps,
        vmx: true,
        invariant_tsc: true,
        rdtscp: true,
        invpcid: true,
        xsaves: true,
        xsavec: true,
        tsc_hz: 100_000_000,
    }
}

fn vp(apic_id: u32) -> VpView {
    VpView {
        apic_id,
        apic_enabled: true,
        osxsave: false,
        xcr0: 1,
    }
}

/// A processor that has everything the manual names, and more.
fn everything(leaf: u32, subleaf: u32) -> Registers {
    let ones = Registers {
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
    };
    match (leaf, subleaf) {
        (0, _) => Registers { eax: 0x20, ..ones },
        (0x8000_0000, _) => Registers {
            eax: 0x8000_0021,
            ..ones
        },
        // L1 data, L1 code, L2 shared by two threads, L3 by sixteen.
        (4, 0) => cache(0x0400_4121),
        (4, 1) => cache(0x0400_4122),
        (4, 2) => cache(0x0400_4143),
        (4, 3) => cache(0x0403_C163),
        (4, _) => Registers::default(),
        (0xD, 2) => component(256, 576, 0),
        (0xD, 3) => component(64, 960, 0),
        (0xD, 4) => component(64, 1024, 0),
        (0xD, 5) => component(64, 1088, 0),
        (0xD, 6) => component(512, 1152, 2),
        (0xD, 7) => component(1024, 1664, 0),
        (0xD, 9) => component(8, 2688, 0),
        _ => ones,
    }
}

fn cache(eax: u32) -> Registers {
    Registers {
        eax,
        ebx: 0x01C0_003F,
        ecx: 63,
        edx: 0,
    }
}

fn component(eax: u32, ebx: u32, ecx: u32) -> Registers {
    Registers {
        eax,
        ebx,
        ecx,
        edx: 0,
    }
}

fn nothing(leaf: u32, _subleaf: u32) -> Registers {
    let eax = match leaf {
        0 => 0x20,
        0x8000_0000 => 0x8000_0008,
        _ => 0,
    };
    Registers {
        eax,
        ..Registers::default()
    }
}

#[test]
fn hidden_features_stay_hidden() {
    let policy = CpuidPolicy::new(everything, &config(2));
    let leaf1 = policy.query(1, 0, &vp(0));
    for (bit, name) in [
        (2, "DTES64"),
        (3, "MONITOR"),
        (4, "DS-CPL"),
        (6, "SMX"),
        (7, "EIST"),
        (8, "TM2"),
        (10, "CNXT-ID"),
        (11, "SDBG"),
        (15, "PDCM"),
        (18, "DCA"),
        (27, "OSXSAVE"),
    ] {
        assert_eq!(leaf1.ecx >> bit & 1, 0, "{name}");
    }
    for (bit, name) in [
        (18, "PSN"),
        (21, "DS"),
        (22, "ACPI"),
        (29, "TM"),
        (31, "PBE"),
    ] {
        assert_eq!(leaf1.edx >> bit & 1, 0, "{name}");
    }
    let leaf7 = policy.query(7, 0, &vp(0));
    assert_eq!(leaf7.eax, 0);
    for (bit, name) in [
        (2, "SGX"),
        (4, "HLE"),
        (11, "RTM"),
        (12, "RDT-M"),
        (14, "MPX"),
        (15, "RDT-A"),
        (25, "PT"),
    ] {
        assert_eq!(leaf7.ebx >> bit & 1, 0, "{name}");
    }
    for (bit, name) in [
        (3, "PKU"),
        (4, "OSPKE"),
        (5, "WAITPKG"),
        (7, "CET_SS"),
        (16, "LA57"),
    ] {
        assert_eq!(leaf7.ecx >> bit & 1, 0, "{name}");
    }
    for hidden in [3, 5, 8, 9, 0xA, 0xC, 0x8000_0005] {
        assert_eq!(policy.query(hidden, 0, &vp(0)), Registers::default());
    }
    assert_eq!(policy.query(6, 0, &vp(0)).eax, 4);
    assert_eq!(policy.query(7, 1, &vp(0)), Registers::default());
}

#[test]
fn emulated_features_show_on_any_hardware() {
    let policy = CpuidPolicy::new(nothing, &config(1));
    let leaf = policy.query(1, 0, &vp(0));
    // VMX by configuration; x2APIC, TSC-deadline, hypervisor.
    assert_eq!(leaf.ecx, 1 << 5 | 1 << 21 | 1 << 24 | 1 << 31);
    assert_eq!(leaf.edx, 1 << 9);
    // TSC_ADJUST.
    assert_eq!(policy.query(7, 0, &vp(0)).ebx, 1 << 1);
    assert_eq!(policy.query(0, 0, &vp(0)).eax, 0x15);
    let without = Config {
        vmx: false,
        ..config(1)
    };
    let policy = CpuidPolicy::new(nothing, &without);
    assert_eq!(policy.query(1, 0, &vp(0)).ecx & 1 << 5, 0);
}

#[test]
fn controls_gate_their_instructions() {
    let off = Config {
        rdtscp: false,
        invpcid: false,
        xsaves: false,
        xsavec: true,
        tsc_hz: 100_000_000,
        invariant_tsc: false,
        ..config(1)
    };
    for (config, shown) in [(config(1), true), (off, false)] {
        let policy = CpuidPolicy::new(everything, &config);
        let query = |leaf, subleaf| policy.query(leaf, subleaf, &vp(0));
        assert_eq!(query(7, 0).ebx >> 10 & 1 != 0, shown, "INVPCID");
        assert_eq!(query(7, 0).ecx >> 22 & 1 != 0, shown, "RDPID");
        assert_eq!(query(0x8000_0001, 0).edx >> 27 & 1 != 0, shown, "RDTSCP");
        assert_eq!(query(0xD, 1).eax >> 3 & 1 != 0, shown, "XSAVES");
        assert_eq!(query(0x8000_0007, 0).edx >> 8 & 1 != 0, shown, "TSC");
    }
}

#[test]
fn vp_state_shows() {
    let policy = CpuidPolicy::new(everything, &config(4));
    let view = VpView {
        apic_enabled: false,
        osxsave: true,
        ..vp(3)
    };
    let leaf = policy.query(1, 0, &view);
    assert_eq!(leaf.ebx, 3 << 24 | 4 << 16 | 0xFF00);
    assert_eq!((leaf.edx >> 9 & 1, leaf.ecx >> 27 & 1), (0, 1));
    assert_eq!(leaf.edx >> 28 & 1, 1, "HTT: more than one id");
    assert_eq!(policy.query(1, 0, &vp(0)).edx >> 9 & 1, 1);
}

#[test]
fn topology_is_a_package_of_cores() {
    for vps in [1, 2, 3, 8, 255] {
        let policy = CpuidPolicy::new(everything, &config(vps));
        let id = vps - 1;
        let smt = policy.query(0xB, 0, &vp(id));
        assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (0, 1, 0x100, id));
        let core = policy.query(0xB, 1, &vp(id));
        assert_eq!((core.ebx, core.ecx, core.edx), (vps, 0x201, id));
        assert!(id >> core.eax == 0 && (vps == 1 || (id >> (core.eax - 1)) == 1));
        let end = policy.query(0xB, 2, &vp(id));
        assert_eq!((end.eax, end.ebx, end.ecx, end.edx), (0, 0, 2, id));

        let ids = vps.next_power_of_two() - 1;
        for level in 0..3 {
            let eax = policy.query(4, level, &vp(0)).eax;
            assert_eq!((eax >> 14 & 0xFFF, eax >> 26), (0, ids.min(63)));
        }
        let eax = policy.query(4, 3, &vp(0)).eax;
        assert_eq!((eax >> 14 & 0xFFF, eax & 0x3FFF), (ids, 0x163));
        assert_eq!(policy.query(4, 4, &vp(0)), Registers::default());
        assert_eq!(policy.query(4, 9999, &vp(0)), Registers::default());
    }
}

#[test]
fn leaves_beyond_the_end_answer_as_the_last_one() {
    let policy = CpuidPolicy::new(everything, &config(1));
    assert_eq!(policy.query(0, 0, &vp(0)).eax, 0x15);
    for leaf in [0xE, 0x14] {
        assert_eq!(policy.query(leaf, 0, &vp(0)), Registers::default());
    }
    let rate = policy.query(0x15, 0, &vp(0));
    assert_eq!((rate.eax, rate.ebx, rate.ecx), (1, 1, 100_000_000));
    for leaf in [0x16, 0x1F, 0x7FFF_FFFF, 0x8000_0009, u32::MAX] {
        assert_eq!(policy.query(leaf, 2, &vp(0)), rate);
    }
    assert_eq!(policy.query(0x8000_0000, 0, &vp(0)).eax, 0x8000_0008);
    assert_eq!(policy.query(0x8000_0008, 0, &vp(0)).eax, 0x30FF);
}

#[test]
fn xsave_sizes_follow_the_components() {
    let policy = CpuidPolicy::new(everything, &config(1));
    let with = |xcr0| VpView { xcr0, ..vp(0) };
    assert_eq!(policy.xcr0_supported(), 0xE7);
    for (xcr0, standard, compacted) in [
        (1, 576, 576),
        (3, 576, 576),
        (7, 832, 832),
        // Compacted, ZMM_Hi256 moves down behind the mask, to a multiple of 64.
        (0xE7, 2688, 832 + 64 + 512 + 1024),
    ] {
        let main = policy.query(0xD, 0, &with(xcr0));
        assert_eq!((main.eax, main.edx), (0xE7, 0));
        assert_eq!((main.ebx, main.ecx), (standard, 2688));
        let second = policy.query(0xD, 1, &with(xcr0));
        assert_eq!((second.ebx, second.ecx, second.edx), (compacted, 0, 0));
        assert_eq!(second.eax, 0xF);
    }
    for hidden in [3, 4, 8, 9, 17, 18, 62, 63, 64, u32::MAX] {
        assert_eq!(policy.query(0xD, hidden, &vp(0)), Registers::default());
    }
    assert_eq!(policy.query(0xD, 6, &vp(0)), component(512, 1152, 2));
}

#[test]
fn a_component_that_must_be_aligned_is() {
    // Component 5 does not end at a multiple of 64, component 6 wants to begin at one.
    let odd = |leaf, subleaf| match (leaf, subleaf) {
        (0xD, 5) => component(40, 1088, 0),
        other => everything(other.0, other.1),
    };
    let policy = CpuidPolicy::new(odd, &config(1));
    let view = VpView {
        xcr0: 0xE7,
        ..vp(0)
    };
    assert_eq!(policy.query(0xD, 1, &view).ebx, 832 + 64 + 512 + 1024);
}

#[test]
fn without_components_no_instructions_on_them() {
    let sse_only = |leaf, subleaf| match (leaf, subleaf) {
        (0xD, 0) => component(3, 576, 576),
        other => everything(other.0, other.1),
    };
    let policy = CpuidPolicy::new(sse_only, &config(1));
    let (leaf1, leaf7) = (policy.query(1, 0, &vp(0)), policy.query(7, 0, &vp(0)));
    assert_eq!(leaf1.ecx & (1 << 12 | 1 << 28 | 1 << 29), 0);
    assert_eq!(leaf7.ebx & (1 << 5 | 1 << 16 | 1 << 31), 0);
    assert_eq!(leaf7.ecx & (1 << 9 | 1 << 11), 0);
    assert_eq!(leaf7.edx & (1 << 2 | 1 << 23), 0);
}

#[test]
fn xcr0_values() {
    let policy = CpuidPolicy::new(everything, &config(1));
    let legal: alloc::vec::Vec<u64> = (0..1 << 12)
        .filter(|&value| policy.check_xcr0(value).is_ok())
        .collect();
    assert_eq!(legal, [1, 3, 7, 0xE7]);
    assert_eq!(policy.check_xcr0(1 << 63 | 1), Err(GeneralProtection));
    let none = CpuidPolicy::new(nothing, &config(1));
    assert_eq!(none.check_xcr0(1), Err(GeneralProtection));
}

proptest! {
    /// Whatever the hardware: a feature shows only if it is there and on the list.
    #[test]
    fn nothing_is_invented(seed in any::<u32>(), vps in 1u32..=255) {
        let host = move |leaf: u32, subleaf: u32| {
            let mut random = seed ^ leaf.wrapping_mul(0x9E37_79B9) ^ subleaf.wrapping_mul(0x85EB_CA6B);
            let mut next = || {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random.rotate_left(13)
            };
            Registers { eax: next(), ebx: next(), ecx: next(), edx: next() }
        };
        let policy = CpuidPolicy::new(host, &config(vps));
        let last = host(0, 0).eax;
        let (leaf1, raw1) = (policy.query(1, 0, &vp(0)), host(1, 0));
        let emulated = features::EMULATED_LEAF_1_ECX | features::VMX;
        prop_assert_eq!(leaf1.ecx & !(raw1.ecx & LEAF_1_ECX | emulated), 0);
        prop_assert_eq!(leaf1.edx & !(raw1.edx & LEAF_1_EDX | features::HTT | APIC), 0);
        if last >= 7 {
            let (leaf7, raw7) = (policy.query(7, 0, &vp(0)), host(7, 0));
            prop_assert_eq!(leaf7.ebx & !(raw7.ebx & LEAF_7_EBX | features::EMULATED_LEAF_7_EBX), 0);
            prop_assert_eq!(leaf7.ecx & !(raw7.ecx & LEAF_7_ECX), 0);
            prop_assert_eq!(leaf7.edx & !(raw7.edx & LEAF_7_EDX), 0);
        }
        for leaf in (0..0x20).chain(0x8000_0000..0x8000_0010) {
            for subleaf in 0..10 {
                policy.query(leaf, subleaf, &vp(0));
            }
        }
    }
}

#[test]
fn without_a_sound_xsavec_the_standard_form_stays() {
    let config = Config {
        xsavec: false,
        ..config(1)
    };
    let policy = CpuidPolicy::new(everything, &config);
    let view = VpView { xcr0: 7, ..vp(0) };
    // XSAVEOPT and XGETBV with ECX = 1; no size of a form that nothing stores.
    let instructions = policy.query(0xD, 1, &view);
    assert_eq!((instructions.eax, instructions.ebx), (1 | 1 << 2, 0));
    assert!(!policy.has_xsaves());
    assert_eq!(policy.xcr0_supported(), 0xE7);
    assert_eq!(policy.query(0xD, 0, &view).ebx, 832);
    assert_eq!(policy.query(1, 0, &vp(0)).ecx >> 28 & 1, 1, "AVX");
}

#[test]
fn what_may_show_has_a_name_and_no_bit_has_two() {
    use super::names::*;
    let policy = CpuidPolicy::new(everything, &config(2));
    let view = VpView {
        osxsave: true,
        ..vp(0)
    };
    let ask = |leaf, subleaf| policy.query(leaf, subleaf, &view);
    let xcr0 = ask(0xD, 0).eax;
    for (table, shown) in [
        (LEAF_1_ECX, ask(1, 0).ecx),
        (LEAF_1_EDX, ask(1, 0).edx),
        (LEAF_6_EAX, ask(6, 0).eax),
        (LEAF_7_EBX, ask(7, 0).ebx),
        (LEAF_7_ECX, ask(7, 0).ecx),
        (LEAF_7_EDX, ask(7, 0).edx),
        (XCR0, xcr0),
        (LEAF_D_1_EAX, ask(0xD, 1).eax),
        (EXTENDED_1_ECX, ask(0x8000_0001, 0).ecx),
        (EXTENDED_1_EDX, ask(0x8000_0001, 0).edx),
        (EXTENDED_7_EDX, ask(0x8000_0007, 0).edx),
    ] {
        assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for bit in (0..32).filter(|bit| shown >> bit & 1 != 0) {
            let named = table.iter().any(|(number, _)| *number == bit);
            assert!(named, "bit {bit}, beside {:?}", table[0]);
        }
    }
}
