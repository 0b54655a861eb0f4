//! Bare-metal guests that test the machine from inside.
//!
//! The image is an L1 for hynest (a PVH kernel) and boots by GRUB on a bare machine too, so that
//! the processor's own VT-x answers the same questions: where both are to agree, one expectation
//! serves for both. The command line selects:
//!
//! - `groups=vmx,entry,...`: the groups to run; by default all of them but `audit`, `saving` and `time`, which have
//!   runs of their own;
//! - `test=TEXT`: only tests whose name contains TEXT;
//! - `door=plain|enlightened`: how L2s are described, by VMWRITE or by the enlightened VMCS;
//! - `out=e9`: print to port 0xE9 instead of COM1.
#![no_std]
#![no_main]

mod groups;
mod rt;
mod vm;

use rt::console::say;
use rt::{apic, boot, console, cpu, fault, harness, power, segments};

/// Where the boot code enters.
extern "C" fn rust_entry(protocol: u64, information: u64) -> ! {
    segments::load(0);
    fault::initialise();
    // The firmware's interrupt controllers have vectors that mean exceptions: mask them.
    cpu::out8(0x21, 0xff);
    cpu::out8(0xa1, 0xff);
    boot::take_command_line(protocol, information);
    if boot::option("out") == Some("e9") {
        console::use_port_e9();
    }
    vm::select_door(boot::option("door"));
    let wanted = boot::option("groups");
    say!(
        "payload: {} machine, groups {}, door {:?}",
        if cpu::is_virtual() { "virtual" } else { "bare" },
        wanted.unwrap_or("all"),
        vm::door(),
    );
    apic::initialise();
    for group in groups::ALL {
        let is_wanted = match wanted {
            Some(list) => list.split(',').any(|name| name == group.name),
            None => group.runs_by_default(),
        };
        if is_wanted {
            // A group may have chosen its own.
            vm::select_door(boot::option("door"));
            if !group.is_about_the_platform() {
                apic::use_x2apic();
            }
            harness::run(group, boot::option("test"));
        }
    }
    harness::summary();
    power::off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::break_lock();
    say!("payload: {info}");
    power::off()
}
