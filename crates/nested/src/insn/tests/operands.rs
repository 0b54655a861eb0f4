//! Where memory operands lie, and how wide they are.

use super::*;

#[test]
fn memory_operands_of_both_sizes() {
    let (mut nested, mut vp) = current();
    vp.gprs[3] = Field::TSC_OFFSET.encoding().into();
    vp.poke(OPERAND, &0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!(nested.execute(&mut vp, R::Vmwrite), SUCCEED);
    vp.poke(OPERAND, &[0; 16]);
    vp.is_long = false;
    assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
    assert_eq!(vp.word(OPERAND), 0x5566_7788);
    vp.gprs[3] |= 1;
    assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
    assert_eq!(vp.word(OPERAND), 0x1122_3344);
    // The upper halves of registers do not count outside 64-bit mode.
    vp.gprs[3] |= 1 << 32;
    assert_eq!(nested.execute(&mut vp, R::Vmread), SUCCEED);
}

#[test]
fn operand_addresses() {
    let (mut nested, mut vp) = root();
    // 8(%rsi,%rdi,4)
    vp.info = InstructionInfo::from_raw(2 | 2 << 7 | 3 << 15 | 7 << 18 | 6 << 23);
    vp.gprs[6] = 0x100;
    vp.gprs[7] = 0x40;
    vp.displacement = 8;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    assert_eq!(vp.word(0x208), u64::MAX);
    // The base of DS does not count in 64-bit mode, that of GS does.
    vp.segment.base = 0x1000;
    vp.poke(0x208, &[0; 8]);
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    assert_eq!(vp.word(0x208), u64::MAX);
    vp.info = InstructionInfo::from_raw(2 | 2 << 7 | 5 << 15 | 7 << 18 | 6 << 23);
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    assert_eq!(vp.word(0x1208), u64::MAX);
    // Not canonical: #SS with the stack segment, else #GP.
    vp.gprs[6] = 1 << 50;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), GP);
    vp.info = InstructionInfo::from_raw(2 | 2 << 7 | 2 << 15 | 7 << 18 | 6 << 23);
    let ss = Outcome::Fault(Fault::Stack);
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), ss);
}

#[test]
fn operand_segments_outside_64_bit_mode() {
    let (mut nested, mut vp) = root();
    vp.is_long = false;
    vp.segment.base = 0xffff_f900;
    // The sum wraps at 4 GiB.
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    assert_eq!(vp.word(0x100), u64::MAX);
    vp.segment.limit = 0x806;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), GP);
    vp.segment.limit = 0x807;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    // Code is not written, unusable segments not touched.
    vp.segment.rights = AccessRights::CODE32;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), GP);
    vp.segment.rights = AccessRights::UNUSABLE;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), GP);
    // Expand-down: offsets above the limit.
    vp.segment.rights = AccessRights::from_raw(0xc097);
    vp.segment.limit = 0x7ff;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), SUCCEED);
    vp.segment.limit = 0x800;
    assert_eq!(nested.execute(&mut vp, R::Vmptrst), GP);
}
