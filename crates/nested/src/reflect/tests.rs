//! Every exit reason, with and without L1's interest.

use vmx::BasicExitReason as R;

use super::*;
use crate::testing::*;
use crate::vmcs12::Place;

struct Gprs([u64; 16]);

impl Registers for Gprs {
    fn gpr(&self, number: u8) -> u64 {
        assert_ne!(number, 4);
        self.0[usize::from(number)]
    }
}

/// The owner of an exit, with fields of VMCS 12 and 02 and registers set.
fn owner_with(
    reason: R,
    vmcs12: &[(Field, u64)],
    vmcs02: &[(Field, u64)],
    gprs: [u64; 16],
    memory: &FakeMemory,
) -> Owner {
    let mut scene = Scene::entered();
    for (field, value) in vmcs12 {
        let slot = crate::vmcs12::place(field.encoding());
        scene.nested.vmcs12.write_at(Place::of(&slot), *value);
    }
    for (field, value) in vmcs02 {
        scene.vmcs02.set(*field, *value);
    }
    scene
        .nested
        .owner(&scene.vmcs02, ExitReason::new(reason), memory, &Gprs(gprs))
}

fn owner(reason: R, vmcs12: &[(Field, u64)], vmcs02: &[(Field, u64)]) -> Owner {
    owner_with(reason, vmcs12, vmcs02, [0; 16], &FakeMemory::new(0x1_0000))
}

#[test]
fn reasons_without_a_control() {
    for reason in [
        R::TripleFault,
        R::TaskSwitch,
        R::Cpuid,
        R::Getsec,
        R::Invd,
        R::Rsm,
        R::Vmcall,
        R::Vmclear,
        R::Vmlaunch,
        R::Vmptrld,
        R::Vmptrst,
        R::Vmread,
        R::Vmresume,
        R::Vmwrite,
        R::Vmxoff,
        R::Vmxon,
        R::Invept,
        R::Invvpid,
        R::Xsetbv,
        R::Vmfunc,
        R::Xsaves,
        R::Xrstors,
    ] {
        assert_eq!(owner(reason, &[], &[]), Owner::L1, "{reason:?}");
    }
    for reason in [
        R::ExternalInterrupt,
        R::Init,
        R::StartUpIpi,
        R::IoSmi,
        R::OtherSmi,
        R::EptViolation,
        R::EptMisconfiguration,
        R::PreemptionTimer,
        R::PageModificationLogFull,
    ] {
        assert_eq!(owner(reason, &[], &[]), Owner::L0, "{reason:?}");
    }
}

#[test]
fn reasons_with_a_primary_control() {
    use PrimaryControls as P;
    for (reason, control) in [
        (R::InterruptWindow, P::INTERRUPT_WINDOW_EXITING),
        (R::NmiWindow, P::NMI_WINDOW_EXITING),
        (R::Hlt, P::HLT_EXITING),
        (R::Invlpg, P::INVLPG_EXITING),
        (R::Invpcid, P::INVLPG_EXITING),
        (R::Rdpmc, P::RDPMC_EXITING),
        (R::Rdtsc, P::RDTSC_EXITING),
        (R::Rdtscp, P::RDTSC_EXITING),
        (R::MovDr, P::MOV_DR_EXITING),
        (R::Mwait, P::MWAIT_EXITING),
        (R::Monitor, P::MONITOR_EXITING),
        (R::Pause, P::PAUSE_EXITING),
        (R::TprBelowThreshold, P::USE_TPR_SHADOW),
        (R::IoInstruction, P::UNCONDITIONAL_IO_EXITING),
    ] {
        let field = Field::PRIMARY_CONTROLS;
        assert_eq!(owner(reason, &[(field, 0)], &[]), Owner::L0, "{reason:?}");
        let set = control.bits().into();
        assert_eq!(owner(reason, &[(field, set)], &[]), Owner::L1, "{reason:?}");
    }
}

#[test]
fn reasons_with_a_secondary_control() {
    use SecondaryControls as S;
    for (reason, control) in [
        (R::GdtrIdtrAccess, S::DESCRIPTOR_TABLE_EXITING),
        (R::LdtrTrAccess, S::DESCRIPTOR_TABLE_EXITING),
        (R::Wbinvd, S::WBINVD_EXITING),
        (R::Rdrand, S::RDRAND_EXITING),
        (R::Rdseed, S::RDSEED_EXITING),
    ] {
        let set = (Field::SECONDARY_CONTROLS, control.bits().into());
        let off = (Field::PRIMARY_CONTROLS, 0);
        let none = (Field::SECONDARY_CONTROLS, 0);
        assert_eq!(owner(reason, &[set], &[]), Owner::L1, "{reason:?}");
        assert_eq!(owner(reason, &[none], &[]), Owner::L0, "{reason:?}");
        // Not activated, not in force.
        assert_eq!(owner(reason, &[set, off], &[]), Owner::L0, "{reason:?}");
    }
}

#[test]
fn exceptions_by_the_bitmap() {
    let exits = |bitmap: u64, info: u64, code: u64, mask: u64, matching: u64| {
        owner(
            R::ExceptionOrNmi,
            &[
                (Field::EXCEPTION_BITMAP, bitmap),
                (Field::PAGE_FAULT_ERROR_CODE_MASK, mask),
                (Field::PAGE_FAULT_ERROR_CODE_MATCH, matching),
            ],
            &[
                (Field::EXIT_INTERRUPTION_INFO, info),
                (Field::EXIT_INTERRUPTION_ERROR_CODE, code),
            ],
        )
    };
    assert_eq!(exits(1 << 6, 0x8000_0306, 0, 0, 0), Owner::L1);
    assert_eq!(exits(1 << 6, 0x8000_030d, 0, 0, 0), Owner::L0);
    // NMIs and machine checks are the machine's, whatever L1 wants.
    assert_eq!(exits(u64::MAX, 0x8000_0202, 0, 0, 0), Owner::L0);
    assert_eq!(exits(u64::MAX, 0x8000_0312, 0, 0, 0), Owner::L0);
    let fault = 0x8000_0b0e;
    assert_eq!(exits(1 << 14, fault, 7, 0, 0), Owner::L1);
    assert_eq!(exits(0, fault, 7, 0, 0), Owner::L0);
    // Reserved-bit faults only.
    assert_eq!(exits(1 << 14, fault, 8, 8, 8), Owner::L1);
    assert_eq!(exits(1 << 14, fault, 7, 8, 8), Owner::L0);
    // A clear bit turns the condition round.
    assert_eq!(exits(0, fault, 7, 8, 8), Owner::L1);
    assert_eq!(exits(0, fault, 8, 8, 8), Owner::L0);
}

#[test]
fn control_register_accesses() {
    let access = |qualification: u64, primary: PrimaryControls, rax: u64| {
        let mut gprs = [0; 16];
        gprs[0] = rax;
        owner_with(
            R::CrAccess,
            &[
                (Field::PRIMARY_CONTROLS, primary.bits().into()),
                (Field::CR0_GUEST_HOST_MASK, 1 << 31 | 8),
                (Field::CR0_READ_SHADOW, 1 << 31 | 8),
                (Field::CR4_GUEST_HOST_MASK, 1 << 5),
                (Field::CR4_READ_SHADOW, 0),
            ],
            &[
                (Field::EXIT_QUALIFICATION, qualification),
                (Field::GUEST_RSP, 0x20),
            ],
            gprs,
            &FakeMemory::new(0),
        )
    };
    let none = PrimaryControls::empty();
    // MOV to CR0: PG unchanged, then cleared.
    assert_eq!(access(0x000, none, 1 << 31 | 8), Owner::L0);
    assert_eq!(access(0x000, none, 1 << 31 | 8 | 1 << 30), Owner::L0);
    assert_eq!(access(0x000, none, 8), Owner::L1);
    // MOV to CR4 from RAX, and from RSP, which VMCS 02 holds.
    assert_eq!(access(0x004, none, 0), Owner::L0);
    assert_eq!(access(0x004, none, 1 << 5), Owner::L1);
    assert_eq!(access(0x404, none, 0), Owner::L1);
    for (qualification, control) in [
        (0x003, PrimaryControls::CR3_LOAD_EXITING),
        (0x013, PrimaryControls::CR3_STORE_EXITING),
        (0x008, PrimaryControls::CR8_LOAD_EXITING),
        (0x018, PrimaryControls::CR8_STORE_EXITING),
    ] {
        assert_eq!(access(qualification, none, 0), Owner::L0);
        assert_eq!(access(qualification, control, 0), Owner::L1);
    }
    // CLTS with TS in mask and shadow; LMSW that keeps TS, and that clears it.
    assert_eq!(access(0x020, none, 0), Owner::L1);
    assert_eq!(access(0x0008_0030, none, 0), Owner::L0);
    assert_eq!(access(0x0000_0030, none, 0), Owner::L1);
}

#[test]
fn ports_by_the_bitmaps() {
    let mut memory = FakeMemory::new(0x1_0000);
    memory.0[0x8000 + 0x3f8 / 8] = 1;
    let bitmaps = [
        (
            Field::PRIMARY_CONTROLS,
            PrimaryControls::USE_IO_BITMAPS.bits().into(),
        ),
        (Field::IO_BITMAP_A, 0x8000),
        (Field::IO_BITMAP_B, 0x9000),
    ];
    let access = |port: u64, size: u64| {
        let qualification = (Field::EXIT_QUALIFICATION, port << 16 | (size - 1));
        owner_with(
            R::IoInstruction,
            &bitmaps,
            &[qualification],
            [0; 16],
            &memory,
        )
    };
    assert_eq!(access(0x3f8, 1), Owner::L1);
    assert_eq!(access(0x3f9, 1), Owner::L0);
    assert_eq!(access(0x3f6, 4), Owner::L1);
    assert_eq!(access(0x8000, 1), Owner::L0);
    assert_eq!(access(0xffff, 2), Owner::L1);
}

#[test]
fn msrs_by_the_live_bitmap() {
    let mut memory = FakeMemory::new(0x1_0000);
    memory.0[0x3000 + 0x10 / 8] = 1;
    memory.0[0x3c00 + 0x80 / 8] = 1;
    let access = |reason, msr: u64, vmcs12: &[(Field, u64)]| {
        let mut gprs = [0; 16];
        gprs[1] = msr;
        owner_with(reason, vmcs12, &[], gprs, &memory)
    };
    assert_eq!(access(R::Rdmsr, 0x10, &[]), Owner::L1);
    assert_eq!(access(R::Wrmsr, 0x10, &[]), Owner::L0);
    assert_eq!(access(R::Wrmsr, 0xc000_0080, &[]), Owner::L1);
    assert_eq!(access(R::Rdmsr, 0xc000_0080, &[]), Owner::L0);
    assert_eq!(access(R::Rdmsr, 0x2000, &[]), Owner::L1);
    assert_eq!(access(R::Rdmsr, 0x4000_0000, &[]), Owner::L1);
    // No bitmap, or one where there is no memory: everything exits.
    let none = [(Field::PRIMARY_CONTROLS, 0)];
    assert_eq!(access(R::Rdmsr, 0x11, &none), Owner::L1);
    let hole = [(Field::MSR_BITMAP, 0x10_0000)];
    assert_eq!(access(R::Rdmsr, 0x11, &hole), Owner::L1);
    // Upper halves of RCX do not count.
    assert_eq!(access(R::Wrmsr, 0xffff_ffff_0000_0010, &[]), Owner::L0);
}

#[test]
fn reasons_from_the_future_are_l1s() {
    let scene = Scene::entered();
    let owner = scene.nested.owner(
        &scene.vmcs02,
        ExitReason::from_raw(999),
        &scene.memory,
        &Gprs([0; 16]),
    );
    assert_eq!(owner, Owner::L1);
}
