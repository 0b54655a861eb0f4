//! L1's host state: what an exit to L1 loads into VMCS 01 (SDM 28.5).
//!
//! KVM and its like hardly ever change their host state, so it is brought
//! into the form of VMCS 01 once, when its groups are dirty, and stored from
//! there at every exit.

use vmx::{AccessRights, ExitControls, Field};

use crate::access::Vmcs;
use crate::cr::{CR0_CD, CR0_NW, CR4_PAE, EFER_LMA, EFER_LME};
use crate::policy::{Carry, L1Registers};
use crate::vmcs12::get;
use crate::{Nested, Vmcs12};

/// DR7 after an exit (SDM 28.5.1).
const DR7_AFTER_EXIT: u64 = 0x400;
/// RFLAGS after an exit: only the bit that is always 1.
const RFLAGS_AFTER_EXIT: u64 = 2;
/// The limit of a TSS after an exit (SDM 28.5.2).
const TR_LIMIT: u64 = 0x67;

macro_rules! host_fields {
    ($($field:ident)*) => {
        /// The guest-state fields of VMCS 01 that an exit to L1 writes.
        pub const HOST_FIELDS: &[Field; HOST_FIELD_COUNT] = &[$(Field::$field),*];

        /// How many there are.
        pub const HOST_FIELD_COUNT: usize = [$(Field::$field),*].len();
    };
}

host_fields! {
    GUEST_RIP GUEST_RSP GUEST_RFLAGS
    GUEST_CR0 CR0_READ_SHADOW GUEST_CR3 GUEST_CR4 CR4_READ_SHADOW
    GUEST_CS_SELECTOR GUEST_SS_SELECTOR GUEST_DS_SELECTOR GUEST_ES_SELECTOR
    GUEST_FS_SELECTOR GUEST_GS_SELECTOR GUEST_TR_SELECTOR GUEST_LDTR_SELECTOR
    GUEST_CS_ACCESS_RIGHTS GUEST_SS_ACCESS_RIGHTS GUEST_DS_ACCESS_RIGHTS GUEST_ES_ACCESS_RIGHTS
    GUEST_FS_ACCESS_RIGHTS GUEST_GS_ACCESS_RIGHTS GUEST_TR_ACCESS_RIGHTS
    GUEST_LDTR_ACCESS_RIGHTS
    GUEST_CS_LIMIT GUEST_SS_LIMIT GUEST_DS_LIMIT GUEST_ES_LIMIT
    GUEST_FS_LIMIT GUEST_GS_LIMIT GUEST_TR_LIMIT GUEST_GDTR_LIMIT GUEST_IDTR_LIMIT
    GUEST_CS_BASE GUEST_SS_BASE GUEST_DS_BASE GUEST_ES_BASE
    GUEST_FS_BASE GUEST_GS_BASE GUEST_TR_BASE GUEST_GDTR_BASE GUEST_IDTR_BASE
    GUEST_SYSENTER_CS GUEST_SYSENTER_ESP GUEST_SYSENTER_EIP
    GUEST_DR7 GUEST_DEBUGCTL GUEST_PENDING_DEBUG_EXCEPTIONS
    GUEST_INTERRUPTIBILITY GUEST_ACTIVITY_STATE
}

/// L1's host state in the form of [`HOST_FIELDS`].
#[derive(Clone, Debug)]
pub struct HostState {
    values: [u64; HOST_FIELD_COUNT],
    /// Exits switch to 64-bit mode.
    pub(crate) is_64_bit: bool,
}

impl HostState {
    /// Nothing; prepared by the first entry.
    pub(crate) const fn new() -> Self {
        Self {
            values: [0; HOST_FIELD_COUNT],
            is_64_bit: false,
        }
    }

    /// Derives the values from the host-state area and exit controls of VMCS 12.
    pub(crate) fn prepare(&mut self, vmcs12: &Vmcs12, registers: &L1Registers) {
        let exit = ExitControls::from_bits_retain(get!(*vmcs12, EXIT_CONTROLS) as u32);
        self.is_64_bit = exit.contains(ExitControls::HOST_64_BIT);

        let cr0 = get!(*vmcs12, HOST_CR0) & !(CR0_CD | CR0_NW);
        let mut cr4 = get!(*vmcs12, HOST_CR4);
        if self.is_64_bit {
            cr4 |= CR4_PAE;
        }
        let code = if self.is_64_bit {
            AccessRights::CODE64
        } else {
            AccessRights::CODE32
        };
        let data = |selector: u64| match selector {
            0 => AccessRights::UNUSABLE,
            _ => AccessRights::DATA,
        };
        let selectors = [
            get!(*vmcs12, HOST_CS_SELECTOR),
            get!(*vmcs12, HOST_SS_SELECTOR),
            get!(*vmcs12, HOST_DS_SELECTOR),
            get!(*vmcs12, HOST_ES_SELECTOR),
            get!(*vmcs12, HOST_FS_SELECTOR),
            get!(*vmcs12, HOST_GS_SELECTOR),
        ];

        let mut next = 0;
        let mut push = |value: u64| {
            self.values[next] = value;
            next += 1;
        };
        push(get!(*vmcs12, HOST_RIP));
        push(get!(*vmcs12, HOST_RSP));
        push(RFLAGS_AFTER_EXIT);
        push(cr0 & !registers.cr0_clear | registers.cr0_set);
        push(cr0);
        push(get!(*vmcs12, HOST_CR3));
        push(cr4 & !registers.cr4_clear | registers.cr4_set);
        push(cr4);
        for selector in selectors {
            push(selector);
        }
        push(get!(*vmcs12, HOST_TR_SELECTOR));
        push(0);
        push(code.raw().into());
        // Outside 64-bit mode the host checks demand a stack selector.
        for selector in &selectors[1..] {
            push(data(*selector).raw().into());
        }
        push(AccessRights::BUSY_TSS.raw().into());
        push(AccessRights::UNUSABLE.raw().into());
        for _ in selectors {
            push(0xffff_ffff);
        }
        push(TR_LIMIT);
        push(0xffff);
        push(0xffff);
        for _ in 0..4 {
            push(0);
        }
        push(get!(*vmcs12, HOST_FS_BASE));
        push(get!(*vmcs12, HOST_GS_BASE));
        push(get!(*vmcs12, HOST_TR_BASE));
        push(get!(*vmcs12, HOST_GDTR_BASE));
        push(get!(*vmcs12, HOST_IDTR_BASE));
        push(get!(*vmcs12, HOST_SYSENTER_CS));
        push(get!(*vmcs12, HOST_SYSENTER_ESP));
        push(get!(*vmcs12, HOST_SYSENTER_EIP));
        push(DR7_AFTER_EXIT);
        for _ in 0..4 {
            push(0);
        }
        debug_assert_eq!(next, HOST_FIELD_COUNT);
    }
}

impl Nested {
    /// Loads L1's host state into VMCS 01, which is current in `vmcs01`: the
    /// second half of an exit to L1, after [`Nested::reflect_enlightened`] or a failed entry.
    ///
    /// `nmi` says that an NMI caused the exit: NMIs are then blocked in L1
    /// until its IRET. CR2, DR0-DR3, DR6, XCR0 and the general registers are
    /// not switched (SDM 28.5).
    #[inline]
    pub fn load_host<V: Vmcs>(&mut self, vmcs01: &mut V, registers: &L1Registers, nmi: bool) {
        let cache_bits = (CR0_CD | CR0_NW) & registers.cr0_mask;
        let kept = vmcs01.read(Field::CR0_READ_SHADOW) & cache_bits;
        vmcs01.write_all(HOST_FIELDS, &self.host.values);
        self.load_host_msrs(vmcs01);
        if kept != 0 {
            // An exit leaves CD and NW as they are.
            let shadow = vmcs01.read(Field::CR0_READ_SHADOW);
            vmcs01.write(Field::CR0_READ_SHADOW, shadow | kept);
        }
        if nmi {
            let blocked = vmx::Interruptibility::NMI.bits();
            vmcs01.write(Field::GUEST_INTERRUPTIBILITY, blocked.into());
        }
    }

    #[inline(always)]
    fn load_host_msrs<V: Vmcs>(&self, vmcs01: &mut V) {
        let exit = ExitControls::from_bits_retain(get!(self.vmcs12, EXIT_CONTROLS) as u32);
        let efer = if exit.contains(ExitControls::LOAD_EFER) {
            get!(self.vmcs12, HOST_EFER)
        } else {
            let mode = if self.host.is_64_bit {
                EFER_LMA | EFER_LME
            } else {
                0
            };
            self.left.efer & !(EFER_LMA | EFER_LME) | mode
        };
        vmcs01.write(Field::GUEST_EFER, efer);
        let pat = if exit.contains(ExitControls::LOAD_PAT) {
            get!(self.vmcs12, HOST_PAT)
        } else {
            self.left.pat
        };
        vmcs01.write(Field::GUEST_PAT, pat);
    }

    /// EFER and PAT of L2, which an exit without the load controls leaves in place.
    #[inline(always)]
    pub(crate) fn carry_out<V: Vmcs>(&mut self, vmcs02: &V) {
        let exit = ExitControls::from_bits_retain(get!(self.vmcs12, EXIT_CONTROLS) as u32);
        if !exit.contains(ExitControls::LOAD_EFER.union(ExitControls::LOAD_PAT)) {
            self.left = Carry {
                efer: vmcs02.read(Field::GUEST_EFER),
                pat: vmcs02.read(Field::GUEST_PAT),
                ..Carry::default()
            };
        }
    }
}
