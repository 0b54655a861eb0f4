//! The hypervisor leaves that L1 reads: what is on is advertised, what is off
//! is not.

use crate::config::{Config, VERSION};
use crate::enlightenments::Enlightenment;
use tlfs::cpuid::{
    Features, INTERFACE, NEVER_NOTIFY_LONG_SPIN, NestedFeatures, Privileges, Recommendations,
    VENDOR, leaf,
};

/// Number of leaves from 0x40000000 on. The last is the nested leaf even where
/// nothing nested is on: its words are zero then.
const COUNT: usize = (leaf::NESTED - leaf::VENDOR_AND_MAX) as usize + 1;

/// The version of the enlightened VMCS that is understood, the only one there is.
const EVMCS_VERSION: u8 = 1;

/// A partition's leaves, made once.
pub(crate) struct Leaves([[u32; 4]; COUNT]);

/// The words to which switches contribute.
#[derive(Default)]
struct Words {
    privileges: Privileges,
    features: Features,
    recommendations: Recommendations,
    nested: NestedFeatures,
}

impl Words {
    /// Adds the bits that advertise `one`.
    fn advertise(&mut self, one: Enlightenment, config: &Config) {
        let Self {
            privileges,
            features,
            recommendations,
            nested,
        } = self;
        match one {
            Enlightenment::Base => {
                privileges.set_access_hypercall(true);
                privileges.set_access_vp_index(true);
                recommendations.set_relaxed_timing(true);
                // There is no SynIC, and no hardware APIC does AutoEOI.
                recommendations.set_deprecate_auto_eoi(true);
            }
            Enlightenment::RefCount => privileges.set_access_reference_counter(true),
            Enlightenment::TscPage => privileges.set_access_reference_tsc(true),
            Enlightenment::FrequencyMsrs => {
                privileges.set_access_frequencies(true);
                features.set_frequencies(true);
            }
            Enlightenment::Stimer => {
                privileges.set_access_synthetic_timers(true);
                features.set_direct_synthetic_timers(true);
            }
            Enlightenment::Crash => features.set_guest_crash(true),
            Enlightenment::GuestIdle => {
                privileges.set_access_guest_idle(true);
                features.set_guest_idle_state(true);
            }
            Enlightenment::Reset => {
                privileges.set_access_reset(true);
                recommendations.set_reset_msr(true);
            }
            Enlightenment::VpAssist => privileges.set_access_interrupt_control(true),
            Enlightenment::ApicMsrs => recommendations.set_apic_msrs(true),
            Enlightenment::Evmcs => {
                recommendations.set_enlightened_vmcs(true);
                nested.set_evmcs_version_low(EVMCS_VERSION);
                nested.set_evmcs_version_high(EVMCS_VERSION);
                nested.set_evmcs_perf_global_ctrl(config.evmcs_perf_global_ctrl);
            }
            Enlightenment::MsrBitmap => nested.set_msr_bitmap(true),
            Enlightenment::DirectFlush => nested.set_direct_flush(true),
            Enlightenment::GpaFlush => nested.set_guest_physical_flush(true),
            Enlightenment::TlbFlush => {
                features.set_extended_gva_ranges(true);
                recommendations.set_remote_flush(true);
                recommendations.set_ex_processor_masks(true);
            }
            Enlightenment::Ipi => {
                recommendations.set_cluster_ipi(true);
                recommendations.set_ex_processor_masks(true);
            }
            Enlightenment::XmmInput => features.set_xmm_input(true),
            Enlightenment::Reenlightenment => privileges.set_access_reenlightenment(true),
        }
    }
}

impl Leaves {
    pub(crate) fn new(config: &Config) -> Self {
        let mut words = Words::default();
        for one in config.enlightenments.iter() {
            words.advertise(one, config);
        }
        let privileges = words.privileges.into_bits();
        let nested = words.nested.into_bits();
        let [ebx, ecx, edx] = VENDOR;
        let mut leaves = [[0; 4]; COUNT];
        let mut set = |number: u32, value| leaves[(number - leaf::VENDOR_AND_MAX) as usize] = value;
        set(leaf::VENDOR_AND_MAX, [leaf::NESTED, ebx, ecx, edx]);
        set(leaf::INTERFACE, [INTERFACE, 0, 0, 0]);
        set(leaf::VERSION, VERSION.words());
        set(
            leaf::FEATURES,
            [
                privileges as u32,
                (privileges >> 32) as u32,
                0,
                words.features.into_bits(),
            ],
        );
        set(
            leaf::RECOMMENDATIONS,
            [
                words.recommendations.into_bits(),
                // A VP has its processor to itself: there is nobody to yield to.
                NEVER_NOTIFY_LONG_SPIN,
                config.physical_address_bits.into(),
                0,
            ],
        );
        set(leaf::LIMITS, [config.vps, config.vps, 0, 0]);
        set(leaf::HARDWARE, [config.hardware.into_bits(), 0, 0, 0]);
        set(leaf::NESTED, [nested as u32, (nested >> 32) as u32, 0, 0]);
        Self(leaves)
    }

    pub(crate) fn get(&self, number: u32) -> Option<[u32; 4]> {
        self.0
            .get(number.checked_sub(leaf::VENDOR_AND_MAX)? as usize)
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enlightenments::Set;
    use crate::testing::CONFIG;

    fn leaves(enlightenments: Set) -> Leaves {
        Leaves::new(&Config {
            enlightenments,
            ..CONFIG
        })
    }

    fn bits(leaves: &Leaves) -> [[u32; 4]; 3] {
        [leaf::FEATURES, leaf::RECOMMENDATIONS, leaf::NESTED].map(|n| leaves.get(n).unwrap())
    }

    #[test]
    fn linux_finds_what_it_looks_for() {
        let all = leaves(Set::ALL);
        assert_eq!(
            all.get(0x4000_0000),
            Some([0x4000_000A, 0x7263_694D, 0x666F_736F, 0x7648_2074])
        );
        assert_eq!(all.get(0x4000_0001), Some([0x3123_7648, 0, 0, 0]));
        // Bits 1, 3-7, 9-11 and 13; XMM input, guest idle, frequencies, crash, extended GVA ranges,
        // direct timers.
        let [features, hints, nested] = bits(&all);
        let offered = 1 << 4 | 1 << 5 | 1 << 8 | 1 << 10 | 1 << 14 | 1 << 19;
        assert_eq!(features, [0x2EFA, 0, 0, offered]);
        // Remote flush, APIC MSRs, reset, relaxed timing, no AutoEOI, cluster IPI, processor masks, eVMCS.
        let recommended = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 14;
        assert_eq!(hints, [recommended, u32::MAX, 46, 0]);
        assert_eq!(nested, [0xE_0101, 0, 0, 0]);
        assert_eq!(all.get(0x4000_0005), Some([2, 2, 0, 0]));
    }

    #[test]
    fn the_smallest_set_with_enlightened_vmcs() {
        let set = Set::NONE
            .with(Enlightenment::VpAssist)
            .with(Enlightenment::MsrBitmap);
        let [features, hints, nested] = bits(&leaves(set.with(Enlightenment::Evmcs)));
        assert_eq!(features, [0x70, 0, 0, 0]);
        assert_eq!(hints[0] & 1 << 14, 1 << 14);
        assert_eq!(nested[0], 0x8_0101);
    }

    #[test]
    fn perf_global_ctrl_follows_the_machine() {
        let config = Config {
            evmcs_perf_global_ctrl: true,
            ..CONFIG
        };
        assert_eq!(
            Leaves::new(&config).get(0x4000_000A),
            Some([0xE_0101, 1, 0, 0])
        );
    }

    #[test]
    fn every_switch_advertises_something_and_only_when_on() {
        let every = Enlightenment::EVERY
            .iter()
            .fold(Set::NONE, |set, one| set.with(*one));
        let with = bits(&leaves(every));
        for one in Enlightenment::EVERY
            .iter()
            .filter(|one| **one != Enlightenment::Base)
        {
            let alone = bits(&leaves(Set::NONE.with(*one)));
            let base = bits(&leaves(Set::NONE.with(Enlightenment::Base)));
            assert_ne!(alone, base, "{one:?} is not advertised");
            // The processor masks are shared by flushes and IPIs.
            let mut set = every.without(*one);
            if *one == Enlightenment::TlbFlush {
                set = set.without(Enlightenment::Ipi);
            }
            assert_ne!(bits(&leaves(set)), with, "{one:?} is advertised when off");
        }
    }

    #[test]
    fn what_would_make_linux_a_root_or_crash_it_is_never_set() {
        let every = Enlightenment::EVERY
            .iter()
            .fold(Set::NONE, |set, one| set.with(*one));
        let [features, ..] = bits(&leaves(every));
        assert_eq!(features[1] & (1 << 1 | 1 << 12 | 1 << 20 | 1 << 22), 0);
        assert_eq!(features[0] & 1 << 15, 0, "Linux would prefer the plain TSC");
    }

    #[test]
    fn no_leaf_beyond_the_last() {
        let all = leaves(Set::ALL);
        assert_eq!(all.get(0x4000_000B), None);
        assert_eq!(all.get(0x4000_0100), None);
        assert_eq!(all.get(0x3FFF_FFFF), None);
        assert_eq!(all.get(0x4000_0009), Some([0; 4]));
    }
}
