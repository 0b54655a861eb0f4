//! The event to inject (SDM 27.2.1.3): VMfail(7).

use ::vmx::{EventType, Field, InterruptionInfo, SecondaryControls};

use super::{Case, each};
use crate::rt::cpu;
use crate::rt::harness::Check;
use crate::vm::{L2, Outcome};

fn info(l2: &L2, raw: u32) -> bool {
    l2.set(Field::ENTRY_INTERRUPTION_INFO, u64::from(raw));
    l2.set(Field::ENTRY_INSTRUCTION_LENGTH, 1);
    true
}

fn raw(kind: EventType, vector: u8) -> u32 {
    InterruptionInfo::new(kind, vector).raw()
}

const ERROR: u32 = InterruptionInfo::ERROR_CODE_VALID;

const BAD: &[Case] = &[
    ("type 1", |l2| info(l2, raw(EventType::Reserved, 0x40))),
    ("NMI, vector 3", |l2| info(l2, raw(EventType::Nmi, 3))),
    ("NMI, vector 0", |l2| info(l2, raw(EventType::Nmi, 0))),
    ("hardware exception, vector 32", |l2| {
        info(l2, raw(EventType::HardwareException, 32))
    }),
    ("other event, vector 1", |l2| {
        // Bochs stops at type 7.
        cpu::is_virtual() && info(l2, raw(EventType::Other, 1))
    }),
    ("monitor trap flag, where not offered", |l2| {
        cpu::is_virtual()
            && l2.caps.true_primary.may_be_one() & 1 << 27 == 0
            && info(l2, raw(EventType::Other, 0))
    }),
    ("reserved bit 12", |l2| {
        info(
            l2,
            InterruptionInfo::external_interrupt(0x40).raw() | 1 << 12,
        )
    }),
    ("reserved bit 30", |l2| {
        info(
            l2,
            InterruptionInfo::external_interrupt(0x40).raw() | 1 << 30,
        )
    }),
    ("#GP without an error code", |l2| {
        info(l2, raw(EventType::HardwareException, 13))
    }),
    ("#PF without an error code", |l2| {
        info(l2, raw(EventType::HardwareException, 14))
    }),
    ("#DF without an error code", |l2| {
        info(l2, raw(EventType::HardwareException, 8))
    }),
    ("#AC without an error code", |l2| {
        info(l2, raw(EventType::HardwareException, 17))
    }),
    ("#UD with an error code", |l2| {
        info(l2, raw(EventType::HardwareException, 6) | ERROR)
    }),
    ("#DB with an error code", |l2| {
        info(l2, raw(EventType::HardwareException, 1) | ERROR)
    }),
    ("interrupt with an error code", |l2| {
        info(l2, InterruptionInfo::external_interrupt(0x40).raw() | ERROR)
    }),
    ("NMI with an error code", |l2| {
        info(l2, InterruptionInfo::nmi().raw() | ERROR)
    }),
    ("software interrupt with an error code", |l2| {
        info(l2, raw(EventType::SoftwareInterrupt, 13) | ERROR)
    }),
    ("error code above 16 bits", |l2| {
        l2.set(Field::ENTRY_EXCEPTION_ERROR_CODE, 0x1_0000);
        info(l2, InterruptionInfo::exception(13).raw())
    }),
    ("error code bit 31", |l2| {
        l2.set(Field::ENTRY_EXCEPTION_ERROR_CODE, 1 << 31);
        info(l2, InterruptionInfo::exception(14).raw())
    }),
    ("software interrupt, length 16", |l2| {
        info(l2, raw(EventType::SoftwareInterrupt, 0x40)) && {
            l2.set(Field::ENTRY_INSTRUCTION_LENGTH, 16);
            true
        }
    }),
    ("software exception, length 0x10000", |l2| {
        info(l2, raw(EventType::SoftwareException, 3)) && {
            l2.set(Field::ENTRY_INSTRUCTION_LENGTH, 0x1_0000);
            true
        }
    }),
    ("software interrupt, length 0 where not offered", |l2| {
        l2.caps.misc & 1 << 30 == 0 && info(l2, raw(EventType::SoftwareInterrupt, 0x40)) && {
            l2.set(Field::ENTRY_INSTRUCTION_LENGTH, 0);
            true
        }
    }),
    ("#GP with an error code in real mode", |l2| {
        l2.has_secondary(SecondaryControls::UNRESTRICTED_GUEST) && {
            l2.use_secondary(SecondaryControls::UNRESTRICTED_GUEST);
            l2.modify(Field::GUEST_CR0, 0, 1 | cpu::CR0_PG);
            info(l2, InterruptionInfo::exception(13).raw())
        }
    }),
];

/// One wrong event each.
pub fn event(check: &Check) {
    each(check, BAD, Outcome::FailValid(7));
    each(
        check,
        &[("not valid, all else wrong", |l2| info(l2, 0x7fff_ffff))],
        Outcome::exit(::vmx::BasicExitReason::Vmcall),
    );
}
