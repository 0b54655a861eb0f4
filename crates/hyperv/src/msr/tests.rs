extern crate std;
use super::gates::{Access, TABLE};
use super::*;
use crate::clock::Tsc;
use crate::config::Config;
use crate::crash::CrashReport;
use crate::enlightenments::{Enlightenment, Set};
use crate::partition::{HYPERCALL_PAGE, Partition};
use crate::testing::{CONFIG, Ram};
use crate::vp::Vp;
use std::vec::Vec;
use tlfs::msr::{CrashControl, Msr};

const EVERY: Set = {
    let mut set = Set::NONE;
    let mut at = 0;
    while at < Enlightenment::EVERY.len() {
        set = set.with(Enlightenment::EVERY[at]);
        at += 1;
    }
    set
};

/// A partition, one of its VPs and its memory.
struct Machine {
    partition: Partition,
    vp: Vp,
    ram: Ram,
}

impl Machine {
    fn with(enlightenments: Set) -> Self {
        let config = Config {
            enlightenments,
            ..CONFIG
        };
        let partition = Partition::new(config, Tsc(1000)).unwrap();
        Self {
            partition,
            vp: Vp::new(1),
            ram: Ram::new(0x8000),
        }
    }

    fn read(&self, msr: Msr) -> Result<u64, GeneralProtection> {
        self.partition
            .read_msr(&self.vp, msr, Tsc(1000))
            .map(|read| match read {
                Read::Value(value) => value,
                other => panic!("{msr:?}: {other:?}"),
            })
    }

    fn write(&mut self, msr: Msr, value: u64) -> Result<Write, GeneralProtection> {
        self.partition
            .write_msr(&mut self.vp, msr, value, Tsc(1000), &self.ram)
    }
}

/// The sets in which everything that needs `off` is off as well.
fn without(off: Enlightenment) -> Set {
    let mut set = EVERY.without(off);
    while let Some((one, _)) = set.missing() {
        set = set.without(one);
    }
    set
}

#[test]
fn every_msr_answers_when_its_switch_is_on() {
    let mut machine = Machine::with(EVERY);
    for (msr, _, access) in TABLE {
        let read = machine
            .partition
            .read_msr(&machine.vp, *msr, Tsc(0))
            .is_ok();
        assert_eq!(read, *access != Access::Write, "reading {msr:?}");
        let write = machine.write(*msr, 0).is_ok();
        assert_eq!(write, *access != Access::Read, "writing {msr:?}");
    }
}

/// Leaf 0x40000003 as the TLFS ties it to MSRs: bits of EAX, then of EDX.
const PRIVILEGES: &[(core::ops::RangeInclusive<u32>, u32, u32)] = &[
    (0x4000_0000..=0x4000_0001, 1 << 5, 0),
    (0x4000_0002..=0x4000_0002, 1 << 6, 0),
    (0x4000_0003..=0x4000_0003, 1 << 7, 0),
    (0x4000_0020..=0x4000_0020, 1 << 1, 0),
    (0x4000_0021..=0x4000_0021, 1 << 9, 0),
    (0x4000_0022..=0x4000_0023, 1 << 11, 1 << 8),
    (0x4000_0070..=0x4000_0073, 1 << 4, 0),
    (0x4000_00B0..=0x4000_00B7, 1 << 3, 1 << 19),
    (0x4000_00F0..=0x4000_00F0, 1 << 10, 0),
    (0x4000_0100..=0x4000_0105, 0, 1 << 10),
    (0x4000_0106..=0x4000_0108, 1 << 13, 0),
];

#[test]
fn an_msr_is_there_if_its_privilege_is_advertised() {
    let sets = Enlightenment::EVERY
        .iter()
        .map(|one| without(*one))
        .chain([EVERY, Set::ALL]);
    for set in sets {
        let mut m = Machine::with(set);
        let [eax, _, _, edx] = m.partition.cpuid(0x4000_0003).unwrap_or_default();
        for number in 0x4000_0000..0x4000_0200 {
            let gate = PRIVILEGES.iter().find(|(msrs, ..)| msrs.contains(&number));
            let wanted = gate.is_some_and(|(_, a, d)| eax & a == *a && edx & d == *d);
            let read = m.partition.read_msr(&m.vp, Msr(number), Tsc(0)).is_ok();
            let there = read || m.write(Msr(number), 0).is_ok();
            assert_eq!(there, wanted, "{:?} with {set}", Msr(number));
        }
    }
}

#[test]
fn every_msr_faults_when_its_switch_is_off() {
    for (msr, switch, _) in TABLE {
        let set = if *switch == Enlightenment::Base {
            Set::NONE
        } else {
            without(*switch)
        };
        let mut machine = Machine::with(set);
        assert!(
            machine
                .partition
                .read_msr(&machine.vp, *msr, Tsc(0))
                .is_err(),
            "{msr:?}"
        );
        assert!(machine.write(*msr, 0).is_err(), "{msr:?}");
    }
}

#[test]
fn every_switch_opens_its_msrs_and_no_others() {
    for one in Enlightenment::EVERY {
        let mut set = Set::NONE.with(*one);
        while let Some((_, needs)) = set.missing() {
            set = set.with(needs);
        }
        let machine = Machine::with(set);
        for (msr, switch, access) in TABLE {
            let read = machine
                .partition
                .read_msr(&machine.vp, *msr, Tsc(0))
                .is_ok();
            assert_eq!(
                read,
                set.has(*switch) && *access != Access::Write,
                "{one:?}: {msr:?}"
            );
        }
    }
}

#[test]
fn what_is_not_in_the_table_faults() {
    let mut machine = Machine::with(EVERY);
    let known: Vec<u32> = TABLE.iter().map(|(msr, ..)| msr.0).collect();
    let numbers = (0x3FFF_FF00..0x4000_2000).chain([0, 0x10, u32::MAX, 0x4001_0000]);
    for number in numbers.filter(|number| !known.contains(number)) {
        assert!(
            machine
                .partition
                .read_msr(&machine.vp, Msr(number), Tsc(0))
                .is_err(),
            "{number:#x}"
        );
        assert!(machine.write(Msr(number), 0).is_err(), "{number:#x}");
    }
}

#[test]
fn linux_boot_sequence() {
    let mut m = Machine::with(Set::ALL);
    assert_eq!(m.read(Msr::APIC_FREQUENCY), Ok(1_000_000_000));
    assert_eq!(m.read(Msr::REFERENCE_TSC), Ok(0));
    assert_eq!(m.write(Msr::REFERENCE_TSC, 0x2001), Ok(Write::Done));
    assert_ne!(m.ram.u32(0x2000), 0, "the page is valid when WRMSR returns");
    assert_eq!(m.read(Msr::TSC_FREQUENCY), Ok(2_000_000_000));
    let crash = m.read(Msr::CRASH_CTL).unwrap();
    assert_eq!(crash, 3 << 62);
    // Both come before GUEST_OS_ID is written.
    assert_eq!(m.read(Msr::VP_INDEX), Ok(1));
    assert_eq!(
        m.write(Msr::VP_ASSIST_PAGE, 0x3001),
        Ok(Write::AssistPageChanged)
    );
    assert_eq!(m.vp.assist_page(), Some(addr::Gpa1::new(0x3000)));
    assert_eq!(
        m.write(Msr::GUEST_OS_ID, 0x8100_0006_01C0_0000),
        Ok(Write::Done)
    );
    let hypercall = m.read(Msr::HYPERCALL).unwrap();
    assert_eq!(m.write(Msr::HYPERCALL, hypercall | 0x4001), Ok(Write::Done));
    assert_eq!(m.ram.u32(0x4000).to_le_bytes(), [0x0F, 0x01, 0xC1, 0xC3]);
    assert_eq!(
        m.write(Msr::STIMER0_CONFIG, 0x1ED9),
        Ok(Write::TimersChanged)
    );
    assert_eq!(m.write(Msr::STIMER0_COUNT, 50), Ok(Write::TimersChanged));
    // 50 units of 100 ns are 10,000 ticks of this TSC; the clock's grid may lie
    // anywhere within a unit of its beginning, at 1000.
    let deadline = m.vp.next_deadline(m.partition.clock()).unwrap();
    assert!(
        (Tsc(10_800)..=Tsc(11_001)).contains(&deadline),
        "{deadline:?}"
    );
    assert_eq!(
        m.vp.expire_timers(m.partition.clock(), Tsc(deadline.0 - 2))
            .count(),
        0
    );
    let vectors: Vec<u8> = m.vp.expire_timers(m.partition.clock(), deadline).collect();
    assert_eq!(vectors, [0xED]);
    // kexec: everything goes.
    assert_eq!(m.write(Msr::GUEST_OS_ID, 0), Ok(Write::Done));
    assert_eq!(m.read(Msr::HYPERCALL), Ok(0x4000));
}

#[test]
fn the_hypercall_page_needs_an_identity_and_memory() {
    let mut m = Machine::with(Set::ALL);
    assert_eq!(m.write(Msr::HYPERCALL, 0x1001), Ok(Write::Done));
    assert_eq!(m.read(Msr::HYPERCALL), Ok(0x1000));
    assert!(m.ram.writes().is_empty());
    m.write(Msr::GUEST_OS_ID, 1).unwrap();
    for outside in [0x8001, u64::MAX] {
        assert_eq!(m.write(Msr::HYPERCALL, outside), Err(GeneralProtection));
        assert_eq!(m.read(Msr::HYPERCALL), Ok(0x1000));
    }
    // Reserved bits and the lock, which is not offered, are not kept.
    m.write(Msr::HYPERCALL, 0x1FFF).unwrap();
    assert_eq!(m.read(Msr::HYPERCALL), Ok(0x1001));
    assert_eq!(m.ram.writes(), [(0x1000, HYPERCALL_PAGE.to_vec())]);
}

#[test]
fn the_assist_page_needs_memory_and_keeps_its_contents() {
    let mut m = Machine::with(Set::ALL);
    assert_eq!(m.write(Msr::VP_ASSIST_PAGE, 0x8001), Err(GeneralProtection));
    assert_eq!(m.vp.assist_page(), None);
    m.ram.put(0x3000, &[u64::MAX, u64::MAX]);
    m.write(Msr::VP_ASSIST_PAGE, 0x3FFF).unwrap();
    assert_eq!(m.read(Msr::VP_ASSIST_PAGE), Ok(0x3001));
    assert_eq!((m.ram.u32(0x3000), m.ram.u32(0x3004)), (0, u32::MAX));
    // Disabled, the number is only remembered.
    m.write(Msr::VP_ASSIST_PAGE, 0x8000).unwrap();
    assert_eq!(m.vp.assist_page(), None);
}

#[test]
fn the_tsc_page_may_lie_outside_memory() {
    let mut m = Machine::with(Set::ALL);
    assert_eq!(m.write(Msr::REFERENCE_TSC, 0x10_0001), Ok(Write::Done));
    assert_eq!(m.read(Msr::REFERENCE_TSC), Ok(0x10_0001));
    m.write(Msr::REFERENCE_TSC, 0).unwrap();
    assert!(m.ram.writes().is_empty());
}

#[test]
fn page_and_msr_tell_the_same_time() {
    let mut m = Machine::with(Set::ALL);
    m.write(Msr::REFERENCE_TSC, 0x2001).unwrap();
    let word = |at| u64::from(m.ram.u32(at)) | u64::from(m.ram.u32(at + 4)) << 32;
    let (scale, offset) = (word(0x2008), word(0x2010));
    for tsc in [1000, 1001, 123_456_789, 1 << 50, u64::MAX] {
        let page = ((u128::from(tsc) * u128::from(scale)) >> 64) as u64;
        let msr = m.partition.read_msr(&m.vp, Msr::TIME_REF_COUNT, Tsc(tsc));
        assert_eq!(msr, Ok(Read::Value(page.wrapping_add(offset))));
    }
    assert_eq!(m.read(Msr::TIME_REF_COUNT), Ok(0), "zero at creation");
}

#[test]
fn crashes_are_reported_with_their_message() {
    let mut m = Machine::with(Set::ALL);
    let text = b"Kernel panic - not syncing: Attempted to kill init!";
    let mut words = [0u64; 8];
    for (word, bytes) in words.iter_mut().zip(text.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(whole);
    }
    m.ram.put(0x5010, &words);
    let parameters = [1, 2, 3, 0x5010, text.len() as u64];
    for (n, value) in parameters.iter().enumerate() {
        m.write(Msr(Msr::CRASH_P0.0 + n as u32), *value).unwrap();
        assert_eq!(m.read(Msr(Msr::CRASH_P0.0 + n as u32)), Ok(*value));
    }
    // Without the notification nothing happens.
    assert_eq!(m.write(Msr::CRASH_CTL, 1 << 62), Ok(Write::Done));
    let Ok(Write::Crash(report)) = m.write(Msr::CRASH_CTL, 3 << 62) else {
        panic!("no report")
    };
    assert_eq!(report.parameters, parameters);
    let mut buffer = [0; CrashReport::MESSAGE_MAX];
    assert_eq!(report.message(&m.ram, &mut buffer), Ok(&text[..]));
    // No message, none that L1 has, one that is too long.
    let silent = CrashReport {
        control: CrashControl::new().with_notify(true),
        ..report
    };
    assert_eq!(silent.message(&m.ram, &mut buffer), Ok(&[][..]));
    let outside = CrashReport {
        parameters: [0, 0, 0, 0x7FFF, 2],
        ..report
    };
    assert!(outside.message(&m.ram, &mut buffer).is_err());
    let long = CrashReport {
        parameters: [0, 0, 0, 0, u64::MAX],
        ..report
    };
    assert_eq!(long.message(&m.ram, &mut buffer).unwrap().len(), 4096);
}

#[test]
fn what_others_carry_out_is_handed_back() {
    let mut m = Machine::with(Set::ALL);
    let read = |m: &Machine, msr| m.partition.read_msr(&m.vp, msr, Tsc(0));
    assert_eq!(read(&m, Msr::GUEST_IDLE), Ok(Read::Idle));
    assert_eq!(read(&m, Msr::ICR), Ok(Read::Icr));
    assert_eq!(read(&m, Msr::TPR), Ok(Read::Tpr));
    assert_eq!(m.write(Msr::EOI, 0), Ok(Write::Eoi));
    assert_eq!(
        m.write(Msr::ICR, 0x0100_0000_0000_40FD),
        Ok(Write::Icr(0x0100_0000_0000_40FD))
    );
    assert_eq!(m.write(Msr::TPR, 0x20), Ok(Write::Tpr(0x20)));
    assert_eq!(m.write(Msr::TPR, 0x100), Err(GeneralProtection));
    assert_eq!(m.write(Msr::RESET, 1), Ok(Write::Reset));
    assert_eq!(m.write(Msr::RESET, 2), Ok(Write::Done));
    assert_eq!(m.read(Msr::RESET), Ok(0));
}

#[test]
fn reenlightenment_registers() {
    let mut m = Machine::with(EVERY);
    assert_eq!(
        m.write(Msr::REENLIGHTENMENT_CONTROL, 0x1_0001_00EE),
        Ok(Write::Done)
    );
    assert_eq!(m.read(Msr::REENLIGHTENMENT_CONTROL), Ok(0x1_0001_00EE));
    assert_eq!(
        m.write(Msr::REENLIGHTENMENT_CONTROL, 1 << 17),
        Err(GeneralProtection)
    );
    assert_eq!(m.write(Msr::TSC_EMULATION_CONTROL, 1), Ok(Write::Done));
    assert_eq!(
        m.write(Msr::TSC_EMULATION_CONTROL, 2),
        Err(GeneralProtection)
    );
    assert_eq!(
        m.write(Msr::TSC_EMULATION_STATUS, 1),
        Err(GeneralProtection)
    );
    assert_eq!(m.write(Msr::TSC_EMULATION_STATUS, 0), Ok(Write::Done));
    let mut state = m.partition.save(Tsc(0));
    state.tsc_emulation_status.set_active(true);
    m.partition = Partition::restore(*m.partition.config(), &state, Tsc(0)).unwrap();
    assert_eq!(
        m.write(Msr::TSC_EMULATION_STATUS, 0),
        Ok(Write::EndTscEmulation)
    );
    assert_eq!(
        m.read(Msr::TSC_EMULATION_STATUS),
        Ok(1),
        "in progress until it has been ended"
    );
    assert_eq!(m.write(Msr::TSC_EMULATION_CONTROL, 1), Ok(Write::Done));
    assert_eq!(
        m.write(Msr::TSC_EMULATION_CONTROL, 0),
        Ok(Write::EndTscEmulation)
    );
}

#[test]
fn timers_take_bad_values_with_a_fault() {
    let mut m = Machine::with(Set::ALL);
    assert_eq!(
        m.write(Msr::STIMER2_CONFIG, 1 << 20),
        Err(GeneralProtection)
    );
    assert_eq!(
        m.write(Msr::STIMER3_CONFIG, 0x1ED9),
        Ok(Write::TimersChanged)
    );
    assert_eq!(m.read(Msr::STIMER3_CONFIG), Ok(0x1ED9));
}
