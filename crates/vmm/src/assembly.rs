//! Guest code that is assembled into this program.

/// Defines `code()`: the bytes from the symbol `$start` to the symbol `$end`, which the module's
/// assembly puts into one section of this program's read-only data, the end after the start, with
/// nothing but bytes between them.
macro_rules! code_between {
    ($(#[$doc:meta])* $start:ident, $end:ident) => {
        unsafe extern "C" {
            safe static $start: u8;
            safe static $end: u8;
        }

        $(#[$doc])*
        pub fn code() -> &'static [u8] {
            let start = &raw const $start;
            let length = (&raw const $end).addr() - start.addr();
            // SAFETY: the symbols are as the macro wants them.
            unsafe { core::slice::from_raw_parts(start, length) }
        }
    };
}

pub(crate) use code_between;
