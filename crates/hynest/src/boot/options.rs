//! L0's command line: `key=value` words.

use hyperv::clock::{BadRateChange, RateChange};
use hyperv::enlightenments::Set;

use crate::disk::Position;
use crate::output::Sink;

/// Where console input for L1 comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Nowhere.
    None,
    /// The first physical UART.
    Com1,
}

/// What L0 looks for in L1 beside running it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audit {
    /// Nothing.
    None,
    /// Fields of enlightened VMCSs that changed while their group is declared clean.
    CleanFields,
}

/// Whether hardware is to shadow plain VMCSs for L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmcsShadowing {
    /// Where the processor can.
    Auto,
    /// All of L1's VMREADs and VMWRITEs exit.
    Off,
}

/// Whether hardware is to hide a change of the machine's TSC rate from L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TscScaling {
    /// Where the processor and the rates allow it.
    Auto,
    /// L1 learns of every change, and has its TSC emulated until it has taken note if it asks for
    /// that. What L1 may use itself stays as it is.
    Off,
}

/// What the command line asks for.
pub struct Options {
    /// Where the output stream goes.
    pub output: Sink,
    /// Where L1's console input comes from.
    pub input: Input,
    /// Bytes of memory for L1; as much as there is when absent.
    pub memory: Option<u64>,
    /// VPs; one per processor when absent.
    pub vps: Option<usize>,
    /// The TSC's rate; measured when absent.
    pub tsc_hz: Option<u64>,
    /// When the machine is to be taken for one whose TSC has another rate.
    /// A list with commas, which `parse` has found good: there is no heap yet.
    rate_changes: &'static str,
    /// Whether a guest may say so, too, by the counter port.
    pub has_rate_port: bool,
    /// What L1 is offered.
    pub enlightenments: Set,
    /// What L1 is watched for.
    pub audit: Audit,
    /// Hardware VMCS shadowing.
    pub vmcs_shadowing: VmcsShadowing,
    /// Hardware TSC scaling for L0's own use.
    pub tsc_scaling: TscScaling,
    /// The disk that a partition is taken up from.
    pub restore: Option<Position>,
    /// The disk that the partition is saved to when somebody asks for it.
    pub save: Option<Position>,
    /// When it is saved without, in the machine's TSC.
    pub save_at: Option<u64>,
    /// What L1's user space finds at the counter port.
    pub text: &'static str,
}

/// What is wrong with the command line.
pub enum Wrong<'a> {
    /// A word that is no `key=value`, or an unknown key.
    Unknown(&'a str),
    /// A value that its key does not take.
    Value {
        /// The key.
        key: &'a str,
        /// What stands behind it.
        value: &'a str,
    },
    /// What is no change of the TSC's rate.
    RateChange(BadRateChange),
    /// A list of enlightenments that cannot be had.
    Enlightenments(hyperv::enlightenments::ParseError<'a>),
}

impl core::fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unknown(word) => write!(
                f,
                "unknown option '{word}': out, in, memory, vps, tsc_hz, tsc_rate_change, tsc_rate_port, enlightenments, audit, vmcs-shadowing, tsc-scaling, restore, save, save_at and text are known"
            ),
            Self::Value { key, value } => write!(f, "option {key} does not take '{value}'"),
            Self::RateChange(error) => write!(f, "option tsc_rate_change: {error}"),
            Self::Enlightenments(error) => write!(f, "option enlightenments: {error}"),
        }
    }
}

impl Options {
    /// When the machine is to be taken for one whose TSC has another rate.
    pub fn rate_changes(&self) -> impl Iterator<Item = RateChange> {
        self.rate_changes.split(',').flat_map(str::parse)
    }

    /// Reads a command line. GRUB puts no program name into it.
    ///
    /// # Errors
    /// The first word that is wrong.
    pub fn parse(line: &'static str) -> Result<Options, Wrong<'static>> {
        let mut options = Options {
            output: Sink::E9,
            input: Input::None,
            memory: None,
            vps: None,
            tsc_hz: None,
            rate_changes: "",
            has_rate_port: false,
            enlightenments: Set::ALL,
            audit: Audit::None,
            vmcs_shadowing: VmcsShadowing::Auto,
            tsc_scaling: TscScaling::Auto,
            restore: None,
            save: None,
            save_at: None,
            text: "",
        };
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(Wrong::Unknown(word))?;
            let wrong = Wrong::Value { key, value };
            match key {
                "out" => {
                    options.output = match value {
                        "e9" => Sink::E9,
                        "com1" => Sink::Com1,
                        _ => return Err(wrong),
                    }
                }
                "in" => {
                    options.input = match value {
                        "none" => Input::None,
                        "com1" => Input::Com1,
                        _ => return Err(wrong),
                    }
                }
                "memory" => options.memory = Some(size(value).ok_or(wrong)?),
                "vps" => {
                    let vps = value.parse().ok().filter(|&n| n > 0);
                    options.vps = Some(vps.ok_or(wrong)?);
                }
                "tsc_hz" => {
                    let hz = value.parse().ok().filter(|&n| n > 0);
                    options.tsc_hz = Some(hz.ok_or(wrong)?);
                }
                "tsc_rate_change" => {
                    for one in value.split(',') {
                        one.parse::<RateChange>().map_err(Wrong::RateChange)?;
                    }
                    options.rate_changes = value;
                }
                "tsc_rate_port" => {
                    options.has_rate_port = match value {
                        "on" => true,
                        "off" => false,
                        _ => return Err(wrong),
                    }
                }
                "enlightenments" => {
                    options.enlightenments = Set::parse(value).map_err(Wrong::Enlightenments)?;
                }
                "audit" => {
                    options.audit = match value {
                        "none" => Audit::None,
                        "clean-fields" => Audit::CleanFields,
                        _ => return Err(wrong),
                    }
                }
                "restore" => options.restore = Some(position(value).ok_or(wrong)?),
                "save" => options.save = Some(position(value).ok_or(wrong)?),
                "save_at" => options.save_at = Some(value.parse().map_err(|_| wrong)?),
                "text" => options.text = value,
                "vmcs-shadowing" => {
                    options.vmcs_shadowing = match value {
                        "auto" => VmcsShadowing::Auto,
                        "off" => VmcsShadowing::Off,
                        _ => return Err(wrong),
                    }
                }
                "tsc-scaling" => {
                    options.tsc_scaling = match value {
                        "auto" => TscScaling::Auto,
                        "off" => TscScaling::Off,
                        _ => return Err(wrong),
                    }
                }
                _ => return Err(Wrong::Unknown(word)),
            }
        }
        Ok(options)
    }
}

/// Where a disk is attached, in words such as `ata0-slave`.
fn position(text: &str) -> Option<Position> {
    let (channel, drive) = text.split_once('-')?;
    Some(Position {
        secondary: match channel {
            "ata0" => false,
            "ata1" => true,
            _ => return None,
        },
        slave: match drive {
            "master" => false,
            "slave" => true,
            _ => return None,
        },
    })
}

/// A size in bytes, or with K, M or G behind it.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        b'G' | b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
