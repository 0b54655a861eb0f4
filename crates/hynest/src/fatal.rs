//! The ends that L0 itself brings about: a bug, a refusal, a partition's end.

use core::arch::asm;
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::interrupt::Frame;
use crate::cpu::port::outw;
use crate::cpu::{apic, per_cpu};
use crate::output::json::Escaped;
use crate::output::{self, Channel};
use crate::{log, vp};

/// The processor that ends the machine, as its number and one; 0 while none does.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// How long the others get to stop, in looks at them.
const PATIENCE: u32 = 1_000_000;

/// Whether a processor is ending the machine.
pub fn stopping() -> bool {
    OWNER.load(Ordering::Acquire) != 0
}

/// Stops this processor for good, for another one that ends the machine.
pub fn stop() -> ! {
    per_cpu::this().go_offline();
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing but an NMI comes back, and the loop halts again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Claims the machine's end for this processor, stopping the others. Another processor that
/// has claimed it keeps it; a bug within the report of one ends without another.
fn claim() {
    let this = per_cpu::this().number();
    let name = this as u32 + 1;
    match OWNER.compare_exchange(0, name, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(owner) if owner == name => leave_machine(),
        Err(_) => stop(),
    }
    let others = || per_cpu::online().filter(|cpu| cpu.number() != this);
    for other in others() {
        apic::send_nmi(other.apic_id());
    }
    // They stop as soon as the NMI reaches them, even with the stream in their hands.
    let mut looks = 0;
    while looks < PATIENCE && others().next().is_some() {
        core::hint::spin_loop();
        looks += 1;
    }
    // SAFETY: every other processor has stopped, or is stuck where no NMI gets in.
    unsafe { output::seize() };
}

/// How the run ended; the `end` report's `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// L1 switched itself off.
    PowerOff,
    /// L1 reset itself.
    Reset,
    /// L1 met a triple fault.
    TripleFault,
    /// L1 reported a crash.
    Panic,
    /// The partition is saved and goes on where it is restored.
    Saved,
    /// L0 refused to go on, or has a bug.
    L0Stop,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::TripleFault => "triple-fault",
            Self::Panic => "panic",
            Self::Saved => "saved",
            Self::L0Stop => "l0-stop",
        }
    }
}

/// Ends the run: counters, the `end` report, and off.
pub fn end(end: End, message: fmt::Arguments<'_>) -> ! {
    claim();
    finish(end, message)
}

fn finish(end: End, message: fmt::Arguments<'_>) -> ! {
    vp::report_counters("end");
    let mut text = Text::new();
    let _ = fmt::Write::write_fmt(&mut text, message);
    output::write(
        Channel::Report,
        format_args!(
            "{{\"event\":\"end\",\"reason\":\"{}\",\"message\":\"{}\"}}\n",
            end.name(),
            Escaped(text.as_str())
        ),
    );
    leave_machine()
}

/// Refuses to go on: one line that says why.
pub fn refuse(message: fmt::Arguments<'_>) -> ! {
    log!("{message}");
    end(End::L0Stop, message)
}

/// Refuses to go on before this processor is set up; no other runs yet.
pub fn refuse_early(message: fmt::Arguments<'_>) -> ! {
    log!("{message}");
    finish(End::L0Stop, message)
}

/// A short text built without the heap, cut where it is too long.
struct Text {
    bytes: [u8; 1024],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self {
            bytes: [0; 1024],
            length: 0,
        }
    }

    fn as_str(&self) -> &str {
        let bytes = &self.bytes[..self.length];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let take = text.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + take].copy_from_slice(&text.as_bytes()[..take]);
        self.length += take;
        Ok(())
    }
}

fn leave_machine() -> ! {
    // SAFETY: XCHG BX, BX is a no-op on processors; a Bochs with magic_break stops at it, which
    // the lab takes as the end. The port is ACPI's PM1a control in Bochs and QEMU's PIIX4: the
    // sleep-enable bit with type 0 powers off.
    unsafe {
        asm!("xchg bx, bx", options(nomem, nostack, preserves_flags));
        outw(0xB004, 0x2000);
        outw(0x604, 0x2000);
    }
    halt()
}

/// Reports an exception within L0 and ends.
pub fn exception(frame: &Frame, cr2: u64) -> ! {
    claim();
    log!(
        "L0 bug: exception {} (error {:#x}) at {:#x} on processor {}, CR2 {:#x}, RSP {:#x}, RFLAGS {:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        per_cpu::this().number(),
        cr2,
        frame.rsp,
        frame.rflags,
    );
    const NAMES: [&str; 15] = [
        "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx",
        "rbx", "rax",
    ];
    for (names, values) in NAMES.chunks(5).zip(frame.registers.chunks(5)) {
        log!(
            "  {}={:016x} {}={:016x} {}={:016x} {}={:016x} {}={:016x}",
            names[0],
            values[0],
            names[1],
            values[1],
            names[2],
            values[2],
            names[3],
            values[3],
            names[4],
            values[4],
        );
    }
    vp::log_vmcs();
    finish(
        End::L0Stop,
        format_args!("exception {} in L0 at {:#x}", frame.vector, frame.rip),
    )
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    claim();
    log!("L0 bug: {info} on processor {}", per_cpu::this().number());
    vp::log_vmcs();
    finish(End::L0Stop, format_args!("{info}"))
}
