//! Hardware VMCS shadowing: L1's accesses to the fields that KVM uses most do not exit while a
//! plain VMCS is current. What is shadowed and when it is copied is in [`nested::shadow_vmcs`].

use addr::Spa;
use nested::Current;
use nested::shadow_vmcs::{ExitBitmap, VMREAD_BITMAP, VMWRITE_BITMAP};
use vmx::{Capabilities, Field, SecondaryControls, instructions};

use super::super::vmcs::{modify, write};
use super::super::{Vp, hardware};
use super::load;
use super::pages::CurrentVmcs;
use crate::memory::{frames, pointer};

/// In the first word of a VMCS region: it is a shadow VMCS.
const SHADOW_INDICATOR: u32 = 1 << 31;

/// The bitmaps of a partition's VMCS 01s, which never change.
#[derive(Clone, Copy)]
pub struct Bitmaps {
    vmread: Spa,
    vmwrite: Spa,
}

impl Bitmaps {
    /// The bitmaps, where the processor can shadow: exit information has to be stored to the
    /// shadow VMCS, which takes a VMWRITE to any field.
    pub fn for_processor(capabilities: &Capabilities) -> Option<Self> {
        let control = SecondaryControls::VMCS_SHADOWING.bits();
        let has_control = capabilities.secondary.missing(control) == 0;
        (has_control && capabilities.writes_any_field()).then(|| Self {
            vmread: place(&VMREAD_BITMAP),
            vmwrite: place(&VMWRITE_BITMAP),
        })
    }
}

fn place(bitmap: &'static ExitBitmap) -> Spa {
    let frame = frames::allocate_at_boot();
    // SAFETY: the frame is ours, and as large as a bitmap.
    unsafe { pointer::<ExitBitmap>(frame).copy_from_nonoverlapping(bitmap, 1) };
    frame
}

/// A VP's shadow VMCS.
pub struct ShadowVmcs {
    region: Spa,
    vmcs01: Spa,
}

impl ShadowVmcs {
    /// Makes the shadow VMCS of the VP that runs on this processor. VMCS 01 is current.
    pub fn new(bitmaps: &Bitmaps, capabilities: &Capabilities, vmcs01: Spa) -> Self {
        let region = hardware::new_region(capabilities);
        // SAFETY: the frame is ours and no active VMCS yet; once its type is set, VMCLEAR makes it
        // one of this processor's.
        unsafe {
            *pointer::<u32>(region) |= SHADOW_INDICATOR;
            instructions::vmclear(region)
                .unwrap_or_else(|error| panic!("the shadow VMCS cannot be cleared: {error:?}"));
        }
        write(Field::VMREAD_BITMAP, bitmaps.vmread.raw());
        write(Field::VMWRITE_BITMAP, bitmaps.vmwrite.raw());
        Self { region, vmcs01 }
    }
}

impl nested::shadow_vmcs::ShadowVmcs for ShadowVmcs {
    type Fields = CurrentVmcs;

    #[inline(always)]
    fn access<R>(&mut self, access: impl FnOnce(&mut CurrentVmcs) -> R) -> R {
        load(&self.region);
        let result = access(&mut CurrentVmcs);
        load(&self.vmcs01);
        result
    }

    fn set_attached(&mut self, attached: bool) {
        let control = u64::from(SecondaryControls::VMCS_SHADOWING.bits());
        if attached {
            write(Field::VMCS_LINK_POINTER, self.region.raw());
            modify(Field::SECONDARY_CONTROLS, control, 0);
        } else {
            write(Field::VMCS_LINK_POINTER, u64::MAX);
            modify(Field::SECONDARY_CONTROLS, 0, control);
        }
    }
}

impl Vp {
    /// Before an entry from a plain VMCS: takes what L1 wrote to it. VMCS 01 is current.
    #[inline(never)]
    pub fn collect_shadow(&mut self) {
        use nested::shadow_vmcs::ShadowVmcs as _;
        let nested = &mut self.nested;
        if let (Some(shadow), Current::Plain(_)) = (&mut nested.shadow, nested.logic.current()) {
            shadow.access(|fields| nested.logic.collect(fields));
        }
    }

    /// An exit is in VMCS 12: where that is a plain one, L1 is to find it in the shadow VMCS, which
    /// stays current. What follows is [`Vp::return_to_l1_host`].
    #[inline(never)]
    pub fn publish_exit(&mut self) {
        let nested = &mut self.nested;
        if let (Some(shadow), Current::Plain(_)) = (&nested.shadow, nested.logic.current()) {
            load(&shadow.region);
            nested.is_02_current = true;
            nested.logic.publish_exit(&mut CurrentVmcs);
        }
    }
}
