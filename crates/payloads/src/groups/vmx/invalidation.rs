//! INVEPT and INVVPID.

use ::vmx::{SecondaryControls, ept_vpid};

use crate::rt::cpu;
use crate::rt::harness::Check;
use crate::rt::paging::NON_CANONICAL;
use crate::vm::ept::Ept;
use crate::vm::instruction as vmx;
use crate::vm::{Outcome, operation};

const REFUSED: Outcome = Outcome::FailValid(28);

fn with_current_vmcs() {
    operation::enter();
    let region = operation::region();
    let _ = vmx::vmclear(region);
    let _ = vmx::vmptrld(region);
}

/// INVEPT's types and descriptor.
pub fn invept(check: &Check) {
    with_current_vmcs();
    let caps = operation::capabilities();
    if caps.ept_vpid & ept_vpid::INVEPT == 0 {
        return check.equal("without INVEPT", vmx::invept(2, 0), Outcome::UD);
    }
    let offered = |bit: u64| {
        if caps.ept_vpid & bit != 0 {
            Outcome::Success
        } else {
            REFUSED
        }
    };
    let eptp = Ept::empty().eptp();
    check.equal("type 0", vmx::invept(0, eptp), REFUSED);
    check.equal(
        "single",
        vmx::invept(1, eptp),
        offered(ept_vpid::INVEPT_SINGLE),
    );
    check.equal("all", vmx::invept(2, 0), offered(ept_vpid::INVEPT_ALL));
    check.equal(
        "all, whatever the EPTP",
        vmx::invept(2, u64::MAX),
        offered(ept_vpid::INVEPT_ALL),
    );
    check.equal("type 3", vmx::invept(3, eptp), REFUSED);
    if cpu::is_virtual() {
        // Bochs looks at the low half of the register only.
        check.equal("type with bit 32", vmx::invept(1 << 32 | 1, eptp), REFUSED);
    }
    check.equal(
        "single, memory type 1",
        vmx::invept(1, eptp & !7 | 1),
        REFUSED,
    );
    check.equal(
        "single, walk length 1",
        vmx::invept(1, eptp & !0x38),
        REFUSED,
    );
    check.equal("single, bit 11", vmx::invept(1, eptp | 1 << 11), REFUSED);
    check.equal(
        "single, beyond memory",
        vmx::invept(1, eptp | 1 << 51),
        REFUSED,
    );
    if caps.ept_vpid & ept_vpid::ACCESSED_DIRTY == 0 {
        check.equal(
            "single, accessed/dirty",
            vmx::invept(1, eptp | 1 << 6),
            REFUSED,
        );
    } else {
        check.equal(
            "single, accessed/dirty",
            vmx::invept(1, eptp | 1 << 6),
            Outcome::Success,
        );
    }
}

/// INVVPID's types and descriptor.
pub fn invvpid(check: &Check) {
    with_current_vmcs();
    let caps = operation::capabilities();
    if caps
        .secondary
        .missing(SecondaryControls::ENABLE_VPID.bits())
        != 0
    {
        return check.equal("without VPID", vmx::invvpid(2, 0, 0), Outcome::UD);
    }
    let offered = |bit: u64| {
        if caps.ept_vpid & bit != 0 {
            Outcome::Success
        } else {
            REFUSED
        }
    };
    check.equal(
        "address",
        vmx::invvpid(0, 1, 0x1000),
        offered(ept_vpid::INVVPID_ADDRESS),
    );
    check.equal(
        "single",
        vmx::invvpid(1, 1, 0),
        offered(ept_vpid::INVVPID_SINGLE),
    );
    check.equal("all", vmx::invvpid(2, 0, 0), offered(ept_vpid::INVVPID_ALL));
    check.equal(
        "non-global",
        vmx::invvpid(3, 1, 0),
        offered(ept_vpid::INVVPID_SINGLE_NON_GLOBAL),
    );
    check.equal("type 4", vmx::invvpid(4, 1, 0), REFUSED);
    if cpu::is_virtual() {
        // Bochs looks at the low half of the register only.
        check.equal("type with bit 32", vmx::invvpid(1 << 32 | 1, 1, 0), REFUSED);
    }
    for kind in [0, 1, 3] {
        check.equal(
            format_args!("type {kind}, VPID 0"),
            vmx::invvpid(kind, 0, 0),
            REFUSED,
        );
    }
    for kind in [0, 1, 2, 3] {
        check.equal(
            format_args!("type {kind}, reserved bit 16"),
            vmx::invvpid(kind, 0x1_0001, 0),
            REFUSED,
        );
        check.equal(
            format_args!("type {kind}, reserved bit 63"),
            vmx::invvpid(kind, 1 << 63 | 1, 0),
            REFUSED,
        );
    }
    check.equal(
        "address, not canonical",
        vmx::invvpid(0, 1, NON_CANONICAL),
        REFUSED,
    );
    check.equal(
        "single, address ignored",
        vmx::invvpid(1, 1, NON_CANONICAL),
        offered(ept_vpid::INVVPID_SINGLE),
    );
    check.equal(
        "VPID 0xffff",
        vmx::invvpid(1, 0xffff, 0),
        offered(ept_vpid::INVVPID_SINGLE),
    );
}
