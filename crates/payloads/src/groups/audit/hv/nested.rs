//! Leaf 0x4000000A: the enlightenments of nested virtualization.

use ::vmx::ept::Access;
use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};
use tlfs::evmcs::{self, CleanFields};
use tlfs::hypercall::CallCode;
use tlfs::page::assist as page;

use super::super::walk::{Exercise, Verdict, equal, exits, holds, works};
use super::{Find, calls, is_offered, words};
use crate::rt::memory;
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{Door, L2, assist, door, select_door};

/// Leaf 0x4000000A, EBX:EAX.
pub fn feature(bit: u32) -> Find {
    Some(match bit {
        17 => Exercise::works("L2's flush ends in L0 where delegated", || {
            by_evmcs(|| direct_flush(true))
        })
        .or_refused("L2's flush is L1's, delegated or not", || {
            by_evmcs(|| direct_flush(false))
        }),
        18 => Exercise::works(
            "a page changed is seen changed, by space and by list",
            gpa_flush,
        )
        .or_refused("both hypercalls are denied", || {
            calls::denied(CallCode::FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE)?;
            calls::denied(CallCode::FLUSH_GUEST_PHYSICAL_ADDRESS_LIST)
        }),
        19 => Exercise::works("a change declared is seen", || {
            by_evmcs(|| msr_bitmap(true))
        })
        .or_refused("a change is seen, declared or not", || {
            by_evmcs(|| msr_bitmap(false))
        }),
        32 => Exercise::works("the fields are loaded", || by_evmcs(perf_global_ctrl)),
        _ => return None,
    })
}

/// Runs `f` with L2s described by the enlightened VMCS; there is nothing to look at without it.
fn by_evmcs(f: impl FnOnce() -> Verdict) -> Verdict {
    if !assist::is_offered() {
        return Ok(());
    }
    let before = door();
    select_door(Some("enlightened"));
    let verdict = f();
    if before == Door::Plain {
        select_door(None);
    }
    verdict
}

/// An L2 by the enlightened VMCS, of the version that the nested leaf names.
pub fn evmcs() -> Verdict {
    let versions = words(tlfs::cpuid::leaf::NESTED)[0];
    equal("the lowest version", versions & 0xff, 1u32)?;
    equal("the highest version", versions >> 8 & 0xff, 1u32)?;
    by_evmcs(|| {
        let mut l2 = L2::new(code!("mov eax, 0x600d", "vmcall"));
        exits("the entry", l2.run(), Reason::Vmcall)?;
        equal("RAX", l2.registers[reg::RAX], 0x600du64)?;
        // VMLAUNCH again: there is no launch state.
        exits("launched twice", l2.enter(true), Reason::Vmcall)
    })
}

/// Whether a bitmap's change is seen; `declared` by the clean bit, with the enlightenment on.
fn msr_bitmap(declared: bool) -> Verdict {
    let code = code!("mov ecx, 0xC0000100", "rdmsr", "vmcall");
    let mut l2 = L2::new(code);
    let bitmap = memory::page();
    l2.set(Field::MSR_BITMAP, bitmap);
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    let enlightenments = l2.page + u64::from(evmcs::ENLIGHTENMENTS_CONTROL);
    memory::write(enlightenments, 1u32 << 1);
    memory::write(l2.clean_fields(), 0u32);
    exits("the bit clear", l2.run(), Reason::Vmcall)?;
    memory::write(bitmap + 0x400 + 0x100 / 8, 1u8);
    l2.set_code(code);
    let clean = if declared {
        CleanFields::ALL.without(evmcs::Group::MsrBitmap.clean_bit())
    } else {
        CleanFields::ALL.without(evmcs::Group::GuestBasic.clean_bit())
    };
    memory::write(
        l2.clean_fields(),
        clean.without(evmcs::Group::GuestBasic.clean_bit()).raw(),
    );
    exits("the bit set", l2.run(), Reason::Rdmsr)
}

fn perf_global_ctrl() -> Verdict {
    let slots = [Field::GUEST_PERF_GLOBAL_CTRL, Field::HOST_PERF_GLOBAL_CTRL];
    holds(
        slots.iter().all(|f| evmcs::slot(f.encoding()).is_some()),
        "no place for them",
    )?;
    let l2 = L2::new(code!("vmcall"));
    let (entry, exit) = (l2.caps.true_entry, l2.caps.true_exit);
    // The controls' own exercises load them.
    equal("the entry control", entry.may_be_one() >> 13 & 1, 1u32)?;
    equal("the exit control", exit.may_be_one() >> 12 & 1, 1u32)
}

/// A guest-physical address that no memory of ours has; L2's linear address for it is the same.
const SPOT: u64 = 0x6000_0000;

fn gpa_flush() -> Verdict {
    let mut l2 = L2::new(code!("vmcall"));
    let root = l2.ept.root();
    let space = u64::from(CallCode::FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE.0);
    let list = u64::from(CallCode::FLUSH_GUEST_PHYSICAL_ADDRESS_LIST.0);
    let input = memory::page();
    memory::write(input, root);
    memory::write(input + 16, SPOT);
    for number in 1..4u64 {
        let target = memory::page();
        memory::write(target, number);
        l2.ept.map(SPOT, target, Access::RWX);
        match number {
            2 => calls::succeeds(calls::call(space | calls::FAST, root, 0))?,
            3 => {
                let result = works("VMCALL", calls::call(list | 1 << 32, input, 0))?;
                equal("the result", result, 1u64 << 32)?;
            }
            _ => {}
        }
        l2.registers[reg::RDI] = SPOT;
        l2.set_code(code!("mov rax, [rdi]", "vmcall"));
        exits("reading", l2.run(), Reason::Vmcall)?;
        equal("what L2 read", l2.registers[reg::RAX], number)?;
    }
    Ok(())
}

/// L2 flushes by hypercall, with the delegation on, then off. `direct`: the former ends in L0.
fn direct_flush(direct: bool) -> Verdict {
    holds(is_offered(), "no interface")?;
    let code = code!("vmcall", "cpuid");
    let mut l2 = L2::new(code);
    let input = memory::page();
    // All processors, all address spaces.
    memory::write(input + 8, 3u64);
    let partition = memory::page();
    memory::write(l2.page + u64::from(evmcs::ENLIGHTENMENTS_CONTROL), 1u32);
    memory::write(l2.page + u64::from(evmcs::VP_ID), 0u32);
    memory::write(l2.page + u64::from(evmcs::VM_ID), 1u64);
    memory::write(l2.page + u64::from(evmcs::PARTITION_ASSIST_PAGE), partition);
    for delegated in [true, false] {
        let control = assist::page() + page::NESTED_CONTROL;
        memory::write(control, u64::from(delegated));
        memory::write(l2.clean_fields(), 0u32);
        l2.registers[reg::RCX] = u64::from(CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE.0);
        l2.registers[reg::RDX] = input;
        l2.registers[reg::RAX] = u64::MAX;
        l2.set_code(code);
        let outcome = l2.run();
        memory::write(control, 0u64);
        if delegated && direct {
            exits("delegated", outcome, Reason::Cpuid)?;
            equal("the result", l2.registers[reg::RAX], 0u64)?;
        } else {
            exits("not delegated", outcome, Reason::Vmcall)?;
        }
    }
    Ok(())
}
