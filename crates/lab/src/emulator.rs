//! Bochs: its configuration, its process, its end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::disk::Geometry;
use crate::paths;
use crate::state_disk::StateDisk;

/// Debian's wrapper `bochs` starts this; without it there is one process less to end.
const PROGRAM: &str = "/usr/bin/bochs-bin";
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";

/// Bochs has no more for its guest.
pub const LARGEST_MEMORY_MIB: u32 = 2048;

/// The processor that Bochs plays unless a scenario says otherwise.
pub const DEFAULT_CPU: &str = "corei7_skylake_x";

/// Instructions of virtual time in a second of virtual time. The TSC counts instructions at this rate.
pub const INSTRUCTIONS_PER_SECOND: u64 = 100_000_000;

/// The file with Bochs's standard error, in the run's folder.
const ERRORS: &str = "stderr";

/// What the emulated machine is made of.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Bochs's name of a processor model.
    pub cpu: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The boot disk.
    pub disk: PathBuf,
    /// Its geometry.
    pub geometry: Geometry,
    /// The disk for a saved partition, where there is one.
    pub state: Option<StateDisk>,
    /// Whether a key has L0 save the partition.
    pub saves: bool,
    /// Instructions, and ticks of the TSC, in a second of virtual time.
    pub ips: u64,
    /// Whether COM1 is connected to the lab, for keys.
    pub keys: bool,
}

/// What the emulator's threads tell the one that runs the show.
#[derive(Debug)]
pub enum Event {
    /// Bytes on port 0xE9 (and Bochs's own few words on standard output).
    Output(Vec<u8>),
    /// Standard output was closed.
    Closed,
    /// Keys that the user pressed.
    Keys(Vec<u8>),
}

/// A running emulator. Dropping it ends the process group; should the lab be killed, the kernel ends it.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    group: Pid,
    log: PathBuf,
    keys: Option<KeyLine>,
}

#[derive(Debug)]
enum KeyLine {
    Waiting(TcpListener),
    Connected(TcpStream),
}

/// What Bochs says of itself: its version, and the processor models it can play, one a line.
fn about() -> Result<String> {
    let output = Command::new(PROGRAM)
        .args(["--help", "cpu"])
        .stdin(Stdio::null())
        .output();
    let output = output.with_context(|| format!("the emulator {PROGRAM} does not start"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Refuses a processor model that Bochs does not have.
pub fn check_model(model: &str) -> Result<()> {
    let text = about()?;
    let models = models(&text);
    if models.is_empty() || models.contains(&model) {
        return Ok(());
    }
    bail!(
        "the emulator has no processor model '{model}'; there are: {}",
        models.join(", ")
    )
}

fn models(about: &str) -> Vec<&str> {
    let is_name = |line: &&str| !line.is_empty() && !line.contains(' ');
    about
        .lines()
        .skip_while(|line| *line != "Supported CPU models:")
        .skip(2)
        .take_while(is_name)
        .collect()
}

/// The version that Bochs says it is, such as `Bochs 2.7`.
pub fn version() -> Result<String> {
    let text = about()?;
    let version = text
        .split("Bochs x86 Emulator ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    Ok(version.map_or_else(
        || "Bochs of unknown version".to_owned(),
        |version| format!("Bochs {version}"),
    ))
}

impl Emulator {
    /// Starts Bochs in a process group of its own, with its files in the folder `dir`. Output goes to `events`.
    ///
    /// Call this on the main thread: the emulator ends with the thread that started it.
    pub fn start(hardware: &Hardware, dir: &Path, events: Sender<Event>) -> Result<Self> {
        let listener = match hardware.keys {
            true => Some(
                TcpListener::bind(("127.0.0.1", 0))
                    .context("no TCP port on 127.0.0.1 for the console's keys")?,
            ),
            false => None,
        };
        let port = listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
            .map(|address| address.port());
        let log = dir.join("bochs.log");
        let configuration = dir.join("bochsrc");
        let commands = dir.join("commands");
        paths::write_whole(&configuration, bochsrc(hardware, &log, port).as_bytes())?;
        // Bochs with a debugger wants to be told to continue, and to quit at L0's magic breakpoint.
        paths::write_whole(&commands, b"c\nq\n")?;

        let errors =
            std::fs::File::create(dir.join(ERRORS)).context("cannot create the emulator's log")?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", PROGRAM, "-q", "-f"])
            .arg(&configuration)
            .arg("-rc")
            .arg(&commands);
        // The machine's memory in large pages of the host: L0 looks at all of it when it restores a partition, and a
        // third of that time would be the host's, which gives it out page by page.
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        command.current_dir(dir).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = command.spawn().context("the emulator does not start")?;
        let group =
            Pid::from_raw(i32::try_from(child.id()).context("the emulator has no process id")?);
        let stdout = child.stdout.take();
        let emulator = Self {
            child,
            group,
            log,
            keys: listener.map(KeyLine::Waiting),
        };
        let Some(mut stdout) = stdout else {
            bail!("the emulator has no output")
        };
        thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if events
                    .send(Event::Output(buffer[..count].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
            let _ = events.send(Event::Closed);
        });
        Ok(emulator)
    }

    /// Passes keys to L1's console. Keys pressed before the emulator has connected are lost.
    pub fn send_keys(&mut self, keys: &[u8]) -> Result<()> {
        if let Some(KeyLine::Waiting(listener)) = &self.keys {
            listener.set_nonblocking(true)?;
            let Ok((stream, _)) = listener.accept() else {
                return Ok(());
            };
            stream.set_nodelay(true)?;
            // What the machine's real COM1 sends is nothing that anybody waits for; unread, it would fill up.
            let mut unread = stream.try_clone()?;
            thread::spawn(move || std::io::copy(&mut unread, &mut std::io::sink()));
            self.keys = Some(KeyLine::Connected(stream));
        }
        match &mut self.keys {
            Some(KeyLine::Connected(stream)) => stream
                .write_all(keys)
                .context("the emulator takes no more keys"),
            _ => Ok(()),
        }
    }

    /// Waits until the process ends by itself, or ends it after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.end();
        None
    }

    /// What Bochs wrote about its own end: the reasons of panics in its log.
    pub fn complaint(&self) -> Option<String> {
        let log = std::fs::read(&self.log).ok()?;
        let log = String::from_utf8_lossy(&log);
        let panic = log.lines().find_map(|line| {
            line.split_once(">>PANIC<<")
                .map(|(_, what)| what.trim().to_owned())
        });
        let errors = std::fs::read(self.log.with_file_name(ERRORS)).unwrap_or_default();
        let errors = String::from_utf8_lossy(&errors);
        let last = errors
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .map(str::to_owned);
        panic.or(last).or_else(|| {
            log.lines()
                .rfind(|line| line.get(11..12) == Some("e"))
                .map(str::to_owned)
        })
    }

    fn end(&mut self) {
        // The group is gone already when the process ended by itself: an error says no more than that.
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.end();
    }
}

/// The configuration file. Nothing in it depends on the host's time, and the clock is the instruction count: two runs
/// are the same to the byte. (With keys the run cannot be the same, and the clock is held back to the host's, so that
/// an idle L1 does not race ahead.)
fn bochsrc(hardware: &Hardware, log: &Path, key_port: Option<u16>) -> String {
    let Hardware {
        cpu,
        cpus,
        memory_mib,
        ips,
        ..
    } = hardware;
    let state = hardware
        .state
        .as_ref()
        .map(|StateDisk { path, geometry }| disk_line("slave", path, geometry));
    let disks =
        disk_line("master", &hardware.disk, &hardware.geometry) + &state.unwrap_or_default();
    let clock = if hardware.keys { "slowdown" } else { "none" };
    let com1 = match key_port {
        Some(port) => format!("com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}\n"),
        None => "com1: enabled=1, mode=null\n".to_owned(),
    };
    // Debian's Bochs has no display that shows nothing; `rfb` waits for nobody with this timeout. Without a sound
    // driver it looks for a sound card and dies (a buffer overflow) where there is none. Among its "errors" is each
    // EPT violation.
    format!(
        "display_library: rfb, options=\"timeout=0\"\n\
         cpu: model={cpu}, count={cpus}, ips={ips}, reset_on_triple_fault=0\n\
         memory: guest={memory_mib}, host={memory_mib}\n\
         romimage: file={BIOS}, options=fastboot\n\
         vgaromimage: file={VGA_BIOS}\n\
         ata0: enabled=1\n\
         {disks}\
         boot: disk\n\
         clock: sync={clock}, time0=1700000000\n\
         {com1}\
         sound: driver=dummy\n\
         port_e9_hack: enabled=1\n\
         magic_break: enabled=1\n\
         panic: action=fatal\n\
         error: action=ignore\n\
         info: action=ignore\n\
         debug: action=ignore\n\
         log: \"{}\"\n",
        log.display()
    )
}

/// The line for a disk on the first channel.
fn disk_line(place: &str, path: &Path, geometry: &Geometry) -> String {
    format!(
        "ata0-{place}: type=disk, path=\"{}\", mode=flat, cylinders={}, heads={}, spt={}\n",
        path.display(),
        geometry.cylinders,
        Geometry::HEADS,
        Geometry::SECTORS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_are_those_that_bochs_lists() {
        let about = "Supported CPU models:\n\nbx_generic\ntigerlake\n\n000i[SIM   ] quit_sim\nx\n";
        assert_eq!(models(about), ["bx_generic", "tigerlake"]);
        assert!(models("other words").is_empty());
    }

    #[test]
    fn the_configuration_names_what_was_asked_for() {
        let mut hardware = Hardware {
            cpu: "corei7_icelake_u".into(),
            cpus: 2,
            memory_mib: 512,
            disk: "/d".into(),
            geometry: Geometry { cylinders: 9 },
            state: None,
            saves: false,
            ips: INSTRUCTIONS_PER_SECOND,
            keys: false,
        };
        let text = bochsrc(&hardware, Path::new("/l"), None);
        for wanted in [
            "model=corei7_icelake_u, count=2",
            "guest=512, host=512",
            "cylinders=9",
            "ips=100000000",
            "sync=none",
            "mode=null",
        ] {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert!(!text.contains("ata0-slave"));
        hardware.state = Some(StateDisk {
            path: "/s".into(),
            geometry: Geometry { cylinders: 7 },
        });
        assert!(
            bochsrc(&hardware, Path::new("/l"), None)
                .contains("ata0-slave: type=disk, path=\"/s\", mode=flat, cylinders=7,")
        );
        hardware.keys = true;
        assert!(
            bochsrc(&hardware, Path::new("/l"), Some(77))
                .contains("socket-client, dev=127.0.0.1:77")
        );
    }
}
