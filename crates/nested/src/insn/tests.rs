//! The VMX instructions' faults, VMfail codes and effects.

extern crate std;

use addr::Spa;
use proptest::prelude::*;
use vmx::{AccessRights, BasicExitReason as R, Field, VmInstructionError as E};

use super::*;
use crate::access::Unbacked;
use crate::testing::{FakeMemory, FakeShadow, LINUX, config};
use crate::vmcs12::{self, REVISION};

mod moved;
mod operands;
mod shadowing;
mod short;
mod vp;

use vp::*;

fn page_fault(address: Gva) -> Fault {
    Fault::Page {
        address,
        error_code: 0,
    }
}

const SUCCEED: Outcome = Outcome::Done(VmResult::Succeed);
const INVALID: Outcome = Outcome::Done(VmResult::FailInvalid);
const UD: Outcome = Outcome::Fault(Fault::InvalidOpcode);
const GP: Outcome = Outcome::Fault(Fault::GeneralProtection);

fn valid(error: E) -> Outcome {
    Outcome::Done(VmResult::FailValid(error))
}

/// A VP in VMX operation, without a current VMCS.
fn root() -> (Nested, Vp) {
    let mut nested = Nested::new(config());
    let mut vp = Vp::new();
    vp.with_pointer(VMXON_REGION);
    assert_eq!(nested.execute(&mut vp, R::Vmxon), SUCCEED);
    (nested, vp)
}

/// The same with [`REGION`] current.
fn current() -> (Nested, Vp) {
    let (mut nested, mut vp) = root();
    vp.with_pointer(REGION);
    assert_eq!(nested.execute(&mut vp, R::Vmptrld), SUCCEED);
    (nested, vp)
}

const ALL: [R; 10] = [
    R::Vmclear,
    R::Vmlaunch,
    R::Vmptrld,
    R::Vmptrst,
    R::Vmread,
    R::Vmresume,
    R::Vmwrite,
    R::Vmxoff,
    R::Invept,
    R::Invvpid,
];

#[test]
fn outside_vmx_operation_and_outside_ring_0() {
    for reason in ALL {
        let mut nested = Nested::new(config());
        assert_eq!(nested.execute(&mut Vp::new(), reason), UD, "{reason:?}");
        let (mut nested, mut vp) = root();
        vp.cpl = 3;
        assert_eq!(nested.execute(&mut vp, reason), GP, "{reason:?}");
    }
    let (mut nested, mut vp) = root();
    assert_eq!(nested.execute(&mut vp, R::Vmfunc), UD);
}

#[test]
fn vmxon_asks_for_a_lot() {
    let attempt = |change: fn(&mut Vp)| {
        let mut vp = Vp::new();
        vp.with_pointer(VMXON_REGION);
        change(&mut vp);
        Nested::new(config()).execute(&mut vp, R::Vmxon)
    };
    assert_eq!(attempt(|_| ()), SUCCEED);
    assert_eq!(attempt(|vp| vp.cr4 &= !(1 << 13)), UD);
    assert_eq!(attempt(|vp| vp.cpl = 1), GP);
    assert_eq!(attempt(|vp| vp.cr0 &= !0x20), GP);
    assert_eq!(attempt(|vp| vp.cr4 |= 1 << 31), GP);
    assert_eq!(attempt(|vp| vp.feature_control = 4), GP);
    assert_eq!(attempt(|vp| vp.feature_control = 1), GP);
    assert_eq!(attempt(|vp| vp.displacement = HOLE), {
        Outcome::Fault(page_fault(Gva::new(HOLE)))
    });
    for pointer in [0x1001, 1 << 39, 0x4000, 0x10_0000] {
        let mut vp = Vp::new();
        vp.with_pointer(pointer);
        let mut nested = Nested::new(config());
        assert_eq!(nested.execute(&mut vp, R::Vmxon), INVALID, "{pointer:#x}");
        assert!(!nested.in_vmx_operation());
    }
}

#[test]
fn vmxon_twice() {
    let (mut nested, mut vp) = root();
    assert_eq!(nested.execute(&mut vp, R::Vmxon), INVALID);
    let (mut nested, mut vp) = current();
    vp.cr0 = 0;
    assert_eq!(nested.execute(&mut vp, R::Vmxon), valid(E::VmxonInRoot));
}

#[test]
fn vmptrld_and_its_failures() {
    let (mut nested, mut vp) = root();
    let mut load = |pointer| nested.execute(vp.with_pointer(pointer), R::Vmptrld);
    assert_eq!(load(0x2004), INVALID);
    assert_eq!(load(REGION), SUCCEED);
    assert_eq!(load(0x2004), valid(E::VmptrldBadAddress));
    assert_eq!(load(1 << 39), valid(E::VmptrldBadAddress));
    assert_eq!(load(VMXON_REGION), valid(E::VmptrldVmxonPointer));
    assert_eq!(load(0x5000), valid(E::VmptrldWrongRevision));
    assert_eq!(load(0x10_0000), valid(E::VmptrldWrongRevision));
    // The failures left the current VMCS alone, but for the error number.
    assert_eq!(nested.current(), Current::Plain(Gpa1::new(REGION)));
    vp.with_registers(0, Field::INSTRUCTION_ERROR.encoding().into());
    assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
    assert_eq!(vp.gprs[0], 11);
}

#[test]
fn vmptrst_stores_the_pointer() {
    let (mut nested, mut vp) = root();
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    assert_eq!(vp.word(OPERAND), u64::MAX);
    let (mut nested, mut vp) = current();
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    assert_eq!(vp.word(OPERAND), REGION);
    vp.displacement = HOLE;
    let fault = Outcome::Fault(page_fault(Gva::new(HOLE)));
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), fault);
}

#[test]
fn vmclear_and_its_failures() {
    let (mut nested, mut vp) = current();
    let mut clear = |pointer| nested.execute(vp.with_pointer(pointer), R::Vmclear);
    assert_eq!(clear(0x2010), valid(E::VmclearBadAddress));
    assert_eq!(clear(VMXON_REGION), valid(E::VmclearVmxonPointer));
    // Any page will do, with or without a VMCS in it.
    assert_eq!(clear(0x7000), SUCCEED);
    assert_eq!(clear(0x10_0000), SUCCEED);
    assert_eq!(clear(REGION), SUCCEED);
    assert_eq!(nested.current(), Current::None);
    vp.with_registers(0, 0);
    assert_eq!(nested.execute(&mut vp, R::Vmread), INVALID);
}

#[test]
fn fields_survive_vmclear_and_another_vmptrld() {
    let (mut nested, mut vp) = current();
    for (field, value) in LINUX {
        vp.with_registers(*value, field.encoding().into());
        assert_eq!(nested.execute(&mut vp, R::Vmwrite), SUCCEED, "{field:?}");
    }
    let memory_form = Vp::new().info;
    vp.info = memory_form;
    assert_eq!(nested.execute(vp.with_pointer(OTHER), R::Vmptrld), SUCCEED);
    vp.with_registers(0xff, Field::GUEST_RIP.encoding().into());
    assert_eq!(nested.execute(&mut vp, R::Vmwrite), SUCCEED);
    vp.info = memory_form;
    assert_eq!(nested.execute(vp.with_pointer(REGION), R::Vmptrld), SUCCEED);
    for (field, value) in LINUX {
        vp.with_registers(0x5555, field.encoding().into());
        assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
        assert_eq!(vp.gprs[0], *value, "{field:?}");
    }
    // VMXOFF stores too.
    assert_eq!(
        nested.execute(&mut vp, R::Vmxoff),
        Outcome::LeftVmxOperation
    );
    let at = REGION + u64::from(vmcs12::place(Field::GUEST_RIP.encoding()).offset);
    assert_eq!(vp.word(at), 0xffff_ffff_8100_0000);
    assert!(!nested.in_vmx_operation());
}

#[test]
fn vmread_and_vmwrite_failures() {
    let (mut nested, mut vp) = current();
    for encoding in [0x482e, 0x2014, 0x2812, 0xffff_ffff, 0x1_0000_0802, 0x0801] {
        vp.with_registers(0, encoding);
        for reason in [R::Vmread, R::Vmwrite] {
            let outcome = nested.execute(&mut vp, reason);
            assert_eq!(outcome, valid(E::UnsupportedField), "{encoding:#x}");
        }
    }
    vp.with_registers(0, Field::EXIT_REASON.encoding().into());
    assert_eq!(nested.execute(&mut vp, R::Vmwrite), valid(E::ReadOnlyField));
    assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
    let (mut nested, mut vp) = root();
    vp.with_registers(0, 0);
    assert_eq!(nested.execute(&mut vp, R::Vmwrite), INVALID);
}

#[test]
fn values_are_as_wide_as_their_fields() {
    let (mut nested, mut vp) = current();
    for (field, value) in [
        (Field::GUEST_CS_SELECTOR, 0x1111),
        (Field::GUEST_CS_LIMIT, 0x1111_1111),
        (Field::GUEST_CS_ACCESS_RIGHTS, 0x1_1011),
        (Field::GUEST_CS_BASE, 0x1111_1111_1111_1111),
    ] {
        vp.with_registers(0x1111_1111_1111_1111, field.encoding().into());
        assert_eq!(nested.execute(&mut vp, R::Vmwrite), SUCCEED);
        vp.gprs[0] = u64::MAX;
        assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
        assert_eq!(vp.gprs[0], value, "{field:?}");
    }
}

#[test]
fn invept() {
    let (mut nested, mut vp) = current();
    let mut run = |kind: u64, eptp: u64| {
        vp.gprs[3] = kind;
        nested.execute(vp.with_pointer(eptp), R::Invept)
    };
    let bad = valid(E::InvalidInvalidationOperand);
    assert_eq!(
        run(1, 0x501e),
        Outcome::Invept(Invept::Single(Gpa1::new(0x5000)))
    );
    assert_eq!(run(2, 0), Outcome::Invept(Invept::All));
    assert_eq!(run(1, 0x5000), bad);
    assert_eq!(run(0, 0x501e), bad);
    assert_eq!(run(3, 0x501e), bad);
    vp.displacement = HOLE;
    let fault = Outcome::Fault(page_fault(Gva::new(HOLE)));
    assert_eq!(nested.execute(&mut vp, R::Invept), fault);
    nested.config.caps.ept_vpid = 0;
    assert_eq!(nested.execute(&mut vp, R::Invept), UD);
    assert_eq!(nested.execute(&mut vp, R::Invvpid), UD);
}

#[test]
fn invvpid() {
    let (mut nested, mut vp) = current();
    let mut run = |kind: u64, low: u64, address: u64| {
        vp.gprs[3] = kind;
        vp.poke(OPERAND + 8, &address.to_le_bytes());
        nested.execute(vp.with_pointer(low), R::Invvpid)
    };
    let bad = valid(E::InvalidInvalidationOperand);
    let at = Gva::new(0x7000);
    assert_eq!(run(0, 5, 0x7000), Outcome::Invvpid(Invvpid::Address(5, at)));
    assert_eq!(run(1, 5, 1 << 50), Outcome::Invvpid(Invvpid::Single(5)));
    assert_eq!(run(2, 0, 0), Outcome::Invvpid(Invvpid::All));
    assert_eq!(run(3, 5, 0), Outcome::Invvpid(Invvpid::SingleNonGlobal(5)));
    assert_eq!(run(0, 5, 1 << 50), bad);
    assert_eq!(run(4, 5, 0), bad);
    for kind in [0, 1, 3] {
        assert_eq!(run(kind, 0, 0), bad);
    }
    for kind in 0..4 {
        assert_eq!(run(kind, 0x1_0005, 0), bad);
    }
}

#[test]
fn entries_choose_their_vmcs() {
    let (mut nested, mut vp) = current();
    let plain = |is_launch| Outcome::Enter {
        is_launch,
        source: EntrySource::Plain,
    };
    assert_eq!(nested.execute(&mut vp, R::Vmlaunch), plain(true));
    assert_eq!(nested.execute(&mut vp, R::Vmresume), plain(false));
    // Going over to an enlightened one stores the plain one.
    vp.with_registers(0x1234, Field::GUEST_RIP.encoding().into());
    assert_eq!(nested.execute(&mut vp, R::Vmwrite), SUCCEED);
    vp.enlightened = Some(Gpa1::new(0x6000));
    let enlightened = Outcome::Enter {
        is_launch: true,
        source: EntrySource::Enlightened(Gpa1::new(0x6000)),
    };
    assert_eq!(nested.execute(&mut vp, R::Vmlaunch), enlightened);
    assert_eq!(nested.current(), Current::None);
    assert_eq!(vp.word(REGION + 0x330), 0x1234);
}

#[test]
fn an_enlightened_vmcs_is_not_disturbed() {
    let (mut nested, mut vp) = root();
    let page = Gpa1::new(0x6000);
    vp.poke(0x6000, &[0x77; 4096]);
    vp.poke(0x6000, &1u32.to_le_bytes());
    nested.current = Current::Enlightened(page);
    vp.enlightened = Some(page);
    // Served from the page; not writable through VMWRITE.
    vp.with_registers(0, Field::EXIT_REASON.encoding().into());
    assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
    assert_eq!(vp.gprs[0], 0x7777_7777);
    vp.with_registers(0, Field::GUEST_RIP.encoding().into());
    assert_eq!(nested.execute(&mut vp, R::Vmwrite), INVALID);
    vp.info = Vp::new().info;
    assert_eq!(nested.execute(vp.with_pointer(REGION), R::Vmptrld), INVALID);
    // VMCLEAR of it, and of another such page, stores nothing.
    let before = vp.memory.0.clone();
    vp.with_pointer(0x6000);
    assert_eq!(nested.execute(&mut vp, R::Vmclear), SUCCEED);
    assert_eq!(nested.current(), Current::None);
    vp.with_pointer(0x7000);
    assert_eq!(nested.execute(&mut vp, R::Vmclear), SUCCEED);
    assert_eq!(vp.memory.0[0x1000..], before[0x1000..]);
    // With the enlightenment off again, legacy instructions work.
    vp.enlightened = None;
    assert_eq!(nested.execute(vp.with_pointer(REGION), R::Vmptrld), SUCCEED);
}

#[test]
fn vmclear_of_a_fresh_enlightened_page_leaves_it_zero() {
    // Linux clears each page when it allocates it, before the first entry.
    let (mut nested, mut vp) = root();
    assert_eq!(nested.execute(vp.with_pointer(0x6000), R::Vmclear), SUCCEED);
    assert!(vp.memory.0[0x6000..0x7000].iter().all(|b| *b == 0));
}

#[test]
fn flags() {
    assert_eq!(VmResult::Succeed.flags(u64::MAX), !0x8d5);
    assert_eq!(VmResult::FailInvalid.flags(0x246), 0x203);
    assert_eq!(VmResult::FailValid(E::VmxonInRoot).flags(0x203), 0x242);
}

proptest! {
    /// Whatever L1 executes with whatever operands, L0 has an answer and the
    /// current VMCS is a page that VMPTRLD took.
    #[test]
    fn anything_goes(
        steps in proptest::collection::vec(
            (0usize..11, any::<u64>(), any::<u32>(), 0u64..0x1_2000, any::<bool>()),
            1..40,
        ),
    ) {
        let (mut nested, mut vp) = root();
        for (which, value, info, displacement, is_long) in steps {
            let reason = ALL.get(which).copied().unwrap_or(R::Vmxon);
            vp.gprs = core::array::from_fn(|n| value.rotate_left(n as u32 * 4) & 0xffff);
            vp.info = InstructionInfo::from_raw(info);
            vp.displacement = displacement;
            vp.is_long = is_long;
            if let Some(at) = (displacement < 0xf000).then_some(displacement) {
                vp.poke(at, &(value & 0x7000).to_le_bytes());
            }
            vp.poke(REGION, &REVISION.to_le_bytes());
            nested.execute(&mut vp, reason);
            if let Current::Plain(region) = nested.current() {
                prop_assert!(region.is_aligned(4096));
                prop_assert!(region.raw() < 0x1_0000);
                prop_assert!(nested.in_vmx_operation());
            }
        }
    }
}
