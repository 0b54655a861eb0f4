//! L1 sees no difference between VMREADs and VMWRITEs that exit and those that
//! hardware answers from a shadow VMCS.

use super::*;
use crate::access::Vmcs as _;
use crate::shadow_vmcs::{FIELDS, VMREAD_BITMAP, VMWRITE_BITMAP};
use crate::testing::{FakeVmcs, LAUNCH, RESUME, policy, registers};
use crate::{EntryFailure, ExitInfo};
use std::vec::Vec;
use vmx::ExitReason;

/// A VP with its hardware: VMREAD and VMWRITE exit where they would.
struct Machine {
    nested: Nested,
    vp: Vp,
    vmcs01: FakeVmcs,
    vmcs02: FakeVmcs,
    exits: usize,
}

/// What an instruction leaves for L1 to see.
type Seen = (Result<Outcome, EntryFailure>, u64);

impl Machine {
    fn new(shadow: Option<FakeShadow>) -> Self {
        let (nested, mut vp) = root();
        vp.shadow = shadow;
        let mut vmcs01 = FakeVmcs::default();
        vmcs01.set(Field::GUEST_EFER, 0xd01);
        Self {
            nested,
            vp,
            vmcs01,
            vmcs02: FakeVmcs::default(),
            exits: 0,
        }
    }

    fn pointer(&mut self, reason: R, region: u64) -> Outcome {
        self.vp.info = Vp::new().info;
        self.vp.with_pointer(region);
        self.nested.execute(&mut self.vp, reason)
    }

    fn field(&mut self, reason: R, encoding: u32, value: u64) -> (Outcome, u64) {
        let bitmap = match reason {
            R::Vmread => &VMREAD_BITMAP,
            _ => &VMWRITE_BITMAP,
        };
        if let Some(shadow) = &mut self.vp.shadow
            && !shadow.exits(bitmap, encoding)
        {
            let field = Field::from_encoding(encoding);
            if reason == R::Vmread {
                return (SUCCEED, shadow.vmcs.peek(field));
            }
            shadow.access(|fields| fields.write(field, value));
            return (SUCCEED, value);
        }
        self.exits += 1;
        self.vp.with_registers(value, encoding.into());
        let outcome = if self.nested.access_shortly(&mut self.vp, reason) {
            SUCCEED
        } else {
            self.nested.execute(&mut self.vp, reason)
        };
        (outcome, self.vp.gprs[0])
    }

    /// VMLAUNCH or VMRESUME, and the run of L2 it leads to, which ends with `l2`.
    fn enter(&mut self, reason: R, enlightened: Option<Gpa1>, l2: &L2) -> Seen {
        self.vp.enlightened = enlightened;
        let outcome = self.nested.execute(&mut self.vp, reason);
        self.vp.enlightened = None;
        if enlightened.is_some() || !matches!(outcome, Outcome::Enter { .. }) {
            return (Ok(outcome), 0);
        }
        let (nested, shadow) = (&mut self.nested, &mut self.vp.shadow);
        if let (Current::Plain(_), Some(shadow)) = (nested.current(), shadow.as_mut()) {
            shadow.access(|fields| nested.collect(fields));
        }
        let context = if reason == R::Vmlaunch {
            LAUNCH
        } else {
            RESUME
        };
        let prepared = nested.prepare_plain(&self.vp.memory, &context, &registers());
        let mut groups = 0;
        if prepared.is_ok() {
            let carry = nested.carry_in(&self.vmcs01);
            let merged = nested.merge(&mut self.vmcs02, &policy(), &carry, &self.vp.memory);
            groups = u64::from(merged.groups.bits());
            for (field, value) in &l2.leaves {
                self.vmcs02.set(*field, *value);
            }
            if l2.is_l0s {
                let info = ExitInfo::from_hardware(&self.vmcs02);
                nested.reflect_plain_as(&self.vmcs02, &info);
            } else {
                let reason = self.vmcs02.peek(Field::EXIT_REASON) as u32;
                nested.reflect_plain(ExitReason::from_raw(reason), &self.vmcs02);
            }
        }
        if matches!(prepared, Ok(()) | Err(EntryFailure::Exit { .. })) {
            if let Some(shadow) = shadow {
                shadow.access(|fields| nested.publish_exit(fields));
            }
            let _ = nested.load_host(&mut self.vmcs01, false);
        }
        (prepared.map(|()| outcome), groups)
    }
}

/// What a run of L2 leaves in VMCS 02, and whether L0 makes the exit up from it.
#[derive(Clone, Debug)]
struct L2 {
    leaves: Vec<(Field, u64)>,
    is_l0s: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Pointer(R, u64),
    Field(R, u32, u64),
    Enter(R, bool, L2),
}

/// Where no VMCS is: for the enlightened one.
const PAGE: Gpa1 = Gpa1::new(0x6000);

fn field() -> impl Strategy<Value = u32> {
    let shadowed: Vec<u32> = FIELDS.iter().map(|row| row.field.encoding()).collect();
    let linux: Vec<u32> = LINUX.iter().map(|(field, _)| field.encoding()).collect();
    prop_oneof![
        6 => prop::sample::select(shadowed),
        2 => prop::sample::select(linux),
        1 => 0u32..0x7000,
    ]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..0x20, any::<u64>(), Just(0x8000_0040)]
}

fn l2() -> impl Strategy<Value = L2> {
    let changes = [
        Field::EXIT_REASON,
        Field::EXIT_QUALIFICATION,
        Field::EXIT_INTERRUPTION_INFO,
        Field::IDT_VECTORING_INFO,
        Field::EXIT_INSTRUCTION_LENGTH,
        Field::GUEST_PHYSICAL_ADDRESS,
        Field::GUEST_RIP,
        Field::GUEST_RSP,
        Field::GUEST_CR3,
    ];
    let leaves = prop::collection::vec((prop::sample::select(changes.to_vec()), 0u64..0x100), 0..6);
    (leaves, any::<bool>()).prop_map(|(leaves, is_l0s)| L2 { leaves, is_l0s })
}

fn step() -> impl Strategy<Value = Step> {
    let region = || prop_oneof![Just(REGION), Just(OTHER), Just(0x5000), Just(0x2004)];
    let pointer = prop_oneof![3 => Just(R::Vmptrld), 1 => Just(R::Vmclear)];
    let access = prop_oneof![Just(R::Vmread), Just(R::Vmwrite)];
    // More often than not what passes the checks, or most entries would fail.
    let field = (field(), prop::option::weighted(0.3, value())).prop_map(|(field, value)| {
        let linux = LINUX.iter().find(|(of, _)| of.encoding() == field);
        (field, value.unwrap_or(linux.map_or(0, |(_, value)| *value)))
    });
    let entry = prop_oneof![1 => Just(R::Vmlaunch), 3 => Just(R::Vmresume)];
    prop_oneof![
        1 => (pointer, region()).prop_map(|(r, region)| Step::Pointer(r, region)),
        12 => (access, field).prop_map(|(r, (f, v))| Step::Field(r, f, v)),
        4 => (entry, prop::bool::weighted(0.05), l2()).prop_map(|(r, e, l2)| Step::Enter(r, e, l2)),
    ]
}

/// Loads the region with values that pass all checks.
fn set_up(machine: &mut Machine) {
    for region in [OTHER, REGION] {
        assert_eq!(machine.pointer(R::Vmptrld, region), SUCCEED);
        for (field, value) in LINUX {
            let (outcome, _) = machine.field(R::Vmwrite, field.encoding(), *value);
            assert_eq!(outcome, SUCCEED);
        }
    }
}

fn assert_same(a: &mut Machine, b: &mut Machine) -> Result<(), TestCaseError> {
    for field in Field::ALL {
        let (one, two) = (a.vmcs02.peek(*field), b.vmcs02.peek(*field));
        prop_assert_eq!(one, two, "{:?} of VMCS 02", field);
        let (one, two) = (a.vmcs01.peek(*field), b.vmcs01.peek(*field));
        prop_assert_eq!(one, two, "{:?} of VMCS 01", field);
        if a.nested.current() != Current::None {
            let one = a.field(R::Vmread, field.encoding(), 0);
            let two = b.field(R::Vmread, field.encoding(), 0);
            prop_assert_eq!(one, two, "{:?} of VMCS 12", field);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn shadowing_does_not_show(steps in prop::collection::vec(step(), 1..64)) {
        let mut trapped = Machine::new(None);
        let mut shadowed = Machine::new(Some(FakeShadow::default()));
        set_up(&mut trapped);
        set_up(&mut shadowed);
        for step in steps {
            match step {
                Step::Pointer(reason, region) => {
                    let (a, b) = (trapped.pointer(reason, region), shadowed.pointer(reason, region));
                    prop_assert_eq!(a, b);
                }
                Step::Field(reason, encoding, value) => {
                    let a = trapped.field(reason, encoding, value);
                    let b = shadowed.field(reason, encoding, value);
                    prop_assert_eq!(a, b, "{:?} of {:#x}", reason, encoding);
                }
                Step::Enter(reason, is_enlightened, l2) => {
                    let page = is_enlightened.then_some(PAGE);
                    let (a, _) = trapped.enter(reason, page, &l2);
                    let (b, _) = shadowed.enter(reason, page, &l2);
                    prop_assert_eq!(a, b);
                    assert_same(&mut trapped, &mut shadowed)?;
                }
            }
            let attached = matches!(shadowed.nested.current(), Current::Plain(_));
            prop_assert_eq!(shadowed.vp.shadow.as_ref().unwrap().is_attached, attached);
        }
        assert_same(&mut trapped, &mut shadowed)?;
        // What VMXOFF stores is the same, too.
        for machine in [&mut trapped, &mut shadowed] {
            prop_assert_eq!(machine.nested.execute(&mut machine.vp, R::Vmxoff), Outcome::LeftVmxOperation);
        }
        // The clean-fields word tells more of the trapped one: it cannot compare.
        let blank = |memory: &[u8]| {
            let mut memory = memory.to_vec();
            for region in [REGION, OTHER] {
                let at = region as usize + usize::from(tlfs::evmcs::CLEAN_FIELDS);
                memory[at..at + 4].fill(0);
            }
            memory
        };
        prop_assert!(blank(&trapped.vp.memory.0) == blank(&shadowed.vp.memory.0));
    }
}

/// What KVM does for a CPUID of its guest needs no exit, and carries RIP alone.
#[test]
fn an_emulated_instruction_costs_no_exits() {
    let mut machine = Machine::new(Some(FakeShadow::default()));
    set_up(&mut machine);
    let l2 = L2 {
        leaves: Vec::from([(Field::EXIT_REASON, 10)]),
        is_l0s: false,
    };
    assert!(machine.enter(R::Vmlaunch, None, &l2).0.is_ok());
    machine.exits = 0;
    for field in [
        Field::EXIT_REASON,
        Field::IDT_VECTORING_INFO,
        Field::EXIT_INSTRUCTION_LENGTH,
        Field::GUEST_RFLAGS,
        Field::GUEST_INTERRUPTIBILITY,
        Field::GUEST_RIP,
    ] {
        assert_eq!(machine.field(R::Vmread, field.encoding(), 0).0, SUCCEED);
    }
    let rip = Field::GUEST_RIP.encoding();
    machine.field(R::Vmwrite, rip, 0xffff_ffff_8100_0002);
    let (entered, groups) = machine.enter(R::Vmresume, None, &l2);
    assert!(entered.is_ok());
    assert_eq!((machine.exits, groups), (0, 0));
    assert_eq!(machine.vmcs02.peek(Field::GUEST_RIP), 0xffff_ffff_8100_0002);
}
