//! The table against the specification's own numbers.

use super::*;

/// Width in bytes by the encoding rule of SDM Appendix B, for Intel 64.
fn architectural_width(encoding: u32) -> u16 {
    [2, 8, 4, 8][(encoding >> 13) as usize & 3]
}

/// Words of the page that are not VMCS fields: offset and bytes.
const OTHER_WORDS: [(u16, u16); 8] = [
    (REVISION, 4),
    (ABORT, 4),
    (CLEAN_FIELDS, 4),
    (SYNTHETIC_CONTROLS, 4),
    (ENLIGHTENMENTS_CONTROL, 4),
    (VP_ID, 4),
    (VM_ID, 8),
    (PARTITION_ASSIST_PAGE, 8),
];

#[test]
fn every_byte_belongs_to_one_word_at_most() {
    let mut owner = [false; SIZE];
    let fields = TABLE.iter().map(|s| (s.offset, s.width.bytes()));
    for (offset, bytes) in fields.chain(OTHER_WORDS) {
        assert_eq!(offset % bytes, 0, "{offset:#x}");
        for byte in offset..offset + bytes {
            assert!(!owner[byte as usize], "{byte:#x} has two owners");
            owner[byte as usize] = true;
        }
    }
    // The gaps are the reserved words of the structure and nothing else.
    let gaps: [(u16, u16); 9] = [
        (0x016, 2),
        (0x128, 24),
        (0x27a, 6),
        (0x280, 40),
        (0x33c, 4),
        (0x34c, 4),
        (0x360, 32),
        (0x3b0, 16),
        (SIZE as u16, 0),
    ];
    for (offset, bytes) in gaps {
        for byte in offset..offset + bytes {
            assert!(!owner[byte as usize], "{byte:#x} should be reserved");
            owner[byte as usize] = true;
        }
    }
    assert!(owner.iter().all(|o| *o));
}

#[test]
fn encodings_and_slots_go_both_ways() {
    for (i, row) in TABLE.iter().enumerate() {
        assert_eq!(slot(row.encoding), Some(*row));
        assert!(
            TABLE[..i].iter().all(|r| r.encoding != row.encoding),
            "{}",
            row.name
        );
    }
    let found = (0..0x1_0000).filter(|e| slot(*e).is_some()).count();
    assert_eq!(found, TABLE.len());
}

#[test]
fn widths_and_directions_follow_from_the_encodings() {
    for row in TABLE {
        assert_eq!(
            row.width.bytes(),
            architectural_width(row.encoding),
            "{}",
            row.name
        );
        let is_exit_info = (row.encoding >> 10) & 3 == 1;
        assert_eq!(
            row.direction() == Direction::ReadOnly,
            is_exit_info,
            "{}",
            row.name
        );
        let is_host = (row.encoding >> 10) & 3 == 3;
        let in_host_group = matches!(row.group, Group::HostGrp1 | Group::HostPointer);
        assert_eq!(is_host, in_host_group, "{}", row.name);
        assert_eq!(is_host, row.name.starts_with("Host"), "{}", row.name);
    }
}

#[test]
fn places_that_linux_and_the_tlfs_agree_on() {
    let at = |encoding| slot(encoding).map(|s| (s.offset, s.group));
    assert_eq!(at(0x681e), Some((0x330, Group::Always)));
    assert_eq!(at(0x6c16), Some((0x050, Group::HostGrp1)));
    assert_eq!(at(0x4402), Some((0x2b4, Group::ExitInfo)));
    assert_eq!(at(0x201a), Some((0x270, Group::ControlXlat)));
    assert_eq!(at(0x400e), Some((0x184, Group::Ungrouped)));
    // What version 1 cannot express.
    for encoding in [
        0x0002, 0x0810, 0x0812, 0x2014, 0x2018, 0x201c, 0x4020, 0x482e,
    ] {
        assert_eq!(at(encoding), None);
    }
}

#[test]
fn stores_dirty_their_group() {
    assert_eq!(Group::Crdr.dirtied().raw(), 1 << 8);
    assert_eq!(Group::Ungrouped.dirtied(), CleanFields::ALL);
    assert_eq!(Group::Always.dirtied(), CleanFields::NONE);
    let clean = CleanFields::ALL.without(Group::Crdr.dirtied());
    assert!(!clean.contains(Group::Crdr.clean_bit()));
    assert!(clean.contains(Group::GuestBasic.clean_bit()));
    assert_eq!(clean.dirty(), Group::Crdr.clean_bit());
}
