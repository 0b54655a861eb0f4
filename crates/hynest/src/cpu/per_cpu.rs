//! What each processor keeps for itself, found through its GS base.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use super::{apic, descriptor::Descriptors, msr};

/// Most processors this image runs on.
pub const MAX_CPUS: usize = 16;

/// Bytes of each stack of a processor.
pub const STACK_SIZE: usize = 64 * 1024;
/// Bytes of the stack that NMIs and faults run on.
const FAULT_STACK_SIZE: usize = 16 * 1024;

/// A stack, aligned as the ABI wants it.
#[repr(C, align(16))]
struct Stack<const N: usize>(UnsafeCell<[u8; N]>);

/// One processor's own data. Other processors touch only the atomics.
#[repr(C)]
pub struct PerCpu {
    /// Set when another processor wants this one to look at its mailbox; what the
    /// entry path tests right before it enters a guest.
    kicked: AtomicU8,
    /// This processor's number: 0 is the one that booted.
    number: AtomicU32,
    /// Its x2APIC identifier.
    apic_id: AtomicU32,
    /// Whether it is up.
    online: AtomicBool,
    descriptors: UnsafeCell<Descriptors>,
    stack: Stack<STACK_SIZE>,
    fault_stack: Stack<FAULT_STACK_SIZE>,
    nmi_stack: Stack<FAULT_STACK_SIZE>,
}

// SAFETY: the cells are touched only by the processor they belong to, the rest is atomic.
unsafe impl Sync for PerCpu {}

/// Offset of the kick flag from the GS base, for the entry path's assembly.
pub const KICKED_OFFSET: usize = offset_of!(PerCpu, kicked);

impl PerCpu {
    const fn new() -> Self {
        Self {
            kicked: AtomicU8::new(0),
            number: AtomicU32::new(0),
            apic_id: AtomicU32::new(0),
            online: AtomicBool::new(false),
            descriptors: UnsafeCell::new(Descriptors::new()),
            stack: Stack(UnsafeCell::new([0; STACK_SIZE])),
            fault_stack: Stack(UnsafeCell::new([0; FAULT_STACK_SIZE])),
            nmi_stack: Stack(UnsafeCell::new([0; FAULT_STACK_SIZE])),
        }
    }

    /// The first address above this processor's stack.
    pub fn stack_top(&self) -> u64 {
        self.stack.0.get() as u64 + STACK_SIZE as u64
    }

    /// This processor's number: 0 is the one that booted.
    pub fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed) as usize
    }

    /// Its x2APIC identifier.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Whether it runs L0's code.
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// This processor does not run L0's code any more.
    pub fn go_offline(&self) {
        self.online.store(false, Ordering::Release);
    }

    /// Takes the kick flag down; whoever raised it has put its reason where it will be
    /// looked for after this.
    pub fn take_kick(&self) -> bool {
        self.kicked.swap(0, Ordering::AcqRel) != 0
    }

    /// Makes this processor leave its guest, or its sleep, and look at its mailbox.
    ///
    /// NMI rather than an interrupt: emulators hold an external-interrupt exit back while the
    /// guest has interrupts masked.
    pub fn kick(&self) {
        if self.kicked.swap(1, Ordering::AcqRel) == 0 && self.is_online() {
            apic::send_nmi(self.apic_id());
        }
    }
}

static CPUS: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];

/// The data of processor `number`.
pub fn cpu(number: usize) -> &'static PerCpu {
    &CPUS[number]
}

/// Every processor's data that is online.
pub fn online() -> impl Iterator<Item = &'static PerCpu> {
    CPUS.iter().filter(|cpu| cpu.is_online())
}

/// The running processor's data.
#[inline]
pub fn this() -> &'static PerCpu {
    let pointer: *const PerCpu;
    // SAFETY: `adopt` stored the address of a static at the GS base, and L0 runs with
    // that GS base from then on (VM exits load it from the host state).
    unsafe {
        asm!("rdgsbase {}", out(reg) pointer, options(nomem, nostack, preserves_flags));
        &*pointer
    }
}

/// Makes the running processor number `number`: GS base, descriptor tables, stacks.
///
/// # Safety
/// Called once per processor, on it, with a number no other processor has.
pub unsafe fn adopt(number: usize) {
    let cpu = &CPUS[number];
    cpu.number.store(number as u32, Ordering::Relaxed);
    let fault_top = cpu.fault_stack.0.get() as u64 + FAULT_STACK_SIZE as u64;
    let nmi_top = cpu.nmi_stack.0.get() as u64 + FAULT_STACK_SIZE as u64;
    // SAFETY: this processor alone uses its descriptor tables; GS base points to a static.
    unsafe {
        (*cpu.descriptors.get()).load(fault_top, nmi_top);
        super::register::set_cr4(super::register::cr4() | (1 << 16)); // FSGSBASE
        msr::write(msr::GS_BASE, cpu as *const PerCpu as u64);
        apic::enable_x2apic();
    }
    cpu.apic_id.store(apic::id(), Ordering::Relaxed);
    cpu.online.store(true, Ordering::Release);
}

impl PerCpu {
    /// Whether a kick waits to be taken.
    pub fn kick_pending(&self) -> bool {
        self.kicked.load(Ordering::Acquire) != 0
    }
}
