//! VMCSs, regions and tables full of garbage.

use ::vmx::ept::Level;
use ::vmx::{Field, Kind};

use super::{arm, caged, still_well};
use crate::rt::harness::Check;
use crate::rt::random::Random;
use crate::rt::{apic, cpu, memory};
use crate::vm::guest::code;
use crate::vm::instruction as vmx;
use crate::vm::l2::reg;
use crate::vm::{Door, L2, Outcome, door, operation};

/// Fields that decide what an exit does to L1, or what L2 can reach: they stay in order.
fn is_spared(field: Field) -> bool {
    field.kind() == Kind::Host
        || field.kind() == Kind::ExitInfo
        || matches!(
            field,
            Field::EPT_POINTER
                | Field::EXIT_CONTROLS
                | Field::EXIT_MSR_LOAD_COUNT
                | Field::EXIT_MSR_STORE_COUNT
                | Field::SECONDARY_CONTROLS
                | Field::PIN_BASED_CONTROLS
                | Field::ENTRY_MSR_LOAD_COUNT
                | Field::VIRTUAL_APIC_ADDRESS
        )
}

/// Counts kinds of answers.
#[derive(Default)]
struct Answers {
    exits: u32,
    failed_entries: u32,
    refusals: u32,
    others: u32,
}

impl Answers {
    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Exit(reason) if reason >> 31 == 0 => self.exits += 1,
            Outcome::Exit(_) => self.failed_entries += 1,
            Outcome::FailInvalid | Outcome::FailValid(7 | 8) => self.refusals += 1,
            _ => self.others += 1,
        }
    }

    fn report(&self, check: &Check, total: u32) {
        check.note(format_args!(
            "{} exits, {} failed entries, {} refusals",
            self.exits, self.failed_entries, self.refusals
        ));
        check.equal("answers of no legal kind", self.others, 0);
        check.equal(
            "answers",
            self.exits + self.failed_entries + self.refusals + self.others,
            total,
        );
    }
}

/// Random values in random fields of a good VMCS.
pub fn random_vmcs(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "the emulator stops at some of it");
    }
    let mut random = Random::new(0x1234_5678_9abc_def1);
    let mut answers = Answers::default();
    let mark = memory::mark();
    let rounds = 400;
    for round in 0..rounds {
        if round % 20 == 0 {
            memory::release(mark);
            operation::leave();
        }
        let mut l2 = caged();
        for _ in 0..=random.below(if round % 3 == 0 { 40 } else { 3 }) {
            let field = Field::ALL[random.below(Field::ALL.len() as u64) as usize];
            if is_spared(field) {
                continue;
            }
            let value = random.nasty();
            if door() == Door::Plain {
                l2.activate();
                let _ = vmx::vmwrite(field, value);
            } else if tlfs::evmcs::slot(field.encoding()).is_some() {
                l2.set(field, value);
            }
        }
        for register in &mut l2.registers {
            *register = random.nasty();
        }
        arm();
        answers.note(l2.run());
        apic::stop_timer();
        if round % 20 != 19 {
            operation::leave();
            memory::release(mark);
        }
    }
    answers.report(check, rounds);
    still_well(check);
}

/// Regions whose contents are random but for the revision, loaded as they are.
pub fn random_region(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip(
            "all",
            "the emulator keeps pointers of its own in the region",
        );
    }
    operation::enter();
    let mut random = Random::new(0x77);
    let mut loaded = 0;
    for _ in 0..60 {
        let region = operation::region();
        for at in (8..4096).step_by(8) {
            memory::write(region + at, random.nasty());
        }
        loaded += u32::from(vmx::vmptrld(region) == Outcome::Success);
        // Host state that leads back is not there: expect a refusal, never an entry.
        let outcome = if random.below(2) == 0 {
            vmx::vmlaunch()
        } else {
            vmx::vmresume()
        };
        check.that(
            "an entry from it is refused",
            matches!(
                outcome,
                Outcome::FailValid(4 | 5 | 7 | 8) | Outcome::FailInvalid
            ),
            format_args!("{outcome:?}"),
        );
        for field in Field::ALL {
            let _ = vmx::vmread(*field);
        }
        let _ = vmx::vmclear(region);
    }
    check.equal("regions loaded", loaded, 60);
    still_well(check);
}

/// EPT tables full of random words, over memory that L2 may spoil.
pub fn random_ept(check: &Check) {
    let mut random = Random::new(0xe97);
    let mut l2 = caged();
    let spot = 0x6000_0000u64;
    let tables = [
        l2.ept.entry(spot, Level::Pt) & !0xfff,
        l2.ept.entry(spot, Level::Pd) & !0xfff,
        l2.ept.entry(spot, Level::Pdpt),
    ];
    let scratch = memory::page();
    let good: [u64; 3] = tables.map(memory::read::<u64>);
    let mut answers = Answers::default();
    for _ in 0..300 {
        // Rights without writing: whatever they map, L2 spoils nothing.
        let entry = random.nasty() & !2;
        let at = spot + (random.below(512) << 12);
        match random.below(4) {
            0 => memory::write(l2.ept.entry(spot, Level::Pd), entry),
            1 => memory::write(tables[2], entry),
            2 => memory::write(l2.ept.entry(spot, Level::Pd), scratch | 5),
            _ => memory::write(tables[0] + random.below(512) * 8, entry),
        }
        if random.below(3) == 0 {
            let _ = vmx::invept(1 + random.below(2), l2.ept.eptp());
        }
        l2.registers[reg::RDI] = at + random.below(4096 - 8);
        l2.set_code(match random.below(3) {
            0 => code!("mov rax, [rdi]", "vmcall"),
            1 => code!("mov [rdi], rax", "vmcall"),
            _ => code!("jmp rdi"),
        });
        arm();
        answers.note(l2.run());
        apic::stop_timer();
        memory::write(tables[2], good[2]);
        memory::write(l2.ept.entry(spot, Level::Pd), tables[0] | 7);
    }
    answers.report(check, 300);
    still_well(check);
}

/// Addresses that a page should not have.
fn places() -> [u64; 12] {
    [
        0,
        0x1000,
        0xa_0000,
        0xe_0000,
        0xc000_0000,
        0xfec0_0000,
        0xfee0_0000,
        0xffff_f000,
        cpu::cr3() & !0xfff,
        crate::rt::fault::idt() & !0xfff,
        1 << 39,
        !0xfff,
    ]
}

/// VMXON, VMPTRLD and VMCLEAR of devices, holes, and L1's own tables.
pub fn pointers(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "bare, it would break the machine");
    }
    operation::prepare();
    for place in places() {
        let outcome = vmx::vmxon(place);
        check.equal(
            format_args!("vmxon {place:#x}"),
            outcome,
            Outcome::FailInvalid,
        );
    }
    let vmxon = operation::enter();
    for place in places() {
        let saved: [u64; 4] = if is_memory(place) {
            core::array::from_fn(|i| memory::read(place + 8 * i as u64))
        } else {
            [0; 4]
        };
        let load = vmx::vmptrld(place);
        check.that(
            format_args!("vmptrld {place:#x}"),
            matches!(load, Outcome::FailInvalid | Outcome::FailValid(9 | 11)),
            format_args!("{load:?}"),
        );
        let clear = vmx::vmclear(place);
        check.that(
            format_args!("vmclear {place:#x}"),
            matches!(
                clear,
                Outcome::Success | Outcome::FailInvalid | Outcome::FailValid(2)
            ),
            format_args!("{clear:?}"),
        );
        if is_memory(place) {
            for (i, word) in saved.iter().enumerate() {
                memory::write(place + 8 * i as u64, *word);
            }
        }
    }
    check.equal(
        "vmclear of the VMXON region",
        vmx::vmclear(vmxon),
        Outcome::FailInvalid,
    );
    still_well(check);
}

fn is_memory(place: u64) -> bool {
    place < 0x8_0000 || (0x10_0000..0x800_0000).contains(&place)
}

/// One page for everything that can be a page.
pub fn one_page(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "the emulator keeps state of its own in the region");
    }
    let mut l2 = caged();
    let page = l2.page;
    for field in [
        Field::IO_BITMAP_A,
        Field::IO_BITMAP_B,
        Field::MSR_BITMAP,
        Field::VIRTUAL_APIC_ADDRESS,
        Field::ENTRY_MSR_LOAD_ADDRESS,
        Field::EXIT_MSR_STORE_ADDRESS,
        Field::VMCS_LINK_POINTER,
    ] {
        l2.set(field, page);
    }
    l2.use_primary(
        ::vmx::PrimaryControls::USE_IO_BITMAPS
            | ::vmx::PrimaryControls::USE_MSR_BITMAPS
            | ::vmx::PrimaryControls::USE_TPR_SHADOW,
    );
    arm();
    let outcome = l2.run();
    check.that(
        "an answer",
        matches!(
            outcome,
            Outcome::Exit(_) | Outcome::FailValid(_) | Outcome::FailInvalid
        ),
        format_args!("{outcome:?}"),
    );
    // The VMCS as its own EPT root, and as L2's page tables.
    l2.set(Field::EPT_POINTER, page | 0x1e);
    let outcome = l2.run();
    check.that(
        "an answer with itself as EPT",
        matches!(
            outcome,
            Outcome::Exit(_) | Outcome::FailValid(_) | Outcome::FailInvalid
        ),
        format_args!("{outcome:?}"),
    );
    l2.set(Field::EPT_POINTER, l2.ept.eptp());
    l2.set(Field::GUEST_CR3, page);
    let outcome = l2.run();
    check.that(
        "an answer with itself as CR3",
        matches!(
            outcome,
            Outcome::Exit(_) | Outcome::FailValid(_) | Outcome::FailInvalid
        ),
        format_args!("{outcome:?}"),
    );
    still_well(check);
}

/// L1 overwrites a VMCS that is current, launched and in use.
pub fn freed_vmcs(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "the emulator keeps state of its own in the region");
    }
    let mut l2 = L2::with_ept(
        code!("2: vmcall", "jmp 2b"),
        crate::vm::ept::Ept::read_only(),
    );
    check.equal(
        "runs",
        l2.run(),
        Outcome::exit(::vmx::BasicExitReason::Vmcall),
    );
    let mut random = Random::new(9);
    // Host state may have been read from there: leave the enlightened layout's alone, and the
    // plain one's, which is the same, too.
    for at in 0x64..0x1000u64 {
        let spared = [0x140..0x158, 0x184..0x190, 0x240..0x278];
        if !spared.iter().any(|range| range.contains(&at)) {
            memory::write(l2.page + at, random.next() as u8);
        }
    }
    arm();
    let outcome = l2.run();
    check.that(
        "an answer",
        matches!(
            outcome,
            Outcome::Exit(_) | Outcome::FailValid(_) | Outcome::FailInvalid
        ),
        format_args!("{outcome:?}"),
    );
    apic::stop_timer();
    still_well(check);
}
