//! I/O ports.

use core::arch::asm;

macro_rules! port_access {
    ($in_name:ident, $out_name:ident, $type:ty, $register:tt) => {
        /// Reads an I/O port.
        ///
        /// # Safety
        /// The port's device belongs to L0, and reading it has no effect L0 does not expect.
        #[inline]
        pub unsafe fn $in_name(port: u16) -> $type {
            let value: $type;
            // SAFETY: touches no memory; the device effect is the caller's promise.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }

        /// Writes an I/O port.
        ///
        /// # Safety
        /// The port's device belongs to L0, and the write does what L0 means.
        #[inline]
        pub unsafe fn $out_name(port: u16, value: $type) {
            // SAFETY: touches no memory; the device effect is the caller's promise.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                    options(nomem, nostack, preserves_flags));
            }
        }
    };
}

port_access!(inb, outb, u8, "al");
port_access!(inw, outw, u16, "ax");
port_access!(inl, outl, u32, "eax");
