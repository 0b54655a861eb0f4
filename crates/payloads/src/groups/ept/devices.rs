//! L1's device registers in L2's hands.

use ::vmx::ept::Access;

use super::{RUNS, SPOT, flush};
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::L2;
use crate::vm::guest::code;
use crate::vm::l2::reg;

/// The IOAPIC: a register that selects, and a window at 0x10.
const IOAPIC: u64 = 0xfec0_0000;
/// Where L1 has neither memory nor a device.
const NOTHING: u64 = 0xd000_0000;

/// L2 uses what EPT 12 maps it to, be it a device of L1's or nothing.
pub fn registers(check: &Check) {
    memory::write::<u32>(IOAPIC, 1);
    let version = memory::read::<u32>(IOAPIC + 0x10);
    memory::write::<u32>(IOAPIC, 0);

    let mut l2 = L2::new(code!("vmcall"));
    l2.ept.map(SPOT, IOAPIC, Access::RWX);
    l2.ept.map(SPOT + 0x1000, NOTHING, Access::RWX);
    flush(&l2.ept);
    l2.registers[reg::RDI] = SPOT;
    l2.set_code(code!(
        "mov dword ptr [rdi], 1",
        "mov eax, [rdi + 0x10]",
        "or dword ptr [rdi], 2",
        "vmcall"
    ));
    check.equal("L2 selects and reads", l2.run(), RUNS);
    check.equal("the version", l2.registers[reg::RAX] as u32, version);
    check.equal(
        "L1 sees the selection",
        memory::read::<u32>(IOAPIC) & 0xff,
        3,
    );
    memory::write::<u32>(IOAPIC, 0);

    l2.registers[reg::RDI] = SPOT + 0x1000;
    l2.set_code(code!("mov [rdi], edi", "mov eax, [rdi]", "vmcall"));
    check.equal("L2 accesses nothing", l2.run(), RUNS);
    check.equal("and reads ones", l2.registers[reg::RAX], 0xffff_ffff);
}
