//! Exceptions as results, and interrupts as counts.
//!
//! [`attempt`] runs a closure; an exception anywhere inside ends it and becomes the result.

use core::arch::{asm, global_asm};
use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::segments::{CODE, TablePointer};
use super::{apic, console, cpu, memory, power};

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code; 0 for those that have none.
    pub error: u32,
}

impl Fault {
    /// #UD.
    pub const UD: Self = Self::new(6, 0);
    /// #GP(0).
    pub const GP: Self = Self::new(13, 0);
    /// #SS(0).
    pub const SS: Self = Self::new(12, 0);

    /// An exception.
    pub const fn new(vector: u8, error: u32) -> Self {
        Self { vector, error }
    }

    /// #PF with an error code.
    pub const fn page(error: u32) -> Self {
        Self::new(14, error)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.vector {
            0 => "#DE",
            1 => "#DB",
            3 => "#BP",
            6 => "#UD",
            7 => "#NM",
            8 => "#DF",
            10 => "#TS",
            11 => "#NP",
            12 => "#SS",
            13 => "#GP",
            14 => "#PF",
            17 => "#AC",
            vector => return write!(f, "vector {vector}({:#x})", self.error),
        };
        write!(f, "{name}({:#x})", self.error)
    }
}

/// The vector with which ring 3 and compatibility mode give the processor back.
const RETURN: u8 = 0x80;

/// Stack pointer to return to from an exception, for each processor; 0 outside of [`attempt`].
static ARMED: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];
/// The last exception: vector, then error code, in one word.
static LAST: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];
/// The last exception's RIP.
static LAST_RIP: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];
static COUNTS: [[AtomicU32; 256]; cpu::MAX] =
    [const { [const { AtomicU32::new(0) }; 256] }; cpu::MAX];
/// Whether interrupts are answered with an EOI.
static AUTOMATIC_EOI: AtomicBool = AtomicBool::new(true);

unsafe extern "C" {
    fn attempt_call(
        call: unsafe extern "C" fn(*mut ()),
        data: *mut (),
        armed: *const AtomicU64,
    ) -> u64;
    fn attempt_recover();
    static trap_stubs: [u8; 0];
}

global_asm!(include_str!("fault.s"), trap = sym trap);

/// Runs `f`. An exception in it, or in what it enters, is the error.
pub fn attempt<R, F: FnOnce() -> R>(f: F) -> Result<R, Fault> {
    struct Call<F, R> {
        f: Option<F>,
        result: MaybeUninit<R>,
    }
    unsafe extern "C" fn call<R, F: FnOnce() -> R>(data: *mut ()) {
        // SAFETY: `attempt` passes its own `Call` of the same types.
        let call = unsafe { &mut *data.cast::<Call<F, R>>() };
        if let Some(f) = call.f.take() {
            call.result.write(f());
        }
    }
    let number = cpu::number();
    let mut data = Call {
        f: Some(f),
        result: MaybeUninit::uninit(),
    };
    // SAFETY: returns twice at most once: normally, or from the handler, which drops the frames
    // in between. Those hold nothing that wants dropping.
    let faulted = unsafe { attempt_call(call::<R, F>, (&raw mut data).cast(), &ARMED[number]) };
    if faulted == 0 {
        // SAFETY: `call` has run to its end.
        return Ok(unsafe { data.result.assume_init() });
    }
    let last = LAST[number].load(Ordering::Relaxed);
    Err(Fault::new((last >> 32) as u8, last as u32))
}

/// Where the last exception on this processor happened.
pub fn last_rip() -> u64 {
    LAST_RIP[cpu::number()].load(Ordering::Relaxed)
}

/// How often this processor took an interrupt with `vector` (2: an NMI).
pub fn count(vector: u8) -> u32 {
    count_on(cpu::number(), vector)
}

/// How often a processor took an interrupt.
pub fn count_on(number: usize, vector: u8) -> u32 {
    COUNTS[number][usize::from(vector)].load(Ordering::SeqCst)
}

/// Whether the handlers answer interrupts with an EOI.
pub fn set_automatic_eoi(on: bool) {
    AUTOMATIC_EOI.store(on, Ordering::SeqCst);
}

/// What the stubs push.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Index of RDI in [`Frame::registers`].
const RDI: usize = 8;
const NMI: u8 = 2;

extern "C" fn trap(frame: &mut Frame) {
    let vector = frame.vector as u8;
    let number = cpu::number();
    if vector == NMI || (vector >= 32 && vector != RETURN) {
        COUNTS[number][usize::from(vector)].fetch_add(1, Ordering::SeqCst);
        if vector != NMI && vector != apic::SPURIOUS && AUTOMATIC_EOI.load(Ordering::SeqCst) {
            apic::eoi();
        }
        return;
    }
    let resume = ARMED[number].load(Ordering::Relaxed);
    if resume == 0 {
        console::break_lock();
        console::say!(
            "payload: exception {vector} ({:#x}) at {:#x} on processor {number}, CR2 {:#x}",
            frame.error,
            frame.rip,
            cpu::cr2()
        );
        power::off();
    }
    LAST[number].store(
        u64::from(vector) << 32 | frame.error & 0xffff_ffff,
        Ordering::Relaxed,
    );
    LAST_RIP[number].store(frame.rip, Ordering::Relaxed);
    frame.registers[RDI] = resume;
    frame.rip = attempt_recover as *const () as u64;
    frame.cs = u64::from(CODE);
    frame.ss = u64::from(super::segments::DATA);
    frame.rflags = 2;
    frame.rsp = resume;
}

static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];

/// The IDT's address.
pub fn idt() -> u64 {
    (&raw const IDT) as u64
}

/// A 64-bit interrupt gate: ring 0 only, or for every ring; with an interrupt stack or without.
pub const fn gate(handler: u64, for_user: bool, stack: u8) -> [u64; 2] {
    let flags = 0x8e00 | if for_user { 0x6000 } else { 0 } | stack as u64;
    let low = handler & 0xffff | (CODE as u64) << 16 | flags << 32 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Builds the IDT. Called once.
pub fn initialise() {
    let stubs = (&raw const trap_stubs) as u64;
    for vector in 0..256u64 {
        let stack = u8::from(vector == 8);
        let gate = gate(stubs + 16 * vector, vector == u64::from(RETURN), stack);
        memory::write(idt() + 16 * vector, gate);
    }
    load();
}

/// Loads the IDT on this processor.
pub fn load() {
    let pointer = TablePointer {
        limit: 0xfff,
        base: idt(),
    };
    // SAFETY: the table lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) };
}

unsafe extern "C" {
    fn enter_ring3(code: u64, stack: u64);
    fn enter_compatibility(code: u64);
}

/// An exception that came from code run elsewhere, with the way back taken out.
fn returned(result: Result<(), Fault>) -> Result<(), Fault> {
    match result {
        Err(fault) if fault.vector == RETURN => Ok(()),
        other => other,
    }
}

/// Runs `code` in ring 3. It ends by `int 0x80`.
pub fn in_ring3(code: unsafe extern "C" fn()) -> Result<(), Fault> {
    let stack = memory::page() + memory::PAGE;
    // SAFETY: the code runs on a stack of its own and comes back through the IDT.
    returned(attempt(|| unsafe {
        enter_ring3(code as *const () as u64, stack)
    }))
}

/// Runs 32-bit `code` in compatibility mode. It ends by `int 0x80`.
pub fn in_compatibility_mode(code: unsafe extern "C" fn()) -> Result<(), Fault> {
    // SAFETY: as above; it keeps the stack, which lies below 4 GiB.
    returned(attempt(|| unsafe {
        enter_compatibility(code as *const () as u64)
    }))
}
