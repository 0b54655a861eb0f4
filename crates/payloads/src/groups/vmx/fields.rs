//! VMREAD and VMWRITE: which fields there are, and how wide.

use ::vmx::{Field, Kind, Width};

use crate::rt::cpu;
use crate::rt::harness::Check;
use crate::vm::instruction as vmx;
use crate::vm::{Outcome, operation};

fn with_current_vmcs() {
    operation::enter();
    let region = operation::region();
    let _ = vmx::vmclear(region);
    let _ = vmx::vmptrld(region);
}

/// Without a current VMCS there is nothing to access.
pub fn no_current(check: &Check) {
    operation::enter();
    check.equal(
        "vmread",
        vmx::vmread(Field::GUEST_RIP),
        Err(Outcome::FailInvalid),
    );
    check.equal(
        "vmwrite",
        vmx::vmwrite(Field::GUEST_RIP, 0),
        Outcome::FailInvalid,
    );
    check.equal(
        "vmread of no field",
        vmx::vmread_raw(0xfffe),
        Err(Outcome::FailInvalid),
    );
    check.equal(
        "vmwrite of a read-only field",
        vmx::vmwrite(Field::EXIT_REASON, 0),
        Outcome::FailInvalid,
    );
    check.equal("vmlaunch", vmx::vmlaunch(), Outcome::FailInvalid);
    check.equal("vmresume", vmx::vmresume(), Outcome::FailInvalid);
}

/// VMfail(12) for encodings that name nothing.
pub fn unsupported(check: &Check) {
    with_current_vmcs();
    let encodings: [u64; 9] = [
        0x0001_0000_0000 | 0x681e, // bits 63:32 are part of the encoding
        0x8000_0000_0000_0000 | 0x681e,
        0x1_681e, // reserved bits
        0x781e,
        0xe81e,
        0x681f, // "high" on natural width
        0x4401, // "high" on 32 bits
        0x0801, // "high" on 16 bits
        0x69fe, // an index that no field has
    ];
    for encoding in encodings {
        check.equal(
            format_args!("vmread {encoding:#x}"),
            vmx::vmread_raw(encoding),
            Err(Outcome::FailValid(12)),
        );
        check.equal(
            format_args!("vmwrite {encoding:#x}"),
            vmx::vmwrite_raw(encoding, 0),
            Outcome::FailValid(12),
        );
    }
}

/// VMfail(13) for exit information, unless IA32_VMX_MISC bit 29 allows writing it.
pub fn read_only(check: &Check) {
    with_current_vmcs();
    let writable = operation::capabilities().misc & 1 << 29 != 0;
    for field in Field::ALL.iter().filter(|f| f.kind() == Kind::ExitInfo) {
        let before = vmx::vmread(*field);
        if before == Err(Outcome::FailValid(12)) {
            check.skip(format_args!("{field:?}"), "not there");
            continue;
        }
        let outcome = vmx::vmwrite(*field, 0x55);
        if writable {
            check.equal(format_args!("write {field:?}"), outcome, Outcome::Success);
        } else {
            check.equal(
                format_args!("write {field:?}"),
                outcome,
                Outcome::FailValid(13),
            );
        }
    }
}

/// Fields hold as many bits as they are wide; "high" encodings are the upper half.
pub fn widths(check: &Check) {
    with_current_vmcs();
    let cases = [
        (Field::GUEST_ES_SELECTOR, 0xffff),
        (Field::HOST_TR_SELECTOR, 0xffff),
        (Field::EXCEPTION_BITMAP, 0xffff_ffff),
        (Field::GUEST_SYSENTER_CS, 0xffff_ffff),
        (Field::TSC_OFFSET, u64::MAX),
        (Field::GUEST_PAT, u64::MAX),
        (Field::GUEST_RSP, u64::MAX),
        (Field::HOST_RIP, u64::MAX),
    ];
    for (field, mask) in cases {
        for value in [u64::MAX, 0x1234_5678_9abc_def0, 0] {
            check.equal(
                format_args!("write {field:?}"),
                vmx::vmwrite(field, value),
                Outcome::Success,
            );
            check.equal(
                format_args!("read {field:?}"),
                vmx::vmread(field),
                Ok(value & mask),
            );
        }
    }
    let high = u64::from(Field::TSC_OFFSET.encoding()) | 1;
    let _ = vmx::vmwrite(Field::TSC_OFFSET, 0x1111_2222_3333_4444);
    check.equal("read the high half", vmx::vmread_raw(high), Ok(0x1111_2222));
    check.equal(
        "write the high half",
        vmx::vmwrite_raw(high, 0xffff_ffff_5555_6666),
        Outcome::Success,
    );
    check.equal(
        "the low half stays",
        vmx::vmread(Field::TSC_OFFSET),
        Ok(0x5555_6666_3333_4444),
    );
}

/// Every field there is keeps what is written, on its own, and IA32_VMX_VMCS_ENUM covers it.
pub fn enumerated(check: &Check) {
    with_current_vmcs();
    let highest = operation::capabilities().vmcs_enum >> 1 & 0x1ff;
    let pattern = |field: &Field| {
        let bits =
            0x0101_0101_0101_0101u64.wrapping_mul(u64::from(field.encoding() >> 1 & 0x7f) | 1);
        match field.width() {
            Width::U16 => bits & 0xffff,
            Width::U32 => bits & 0xffff_ffff,
            Width::U64 | Width::Natural => bits,
        }
    };
    // Access rights keep only the bits that exist, on some processors.
    let is_access_rights = |field: &Field| (0x4814..=0x4822).contains(&field.encoding());
    let mut present = 0;
    for field in Field::ALL {
        if vmx::vmread(*field).is_err() {
            check.equal(
                format_args!("write {field:?}, which does not exist"),
                vmx::vmwrite(*field, 0),
                Outcome::FailValid(12),
            );
            continue;
        }
        present += 1;
        check.that(
            format_args!("{field:?} is covered by VMCS_ENUM"),
            u64::from(field.index()) <= highest,
            format_args!("index {} above {highest}", field.index()),
        );
        if field.kind() != Kind::ExitInfo {
            let outcome = vmx::vmwrite(*field, pattern(field));
            check.equal(format_args!("write {field:?}"), outcome, Outcome::Success);
        }
    }
    for field in Field::ALL {
        if let Ok(value) = vmx::vmread(*field)
            && field.kind() != Kind::ExitInfo
        {
            let mask = if is_access_rights(field) {
                0x1_f0ff
            } else {
                u64::MAX
            };
            check.equal(
                format_args!("{field:?}"),
                value & mask,
                pattern(field) & mask,
            );
        }
    }
    check.note(format_args!("{present} fields of {}", Field::ALL.len()));
    // The rest of the encoding space, at random places: answers alike for both instructions.
    let mut random = crate::rt::random::Random::new(0x5eed);
    let mut strays = 0;
    for _ in 0..if cpu::is_virtual() { 300 } else { 3000 } {
        let encoding = random.next() & 0x7fff;
        let field = Field::from_encoding(encoding as u32);
        if field.is_known() {
            continue;
        }
        let read = vmx::vmread_raw(encoding);
        if read.is_err() && read != Err(Outcome::FailValid(12)) {
            check.that(
                format_args!("vmread {encoding:#x}"),
                false,
                format_args!("{read:?}"),
            );
        }
        strays += u32::from(read.is_ok());
    }
    check.note(format_args!("{strays} fields beyond those named"));
}
