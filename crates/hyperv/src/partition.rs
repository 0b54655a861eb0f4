//! What the server keeps for a partition as a whole.

use crate::clock::{ReferenceClock, ReferenceTime, Timeline, TooSlow, Tsc, TscPage};
use crate::config::Config;
use crate::cpuid::Leaves;
use crate::enlightenments::Enlightenment;
use crate::msr::Gates;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use serde::{Deserialize, Serialize};
use spin::Mutex;
use tlfs::hypercall::{HYPERCALL_PAGE_FILL, VMCALL_RET};
use tlfs::msr::{ReenlightenmentControl, TscEmulation};

/// Most virtual processors of a partition.
pub const MAX_VPS: u32 = 256;

/// The hypercall page: the call, a return, and what stops who runs on.
pub(crate) const HYPERCALL_PAGE: [u8; 4096] = {
    let mut page = [HYPERCALL_PAGE_FILL; 4096];
    let (code, _) = page.split_at_mut(VMCALL_RET.len());
    code.copy_from_slice(&VMCALL_RET);
    page
};

/// The server's side of a partition. All VPs use it at once: reading the clock
/// and most registers takes no lock; only placing the reference TSC page does.
pub struct Partition {
    pub(crate) config: Config,
    pub(crate) leaves: Leaves,
    pub(crate) gates: Gates,
    /// The reference clock.
    pub(crate) clock: ReferenceClock,
    pub(crate) guest_os_id: AtomicU64,
    pub(crate) hypercall: AtomicU64,
    pub(crate) tsc_page: Mutex<TscPage>,
    pub(crate) crash: [AtomicU64; 5],
    pub(crate) reenlightenment: AtomicU64,
    pub(crate) tsc_emulation_control: AtomicU64,
    pub(crate) tsc_emulation_status: AtomicU64,
    /// TSC_FREQUENCY.
    pub(crate) tsc_hz: AtomicU64,
}

/// The state of a [`Partition`] as plain data, to be saved and restored. The
/// default is that of a new partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PartitionState {
    /// Reference time when the partition was stopped; it goes on from there.
    pub reference: ReferenceTime,
    /// GUEST_OS_ID.
    pub guest_os_id: u64,
    /// HYPERCALL.
    pub hypercall: u64,
    /// REFERENCE_TSC and the page's sequence number.
    pub tsc_page: TscPage,
    /// CRASH_P0 to CRASH_P4.
    pub crash: [u64; 5],
    /// REENLIGHTENMENT_CONTROL.
    pub reenlightenment: ReenlightenmentControl,
    /// TSC_EMULATION_CONTROL.
    pub tsc_emulation_control: TscEmulation,
    /// TSC_EMULATION_STATUS.
    pub tsc_emulation_status: TscEmulation,
}

/// Why there is no partition of a [`Config`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// The reference clock cannot follow the TSC.
    Clock(TooSlow),
    /// There are no VPs, or more than [`MAX_VPS`].
    Vps(u32),
    /// A switch is on without another that it needs.
    Missing {
        /// The switch that is on.
        of: Enlightenment,
        /// The one it needs.
        needs: Enlightenment,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock(slow) => slow.fmt(f),
            Self::Vps(vps) => write!(f, "a partition has 1 to {MAX_VPS} VPs, not {vps}"),
            Self::Missing { of, needs } => {
                write!(f, "the enlightenment {} needs {}", of.name(), needs.name())
            }
        }
    }
}

impl core::error::Error for ConfigError {}

impl Partition {
    /// A new partition, whose reference time is 0 at `now`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says what of `config` cannot be.
    pub fn new(config: Config, now: Tsc) -> Result<Self, ConfigError> {
        Self::with_state(config, &PartitionState::default(), now)
    }

    /// A partition that goes on from `state`, which was saved when its TSC was `tsc`. The TSC goes
    /// on from there, so that the reference TSC page in its memory holds on.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says what of `config` cannot be.
    pub fn restore(config: Config, state: &PartitionState, tsc: Tsc) -> Result<Self, ConfigError> {
        Self::with_state(config, state, tsc)
    }

    fn with_state(config: Config, state: &PartitionState, now: Tsc) -> Result<Self, ConfigError> {
        if !(1..=MAX_VPS).contains(&config.vps) {
            return Err(ConfigError::Vps(config.vps));
        }
        if let Some((of, needs)) = config.enlightenments.missing() {
            return Err(ConfigError::Missing { of, needs });
        }
        let line =
            Timeline::through(now, state.reference, config.tsc_hz).map_err(ConfigError::Clock)?;
        Ok(Self {
            leaves: Leaves::new(&config),
            gates: Gates::new(config.enlightenments),
            clock: ReferenceClock::new(&line),
            guest_os_id: AtomicU64::new(state.guest_os_id),
            hypercall: AtomicU64::new(state.hypercall),
            tsc_page: Mutex::new(state.tsc_page),
            crash: state.crash.map(AtomicU64::new),
            reenlightenment: AtomicU64::new(state.reenlightenment.into_bits()),
            tsc_emulation_control: AtomicU64::new(state.tsc_emulation_control.into_bits()),
            tsc_emulation_status: AtomicU64::new(state.tsc_emulation_status.into_bits()),
            tsc_hz: AtomicU64::new(config.tsc_hz),
            config,
        })
    }

    /// The state at `now`. VPs are to be stopped, or the parts may be of
    /// different moments.
    pub fn save(&self, now: Tsc) -> PartitionState {
        let load = |register: &AtomicU64| register.load(Ordering::Relaxed);
        PartitionState {
            reference: self.clock.reference(now),
            guest_os_id: load(&self.guest_os_id),
            hypercall: load(&self.hypercall),
            tsc_page: *self.tsc_page.lock(),
            crash: self.crash.each_ref().map(load),
            reenlightenment: ReenlightenmentControl::from_bits(load(&self.reenlightenment)),
            tsc_emulation_control: TscEmulation::from_bits(load(&self.tsc_emulation_control)),
            tsc_emulation_status: TscEmulation::from_bits(load(&self.tsc_emulation_status)),
        }
    }

    /// What the partition was created with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The reference clock.
    #[inline]
    pub fn clock(&self) -> &ReferenceClock {
        &self.clock
    }

    /// EAX, EBX, ECX and EDX of a hypervisor leaf; `None` if there is no such
    /// leaf, or no Hv#1.
    #[inline]
    pub fn cpuid(&self, leaf: u32) -> Option<[u32; 4]> {
        if self.config.enlightenments.is_empty() {
            None
        } else {
            self.leaves.get(leaf)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enlightenments::Set;
    use crate::testing::{CONFIG, Ram};
    use addr::Gpa1;
    use tlfs::msr::{Msr, OverlayPage};

    #[test]
    fn the_hypercall_page_calls_and_returns() {
        assert_eq!(HYPERCALL_PAGE[..4], [0x0F, 0x01, 0xC1, 0xC3]);
        assert!(HYPERCALL_PAGE[4..].iter().all(|byte| *byte == 0xCC));
    }

    #[test]
    fn partitions_are_shared_between_processors() {
        fn shared<T: Sync + Send>() {}
        shared::<Partition>();
    }

    #[test]
    fn without_enlightenments_there_are_no_leaves() {
        let config = Config {
            enlightenments: Set::NONE,
            ..CONFIG
        };
        let partition = Partition::new(config, Tsc(0)).unwrap();
        for leaf in 0x4000_0000..0x4000_0110 {
            assert_eq!(partition.cpuid(leaf), None);
        }
        let partition = Partition::new(CONFIG, Tsc(0)).unwrap();
        assert!(partition.cpuid(0x4000_0000).is_some());
    }

    #[test]
    fn impossible_configurations_are_refused() {
        let error = |config| Partition::new(config, Tsc(0)).map(|_| ()).unwrap_err();
        assert_eq!(error(Config { vps: 0, ..CONFIG }), ConfigError::Vps(0));
        assert_eq!(
            error(Config {
                vps: 1025,
                ..CONFIG
            }),
            ConfigError::Vps(1025)
        );
        let slow = ConfigError::Clock(TooSlow { tsc_hz: 10_000_000 });
        assert_eq!(
            error(Config {
                tsc_hz: 10_000_000,
                ..CONFIG
            }),
            slow
        );
        let enlightenments = Set::ALL.without(Enlightenment::RefCount);
        let of = Enlightenment::TscPage;
        let missing = ConfigError::Missing {
            of,
            needs: Enlightenment::RefCount,
        };
        assert_eq!(
            error(Config {
                enlightenments,
                ..CONFIG
            }),
            missing
        );
    }

    #[test]
    fn saved_state_goes_on_where_it_stopped() {
        let state = PartitionState {
            reference: ReferenceTime(777),
            guest_os_id: 1,
            hypercall: 0x1001,
            tsc_page: TscPage {
                register: OverlayPage::at(Gpa1::new(0x2000)),
                sequence: 9,
            },
            crash: [1, 2, 3, 4, 5],
            reenlightenment: ReenlightenmentControl::new().with_vector(0xEE),
            tsc_emulation_control: TscEmulation::new().with_active(true),
            tsc_emulation_status: TscEmulation::new(),
        };
        let partition = Partition::restore(CONFIG, &state, Tsc(123_456)).unwrap();
        let saved = partition.save(Tsc(123_456));
        assert_eq!(saved, state);
    }

    #[test]
    fn the_page_holds_on_through_a_stop() {
        let ram = Ram::new(0x3000);
        let mut vp = crate::vp::Vp::new(0);
        let before = Partition::new(CONFIG, Tsc(99)).unwrap();
        let page = OverlayPage::at(Gpa1::new(0x2000));
        before
            .write_msr(&mut vp, Msr::REFERENCE_TSC, page.into_bits(), Tsc(5), &ram)
            .unwrap();
        let tsc = Tsc(987_654_321_987);
        let after = Partition::restore(CONFIG, &before.save(tsc), tsc).unwrap();
        assert_eq!(after.clock.timeline(), before.clock.timeline());
    }
}
