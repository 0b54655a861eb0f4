//! The table against the layout of VMCS 12, and the copying against a model.

extern crate std;

use std::vec::Vec;

use vmx::{ExitReason, Width};

use super::*;
use crate::testing::{FakeVmcs, Scene};
use crate::vmcs12::{self, offered};
use tlfs::evmcs::CleanFields;

fn is_open(bitmap: &ExitBitmap, encoding: u32) -> bool {
    bitmap[encoding as usize / 64] >> (encoding % 64) & 1 == 0
}

#[test]
fn the_table_fits_the_layout() {
    for row in FIELDS {
        let name = row.field.name().unwrap();
        let place = offered(row.field).expect(name);
        assert!(place.is_shadowed(), "{name}");
        assert!(place.is_writable() || !row.is_written, "{name}");
        // VMWRITE drops undefined bits of these, which hardware would keep.
        assert!(!place.is_access_rights() || !row.is_written, "{name}");
        // A VMWRITE of the upper half alone exits and would not be collected.
        assert!(row.field.width() != Width::U64 || !row.is_written, "{name}");
        // Publishing reads eight bytes from the field's place on.
        assert!(usize::from(place.offset()) + 8 <= vmcs12::SIZE);
        assert!(!row.why.is_empty());
    }
}

#[test]
fn the_layout_knows_what_is_shadowed() {
    for encoding in 0..0x8000 {
        let field = Field::from_encoding(encoding);
        let rows = FIELDS.iter().filter(|row| row.field == field);
        let rows: Vec<_> = rows.collect();
        assert!(rows.len() <= 1, "{field:?} twice");
        let row = rows.first();
        let whole = offered(field).filter(|_| !field.is_high());
        let is_shadowed = whole.is_some_and(|place| place.is_shadowed());
        assert_eq!(is_shadowed, row.is_some(), "{field:?}");
        assert_eq!(is_open(&VMREAD_BITMAP, encoding), row.is_some());
        let is_written = row.is_some_and(|row| row.is_written);
        assert_eq!(is_open(&VMWRITE_BITMAP, encoding), is_written);
    }
}

/// A plain VMCS 12 with a different value in each field, and a shadow VMCS
/// that has them all.
fn published() -> (Scene, FakeVmcs) {
    let mut scene = Scene::reflected();
    scene.nested.current = Current::Plain(addr::Gpa1::new(0x2000));
    for (n, byte) in scene.nested.vmcs12.bytes_mut().iter_mut().enumerate() {
        *byte = n as u8 ^ (n >> 8) as u8;
    }
    scene.nested.vmcs12.set_clean(CleanFields::ALL);
    let mut shadow = FakeVmcs::default();
    shadow.allow_all();
    scene.nested.publish_all(&mut shadow);
    (scene, shadow)
}

#[test]
fn everything_is_published_at_first_and_nothing_is_collected_then() {
    let (mut scene, mut shadow) = published();
    let mut written = shadow.take_written();
    written.sort();
    let mut expected: Vec<Field> = FIELDS.iter().map(|row| row.field).collect();
    expected.sort();
    assert_eq!(written, expected);
    for row in FIELDS {
        let place = offered(row.field).unwrap();
        let value = scene.nested.vmcs12.read_at(place);
        assert_eq!(shadow.peek(row.field), value, "{:?}", row.field);
    }
    let before = scene.nested.vmcs12.clone();
    scene.nested.collect(&shadow);
    assert!(scene.nested.vmcs12.bytes() == before.bytes());
}

#[test]
fn a_write_is_collected_and_dirties_its_group_alone() {
    for row in FIELDS {
        let (mut scene, mut shadow) = published();
        let place = offered(row.field).unwrap();
        let mut expected = scene.nested.vmcs12.clone();
        let value = expected.read_at(place) ^ 0x11;
        if row.is_written {
            expected.write_at(place, value);
        }
        shadow.set(row.field, value);
        scene.nested.collect(&shadow);
        assert!(
            scene.nested.vmcs12.bytes() == expected.bytes(),
            "{:?}",
            row.field
        );
    }
}

#[test]
fn an_exit_publishes_what_it_changed() {
    let (mut scene, mut shadow) = published();
    shadow.take_written();
    let mut vmcs02 = FakeVmcs::default();
    for (n, field) in Field::ALL.iter().enumerate() {
        vmcs02.set(*field, 0x0101_0101_0101_0101u64.wrapping_mul(n as u64));
    }
    // A page fault while another was delivered: all of the information means something.
    vmcs02.set(Field::EXIT_REASON, 48);
    vmcs02.set(Field::EXIT_INTERRUPTION_INFO, 0x8000_0b0e);
    vmcs02.set(Field::IDT_VECTORING_INFO, 0x8000_0b0e);
    scene
        .nested
        .reflect_plain(ExitReason::from_raw(48), &vmcs02);
    scene.nested.publish_exit(&mut shadow);
    let mut written = shadow.take_written();
    written.sort();
    let published = FIELDS.iter().filter(|row| row.is_published);
    let mut expected: Vec<Field> = published.map(|row| row.field).collect();
    expected.sort();
    assert_eq!(written, expected);
    for row in FIELDS {
        let place = offered(row.field).unwrap();
        let value = scene.nested.vmcs12.read_at(place);
        assert_eq!(shadow.peek(row.field), value, "{:?}", row.field);
    }
}

#[test]
fn copying_costs_a_read_or_a_write_for_a_field() {
    let (mut scene, mut shadow) = published();
    shadow.take_reads();
    shadow.take_written();
    scene.nested.collect(&shadow);
    scene.nested.publish_exit(&mut shadow);
    let written = FIELDS.iter().filter(|row| row.is_written).count();
    let published = FIELDS.iter().filter(|row| row.is_published).count();
    assert_eq!(shadow.take_reads(), written);
    assert_eq!(shadow.take_written().len(), published);
    assert_eq!((written, published), (7, 15));
}
