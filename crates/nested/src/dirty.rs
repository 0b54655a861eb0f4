//! Which groups of VMCS 12 L0 has yet to carry to VMCS 02.

use core::fmt;

use tlfs::evmcs::{CleanFields, Group};
use vmx::{Interruptibility, InterruptionInfo};

/// A set of field groups: the complement of a clean-fields word, with a bit
/// more for the fields that are in no group of the TLFS.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Dirty(u32);

impl Dirty {
    /// No group.
    pub const NONE: Self = Self(0);
    /// Every group.
    pub const ALL: Self = Self(0xffff | 1 << Group::Ungrouped as u32);

    /// I/O bitmap addresses.
    pub const IO_BITMAP: Self = Self::of(Group::IoBitmap);
    /// The MSR bitmap's address or contents.
    pub const MSR_BITMAP: Self = Self::of(Group::MsrBitmap);
    /// TSC offset, virtual-APIC page, XSS bitmap.
    pub const CONTROL_GRP2: Self = Self::of(Group::ControlGrp2);
    /// Pin-based, secondary and exit controls.
    pub const CONTROL_GRP1: Self = Self::of(Group::ControlGrp1);
    /// Primary controls.
    pub const CONTROL_PROC: Self = Self::of(Group::ControlProc);
    /// Event injection.
    pub const CONTROL_EVENT: Self = Self::of(Group::ControlEvent);
    /// Entry controls.
    pub const CONTROL_ENTRY: Self = Self::of(Group::ControlEntry);
    /// Exception bitmap.
    pub const CONTROL_EXCPN: Self = Self::of(Group::ControlExcpn);
    /// Control registers, masks and shadows, DR7.
    pub const CRDR: Self = Self::of(Group::Crdr);
    /// EPT pointer and VPID.
    pub const CONTROL_XLAT: Self = Self::of(Group::ControlXlat);
    /// RSP, RFLAGS, interruptibility.
    pub const GUEST_BASIC: Self = Self::of(Group::GuestBasic);
    /// Guest MSRs, PDPTEs, activity state, link pointer.
    pub const GUEST_GRP1: Self = Self::of(Group::GuestGrp1);
    /// Guest segments and descriptor tables.
    pub const GUEST_GRP2: Self = Self::of(Group::GuestGrp2);
    /// Host bases and RSP.
    pub const HOST_POINTER: Self = Self::of(Group::HostPointer);
    /// The other host state.
    pub const HOST_GRP1: Self = Self::of(Group::HostGrp1);
    /// MSR lists, page-fault error codes, CR3-target count.
    pub const UNGROUPED: Self = Self::of(Group::Ungrouped);

    /// The set of one group; empty for those that no set holds.
    #[inline]
    pub const fn of(group: Group) -> Self {
        Self((1 << group as u32) & Self::ALL.0)
    }

    /// The groups a clean-fields word leaves dirty.
    ///
    /// Its sixteen bits only: whether the ungrouped fields changed is for the
    /// caller to find out.
    #[inline]
    pub const fn from_clean(clean: CleanFields) -> Self {
        Self(clean.dirty().raw())
    }

    /// Whether no group is in the set.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a group is in both sets.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all groups of `other` are in the set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The groups of both sets.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The groups of `self` that are not in `other`.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// With the groups that must be read anew because of other groups' change.
    ///
    /// L2 changes guest state while its group stays clean, so of a clean group
    /// the copy may be out of date. What an entry makes of entry controls
    /// depends on the state they load, what it makes of the use of EPT on
    /// paging, and what the checks make of activity and of NMIs on what blocks
    /// them. `event` is the one to inject, once it is read.
    #[inline]
    pub(crate) const fn widened_by_controls(self, event: InterruptionInfo) -> Self {
        let mut all = self;
        if all.intersects(Self::CONTROL_ENTRY.union(Self::GUEST_GRP1)) {
            if all.intersects(Self::CONTROL_ENTRY) {
                all = all.union(Self::GUEST_GRP1).union(Self::CRDR);
            }
            all = all.union(Self::GUEST_BASIC);
        }
        if all.intersects(Self::CONTROL_GRP1) {
            all = all.union(Self::CRDR);
        }
        if all.intersects(Self::CONTROL_EVENT) && event.is_nmi() {
            all = all.union(Self::GUEST_BASIC);
        }
        all
    }

    /// The same for what blocks events, once [`Dirty::GUEST_BASIC`] is read:
    /// blocking by STI and MOV SS goes with pending debug exceptions.
    #[inline]
    pub(crate) const fn widened_by_blocking(self, state: Interruptibility) -> Self {
        let shadow = Interruptibility::STI.union(Interruptibility::MOV_SS);
        if self.intersects(Self::GUEST_BASIC) && state.intersects(shadow) {
            self.union(Self::GUEST_GRP1)
        } else {
            self
        }
    }

    /// The groups as bits, numbered as in the clean-fields word; 17 stands for
    /// the ungrouped fields.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Dirty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dirty({:#07x})", self.0)
    }
}
