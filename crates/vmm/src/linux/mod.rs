//! `vmm linux`: a Linux guest with an initramfs and a serial console.
//!
//! The machine is as small as Linux allows: KVM's interrupt controllers and timer,
//! a 16550, an MP table. No ACPI, no PCI, no disk.

mod boot;
mod console;
mod devices;
mod end;
mod image;
mod kernel;
mod keyboard;
mod marks;
mod mptable;
mod vcpu;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use vm_memory::GuestMemoryMmap;

use self::devices::Devices;
use self::end::{End, Ended, Pages};
use self::image::Image;
use self::marks::Marks;
pub use self::marks::PORT as MARKS_PORT;
use crate::error::{Error, Result, last_system_error, refused};
use crate::host::Host;
use crate::memory;
use crate::report::Report;
use crate::stats::Stats;

/// What `vmm linux` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// The kernel: a bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// The initramfs
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Words for the kernel's command line, after those of the vmm
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub cmdline: String,
    /// Leave out the vmm's own words on the command line
    #[arg(long)]
    pub only_cmdline: bool,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    pub memory: u64,
    /// How many vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=mptable::MAX_PROCESSORS as i64))]
    pub vcpus: u8,
    /// Show the guest KVM's Hyper-V interface instead of KVM's own
    #[arg(long)]
    pub hyperv: bool,
    /// What the guest is called in the report
    #[arg(long, default_value = "linux", value_parser = name)]
    pub name: String,
    /// Where the console's lines go, as `L2 NAME text` [default: standard output, as they are]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// A name must not have blanks: it is one word of a line.
fn name(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a name is one word".into());
    }
    Ok(text.into())
}

/// What every guest of this machine is told: where its console is, how it ends,
/// and which devices it need not look for. `rodata=off` leaves out the walk over
/// all page tables that proves W^X: a fifth of the boot.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 acpi=off pci=off no_timer_check \
    io_delay=none i8042.noaux i8042.nokbd i8042.nopnp 8250.nr_uarts=1 \
    cryptomgr.notests random.trust_cpu=on rodata=off";

impl Arguments {
    fn whole_cmdline(&self) -> String {
        match (self.only_cmdline, self.cmdline.as_str()) {
            (true, own) => own.into(),
            (false, "") => CMDLINE.into(),
            (false, own) => format!("{CMDLINE} {own}"),
        }
    }
}

/// Boots the guest and waits for its end.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = Arc::new(Report::open(arguments.report.as_deref())?);
    let mut kernel = Image::open(&arguments.kernel)?;
    let mut initrd = arguments.initrd.as_deref().map(Image::open).transpose()?;
    let host = Host::open()?;

    let vm = Arc::new(host.create_vm()?);
    let memory = memory::allocate_for_good(&boot::ranges(arguments.memory))?;
    let entry = boot::load(
        &memory,
        arguments.memory,
        &mut kernel,
        initrd.as_mut(),
        &arguments.whole_cmdline(),
        arguments.vcpus,
    )?;
    memory::register(&vm, &memory)?;
    // Needed by KVM where the processor cannot run real mode as a guest: three
    // pages below the local APIC's, which no guest uses.
    vm.set_tss_address(0xFFFB_D000)
        .map_err(refused("place the task state segment"))?;
    vm.create_irq_chip()
        .map_err(refused("create the interrupt controllers"))?;
    vm.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .map_err(refused("create the interval timer"))?;
    let devices = Arc::new(Mutex::new(Devices::new(
        vm.clone(),
        &arguments.name,
        report.clone(),
    )));

    let vcpus = (0..arguments.vcpus)
        .map(|id| {
            let vcpu = vcpu::create(&host, &vm, id, arguments.hyperv, entry)?;
            let stats = Stats::of(&host, &vcpu).ok();
            Ok((vcpu, Marks::new(&arguments.name, report.clone(), stats)))
        })
        .collect::<Result<Vec<_>>>()?;
    let pages = Stats::of(&host, &*vm);
    let started = Instant::now();
    let end = until_end(vcpus, &devices, memory)?;
    let seconds = started.elapsed().as_secs_f64();

    let mut devices = devices
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    devices.finish();
    let end = end.with_panic(devices.panic());
    if report.to_file() {
        let vcpus = arguments.vcpus;
        let pages = pages.and_then(|stats| Pages::count(&stats));
        report.event(&Ended::new(
            &arguments.name,
            &end,
            vcpus,
            arguments.hyperv,
            seconds,
            pages.unwrap_or_default(),
        ))?;
    }
    end.verdict()
}

/// Runs each vCPU in a thread of its own until one of them meets the guest's end.
/// The other threads stay in KVM; they end with the process.
fn until_end(
    vcpus: Vec<(kvm_ioctls::VcpuFd, Marks)>,
    devices: &Arc<Mutex<Devices>>,
    memory: GuestMemoryMmap,
) -> Result<End> {
    let memory = Arc::new(memory);
    let (sender, ends) = mpsc::channel();
    for (id, (vcpu, marks)) in vcpus.into_iter().enumerate() {
        let (sender, devices, memory) = (sender.clone(), devices.clone(), memory.clone());
        thread::Builder::new()
            .name(format!("vcpu {id}"))
            .spawn(move || {
                let end = vcpu::run(vcpu, &devices, marks);
                // Nobody listens any more when another vCPU was first.
                let _ = sender.send(end);
                drop(memory);
            })
            .map_err(|_| last_system_error("start a thread for a vCPU"))?;
    }
    drop(sender);
    ends.recv()
        .unwrap_or_else(|_| Err(Error::Guest("its vCPU threads died".into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(words: &[&str]) -> std::result::Result<Arguments, String> {
        let words = ["vmm", "linux", "--kernel", "k"].iter().chain(words);
        match Cli::try_parse_from(words) {
            Ok(Cli {
                command: Command::Linux(arguments),
            }) => Ok(arguments),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_users_words_come_last() {
        let arguments = parse(&["--cmdline", "quiet panic=0"]).unwrap();
        assert!(arguments.whole_cmdline().ends_with(" quiet panic=0"));
        assert!(arguments.whole_cmdline().starts_with("console=ttyS0"));
        let only = parse(&["--cmdline", "quiet", "--only-cmdline"]).unwrap();
        assert_eq!(only.whole_cmdline(), "quiet");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            ["--vcpus", "0"],
            ["--vcpus", "33"],
            ["--memory", "0"],
            ["--memory", "1g"],
            ["--name", "two words"],
            ["--name", ""],
            ["--disk", "x"],
        ] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn defaults() {
        let arguments = parse(&[]).unwrap();
        assert_eq!(
            (arguments.memory, arguments.vcpus, arguments.hyperv),
            (128, 1, false)
        );
        assert_eq!(arguments.name, "linux");
        assert_eq!(arguments.initrd, None);
    }
}
