use super::*;
use addr::Gpa1;
use alloc::vec;
use hyperv::enlightenments::Set;
use nested::access::Vmcs;
use nested::{Config, Nested};
use platform::apic::{Inbox, LocalApic, TimerClock};
use platform::cpuid::{self, CpuidPolicy};
use platform::interrupt::Trigger;
use platform::msr::{HostMsrs, MsrPolicy};
use proptest::prelude::*;
use std::collections::BTreeMap;
use vmx::{Capabilities, Field};

extern crate std;

const TSC_HZ: u32 = 100_000_000;

/// Hardware with these feature words.
fn cpuid(leaf_1_ecx: u32, leaf_7_ebx: u32, xcr0: u32, vps: u32) -> CpuidPolicy {
    cpuid_with(leaf_1_ecx, (leaf_7_ebx, 0), xcr0, vps)
}

/// The same with leaf 7's EBX and EDX.
fn cpuid_with(leaf_1_ecx: u32, leaf_7: (u32, u32), xcr0: u32, vps: u32) -> CpuidPolicy {
    let host = |leaf: u32, subleaf: u32| {
        let mut registers = cpuid::Registers::default();
        match (leaf, subleaf) {
            (0, _) => registers.eax = 0xD,
            (1, _) => registers.ecx = leaf_1_ecx | 1 << 26,
            (7, 0) => (registers.ebx, registers.edx) = leaf_7,
            (0xD, 0) => registers.eax = xcr0,
            (0xD, 2) => (registers.eax, registers.ebx) = (256, 576),
            (0x8000_0000, _) => registers.eax = 0x8000_0008,
            (0x8000_0008, _) => registers.eax = 39,
            _ => {}
        }
        registers
    };
    let config = cpuid::Config {
        vps,
        vmx: true,
        invariant_tsc: false,
        rdtscp: true,
        invpcid: true,
        xsaves: false,
        xsavec: false,
        tsc_hz: TSC_HZ.into(),
    };
    CpuidPolicy::new(host, &config)
}

fn setup(cpuid: CpuidPolicy, vmx: Capabilities) -> Setup {
    Setup {
        vps: 2,
        memory: 64 << 20,
        enlightenments: Set::ALL,
        apic_hz: TSC_HZ.into(),
        physical_address_bits: 39,
        cpu_signature: 0x50654,
        cr4_offered: 0x2000,
        cpuid,
        host_msrs: HostMsrs::default(),
        vmx,
    }
}

#[derive(Default)]
struct Fields(BTreeMap<u32, u64>);

impl Vmcs for Fields {
    fn read(&self, field: Field) -> u64 {
        self.0.get(&field.encoding()).copied().unwrap_or(0)
    }

    fn write(&mut self, field: Field, value: u64) {
        self.0.insert(field.encoding(), value);
    }
}

fn vp(index: u32, setup: &Setup) -> Vp {
    let clock = TimerClock::new(TSC_HZ.into(), TSC_HZ.into()).unwrap();
    let apic = LocalApic::new(index, index == 0, clock);
    let inbox = Inbox::new(apic.address());
    inbox.post_vector(0x31, Trigger::Level);
    inbox.post_nmi();
    let msrs = MsrPolicy::new(&setup.cpuid, setup.host_msrs).initial_state();
    let nested = Nested::new(Config {
        caps: setup.vmx,
        physical_bits: 39,
        enlightenments: 0,
    });
    Vp {
        registers: [index.into(); 16],
        vmcs01: Vmcs01::read(&Fields::default()),
        processor: Processor {
            cr2: 1,
            debug: [1, 2, 3, 4],
            dr6: 5,
            xcr0: Some(3),
            extended: vec![7; setup.cpuid.extended_state_size()],
            msrs: vec![(0xC000_0102, 9)],
        },
        activity: Activity::Halted,
        nmi_pending: true,
        init_pending: false,
        eoi_assisted: true,
        tsc_ahead: 1 << 63,
        latched: 3,
        apic,
        inbox: inbox.save(),
        hyperv: hyperv::Vp::new(index),
        msrs,
        nested: nested.save(&Fields::default()),
    }
}

fn machine() -> Machine {
    let setup = setup(cpuid(1 << 23, 1 << 3, 7, 2), Capabilities::default());
    Machine {
        vps: (0..2).map(|index| vp(index, &setup)).collect(),
        partition: Partition {
            tsc: Tsc(1 << 40),
            tsc_hz: TSC_HZ.into(),
            hyperv: PartitionState::default(),
            ioapic: Ioapic::new(),
            uarts: [Uart::new(), Uart::new()],
            rtc: Rtc::new(),
        },
        setup,
    }
}

#[test]
fn bytes_are_the_state() {
    let bytes = machine().encode();
    let read = Machine::decode(&bytes).unwrap();
    assert_eq!(read.encode(), bytes);
    assert_eq!(read.vps[1].registers, [1; 16]);
    let inbox = Inbox::new(read.vps[0].apic.address());
    inbox.restore(&read.vps[0].inbox);
    let mut apic = read.vps[0].apic.clone();
    assert!(apic.drain(&inbox).nmi);
}

#[test]
fn a_part_of_the_bytes_is_none() {
    let bytes = machine().encode();
    for length in (0..bytes.len()).step_by(97) {
        assert_eq!(Machine::decode(&bytes[..length]).unwrap_err(), Bad::Form);
    }
    let more = [&bytes[..], &[0]].concat();
    assert_eq!(Machine::decode(&more).unwrap_err(), Bad::Form);
}

proptest! {
    /// L0 takes such bytes from a person.
    #[test]
    fn no_bytes_are_trouble(at in any::<prop::sample::Index>(), value: u8) {
        let mut bytes = machine().encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(machine) = Machine::decode(&bytes) {
            let _ = machine.setup.fits(&machine.setup);
        }
    }
}

fn refused(change: impl FnOnce(&mut Machine)) -> Bad {
    let mut machine = machine();
    change(&mut machine);
    Machine::decode(&machine.encode()).unwrap_err()
}

#[test]
fn what_cannot_be_is_refused() {
    assert_eq!(refused(|m| m.setup.vps = 3), Bad::Vps(3));
    assert_eq!(
        refused(|m| {
            m.setup.vps = 0;
            m.vps.clear();
        }),
        Bad::Vps(0)
    );
    assert!(matches!(refused(|m| m.partition.tsc_hz = 5), Bad::Rate(_)));
    assert_eq!(refused(|m| m.vps.swap(0, 1)), Bad::Vp(0, "local APIC"));
    assert_eq!(
        refused(|m| m.vps[1].processor.xcr0 = Some(2)),
        Bad::Vp(1, "extended state")
    );
    assert_eq!(
        refused(|m| m.vps[1].processor.extended.truncate(100)),
        Bad::Vp(1, "extended state")
    );
    assert_eq!(
        refused(|m| m.vps[0].hyperv.timers.0[2].expires.0 = 5),
        Bad::Vp(0, "synthetic timers")
    );
}

/// A CPUID policy is plain data to a state file: whoever changes its bytes need not get one that can be.
#[test]
fn a_cpuid_that_cannot_be_is_refused() {
    let with = |from: &[u8], to: &[u8]| {
        let bytes = machine().encode();
        let mut hits = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from));
        let at = hits.next().unwrap();
        let changed = [&bytes[..at], to, &bytes[at + from.len()..]].concat();
        Machine::decode(&changed).map(|_| ()).unwrap_err()
    };
    // The number of VPs and the last leaves, as they stand after one another.
    assert_eq!(
        with(
            b"\x02\x15\x88\x80\x80\x80\x08",
            b"\x02\x16\x88\x80\x80\x80\x08"
        ),
        Bad::Cpuid
    );
    assert_eq!(
        with(
            b"\x02\x15\x88\x80\x80\x80\x08",
            b"\x02\x15\x89\x80\x80\x80\x08"
        ),
        Bad::Cpuid
    );
    // AVX without SSE.
    let mut odd = machine();
    odd.setup.cpuid = cpuid(1 << 23, 1 << 3, 5, 2);
    for vp in &mut odd.vps {
        vp.processor.xcr0 = Some(1);
        vp.processor.extended = vec![0; odd.setup.cpuid.extended_state_size()];
    }
    assert_eq!(Machine::decode(&odd.encode()).unwrap_err(), Bad::Cpuid);
}

#[test]
fn registers_that_only_hardware_would_take_are_refused() {
    for (field, value) in [
        (Field::GUEST_ACTIVITY_STATE, 3),
        (Field::GUEST_CR4, 1 << 22),
        (Field::GUEST_DEBUGCTL, 1),
    ] {
        let bad = refused(|m| {
            let mut fields = Fields::default();
            fields.write(field, value);
            m.vps[1].vmcs01 = Vmcs01::read(&fields);
        });
        assert_eq!(bad, Bad::Vp(1, "registers"), "{field:?}");
    }
}

#[test]
fn no_list_is_longer_than_it_can_be() {
    assert_eq!(
        refused(|m| m.vps[0].processor.extended = vec![0; 4097]),
        Bad::Form
    );
    assert_eq!(
        refused(|m| m.vps[0].processor.msrs = vec![(0, 0); 65]),
        Bad::Form
    );
}

/// Bytes of today's form are read by who reads that form: [`FORM`] is another number when this fails.
#[test]
fn the_form_has_its_number() {
    let bytes = machine().encode();
    let sum = bytes.iter().fold(0xCBF2_9CE4_8422_2325u64, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    });
    assert_eq!((FORM, bytes.len(), sum), (2, 10849, 2327103974181754718));
    let mut other = bytes;
    other[0] = 3;
    assert_eq!(Machine::decode(&other).unwrap_err(), Bad::Version(3));
}

#[test]
fn registers_come_back_to_vmcs_01() {
    let mut fields = Fields::default();
    for (n, &field) in VMCS01.iter().enumerate() {
        fields.write(field, n as u64 + 1);
    }
    fields.write(Field::ENTRY_CONTROLS, 1 << 9);
    let saved = Vmcs01::read(&fields);
    let mut other = Fields::default();
    other.write(Field::ENTRY_CONTROLS, 4);
    saved.write(&mut other);
    for &field in VMCS01 {
        assert_eq!(other.read(field), fields.read(field), "{field:?}");
    }
    assert_eq!(other.read(Field::ENTRY_CONTROLS), 4 | 1 << 9);
}

#[test]
fn a_machine_with_less_does_not_fit() {
    let vmx = Capabilities {
        ept_vpid: 3,
        cr4_fixed1: 0x2000,
        ..Capabilities::default()
    };
    let saved = setup(cpuid(1 << 23, 1 << 3, 7, 2), vmx);
    let fits = |here: Setup| saved.fits(&here).map_err(|unfit| std::format!("{unfit}"));
    assert_eq!(fits(setup(cpuid(1 << 23, 1 << 3, 7, 2), vmx)), Ok(()));
    // More is no harm.
    let more = Capabilities { ept_vpid: 7, ..vmx };
    assert_eq!(
        fits(setup(cpuid(1 << 23 | 1 << 20, 1 << 3, 7, 2), more)),
        Ok(())
    );
    let error = fits(setup(cpuid(0, 1 << 3, 7, 2), vmx)).unwrap_err();
    assert!(error.contains("CPUID 0x1, ECX, bits 0x800000"), "{error}");
    let error = fits(setup(cpuid(1 << 23, 1 << 3, 3, 2), vmx)).unwrap_err();
    assert!(error.contains("XCR0 bits 0x4"), "{error}");
    let less = Capabilities { ept_vpid: 1, ..vmx };
    let error = fits(setup(cpuid(1 << 23, 1 << 3, 7, 2), less)).unwrap_err();
    assert!(error.contains("MSR 0x48c, bits 0x2"), "{error}");
    // L1 goes by what it reads of IA32_ARCH_CAPABILITIES, where CPUID tells of it.
    let immune = |leaf_7_edx| {
        let mut setup = setup(cpuid_with(1 << 23, (1 << 3, leaf_7_edx), 7, 2), vmx);
        setup.host_msrs.arch_capabilities = 1;
        setup
    };
    let mut open = immune(1 << 29);
    assert_eq!(immune(1 << 29).fits(&open), Ok(()));
    open.host_msrs.arch_capabilities = 0;
    assert_eq!(immune(1 << 29).fits(&open), Err(Unfit::Vulnerable(1)));
    assert_eq!(immune(0).fits(&open), Ok(()));
    let mut one = setup(cpuid(1 << 23, 1 << 3, 7, 2), vmx);
    one.vps = 1;
    assert!(fits(one).unwrap_err().contains("2 VPs, and 1"));
}

#[test]
fn addresses_of_vmcss_are_looked_at() {
    let bad = Gpa1::new(0x1001);
    let text = std::format!("{}", Bad::Nested(1, BadState::NoPage(bad)));
    assert!(text.contains("VP 1") && text.contains("0x1001"), "{text}");
}
