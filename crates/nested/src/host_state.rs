//! L1's host state: what an exit to L1 loads into VMCS 01 (SDM 28.5).
//!
//! KVM and its like hardly ever change their host state, so it is brought
//! into the form of VMCS 01 once, when its groups are dirty, and stored from
//! there at every exit.

use vmx::{AccessRights, ExitControls, Field};

use crate::access::Vmcs;
use crate::cr::{CR0_CD, CR0_NW, CR4_PAE, EFER_LMA, EFER_LME};
use crate::policy::L1Registers;
use crate::vmcs12::get;
use crate::{Nested, Vmcs12};

/// DR7 after an exit (SDM 28.5.1).
const DR7_AFTER_EXIT: u64 = 0x400;
/// RFLAGS after an exit: only the bit that is always 1.
const RFLAGS_AFTER_EXIT: u64 = 2;
/// The limit of a TSS after an exit (SDM 28.5.2).
const TR_LIMIT: u64 = 0x67;
/// The limit of a flat segment.
const FLAT_LIMIT: u64 = 0xffff_ffff;
/// The limit of GDTR and IDTR after an exit.
const TABLE_LIMIT: u64 = 0xffff;

macro_rules! host_fields {
    ($($field:ident)*; $($undefined:ident)*) => {
        /// The guest-state fields of VMCS 01 that an exit to L1 writes; the
        /// last [`UNDEFINED_FIELD_COUNT`] only where L1 can tell.
        pub const HOST_FIELDS: &[Field; HOST_FIELD_COUNT] =
            &[$(Field::$field,)* $(Field::$undefined),*];

        /// How many there are.
        pub const HOST_FIELD_COUNT: usize = DEFINED_FIELD_COUNT + UNDEFINED_FIELD_COUNT;
        const DEFINED_FIELD_COUNT: usize = [$(Field::$field),*].len();
        /// How many of them an exit leaves undefined when DS, ES, FS and GS
        /// are unusable, as a 64-bit L1 has them: they are skipped then.
        pub const UNDEFINED_FIELD_COUNT: usize = [$(Field::$undefined),*].len();

        /// Where each value lies.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Index {
            $($field,)*
            $($undefined,)*
        }

        impl HostState {
            /// Writes the values to VMCS 01: straight-line, two instructions
            /// each where VMWRITE takes a memory operand.
            #[inline(always)]
            pub(crate) fn store<V: Vmcs>(&self, vmcs01: &mut V) {
                let values = &self.values;
                $(vmcs01.write_from::<{ Index::$field as usize }, _>(Field::$field, values);)*
                if !self.is_flat {
                    $(vmcs01.write_from::<{ Index::$undefined as usize }, _>(
                        Field::$undefined,
                        values,
                    );)*
                }
            }
        }
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
    GUEST_CS_LIMIT GUEST_SS_LIMIT GUEST_TR_LIMIT GUEST_GDTR_LIMIT GUEST_IDTR_LIMIT
    GUEST_FS_BASE GUEST_GS_BASE GUEST_TR_BASE GUEST_GDTR_BASE GUEST_IDTR_BASE
    GUEST_SYSENTER_CS GUEST_SYSENTER_ESP GUEST_SYSENTER_EIP
    GUEST_DR7 GUEST_DEBUGCTL GUEST_PENDING_DEBUG_EXCEPTIONS
    GUEST_INTERRUPTIBILITY;
    GUEST_DS_LIMIT GUEST_ES_LIMIT GUEST_FS_LIMIT GUEST_GS_LIMIT
    GUEST_DS_BASE GUEST_ES_BASE GUEST_CS_BASE GUEST_SS_BASE
}

/// Where IA32_EFER lies among the values.
const EFER: usize = HOST_FIELD_COUNT;
/// Where IA32_PAT lies.
const PAT: usize = HOST_FIELD_COUNT + 1;

/// L1's host state in the form of [`HOST_FIELDS`].
#[derive(Clone, Debug)]
pub struct HostState {
    /// And behind them IA32_EFER and IA32_PAT, where exits load them.
    values: [u64; HOST_FIELD_COUNT + 2],
    /// A 64-bit L1 without data segments, as they all are: what those fields
    /// hold that come last does not matter to it.
    is_flat: bool,
    /// Exits switch to 64-bit mode.
    pub(crate) is_64_bit: bool,
    /// Exits lead to PAE paging, whose directory pointers come from memory.
    is_pae: bool,
    /// CR0.CD and CR0.NW as L1 has them, which exits leave alone.
    cache_bits: u64,
}

impl HostState {
    /// Nothing; prepared by the first entry.
    pub(crate) const fn new() -> Self {
        Self {
            values: [0; HOST_FIELD_COUNT + 2],
            is_flat: false,
            is_64_bit: false,
            is_pae: false,
            cache_bits: 0,
        }
    }

    /// Derives the values from the host-state area and exit controls of VMCS 12.
    pub(crate) fn prepare(&mut self, vmcs12: &Vmcs12, registers: &L1Registers) {
        let exit = ExitControls::from_bits_retain(get!(*vmcs12, EXIT_CONTROLS) as u32);
        self.is_64_bit = exit.contains(ExitControls::HOST_64_BIT);

        let cr0 = get!(*vmcs12, HOST_CR0) & !(CR0_CD | CR0_NW);
        let mut cr4 = get!(*vmcs12, HOST_CR4);
        self.is_pae = !self.is_64_bit && cr4 & CR4_PAE != 0;
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
        macro_rules! set {
            ($($field:ident = $value:expr;)*) => {
                $(self.values[Index::$field as usize] = $value;)*
            };
        }
        macro_rules! copy {
            ($($guest:ident = $host:ident;)*) => {
                set! { $($guest = get!(*vmcs12, $host);)* }
            };
        }
        macro_rules! data {
            ($($rights:ident $limit:ident = $host:ident;)*) => {
                $(
                    set! {
                        $rights = data(get!(*vmcs12, $host)).raw().into();
                        $limit = FLAT_LIMIT;
                    }
                )*
            };
        }
        copy! {
            GUEST_RIP = HOST_RIP;
            GUEST_RSP = HOST_RSP;
            GUEST_CR3 = HOST_CR3;
            GUEST_CS_SELECTOR = HOST_CS_SELECTOR;
            GUEST_SS_SELECTOR = HOST_SS_SELECTOR;
            GUEST_DS_SELECTOR = HOST_DS_SELECTOR;
            GUEST_ES_SELECTOR = HOST_ES_SELECTOR;
            GUEST_FS_SELECTOR = HOST_FS_SELECTOR;
            GUEST_GS_SELECTOR = HOST_GS_SELECTOR;
            GUEST_TR_SELECTOR = HOST_TR_SELECTOR;
            GUEST_FS_BASE = HOST_FS_BASE;
            GUEST_GS_BASE = HOST_GS_BASE;
            GUEST_TR_BASE = HOST_TR_BASE;
            GUEST_GDTR_BASE = HOST_GDTR_BASE;
            GUEST_IDTR_BASE = HOST_IDTR_BASE;
            GUEST_SYSENTER_CS = HOST_SYSENTER_CS;
            GUEST_SYSENTER_ESP = HOST_SYSENTER_ESP;
            GUEST_SYSENTER_EIP = HOST_SYSENTER_EIP;
        }
        data! {
            GUEST_SS_ACCESS_RIGHTS GUEST_SS_LIMIT = HOST_SS_SELECTOR;
            GUEST_DS_ACCESS_RIGHTS GUEST_DS_LIMIT = HOST_DS_SELECTOR;
            GUEST_ES_ACCESS_RIGHTS GUEST_ES_LIMIT = HOST_ES_SELECTOR;
            GUEST_FS_ACCESS_RIGHTS GUEST_FS_LIMIT = HOST_FS_SELECTOR;
            GUEST_GS_ACCESS_RIGHTS GUEST_GS_LIMIT = HOST_GS_SELECTOR;
        }
        set! {
            GUEST_CR0 = cr0 & !registers.cr0_clear | registers.cr0_set;
            CR0_READ_SHADOW = cr0 | self.cache_bits;
            GUEST_CR4 = cr4 & !registers.cr4_clear | registers.cr4_set;
            CR4_READ_SHADOW = cr4;
            GUEST_RFLAGS = RFLAGS_AFTER_EXIT;
            GUEST_CS_ACCESS_RIGHTS = code.raw().into();
            GUEST_CS_LIMIT = FLAT_LIMIT;
            GUEST_TR_ACCESS_RIGHTS = AccessRights::BUSY_TSS.raw().into();
            GUEST_TR_LIMIT = TR_LIMIT;
            GUEST_LDTR_ACCESS_RIGHTS = AccessRights::UNUSABLE.raw().into();
            GUEST_GDTR_LIMIT = TABLE_LIMIT;
            GUEST_IDTR_LIMIT = TABLE_LIMIT;
            GUEST_DR7 = DR7_AFTER_EXIT;
        }
        // The others were zero from the start and stay so: LDTR, the bases of
        // flat segments, DEBUGCTL, pending debug exceptions and
        // interruptibility. The activity state of VMCS 01 is active whenever L1
        // executes an instruction, so it is not written at all.
        self.values[EFER] = get!(*vmcs12, HOST_EFER);
        self.values[PAT] = get!(*vmcs12, HOST_PAT);
        // In 64-bit mode the bases of CS and SS are not used, and what a
        // segment that is unusable holds is undefined.
        self.is_flat = self.is_64_bit
            && get!(*vmcs12, HOST_DS_SELECTOR)
                | get!(*vmcs12, HOST_ES_SELECTOR)
                | get!(*vmcs12, HOST_FS_SELECTOR)
                | get!(*vmcs12, HOST_GS_SELECTOR)
                == 0;
    }

    /// As [`HostState::prepare`], for [`Dirty::HOST_POINTER`](crate::Dirty) alone.
    #[inline(always)]
    pub(crate) fn prepare_pointers(&mut self, vmcs12: &Vmcs12) {
        macro_rules! copy {
            ($($guest:ident = $host:ident;)*) => {
                $(self.values[Index::$guest as usize] = get!(*vmcs12, $host);)*
            };
        }
        copy! {
            GUEST_RSP = HOST_RSP;
            GUEST_FS_BASE = HOST_FS_BASE;
            GUEST_GS_BASE = HOST_GS_BASE;
            GUEST_TR_BASE = HOST_TR_BASE;
            GUEST_GDTR_BASE = HOST_GDTR_BASE;
            GUEST_IDTR_BASE = HOST_IDTR_BASE;
        }
    }

    /// CR0.CD and CR0.NW as L1 has them.
    pub(crate) fn cache_bits(&self) -> u64 {
        self.cache_bits
    }

    /// Whether L1 is 64-bit and has no data segments after an exit.
    pub(crate) fn is_flat(&self) -> bool {
        self.is_flat
    }

    /// Writes EFER and PAT, for exits that load both.
    #[inline(always)]
    pub(crate) fn store_msrs<V: Vmcs>(&self, vmcs01: &mut V) {
        vmcs01.write_from::<EFER, _>(Field::GUEST_EFER, &self.values);
        vmcs01.write_from::<PAT, _>(Field::GUEST_PAT, &self.values);
    }
}

impl Nested {
    /// Loads L1's host state into VMCS 01, which is current in `vmcs01`: the
    /// second half of an exit to L1, after [`Nested::reflect_enlightened`] or a failed entry.
    ///
    /// `nmi` says that an NMI caused the exit: NMIs are then blocked in L1
    /// until its IRET. After a failed entry they are blocked if they were
    /// before. CR2, DR0-DR3, DR6, XCR0 and the general registers are not
    /// switched (SDM 28.5).
    ///
    /// Returns whether L1 goes on in PAE paging: its directory pointers are then
    /// to be loaded from where CR3 points (SDM 28.5.4).
    #[inline]
    #[must_use]
    pub fn load_host<V: Vmcs>(&mut self, vmcs01: &mut V, nmi: bool) -> bool {
        const NMI: u64 = vmx::Interruptibility::NMI.bits() as u64;
        let mut blocking = if nmi { NMI } else { 0 };
        if self.entry_failed {
            self.entry_failed = false;
            blocking = vmcs01.read(Field::GUEST_INTERRUPTIBILITY) & NMI;
        }
        self.host.store(vmcs01);
        self.load_host_msrs(vmcs01);
        if blocking != 0 {
            vmcs01.write(Field::GUEST_INTERRUPTIBILITY, blocking);
        }
        self.host.is_pae
    }

    #[cfg(test)]
    pub(crate) fn prepare_host(&mut self, exit_controls: u64, cr4: u64) {
        crate::vmcs12::put!(self.vmcs12, EXIT_CONTROLS, exit_controls);
        crate::vmcs12::put!(self.vmcs12, HOST_CR4, cr4);
        self.host
            .prepare(&self.vmcs12, &crate::testing::registers());
    }

    /// L1 has set CR0.CD and CR0.NW to `bits`: exits leave them so. VMCS 01 holds
    /// them in its read shadow alone.
    pub fn set_cache_bits(&mut self, bits: u64) {
        self.host.cache_bits = bits;
        let shadow = &mut self.host.values[Index::CR0_READ_SHADOW as usize];
        *shadow = *shadow & !(CR0_CD | CR0_NW) | bits;
    }

    #[inline(always)]
    fn load_host_msrs<V: Vmcs>(&self, vmcs01: &mut V) {
        let exit = self.exit_controls();
        let efer = if exit.contains(ExitControls::LOAD_EFER) {
            get!(self.vmcs12, HOST_EFER)
        } else {
            let mode = if self.host.is_64_bit {
                EFER_LMA | EFER_LME
            } else {
                0
            };
            let efer = match self.left {
                Some(left) => left.efer,
                None => vmcs01.read(Field::GUEST_EFER),
            };
            efer & !(EFER_LMA | EFER_LME) | mode
        };
        vmcs01.write(Field::GUEST_EFER, efer);
        if exit.contains(ExitControls::LOAD_PAT) {
            vmcs01.write(Field::GUEST_PAT, get!(self.vmcs12, HOST_PAT));
        } else if let Some(left) = self.left {
            vmcs01.write(Field::GUEST_PAT, left.pat);
        }
    }
}
