//! One run of the machine, from start to end: the loop that everything reports to.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::console::{Console, Level, Report, Style};
use crate::emulator::{Emulator, Event, Hardware};
use crate::events::{FromL0, FromL1, Reason};
use crate::exit::Ending;
use crate::frames::{Channel, Decoder};
use crate::interactive::{EscapeFilter, Keys};
use crate::report::{Summary, is_warning};

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After this long in any case.
    pub timeout: Option<Duration>,
    /// After this long without output.
    pub watchdog: Option<Duration>,
}

/// Set by the first Ctrl-C (or a request to terminate).
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C, SIGTERM and SIGHUP end runs instead of the lab, so that the lab can clean up.
pub fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot catch Ctrl-C")
}

/// Whether the user wants out.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Runs the machine until it ends or is ended; fills in `summary`.
pub fn run(
    hardware: &Hardware,
    limits: Limits,
    dir: &Path,
    console: &mut Console,
    summary: &mut Summary,
) -> Result<()> {
    let (sender, events) = mpsc::channel();
    let keys = match hardware.keys {
        true => Some(Keys::start(sender.clone())?),
        false => None,
    };
    let mut emulator = Emulator::start(hardware, dir, sender)?;
    let mut watch = Watch {
        decoder: Decoder::default(),
        console,
        summary,
        noise: Noise::default(),
        ended: false,
    };
    let mut escape = EscapeFilter::new(hardware.saves);
    let started = Instant::now();
    let mut last_output = started;

    let ending = loop {
        if interrupted() {
            break Some(Ending::Interrupted);
        }
        if limits
            .timeout
            .is_some_and(|limit| started.elapsed() >= limit)
        {
            break Some(Ending::Timeout);
        }
        if limits
            .watchdog
            .is_some_and(|limit| last_output.elapsed() >= limit)
        {
            break Some(Ending::Watchdog);
        }
        match events.recv_timeout(Duration::from_millis(50)) {
            Ok(Event::Output(bytes)) => {
                last_output = Instant::now();
                match watch.take(&bytes) {
                    // Whoever read our output has gone: the run is of no use to anybody.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        break Some(Ending::Interrupted);
                    }
                    other => other.context("cannot write the console's output")?,
                }
                if watch.summary.up_after.is_none() && !watch.summary.steps.is_empty() {
                    watch.summary.up_after = Some(started.elapsed().as_secs_f64());
                }
            }
            Ok(Event::Keys(bytes)) => {
                let (bytes, end) = escape.pass(&bytes);
                if end {
                    break Some(Ending::Interrupted);
                }
                emulator.send_keys(&bytes)?;
            }
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    drop(keys);
    match ending {
        Some(ending) => {
            watch.summary.ending = Some(ending);
            if ending == Ending::Watchdog {
                watch.summary.message =
                    format!("no output for {} s", last_output.elapsed().as_secs());
            }
        }
        None => {
            let status = emulator.wait(Duration::from_secs(5));
            if watch.summary.ending.is_none() {
                watch.summary.ending = Some(Ending::Emulator);
                let status =
                    status.map_or_else(|| "still running".to_owned(), |status| status.to_string());
                watch.summary.message = emulator.complaint().unwrap_or(status);
            }
        }
    }
    drop(emulator);
    watch.finish().context("cannot write the console's output")
}

/// Sorts what comes out of the machine.
struct Watch<'a> {
    decoder: Decoder,
    console: &'a mut Console,
    summary: &'a mut Summary,
    noise: Noise,
    ended: bool,
}

impl Watch<'_> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self {
            decoder,
            console,
            summary,
            noise,
            ended,
        } = self;
        let mut result = Ok(());
        decoder.feed(bytes, |channel, bytes| {
            // After L0's last report the emulator has the word, whatever channel was chosen last.
            if *ended || channel == Channel::Noise {
                noise.take(bytes);
                return;
            }
            let mut rest = bytes;
            while !rest.is_empty() && result.is_ok() {
                // One line at a time: what follows the line that ends the run is no report.
                let end = rest
                    .iter()
                    .position(|&byte| byte == b'\n')
                    .map_or(rest.len(), |at| at + 1);
                let (line, after) = rest.split_at(end);
                rest = after;
                match console.take(channel, line) {
                    Ok(reports) => {
                        result = reports
                            .iter()
                            .try_for_each(|report| note(summary, console, report));
                    }
                    Err(error) => result = Err(error),
                }
                if summary.ending.is_some() {
                    *ended = true;
                    noise.take(rest);
                    return;
                }
            }
        });
        result
    }

    fn finish(&mut self) -> io::Result<()> {
        for report in self.console.finish()? {
            note(self.summary, self.console, &report)?;
        }
        self.summary.instructions = self.noise.ticks();
        for (level, lines) in self.console.last() {
            // L1 without the crash MSRs, or without the code that writes them, says that it panics and resets.
            let panicked = lines
                .iter()
                .rev()
                .find(|line| line.contains("Kernel panic - not syncing"));
            if let (Level::L1, Some(Ending::Reset), Some(line)) =
                (level, self.summary.ending, panicked)
            {
                self.summary.ending = Some(Ending::Panic);
                self.summary.message.clone_from(line);
            }
        }
        Ok(())
    }
}

/// Enters a report into the summary; what is no report that the lab knows is shown.
fn note(summary: &mut Summary, console: &mut Console, report: &Report) -> io::Result<()> {
    match report {
        Report::L0(text) => match serde_json::from_str(text) {
            Ok(FromL0::Start(start)) => {
                console.show(
                    Level::L0,
                    &format!(
                        "{} x {}; {}; offers {}",
                        start.cpus,
                        start.cpu.trim(),
                        match start.vmcs_shadowing {
                            true => "hardware shadows plain VMCSs",
                            false => "VMREAD and VMWRITE exit",
                        },
                        list(&start.enlightenments)
                    ),
                )?;
                summary.l0 = Some(start);
            }
            Ok(FromL0::Saved { ticks }) => summary.save_ticks = Some(ticks),
            Ok(FromL0::Counters(counters)) => summary.counters = Some(counters),
            // L0's log has a line of it.
            Ok(FromL0::StaleField(stale)) => summary.stale_fields.push(stale),
            Ok(FromL0::End(end)) => {
                summary.ending = Some(match end.reason {
                    Reason::PowerOff => Ending::PowerOff,
                    Reason::Reset => Ending::Reset,
                    Reason::TripleFault => Ending::TripleFault,
                    Reason::Panic => Ending::Panic,
                    Reason::Saved => Ending::Saved,
                    Reason::L0Stop => Ending::L0Stop,
                });
                summary.message = end.message;
            }
            Err(_) => console.show(Level::L0, text)?,
        },
        Report::L1Line(line) => summary.payload_line(line),
        Report::L2Line(name, line) => summary.l2_line(name, line),
        Report::L1(text) => match serde_json::from_str(text) {
            Ok(FromL1::L1(l1)) => {
                summary.warnings = l1
                    .dmesg
                    .iter()
                    .filter(|line| is_warning(line))
                    .cloned()
                    .collect();
                summary.l1 = Some(l1);
            }
            Ok(FromL1::Step(step)) => {
                if step.state == "begin" {
                    console.show(Level::L1, &format!("[{}]", step.name))?;
                }
                summary.steps.push(step);
            }
            Ok(FromL1::Counters(counters)) => summary.step_counters.push(counters),
            Ok(FromL1::Measure(measurement)) => {
                console.show(Level::L1, &one_line(&measurement))?;
                summary.measurements.push(measurement);
            }
            Ok(FromL1::L2End(end)) => {
                let name = end.name.clone();
                console.show(
                    Level::L2(name.clone()),
                    &format!("[{} after {} s]", end.reason, end.seconds),
                )?;
                summary.l2.entry(name).or_default().end = Some(end);
            }
            Ok(FromL1::Churn(churn)) => {
                console.show(Level::L2(churn.name.clone()), &churn.line())?;
                summary.churns.push(churn);
            }
            Ok(FromL1::Reenlightenments { count }) => summary.reenlightenments = Some(count),
            Ok(FromL1::Clocks(clocks)) => {
                for line in clocks.lines() {
                    console.show(Level::L1, &line)?;
                }
                summary.compared_clocks.push(clocks);
            }
            Ok(FromL1::Clock(clock)) => {
                console.show(Level::L1, &clock.line())?;
                summary.clocks.push(clock);
            }
            Ok(FromL1::L2Exits(exits)) => {
                let l2 = summary.l2.entry(exits.name.clone()).or_default();
                l2.clock_exits = Some(exits);
            }
            Err(_) => console.show(Level::L1, text)?,
        },
    }
    Ok(())
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "no enlightenments".to_owned()
    } else {
        names.join(", ")
    }
}

fn one_line(measurement: &crate::events::Measurement) -> String {
    let label = measurement.label.as_deref().unwrap_or_default();
    let operation = &measurement.operation;
    match (
        measurement.ticks,
        measurement.exits_l0,
        &measurement.skipped,
    ) {
        (Some(ticks), Some(exits), _) => {
            format!("{label} {operation}: {ticks} instructions, {exits} exits to L0")
        }
        (Some(ticks), None, _) => format!("{label} {operation}: {ticks} instructions"),
        (None, _, Some(why)) => format!("{label} {operation}: {why}"),
        (None, _, None) => format!("{label} {operation}: no figure"),
    }
}

/// What Bochs itself says on standard output: at its end, how many ticks have passed.
#[derive(Default)]
struct Noise(Vec<u8>);

impl Noise {
    /// The last bytes are enough.
    const KEPT: usize = 16 * 1024;

    fn take(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(Self::KEPT);
        self.0.drain(..excess);
    }

    /// The debugger's `Next at t=N`, which it prints at the magic breakpoint.
    fn ticks(&self) -> Option<u64> {
        let text = String::from_utf8_lossy(&self.0);
        let number = text.rsplit_once("Next at t=")?.1;
        let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok().filter(|&ticks| ticks > 0)
    }
}

/// What the watchdog shows: where each level stood.
pub fn standstill(console: &Console, summary: &Summary) -> String {
    if console.tail().next().is_none() {
        return "No level has said anything yet.\n".to_owned();
    }
    let mut out = String::from("Where each level stood:\n");
    for (level, lines) in console.last() {
        out += &format!("  {level}: last said\n");
        for line in lines {
            out += &format!("    {line}\n");
        }
    }
    if let Some(unfinished) = console.unfinished() {
        out += &format!("  L1 stands in the line: {unfinished}\n");
    }
    if let Some(step) = summary.steps.last() {
        out += &format!("  L1's init: step '{}', {}\n", step.name, step.state);
    }
    out += "The last lines of all:\n";
    for line in console.tail() {
        out += &format!("  {line}\n");
    }
    out
}

/// The style of a console for a run with or without keys.
pub fn style(interactive: bool, silent: bool) -> Style {
    match (interactive, silent) {
        (true, _) => Style::Raw,
        (false, true) => Style::Silent,
        (false, false) => Style::Lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(stream: &[&[u8]]) -> Summary {
        let mut console = Console::new(Style::Silent, None).unwrap();
        let mut summary = Summary::default();
        let mut watch = Watch {
            decoder: Decoder::default(),
            console: &mut console,
            summary: &mut summary,
            noise: Noise::default(),
            ended: false,
        };
        for piece in stream {
            watch.take(piece).unwrap();
        }
        watch.finish().unwrap();
        summary
    }

    #[test]
    fn after_the_end_the_emulator_speaks() {
        let end = b"\x10R{\"event\":\"end\",\"reason\":\"power-off\"}\n(0) Magic breakpoint\nNext at t=62215514\n(0) x\n";
        for cut in 0..end.len() {
            let summary = watch(&[b"Next at t=0\n", &end[..cut], &end[cut..]]);
            assert_eq!(summary.ending, Some(Ending::PowerOff));
            assert_eq!(summary.instructions, Some(62_215_514));
        }
    }

    #[test]
    fn a_reset_after_a_panic_is_a_panic() {
        let stream = b"\x10CKernel panic - not syncing: sysrq\nRebooting\n\x10R{\"event\":\"end\",\"reason\":\"reset\"}\n";
        let summary = watch(&[stream]);
        assert_eq!(summary.ending, Some(Ending::Panic));
        assert!(summary.message.contains("sysrq"));
        assert_eq!(
            watch(&[b"\x10R{\"event\":\"end\",\"reason\":\"reset\"}\n"]).ending,
            Some(Ending::Reset)
        );
    }

    #[test]
    fn measurements_and_facts_are_noted() {
        let stream = b"\x10D{\"event\":\"measure\",\"operation\":\"cpuid\",\"label\":\"plain\",\"ticks\":9}\n{\"event\":\"step\",\"name\":\"linux\",\"state\":\"done\"}\n{not json}\n";
        let summary = watch(&[stream]);
        assert_eq!(summary.figure("plain", "cpuid").unwrap().ticks, Some(9));
        assert!(summary.step_done("linux") && !summary.step_done("plain"));
    }
}
