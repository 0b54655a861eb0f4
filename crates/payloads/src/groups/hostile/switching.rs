//! VMCSs that change hands at random, with L1 writing over the one in use.

use ::vmx::Field;

use super::still_well;
use crate::rt::harness::Check;
use crate::rt::random::Random;
use crate::rt::{cpu, memory};
use crate::vm::instruction as vmx;
use crate::vm::{Outcome, operation};

/// Fields that a hypervisor under this one may keep in hardware, and others.
const FIELDS: [Field; 12] = [
    Field::GUEST_RIP,
    Field::GUEST_RSP,
    Field::GUEST_RFLAGS,
    Field::GUEST_INTERRUPTIBILITY,
    Field::GUEST_CR0,
    Field::GUEST_CR3,
    Field::GUEST_CR4,
    Field::HOST_RSP,
    Field::PRIMARY_CONTROLS,
    Field::ENTRY_INTERRUPTION_INFO,
    Field::TPR_THRESHOLD,
    Field::TSC_OFFSET,
];

/// Each VMCS keeps what was written to it, and L1's stores to the region of the current one
/// change nothing.
pub fn fields_stay(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip(
            "all",
            "stores to a VMCS in use are undefined on a processor",
        );
    }
    operation::enter();
    let mut random = Random::new(0x5d0);
    let regions = [(); 3].map(|()| operation::region());
    let mut values = [[0u64; FIELDS.len()]; 3];
    for region in regions {
        let _ = vmx::vmclear(region);
    }
    let mut current = None;
    let mut wrong = 0;
    for _ in 0..600 {
        let n = random.below(3) as usize;
        match (random.below(8), current) {
            (0, _) | (_, None) => {
                let outcome = vmx::vmptrld(regions[n]);
                wrong += u32::from(outcome != Outcome::Success);
                current = Some(n);
            }
            (1, Some(was)) => {
                let outcome = vmx::vmclear(regions[n]);
                wrong += u32::from(outcome != Outcome::Success);
                current = (n != was).then_some(was);
            }
            (2, Some(was)) => {
                let at = regions[was] + 8 * (1 + random.below(511));
                memory::write(at, random.nasty());
            }
            // Never launched, with controls that no processor takes.
            (3, Some(_)) => {
                let outcome = vmx::vmresume();
                wrong += u32::from(!matches!(outcome, Outcome::FailValid(5)));
            }
            (_, Some(was)) => {
                let field = random.below(FIELDS.len() as u64) as usize;
                let (bits, value) = (8 * FIELDS[field].width().bytes(), random.nasty());
                let outcome = vmx::vmwrite(FIELDS[field], value);
                wrong += u32::from(outcome != Outcome::Success);
                values[was][field] = value & u64::MAX >> (64 - bits);
            }
        }
        for (field, value) in FIELDS.iter().enumerate() {
            let expected = match current {
                Some(n) => Ok(values[n][field]),
                None => Err(Outcome::FailInvalid),
            };
            wrong += u32::from(vmx::vmread(*value) != expected);
        }
    }
    check.equal("wrong answers", wrong, 0);
    still_well(check);
}
