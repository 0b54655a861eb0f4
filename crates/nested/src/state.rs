//! What L0 keeps of a VP's VMX operation.

use addr::Gpa1;
use serde::{Deserialize, Serialize};
use vmx::Capabilities;

use crate::{Dirty, HostState, Vmcs12, access::Page};

/// Which VMCS 12 the next VM entry would use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Current {
    /// None: VMXON, or VMCLEAR of the current one.
    #[default]
    None,
    /// The one that VMPTRLD named; [`Nested`]'s copy is its content.
    Plain(Gpa1),
    /// The enlightened one that L1's last entry used; it lies in L1's memory.
    ///
    /// It is active on one VP at a time (TLFS): an L1 that moves an L2
    /// processor clears it (VMCLEAR) on the VP it leaves, and launches it on
    /// the next. Both make the VP start over; an L1 that does neither and
    /// comes back may find its L2 as this VP left it.
    Enlightened(Gpa1),
}

/// What does not change while a partition lives: what L1 was told about VMX.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The capabilities that L1 is shown ([`crate::caps::offer`]).
    pub caps: Capabilities,
    /// L1's physical-address width in bits (CPUID 0x80000008).
    pub physical_bits: u32,
    /// Bits of the enlightenments control word that leaf 0x4000000A offers L1;
    /// others mean nothing.
    pub enlightenments: u32,
}

impl Config {
    /// Whether `address` lies within L1's physical-address width.
    #[inline]
    pub const fn is_physical(&self, address: u64) -> bool {
        address >> self.physical_bits == 0
    }

    /// Whether `address` is that of a page within L1's physical-address width.
    #[inline]
    pub const fn is_page(&self, address: u64) -> bool {
        address & 0xfff == 0 && self.is_physical(address)
    }
}

/// A VP's nested VMX.
///
/// `vmxon` and `current` with the copy of a plain VMCS are state; the rest is
/// cache and can be dropped by [`Nested::forget`].
#[derive(Clone, Debug)]
pub struct Nested {
    /// What L1 was told.
    pub(crate) config: Config,
    /// The VMXON pointer; `None` outside VMX operation.
    pub(crate) vmxon: Option<Gpa1>,
    pub(crate) current: Current,
    /// The copy of the current VMCS 12.
    pub(crate) vmcs12: Vmcs12,
    /// Groups that are in the copy and not yet in VMCS 02.
    pub(crate) pending: Dirty,
    /// Groups whose copy is to be read again from an enlightened VMCS,
    /// whatever its clean fields say.
    pub(crate) stale: Dirty,
    /// L1's host state, ready to be loaded into VMCS 01.
    pub(crate) host: HostState,
    /// CR0 and CR4 bits that L0 owns in VMCS 02 and L1 does not.
    pub(crate) cr0_l0_only: u64,
    pub(crate) cr4_l0_only: u64,
    /// EFER and PAT that L2 left behind, for an exit that loads neither;
    /// `None` where L2 never had any and L1's own go on.
    pub(crate) left: Option<crate::Carry>,
    /// The last entry failed, and L1's host state is still to be loaded for it.
    pub(crate) entry_failed: bool,
    /// PDPTEs for the next merge, where L0 supplies them.
    pub(crate) pdptes: Option<[u64; 4]>,
    /// L1's primary controls as they were merged into VMCS 02.
    pub(crate) primary_in_02: Option<vmx::PrimaryControls>,
    /// No multiplier gives the TSC that the last merge found L2 to have.
    pub(crate) tsc_out_of_reach: bool,
    /// The VPID 12 of the last entry.
    pub(crate) last_vpid: Option<u16>,
    /// The enlightened VMCS with which round trips go the short way at present.
    pub(crate) steady: Option<Gpa1>,
    /// L2 is in the HLT activity state, and waits in L0.
    pub(crate) l2_halted: bool,
    pub(crate) in_l2: bool,
}

impl Nested {
    /// A VP outside VMX operation.
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            vmxon: None,
            current: Current::None,
            vmcs12: Vmcs12::new(),
            pending: Dirty::ALL,
            stale: Dirty::ALL,
            host: HostState::new(),
            cr0_l0_only: 0,
            cr4_l0_only: 0,
            left: None,
            entry_failed: false,
            pdptes: None,
            primary_in_02: None,
            tsc_out_of_reach: false,
            last_vpid: None,
            steady: None,
            l2_halted: false,
            in_l2: false,
        }
    }

    /// What L1 was told about VMX.
    #[inline]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether L1 is in VMX operation.
    #[inline]
    pub fn in_vmx_operation(&self) -> bool {
        self.vmxon.is_some()
    }

    /// Whether this VP runs L2: from a successful [`Nested::merge`] until an
    /// exit is reflected. INIT is blocked in root mode (`in_vmx_operation` and
    /// not `in_l2`) and an exit in L2.
    #[inline]
    pub fn in_l2(&self) -> bool {
        self.in_l2
    }

    /// The current VMCS.
    #[inline]
    pub fn current(&self) -> Current {
        self.current
    }

    /// The copy of VMCS 12.
    #[inline]
    pub fn vmcs12(&self) -> &Vmcs12 {
        &self.vmcs12
    }

    /// Drops what was carried to VMCS 02: the next entry merges all groups.
    /// For a VMCS 02 that is new or was written behind [`Nested`]'s back, and
    /// when an [`crate::L0Policy`] changes.
    #[inline]
    pub fn forget(&mut self) {
        self.forget_groups(Dirty::ALL);
    }

    /// As [`Nested::forget`], for some groups only: a new TSC offset of L0
    /// concerns [`Dirty::CONTROL_GRP2`], for example.
    #[inline]
    pub fn forget_groups(&mut self, groups: Dirty) {
        self.pending = self.pending.union(groups);
        self.stale = self.stale.union(groups);
        self.steady = None;
        if groups.intersects(Dirty::CONTROL_PROC) {
            self.primary_in_02 = None;
        }
    }

    /// The enlightenment words that the last entry read: what direct flush
    /// needs to know of this L2 processor.
    #[inline]
    pub fn enlightenments(&self) -> Enlightenments {
        use tlfs::evmcs;
        let active = matches!(self.current, Current::Enlightened(_));
        Enlightenments {
            control: evmcs::EnlightenmentsControl::from_raw(if active {
                self.vmcs12.read_u32(evmcs::ENLIGHTENMENTS_CONTROL) & self.config.enlightenments
            } else {
                0
            }),
            vp_id: self.vmcs12.read_u32(evmcs::VP_ID),
            vm_id: self.vmcs12.read_u64(evmcs::VM_ID),
            partition_assist: Gpa1::new(self.vmcs12.read_u64(evmcs::PARTITION_ASSIST_PAGE)),
        }
    }
}

/// Words of the enlightened VMCS that no clean bit covers in practice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enlightenments {
    /// Zero with a plain VMCS.
    pub control: tlfs::evmcs::EnlightenmentsControl,
    /// The VP index that L2 sees.
    pub vp_id: u32,
    /// L1's name for the virtual machine.
    pub vm_id: u64,
    /// Where L1 keeps the virtual machine's TLB lock count.
    pub partition_assist: Gpa1,
}
