//! Exits by exceptions and NMIs.

use ::nested::exceptions::{self, ALIGNMENT_CHECK, DEBUG, MACHINE_CHECK};
use vmx::{Field, InterruptionInfo};

use super::Vp;
use super::nested::CurrentVmcs;
use super::vmcs::read;
use crate::cpu::register;
use crate::fatal::{self, End};

impl Vp {
    /// An NMI is a kick; an exception that L0 intercepts is the guest's all the same.
    pub fn exception_exit(&mut self) {
        let info = InterruptionInfo::from_raw(read(Field::EXIT_INTERRUPTION_INFO) as u32);
        if info.is_nmi() {
            self.take_nmi();
        } else {
            give_back(info);
        }
    }
}

#[cold]
fn give_back(info: InterruptionInfo) {
    match info.vector() {
        DEBUG if info.is_exception(DEBUG) => {
            let dr6 = exceptions::raise_debug(&mut CurrentVmcs, register::dr6());
            // SAFETY: DR6 is the guest's: VMX does not switch it and L0 does not use it. The upper
            // half of the value is zero.
            unsafe { register::set_dr6(dr6) };
        }
        // INT1, and what needs no more than to be delivered.
        DEBUG | ALIGNMENT_CHECK => {}
        // L1 may ask for it in L2's exception bitmap, but it is the machine's.
        MACHINE_CHECK => fatal::end(
            End::L0Stop,
            format_args!("the processor reports a machine check"),
        ),
        vector => panic!("L0 asked for no exit by exception {vector}"),
    }
    exceptions::give_back(&mut CurrentVmcs, info);
}
