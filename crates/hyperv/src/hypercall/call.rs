//! The calls there are: code, switch, shape of the input.

use crate::enlightenments::Enlightenment;
use tlfs::hypercall::CallCode;

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    LongSpinWait,
    FlushVirtual,
    FlushGuestPhysical,
    SendIpi,
}

/// A call's definition. The input is a fixed header; then, where there is a VP
/// set, its banks as the variable header; then the list of a rep call, of
/// elements of 8 bytes. No call so far has output.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) code: CallCode,
    pub(super) what: What,
    /// The switch without which the call is denied.
    pub(super) needs: Enlightenment,
    /// Length of the fixed header, in units of 8 bytes.
    pub(super) header: u8,
    /// Where in the header the VP set begins, in units of 8 bytes.
    pub(super) set: Option<u8>,
    /// It is a rep call.
    pub(super) list: bool,
}

/// The longest fixed header, in units of 8 bytes.
pub(super) const HEADER_MAX: usize = 4;

const fn simple(code: CallCode, what: What, needs: Enlightenment, header: u8) -> Definition {
    Definition {
        code,
        what,
        needs,
        header,
        set: None,
        list: false,
    }
}

impl Definition {
    const fn with_set(self, at: u8) -> Self {
        Self {
            set: Some(at),
            ..self
        }
    }

    const fn with_list(self) -> Self {
        Self { list: true, ..self }
    }

    /// The definition of the call of this code, if there is one.
    #[inline]
    pub(super) fn of(code: CallCode) -> Option<&'static Self> {
        CALLS.iter().find(|call| call.code == code)
    }
}

/// The most frequent first.
pub(super) static CALLS: [Definition; 9] = {
    use Enlightenment::{Base, GpaFlush, Ipi, TlbFlush};
    use What::{FlushGuestPhysical, FlushVirtual, LongSpinWait, SendIpi};
    [
        simple(CallCode::SEND_SYNTHETIC_CLUSTER_IPI, SendIpi, Ipi, 2),
        simple(
            CallCode::FLUSH_VIRTUAL_ADDRESS_LIST,
            FlushVirtual,
            TlbFlush,
            3,
        )
        .with_list(),
        simple(
            CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE,
            FlushVirtual,
            TlbFlush,
            3,
        ),
        simple(
            CallCode::FLUSH_GUEST_PHYSICAL_ADDRESS_LIST,
            FlushGuestPhysical,
            GpaFlush,
            2,
        )
        .with_list(),
        simple(
            CallCode::FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE,
            FlushGuestPhysical,
            GpaFlush,
            2,
        ),
        simple(CallCode::SEND_SYNTHETIC_CLUSTER_IPI_EX, SendIpi, Ipi, 3).with_set(1),
        simple(
            CallCode::FLUSH_VIRTUAL_ADDRESS_LIST_EX,
            FlushVirtual,
            TlbFlush,
            4,
        )
        .with_set(2)
        .with_list(),
        simple(
            CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
            FlushVirtual,
            TlbFlush,
            4,
        )
        .with_set(2),
        simple(CallCode::NOTIFY_LONG_SPIN_WAIT, LongSpinWait, Base, 1),
    ]
};
