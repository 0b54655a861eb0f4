//! A VP's nested VMX: L1's entries into L2 and L2's exits, on top of the logic in the `nested`
//! crate.

mod audit;
mod bitmap;
mod control_register;
mod direct_flush;
mod entry;
mod exits;
mod instructions;
mod interrupts;
mod msr_lists;
mod pages;
mod saving;
mod shadow;
mod shadow_vmcs;
mod space;
mod vmcs02;

use alloc::boxed::Box;

use addr::{Gpa1, Spa};
use hyperv::assist::AssistSnapshot;
use hyperv::enlightenments::{Enlightenment, Set};
use nested::access::Page;
use nested::ept::{MisconfiguredPage, Recall, VpView};
use nested::tsc::{L1Tsc, ONE};
use nested::{Config, Dirty, L0Policy, Nested};
use tlfs::evmcs::EnlightenmentsControl;
use vmx::ept::EptCapabilities;
use vmx::instructions as vt;
use vmx::{Field, PinControls, PrimaryControls, SecondaryControls};

pub use audit::{audit_end, audit_entry};
pub use exits::violation_address;
pub use pages::{CurrentVmcs, TableAccess, TableSource};
pub use shadow::{Shadows, for_partition};
pub use shadow_vmcs::Bitmaps as ShadowBitmaps;
pub use space::NotPermitted;

use super::Vp;
use super::memory::L1Word;
use super::partition::{MsrInterception, Partition};
use super::vmcs::{modify, read, write};
use bitmap::Bitmap02;
use pages::L1Page;
use shadow_vmcs::ShadowVmcs;

/// Where the APIC assist word lies in the VP assist page.
const APIC_ASSIST: u16 = tlfs::page::assist::APIC_ASSIST as u16;

/// What a VP keeps for nested operation.
pub struct NestedVp {
    /// The state and logic of L1's VMX operation.
    logic: Nested,
    vmcs02: Spa,
    /// The shadow that VMCS 02 is on.
    view: VpView,
    /// The MSR bitmap that VMCS 02 uses.
    bitmap: Bitmap02,
    policy: L0Policy,
    /// The page of L2's last hypercall input.
    input_page: Recall<L1Word>,
    /// The page of L2's last accesses that EPT 12 has misconfigured.
    misconfigured: MisconfiguredPage<L1Word>,
    /// What L1 may use in its EPTs.
    ept_offered: EptCapabilities,
    /// The VP assist page, where L1 has enabled one and enlightened VMCSs are offered: what it says
    /// of nesting counts only then.
    assist: Option<L1Page>,
    /// The VP assist page, where L1 has enabled one, for what it says of interrupts.
    apic_assist: Option<L1Page>,
    /// The enlightened VMCS that L2 runs on or ran on last, mapped.
    page: Option<L1Page>,
    /// VMCS 02 is current rather than VMCS 01; or the shadow VMCS, at the end of an exit to L1.
    is_02_current: bool,
    /// Where hardware shadows plain VMCSs for L1.
    shadow: Option<ShadowVmcs>,
    /// The windows that L0 wants in VMCS 02 beside L1's.
    windows: PrimaryControls,
    /// Log lines that the guests may still cause: it is they who decide how many there would be.
    lines_to_log: u32,
    /// VMCS 01's TSC offset or multiplier is not L1's any more, or not the interception of TSC reads.
    is_tsc_stale: bool,
    /// L0 answers L2's reads of the TSC, for no multiplier gives it.
    answers_l2_tsc: bool,
    /// L2 is to leave right after the event that the entry injects.
    leave_at_once: bool,
    /// The clean-field auditor, where the partition asks for it.
    audit: Option<Box<audit::Audit>>,
}

impl NestedVp {
    /// For a VP outside of VMX operation. Leaves VMCS 02 current; the caller makes VMCS 01 so.
    pub fn new(partition: &Partition, stack: u64) -> Self {
        let bitmap = Bitmap02::new();
        let physical_bits = super::cpuid::physical_address_bits().into();
        Self {
            logic: Nested::new(Config {
                caps: partition.setup.vmx,
                physical_bits,
                enlightenments: offered_enlightenments(partition.hyperv.config().enlightenments),
            }),
            input_page: Recall::new(),
            misconfigured: MisconfiguredPage::new(),
            ept_offered: EptCapabilities::from_msr(partition.setup.vmx.ept_vpid, physical_bits),
            vmcs02: vmcs02::create(partition, stack),
            view: partition.shadows.lock().view(),
            policy: vmcs02::policy(partition, bitmap.address()),
            bitmap,
            assist: None,
            apic_assist: None,
            page: None,
            is_02_current: false,
            shadow: None,
            windows: PrimaryControls::empty(),
            lines_to_log: 16,
            is_tsc_stale: false,
            answers_l2_tsc: false,
            leave_at_once: false,
            audit: partition.is_audited.then(audit::Audit::new),
        }
    }

    /// Has hardware shadow plain VMCSs, if it is to. VMCS 01 is current.
    pub fn set_up_shadowing(&mut self, partition: &Partition, vmcs01: Spa) {
        self.shadow = partition
            .shadow_bitmaps
            .map(|bitmaps| ShadowVmcs::new(&bitmaps, &partition.capabilities, vmcs01));
    }

    /// Whether L2 runs rather than L1.
    #[inline(always)]
    pub fn is_in_l2(&self) -> bool {
        self.logic.in_l2()
    }

    /// Whether L2 runs and L1 has NMIs, and interrupts, end it.
    pub fn l1_takes_events(&self) -> (bool, bool) {
        let pin = self.logic.pin_controls();
        let takes = |control| self.is_in_l2() && pin.contains(control);
        (
            takes(PinControls::NMI_EXITING),
            takes(PinControls::EXTERNAL_INTERRUPT_EXITING),
        )
    }

    /// Whether something was taken from L2's shadow since this processor last forgot.
    #[inline(always)]
    pub fn is_shadow_stale(&self) -> bool {
        self.view.is_stale()
    }

    /// L2's TSC when L1's is `l1`.
    pub fn l2_tsc_at(&self, l1: u64) -> u64 {
        self.logic.l2_tsc_at(l1)
    }

    /// Whether the run of L2 that begins now is to end before its first instruction.
    #[inline(always)]
    pub fn take_leave_at_once(&mut self) -> bool {
        core::mem::take(&mut self.leave_at_once)
    }

    /// The VP assist page has moved.
    pub fn set_assist_page(&mut self, page: Option<Gpa1>, partition: &Partition) {
        self.map_assist_page(page, partition);
        // What happens to be there has not been said by L0.
        self.set_no_eoi_required(false);
    }

    /// The VP assist page lies there; what it says stays.
    fn map_assist_page(&mut self, page: Option<Gpa1>, partition: &Partition) {
        let map = |page: Gpa1| L1Page::map(&partition.memory, page);
        let enlightenments = partition.hyperv.config().enlightenments;
        self.apic_assist = page.and_then(map);
        self.assist = page
            .filter(|_| enlightenments.has(Enlightenment::Evmcs))
            .and_then(map);
    }

    /// Whether the VP assist page says that the interrupt in service needs no EOI.
    #[inline]
    pub fn no_eoi_required(&self) -> bool {
        self.apic_assist
            .as_ref()
            .is_some_and(|page| page.read_u32(APIC_ASSIST) & 1 != 0)
    }

    /// Makes the VP assist page say so, or not. Returns whether there is a page.
    #[inline]
    pub fn set_no_eoi_required(&mut self, is_set: bool) -> bool {
        if let Some(page) = &mut self.apic_assist {
            // L1's VP, which alone may change the word, does not run.
            let others = page.read_u32(APIC_ASSIST) & !1;
            page.write_u32(APIC_ASSIST, others | u32::from(is_set));
        }
        self.apic_assist.is_some()
    }
}

impl Vp {
    /// Whether a line about what a guest did may go to the log; counts it.
    pub fn may_log(&mut self) -> bool {
        let may = self.nested.lines_to_log > 0;
        self.nested.lines_to_log -= u32::from(may);
        may
    }

    /// Makes VMCS 01 current.
    #[inline]
    pub fn load_vmcs01(&mut self) {
        if self.nested.is_02_current {
            load(&self.vmcs01);
            self.nested.is_02_current = false;
            if self.nested.is_tsc_stale {
                self.nested.is_tsc_stale = false;
                self.write_tsc_of_l1();
                self.intercept_tsc_of_l1();
            }
        }
    }

    /// TSC reads are emulated from now on, or no longer: VMCS 01 and VMCS 02 get to intercept them as
    /// [`Vp::nested_follow_tsc`] has them get the offset.
    pub fn nested_follow_emulation(&mut self) {
        self.nested
            .logic
            .forget_groups(Dirty::CONTROL_PROC.union(Dirty::MSR_BITMAP));
        if self.nested.is_02_current {
            self.nested.is_tsc_stale = true;
            self.intercept_tsc_of_l2();
        } else {
            self.set_l2_tsc_policy();
            self.intercept_tsc_of_l1();
        }
    }

    /// Whether L0 answers L2's reads of the TSC, be it what L1 lets L2 do.
    fn answers_l2_tsc(&self) -> bool {
        self.is_tsc_emulated() || self.nested.answers_l2_tsc
    }

    /// What L0 asks of VMCS 02 for that. Returns whether it does.
    fn set_l2_tsc_policy(&mut self) -> bool {
        let answers = self.answers_l2_tsc();
        self.nested
            .policy
            .primary
            .set(PrimaryControls::RDTSC_EXITING, answers);
        answers
    }

    /// Has VMCS 02, which is current and merged, intercept TSC reads as L0 or L1 needs it.
    fn intercept_tsc_of_l2(&mut self) {
        let answers = self.set_l2_tsc_policy();
        let l1 = self.nested.logic.primary_controls();
        intercept_rdtsc(answers || l1.contains(PrimaryControls::RDTSC_EXITING));
        if l1.contains(PrimaryControls::USE_MSR_BITMAPS) {
            self.merge_msr_bitmap();
        }
    }

    /// VMCS 02, which is current, cannot hold the TSC that L1 asks for, or can again.
    #[cold]
    fn answer_l2_tsc(&mut self, answers: bool) {
        self.nested.answers_l2_tsc = answers;
        self.intercept_tsc_of_l2();
    }

    /// Has VMCS 01, which is current, intercept TSC reads or not.
    fn intercept_tsc_of_l1(&self) {
        intercept_rdtsc(self.is_tsc_emulated());
        write(Field::MSR_BITMAP, self.msr_interception().bitmap.raw());
    }

    /// The MSRs of L1 that exit now.
    fn msr_interception(&self) -> &'static MsrInterception {
        self.partition.msr_interception(self.is_tsc_emulated())
    }

    /// Those of L2 that exit whatever L1 asks for.
    fn msr_interception_of_l2(&self) -> &'static MsrInterception {
        self.partition.msr_interception(self.answers_l2_tsc())
    }

    /// L1's TSC has another offset or multiplier: VMCS 01 gets it now or when it is current again, and VMCS 02 at
    /// the next entry or, while L2 runs, now.
    pub fn nested_follow_tsc(&mut self) {
        let multiplier = self.tsc_multiplier();
        let counter = self.tsc_counter_now();
        let l1 = counter.wrapping_add(self.tsc_offset);
        let nested = &mut self.nested;
        nested.policy.tsc = L1Tsc {
            multiplier,
            offset: i128::from(l1) - i128::from(counter),
        };
        let scaling = SecondaryControls::TSC_SCALING;
        nested.policy.secondary.set(scaling, multiplier != ONE);
        nested
            .logic
            .forget_groups(Dirty::CONTROL_GRP1.union(Dirty::CONTROL_GRP2));
        if nested.is_02_current {
            nested.is_tsc_stale = true;
            let secondary = nested.logic.secondary_controls() | nested.policy.secondary;
            scale_tsc(secondary.contains(scaling));
            let (_, out_of_reach) = nested.logic.merge_tsc(&mut CurrentVmcs, &nested.policy);
            if out_of_reach != nested.answers_l2_tsc {
                self.answer_l2_tsc(out_of_reach);
            }
        } else {
            self.write_tsc_of_l1();
        }
    }

    /// Gives VMCS 01, which is current, the offset and the multiplier of L1's TSC.
    fn write_tsc_of_l1(&self) {
        write(Field::TSC_OFFSET, self.tsc_offset);
        let multiplier = self.tsc_multiplier();
        scale_tsc(multiplier != ONE);
        if multiplier != ONE {
            write(Field::TSC_MULTIPLIER, multiplier);
        }
    }

    /// Makes VMCS 02 current.
    #[inline]
    fn load_vmcs02(&mut self) {
        if !self.nested.is_02_current {
            load(&self.nested.vmcs02);
            self.nested.is_02_current = true;
        }
    }

    /// Whether INIT waits: VMX root operation blocks it, and in L2 it is an exit.
    pub fn init_is_blocked(&self) -> bool {
        self.nested.logic.in_vmx_operation()
    }

    /// L1 has set CR0.CD and CR0.NW to this.
    pub fn nested_keep_cache_bits(&mut self, bits: u64) {
        self.nested.logic.set_cache_bits(bits);
    }

    /// Whether VMX operation lets L1 set CR0 to this (SDM vol. 3, 24.8).
    pub fn nested_allows_cr0(&self, value: u64) -> bool {
        let offered = &self.partition.setup.vmx;
        !self.nested.logic.in_vmx_operation()
            || (value & offered.cr0_fixed0 == offered.cr0_fixed0
                && value & !offered.cr0_fixed1 == 0)
    }

    /// Whether VMX operation lets L1 set CR4 to this.
    pub fn nested_allows_cr4(&self, value: u64) -> bool {
        let offered = &self.partition.setup.vmx;
        !self.nested.logic.in_vmx_operation()
            || (value & offered.cr4_fixed0 == offered.cr4_fixed0
                && value & !offered.cr4_fixed1 == 0)
    }
}

/// Has hardware multiply the TSC for the guest whose VMCS is current, or not.
fn scale_tsc(scales: bool) {
    let bit = u64::from(SecondaryControls::TSC_SCALING.bits());
    modify(
        Field::SECONDARY_CONTROLS,
        if scales { bit } else { 0 },
        if scales { 0 } else { bit },
    );
}

/// Has RDTSC and RDTSCP of the guest whose VMCS is current exit, or not.
fn intercept_rdtsc(exits: bool) {
    let bit = u64::from(PrimaryControls::RDTSC_EXITING.bits());
    modify(
        Field::PRIMARY_CONTROLS,
        if exits { bit } else { 0 },
        if exits { 0 } else { bit },
    );
}

/// The bits of the enlightened VMCS's control word that L1 is offered.
fn offered_enlightenments(set: Set) -> u32 {
    [
        (Enlightenment::MsrBitmap, EnlightenmentsControl::MSR_BITMAP),
        (
            Enlightenment::DirectFlush,
            EnlightenmentsControl::NESTED_FLUSH_HYPERCALL,
        ),
    ]
    .iter()
    .filter(|(one, _)| set.has(*one))
    .fold(0, |bits, (_, bit)| bits | bit)
}

/// What a VP assist page says about nested operation, each word read once.
#[inline]
fn read_assist(page: Option<&L1Page>) -> Option<AssistSnapshot> {
    let page = page?;
    let word = |n: u16| page.read_u64(AssistSnapshot::OFFSET as u16 + 8 * n);
    Some(AssistSnapshot::from_words([word(0), word(1), word(2)]))
}

/// The enlightened VMCS that the VP assist page names for VM entries.
#[inline(always)]
fn enlightened_vmcs(page: &L1Page) -> Option<Gpa1> {
    let word = |n: u16| page.read_u64(AssistSnapshot::OFFSET as u16 + 8 * n);
    AssistSnapshot::enlightened_vmcs([word(1), word(2)])
}

/// Forgets L1's linear translations on this processor.
pub fn flush_vpid01() {
    // SAFETY: root operation; `Controls::choose` has seen to VPIDs and this scope.
    let _ = unsafe { vt::invvpid(vt::InvvpidScope::Single(super::vmcs01::VPID01)) };
}

/// Forgets L2's linear translations on this processor.
#[inline(always)]
fn flush_vpid02() {
    static DESCRIPTOR: vt::VpidDescriptor = vt::VpidDescriptor::new(vmcs02::VPID02);
    // SAFETY: root operation; L0 needs a processor with VPIDs and this scope.
    unsafe { vt::invvpid_known(&DESCRIPTOR) };
}

#[inline(always)]
fn load(vmcs: &Spa) {
    // SAFETY: the VMCSs of a VP are its processor's own, with the revision, and active nowhere
    // else.
    unsafe { vt::vmptrld_known(vmcs) }
}

/// The privilege level of the guest whose VMCS is current.
pub fn current_cpl() -> u8 {
    (read(Field::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3) as u8
}
