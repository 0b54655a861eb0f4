//! An enlightened VMCS that moves from one VP to another and back.

use super::*;
use crate::Dirty;
use crate::testing::{
    EVMCS, FakePage, FakeVmcs, LAUNCH, RESUME, linux_page, nested, policy, registers,
};

/// Enters L2 on a VP and leaves it with this RSP; the groups that were merged.
fn run(nested: &mut Nested, vmcs02: &mut FakeVmcs, page: &mut FakePage, rsp: Option<u64>) -> Dirty {
    let context = if rsp.is_some() { &LAUNCH } else { &RESUME };
    let memory = FakeMemory::new(0x1_0000);
    nested
        .prepare_enlightened(EVMCS, page, &memory, context, &registers())
        .unwrap();
    let carry = nested.carry_in(&FakeVmcs::default());
    let merged = nested.merge(vmcs02, &policy(), &carry, &memory);
    if let Some(rsp) = rsp {
        vmcs02.set(Field::GUEST_RSP, rsp);
        let reason = vmx::ExitReason::from_raw(vmcs02.peek(vmx::Field::EXIT_REASON) as u32);
        nested.reflect_enlightened(reason, vmcs02, page);
    }
    merged.groups
}

#[test]
fn vmclear_on_the_old_vp_and_vmlaunch_on_the_new_make_it_start_over() {
    let mut page = linux_page();
    let (mut first, mut second) = (nested(), nested());
    let (mut first02, mut second02) = (FakeVmcs::default(), FakeVmcs::default());
    run(&mut first, &mut first02, &mut page, Some(0x1000));

    let mut vp = Vp::new();
    vp.enlightened = Some(EVMCS);
    vp.with_pointer(EVMCS.raw());
    assert_eq!(first.execute(&mut vp, R::Vmclear), SUCCEED);
    let groups = run(&mut second, &mut second02, &mut page, Some(0x2000));
    assert_eq!(groups, Dirty::ALL);

    // Everything is clean by now, on the other VP's account.
    assert_eq!(second.execute(&mut vp, R::Vmclear), SUCCEED);
    let groups = run(&mut first, &mut first02, &mut page, None);
    assert_eq!(groups, Dirty::ALL);
    assert_eq!(first02.peek(Field::GUEST_RSP), 0x2000);
}
