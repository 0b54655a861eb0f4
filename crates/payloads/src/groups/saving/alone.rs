//! Stages at which L1 has the hand.

use ::vmx::{BasicExitReason as Reason, Field, InterruptionInfo};
use tlfs::msr::Msr;

use super::record::Record;
use super::save;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory, smp};
use crate::vm::guest::{self, code};
use crate::vm::l2::reg;
use crate::vm::{Door, L2, Outcome, assist, instruction, operation, select};

/// The capability MSRs, from IA32_VMX_BASIC to IA32_VMX_VMFUNC.
const VMX_MSRS: core::ops::RangeInclusive<u32> = 0x480..=0x491;
const OTHER_MSRS: [u32; 9] = [
    cpu::MSR_FEATURE_CONTROL,
    cpu::MSR_APIC_BASE,
    cpu::MSR_TSC_ADJUST,
    cpu::MSR_EFER,
    cpu::MSR_PAT,
    cpu::MSR_STAR,
    cpu::MSR_KERNEL_GS_BASE,
    cpu::MSR_SYSENTER_EIP,
    Msr::VP_ASSIST_PAGE.0,
];

/// Capability MSRs, other MSRs, CR0 and CR4.
type Registers = ([Option<u64>; 18], [Option<u64>; 9], u64, u64);

/// What of nested VMX is in L1's own registers.
fn registers() -> Registers {
    let mut capabilities = [None; 18];
    for (value, msr) in capabilities.iter_mut().zip(VMX_MSRS) {
        *value = cpu::rdmsr(msr).ok();
    }
    let others = OTHER_MSRS.map(|msr| cpu::rdmsr(msr).ok());
    (capabilities, others, cpu::cr0(), cpu::cr4())
}

/// What of it is the second processor's, which is outside VMX operation.
static mut SECOND: [Option<Registers>; 2] = [const { None }; 2];

fn look_at_second(at: u64) {
    // SAFETY: the first processor waits meanwhile.
    unsafe { (at as *mut Option<Registers>).write(Some(registers())) };
}

fn enter_and_leave(_: u64) {
    let refused = instruction::vmxon(memory::page());
    assert!(
        refused == Outcome::UD,
        "VMXON without CR4.VMXE: {refused:?}"
    );
    let _ = operation::enter();
    let left = instruction::vmxoff();
    assert!(left == Outcome::Success, "VMXOFF: {left:?}");
}

/// In VMX operation without a VMCS; the second processor is outside.
pub fn no_vmcs(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let second = (&raw mut SECOND) as u64;
    let size = size_of::<Option<Registers>>() as u64;
    let _ = cpu::wrmsr(cpu::MSR_KERNEL_GS_BASE, 0x1234_5678);
    let region = operation::enter();
    check.equal("seen", smp::run(look_at_second, second), Some(Ok(())));
    let before = registers();
    save(check, "without a VMCS");
    check.equal("registers", registers(), before);
    check.equal(
        "seen",
        smp::run(look_at_second, second + size),
        Some(Ok(())),
    );
    // SAFETY: the second processor has done its work.
    let [before, now] = unsafe { (&raw const SECOND).read() };
    check.equal("the second processor's registers", now, before);
    check.equal("VMPTRST", instruction::vmptrst(), Ok(u64::MAX));
    check.equal("VMLAUNCH", instruction::vmlaunch(), Outcome::FailInvalid);
    check.equal(
        "VMREAD",
        instruction::vmread(Field::GUEST_RIP),
        Err(Outcome::FailInvalid),
    );
    check.equal("VMXON", instruction::vmxon(region), Outcome::FailInvalid);
    // The VMXON region is none to clear (VMfail 10, and there is no VMCS to hold the number).
    check.equal(
        "VMCLEAR",
        instruction::vmclear(region),
        Outcome::FailInvalid,
    );
    check.equal("VMXOFF", instruction::vmxoff(), Outcome::Success);
    check.equal("VMXOFF again", instruction::vmxoff(), Outcome::UD);
    let outcome = smp::run(enter_and_leave, 0);
    check.equal("the second processor's VMX", outcome, Some(Ok(())));
}

const RUNS: Outcome = Outcome::exit(Reason::Vmcall);
const VECTOR: u8 = 0x55;

/// Stages of the L2s that are alive at once, of each door.
const STAGES: [&str; 6] = [
    "not launched",
    "launched",
    "cleared",
    "event half delivered",
    "event to inject",
    "halted",
];

/// An L2 at the stage with this number.
fn at_stage(stage: usize) -> L2 {
    let mut l2 = L2::new(code!("2: inc rbx", "vmcall", "jmp 2b"));
    l2.set(Field::GUEST_RFLAGS, cpu::RFLAGS_IF | 2);
    l2.set(Field::GUEST_SYSENTER_EIP, 0x1000 + stage as u64);
    let inject = |l2: &L2| {
        let info = InterruptionInfo::external_interrupt(VECTOR);
        l2.set(Field::ENTRY_INTERRUPTION_INFO, u64::from(info.raw()));
    };
    if stage == 3 {
        // A hole under the IDT.
        l2.ept.unmap(l2.idt);
        inject(&l2);
    }
    if stage > 0 {
        let _ = l2.run();
        if stage != 3 {
            l2.skip_instruction();
        }
    }
    match stage {
        2 => l2.clear(),
        4 => inject(&l2),
        5 => l2.set(Field::GUEST_ACTIVITY_STATE, 1),
        _ => {}
    }
    l2
}

/// The L2 goes on from its stage as if nothing had been.
fn goes_on(check: &Check, name: &str, stage: usize, l2: &mut L2) {
    let is_in_handler = |l2: &L2| guest::vector_at(l2.get(Field::GUEST_RIP)) == Some(VECTOR);
    // What VMLAUNCH and VMRESUME say of the launch state; L0 keeps none of an enlightened VMCS that is not active.
    if !l2.is_enlightened() {
        let (launch, error) = match stage {
            0 | 2 => (false, 5),
            _ => (true, 4),
        };
        check.equal(
            format_args!("{name}: launch state"),
            l2.enter(launch),
            Outcome::FailValid(error),
        );
    }
    match stage {
        3 => {
            let info = l2.get(Field::IDT_VECTORING_INFO);
            check.equal(
                format_args!("{name}: vectoring information"),
                info,
                0x8000_0000 | u64::from(VECTOR),
            );
            l2.ept.protect(l2.idt, ::vmx::ept::Access::RWX);
            l2.set(Field::ENTRY_INTERRUPTION_INFO, info);
        }
        5 => l2.set(
            Field::ENTRY_INTERRUPTION_INFO,
            u64::from(InterruptionInfo::external_interrupt(VECTOR).raw()),
        ),
        _ => {}
    }
    check.equal(format_args!("{name}: runs"), l2.run(), RUNS);
    check.equal(
        format_args!("{name}: in the handler"),
        is_in_handler(l2),
        stage >= 3,
    );
    let rounds = match stage {
        0 | 3 => 0,
        _ => 1,
    };
    check.equal(
        format_args!("{name}: its counter"),
        l2.registers[reg::RBX],
        rounds + u64::from(stage < 3),
    );
    check.equal(
        format_args!("{name}: its SYSENTER EIP"),
        l2.get(Field::GUEST_SYSENTER_EIP),
        0x1000 + stage as u64,
    );
}

/// Several VMCSs of both kinds are alive, each at another stage; one of them after the other is the one that L1 was at last.
pub fn between_runs(check: &Check) {
    let doors: &[Door] = match assist::is_offered() {
        true => &[Door::Plain, Door::Enlightened],
        false => &[Door::Plain],
    };
    let mark = memory::mark();
    for (last_door, last_stage) in [(Door::Plain, 0), (Door::Enlightened, 1)] {
        if !doors.contains(&last_door) {
            continue;
        }
        operation::leave();
        memory::release(mark);
        let mut l2s: [[Option<L2>; STAGES.len()]; 2] = [const { [const { None }; _] }; 2];
        for (door, l2s) in doors.iter().zip(&mut l2s) {
            select(*door);
            for (stage, l2) in l2s.iter_mut().enumerate() {
                *l2 = Some(at_stage(stage));
            }
        }
        let each = |l2s: &mut [[Option<L2>; STAGES.len()]; 2],
                    work: &mut dyn FnMut(Door, usize, &mut L2)| {
            // The last one first: nothing has come in between.
            let others =
                (0..STAGES.len()).flat_map(|stage| doors.iter().map(move |door| (*door, stage)));
            let last = (last_door, last_stage);
            for (door, stage) in [last].into_iter().chain(others.filter(|one| *one != last)) {
                if let Some(l2) = &mut l2s[door as usize][stage] {
                    work(door, stage, l2);
                }
            }
        };
        let mut before = [const { [const { None }; STAGES.len()] }; 2];
        each(&mut l2s, &mut |door, stage, l2| {
            before[door as usize][stage] = Some(Record::take(Record::place(), l2, None));
        });
        if let Some(l2) = &mut l2s[last_door as usize][last_stage] {
            l2.activate();
            if last_stage == 1 {
                // The enlightened one is active by an entry.
                check.equal("runs", l2.run(), RUNS);
                l2.skip_instruction();
                l2.registers[reg::RBX] = 1;
                before[last_door as usize][last_stage] =
                    Some(Record::take(Record::place(), l2, None));
            }
        }
        let pointer = instruction::vmptrst();
        let before_registers = registers();
        save(check, STAGES[last_stage]);
        check.equal("registers", registers(), before_registers);
        check.equal("VMPTRST", instruction::vmptrst(), pointer);
        each(&mut l2s, &mut |door, stage, l2| {
            let now = Record::take(Record::place(), l2, None);
            if let Some(before) = before[door as usize][stage] {
                now.expect(check, name(door, stage), before);
            }
        });
        each(&mut l2s, &mut |door, stage, l2| {
            goes_on(check, name(door, stage), stage, l2);
        });
    }
}

fn name(door: Door, stage: usize) -> &'static str {
    const ENLIGHTENED: [&str; STAGES.len()] = [
        "enlightened, not launched",
        "enlightened, launched",
        "enlightened, cleared",
        "enlightened, event half delivered",
        "enlightened, event to inject",
        "enlightened, halted",
    ];
    match door {
        Door::Plain => STAGES[stage],
        Door::Enlightened => ENLIGHTENED[stage],
    }
}
