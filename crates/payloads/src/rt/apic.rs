//! The local APIC, in either mode.

use core::sync::atomic::{AtomicBool, Ordering};

use super::{cpu, memory};

/// The vector of spurious interrupts.
pub const SPURIOUS: u8 = 0xff;

/// Where the registers lie in xAPIC mode.
pub const BASE: u64 = 0xfee0_0000;
const X2APIC_FIRST: u32 = 0x800;

/// IA32_APIC_BASE: globally enabled.
pub const BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the bootstrap processor.
pub const BASE_BSP: u64 = 1 << 8;

/// Registers by their xAPIC offset.
pub mod register {
    /// Identifier.
    pub const ID: u32 = 0x020;
    /// Version.
    pub const VERSION: u32 = 0x030;
    /// Task priority.
    pub const TPR: u32 = 0x080;
    /// Processor priority.
    pub const PPR: u32 = 0x0a0;
    /// End of interrupt.
    pub const EOI: u32 = 0x0b0;
    /// Logical destination.
    pub const LDR: u32 = 0x0d0;
    /// Spurious vector, and the software enable.
    pub const SVR: u32 = 0x0f0;
    /// In service, 8 words 0x10 apart.
    pub const ISR: u32 = 0x100;
    /// Requested, 8 words 0x10 apart.
    pub const IRR: u32 = 0x200;
    /// Interrupt command, low half.
    pub const ICR: u32 = 0x300;
    /// Interrupt command, high half; xAPIC only.
    pub const ICR_HIGH: u32 = 0x310;
    /// Local vector table: timer.
    pub const LVT_TIMER: u32 = 0x320;
    /// Timer's initial count.
    pub const INITIAL_COUNT: u32 = 0x380;
    /// Timer's current count.
    pub const CURRENT_COUNT: u32 = 0x390;
    /// Timer's divisor.
    pub const DIVIDE: u32 = 0x3e0;
    /// Self-IPI; x2APIC only.
    pub const SELF_IPI: u32 = 0x3f0;
}
use register as reg;

/// Delivery modes of the ICR.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Delivery {
    /// A vector.
    Fixed = 0,
    /// A non-maskable interrupt.
    Nmi = 4 << 8,
    /// INIT.
    Init = 5 << 8 | 1 << 14,
    /// A start-up message.
    StartUp = 6 << 8 | 1 << 14,
}

static IS_X2APIC: [AtomicBool; cpu::MAX] = [const { AtomicBool::new(false) }; cpu::MAX];

fn is_x2apic() -> bool {
    IS_X2APIC[cpu::number()].load(Ordering::Relaxed)
}

/// Reads a register.
pub fn read(register: u32) -> u32 {
    if is_x2apic() {
        cpu::msr(X2APIC_FIRST + register / 16) as u32
    } else {
        memory::read(BASE + u64::from(register))
    }
}

/// Writes a register.
pub fn write(register: u32, value: u32) {
    if is_x2apic() {
        let _ = cpu::wrmsr(X2APIC_FIRST + register / 16, u64::from(value));
    } else {
        memory::write(BASE + u64::from(register), value);
    }
}

/// The MSR of a register in x2APIC mode.
pub const fn msr(register: u32) -> u32 {
    X2APIC_FIRST + register / 16
}

/// Notes which mode IA32_APIC_BASE says, and lets interrupts in.
pub fn initialise() {
    let extended = cpu::msr(cpu::MSR_APIC_BASE) & BASE_X2APIC != 0;
    IS_X2APIC[cpu::number()].store(extended, Ordering::Relaxed);
    write(reg::SVR, 0x100 | u32::from(SPURIOUS));
    write(reg::TPR, 0);
}

/// Switches this processor to x2APIC mode.
pub fn use_x2apic() {
    let base = cpu::msr(cpu::MSR_APIC_BASE);
    if base & BASE_X2APIC == 0 {
        let _ = cpu::wrmsr(cpu::MSR_APIC_BASE, base | BASE_ENABLE | BASE_X2APIC);
    }
    initialise();
}

/// This processor's identifier.
pub fn id() -> u32 {
    let raw = read(reg::ID);
    if is_x2apic() { raw } else { raw >> 24 }
}

/// Answers the interrupt in service.
pub fn eoi() {
    write(reg::EOI, 0);
}

/// Sends an interrupt command to one processor.
pub fn send(destination: u32, mode: Delivery, vector: u8) {
    send_raw(destination, mode as u32 | u32::from(vector));
}

/// Writes the interrupt command register.
pub fn send_raw(destination: u32, low: u32) {
    if is_x2apic() {
        let _ = cpu::wrmsr(msr(reg::ICR), u64::from(destination) << 32 | u64::from(low));
    } else {
        write(reg::ICR_HIGH, destination << 24);
        write(reg::ICR, low);
    }
}

/// Sends a vector to this processor.
pub fn send_self(vector: u8) {
    send_raw(0, 1 << 18 | u32::from(vector));
}

/// Whether `vector` is requested and not yet taken.
pub fn is_requested(vector: u8) -> bool {
    read(reg::IRR + u32::from(vector / 32) * 16) & 1 << (vector % 32) != 0
}

/// Whether `vector` is in service.
pub fn is_in_service(vector: u8) -> bool {
    read(reg::ISR + u32::from(vector / 32) * 16) & 1 << (vector % 32) != 0
}

/// Modes of the timer, as the LVT has them.
pub mod timer {
    /// Counts down once.
    pub const ONE_SHOT: u32 = 0;
    /// Starts again at the end.
    pub const PERIODIC: u32 = 1 << 17;
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    pub const TSC_DEADLINE: u32 = 2 << 17;
    /// Masked.
    pub const MASKED: u32 = 1 << 16;
    /// Divisor register: by 1.
    pub const DIVIDE_BY_1: u32 = 0b1011;
}

/// Stops the timer, and lets an interrupt of it that is already requested through.
pub fn stop_timer() {
    write(reg::LVT_TIMER, timer::MASKED);
    write(reg::INITIAL_COUNT, 0);
    cpu::interrupt_window();
}
