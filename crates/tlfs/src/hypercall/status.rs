//! How a hypercall ended.

use core::fmt;

/// HV_STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Status(pub u16);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status($code);)*

            /// Every status that has a name here, ascending.
            pub const NAMED: &'static [(Status, &'static str)] =
                &[$((Status::$name, stringify!($name)),)*];
        }
    };
}

statuses! {
    /// The call did what it was asked.
    SUCCESS = 0x00,
    /// There is no call of this code.
    INVALID_HYPERCALL_CODE = 0x02,
    /// The control word, or the way the input was given, is wrong.
    INVALID_HYPERCALL_INPUT = 0x03,
    /// An input or output address is not aligned or its block crosses a page.
    INVALID_ALIGNMENT = 0x04,
    /// A parameter is wrong.
    INVALID_PARAMETER = 0x05,
    /// The partition has not the privilege.
    ACCESS_DENIED = 0x06,
    /// The partition is not in the right state.
    INVALID_PARTITION_STATE = 0x07,
    /// The operation is not permitted now.
    OPERATION_DENIED = 0x08,
    /// Out of memory.
    INSUFFICIENT_MEMORY = 0x0B,
    /// There is no such partition.
    INVALID_PARTITION_ID = 0x0D,
    /// There is no such VP.
    INVALID_VP_INDEX = 0x0E,
    /// There is no such port.
    INVALID_PORT_ID = 0x11,
    /// There is no such connection.
    INVALID_CONNECTION_ID = 0x12,
    /// Out of buffers.
    INSUFFICIENT_BUFFERS = 0x13,
    /// The VP is not in the right state.
    INVALID_VP_STATE = 0x15,
    /// The SynIC is not in the right state.
    INVALID_SYNIC_STATE = 0x18,
    /// The feature is not available.
    FEATURE_UNAVAILABLE = 0x1E,
    /// Not while nested virtualization is active.
    NOT_ALLOWED_WITH_NESTED_VIRT_ACTIVE = 0x72,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(status, _)| status == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "Status({:#06x})", self.0),
        }
    }
}
