//! The calls' codes.

use core::fmt;

/// A hypercall's code, bits 15:0 of the control word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct CallCode(pub u16);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        impl CallCode {
            $($(#[$doc])* pub const $name: CallCode = CallCode($code);)*

            /// Every code that has a name here, ascending.
            pub const NAMED: &'static [(CallCode, &'static str)] =
                &[$((CallCode::$name, stringify!($name)),)*];
        }
    };
}

codes! {
    /// HvCallFlushVirtualAddressSpace.
    FLUSH_VIRTUAL_ADDRESS_SPACE = 0x0002,
    /// HvCallFlushVirtualAddressList.
    FLUSH_VIRTUAL_ADDRESS_LIST = 0x0003,
    /// HvCallNotifyLongSpinWait.
    NOTIFY_LONG_SPIN_WAIT = 0x0008,
    /// HvCallSendSyntheticClusterIpi.
    SEND_SYNTHETIC_CLUSTER_IPI = 0x000B,
    /// HvCallFlushVirtualAddressSpaceEx.
    FLUSH_VIRTUAL_ADDRESS_SPACE_EX = 0x0013,
    /// HvCallFlushVirtualAddressListEx.
    FLUSH_VIRTUAL_ADDRESS_LIST_EX = 0x0014,
    /// HvCallSendSyntheticClusterIpiEx.
    SEND_SYNTHETIC_CLUSTER_IPI_EX = 0x0015,
    /// HvCallGetVpRegisters.
    GET_VP_REGISTERS = 0x0050,
    /// HvCallSetVpRegisters.
    SET_VP_REGISTERS = 0x0051,
    /// HvCallPostMessage.
    POST_MESSAGE = 0x005C,
    /// HvCallSignalEvent.
    SIGNAL_EVENT = 0x005D,
    /// HvCallFlushGuestPhysicalAddressSpace.
    FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE = 0x00AF,
    /// HvCallFlushGuestPhysicalAddressList.
    FLUSH_GUEST_PHYSICAL_ADDRESS_LIST = 0x00B0,
    /// HvExtCallQueryCapabilities.
    EXT_QUERY_CAPABILITIES = 0x8001,
}

impl fmt::Debug for CallCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(code, _)| code == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "CallCode({:#06x})", self.0),
        }
    }
}
