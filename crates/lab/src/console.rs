//! The live view: what each level says, line by line, each line marked with its level.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use owo_colors::{AnsiColors, OwoColorize};

use crate::frames::{Channel, Lines};

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// hynest.
    L0,
    /// L1's console, and what its user space says outside of reports.
    L1,
    /// An L2's console, with the name its VMM gave it.
    L2(String),
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::L0 => f.write_str("L0"),
            Self::L1 => f.write_str("L1"),
            Self::L2(name) if name == "l2" => f.write_str("L2"),
            Self::L2(name) => write!(f, "L2 {name}"),
        }
    }
}

impl Level {
    fn colour(&self) -> AnsiColors {
        match self {
            Self::L0 => AnsiColors::Yellow,
            Self::L1 => AnsiColors::Cyan,
            Self::L2(_) => AnsiColors::Green,
        }
    }
}

/// Something in the stream that is for the lab: JSON, which is not for the eye, or a line of L1 or an L2,
/// which is for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// From L0.
    L0(String),
    /// From L1's user space.
    L1(String),
    /// A line of L1's console.
    L1Line(String),
    /// An L2's name and its line.
    L2Line(String, String),
}

/// How lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Marked and, on a terminal, coloured.
    Lines,
    /// L1's console as it comes, byte by byte; other levels' lines between.
    Raw,
    /// Not at all (the log file still has everything).
    Silent,
}

/// Shows what comes out of the machine, keeps the last lines of each level, and writes the log file.
pub struct Console {
    style: Style,
    colour: bool,
    log: Option<BufWriter<File>>,
    channels: BTreeMap<Channel, Lines>,
    last: BTreeMap<Level, VecDeque<String>>,
    tail: VecDeque<String>,
}

/// Lines kept for each level.
const LAST: usize = 5;
/// Lines kept of everything.
const TAIL: usize = 15;

/// Whether standard output is for eyes that want colours.
pub fn has_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

impl Console {
    /// A console, with a log file when one is wanted.
    pub fn new(style: Style, log: Option<&Path>) -> Result<Self> {
        let log = match log {
            Some(path) => {
                let file = File::create(path)
                    .with_context(|| format!("cannot write the log {}", path.display()))?;
                Some(BufWriter::new(file))
            }
            None => None,
        };
        Ok(Self {
            style,
            colour: has_colours(),
            log,
            channels: BTreeMap::new(),
            last: BTreeMap::new(),
            tail: VecDeque::new(),
        })
    }

    /// Takes bytes of a channel; gives back the reports that they complete.
    pub fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<Vec<Report>> {
        if self.style == Style::Raw && channel == Channel::Console {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()?;
        }
        let mut complete = Vec::new();
        self.channels
            .entry(channel)
            .or_default()
            .feed(bytes, |line| complete.push(line.to_owned()));
        self.lines(channel, complete)
    }

    /// Shows what is left of unfinished lines.
    pub fn finish(&mut self) -> io::Result<Vec<Report>> {
        if self.style == Style::Raw && self.unfinished().is_some() {
            // What follows does not go on in L1's prompt.
            io::stdout().write_all(b"\r\n")?;
        }
        let mut reports = Vec::new();
        let channels: Vec<Channel> = self.channels.keys().copied().collect();
        for channel in channels {
            let mut rest = Vec::new();
            self.channels
                .entry(channel)
                .or_default()
                .finish(|line| rest.push(line.to_owned()));
            reports.extend(self.lines(channel, rest)?);
        }
        if let Some(log) = &mut self.log {
            log.flush()?;
        }
        Ok(reports)
    }

    fn lines(&mut self, channel: Channel, lines: Vec<String>) -> io::Result<Vec<Report>> {
        let mut reports = Vec::new();
        for line in lines {
            match sort(channel, &line) {
                Sorted::Line(level, text) => {
                    self.show(level.clone(), &text)?;
                    match level {
                        Level::L0 => {}
                        Level::L1 => reports.push(Report::L1Line(text)),
                        Level::L2(name) => reports.push(Report::L2Line(name, text)),
                    }
                }
                Sorted::Report(report) => {
                    if let (Some(log), Report::L0(text) | Report::L1(text)) =
                        (&mut self.log, &report)
                    {
                        writeln!(log, "report | {text}")?;
                    }
                    reports.push(report);
                }
                Sorted::Nothing => {}
            }
        }
        Ok(reports)
    }

    /// Shows one line.
    pub fn show(&mut self, level: Level, text: &str) -> io::Result<()> {
        let text = printable(text);
        let mark = level.to_string();
        if let Some(log) = &mut self.log {
            writeln!(log, "{mark} | {text}")?;
        }
        let mut out = io::stdout().lock();
        match self.style {
            Style::Lines if self.colour => writeln!(
                out,
                "{} {text}",
                format!("{mark:<4}|").color(level.colour())
            )?,
            Style::Lines => writeln!(out, "{mark:<4}| {text}")?,
            // The terminal is raw: it wants a carriage return, and has L1's own lines already.
            Style::Raw if level != Level::L1 => write!(out, "\r{mark:<4}| {text}\r\n")?,
            Style::Raw | Style::Silent => {}
        }
        out.flush()?;
        drop(out);
        push(&mut self.tail, TAIL, format!("{mark:<4}| {text}"));
        push(self.last.entry(level).or_default(), LAST, text);
        Ok(())
    }

    /// The last lines that each level wrote.
    pub fn last(&self) -> impl Iterator<Item = (&Level, &VecDeque<String>)> {
        self.last.iter()
    }

    /// The last lines of all levels together.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// What L1 has written of a line that it has not ended: often the prompt or the word it hangs at.
    pub fn unfinished(&self) -> Option<String> {
        let partial = self.channels.get(&Channel::Console)?.partial();
        (!partial.is_empty()).then(|| printable(&String::from_utf8_lossy(partial)))
    }
}

fn push(ring: &mut VecDeque<String>, most: usize, line: String) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(line);
}

/// Control characters of a guest do nothing to the user's terminal; colours and tabs it may have.
fn printable(text: &str) -> String {
    let keep = |c: char| !c.is_control() || c == '\t' || c == '\u{1b}';
    let mut out: String = text.chars().filter(|&c| keep(c)).collect();
    if out.contains('\u{1b}') {
        out = strip_escapes(&out);
    }
    out
}

/// Takes escape sequences out, except those that set a colour.
fn strip_escapes(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out += before;
        let Some(body) = after.strip_prefix('[') else {
            rest = after;
            continue;
        };
        let end = body
            .find(|c: char| ('@'..='~').contains(&c))
            .unwrap_or(body.len().saturating_sub(1));
        let (sequence, tail) = body.split_at_checked(end + 1).unwrap_or((body, ""));
        if sequence.ends_with('m') {
            out += "\u{1b}[";
            out += sequence;
        }
        rest = tail;
    }
    out + rest
}

enum Sorted {
    Line(Level, String),
    Report(Report),
    Nothing,
}

fn sort(channel: Channel, line: &str) -> Sorted {
    match channel {
        Channel::Log => Sorted::Line(Level::L0, line.to_owned()),
        Channel::Console => Sorted::Line(Level::L1, line.to_owned()),
        Channel::Report => Sorted::Report(Report::L0(line.to_owned())),
        Channel::Data if line.starts_with('{') => Sorted::Report(Report::L1(line.to_owned())),
        Channel::Data => {
            let words = line
                .strip_prefix("L2 ")
                .map(|rest| rest.split_once(' ').unwrap_or((rest, "")));
            match words {
                Some((name, text)) => Sorted::Line(Level::L2(name.to_owned()), text.to_owned()),
                None => Sorted::Line(Level::L1, line.to_owned()),
            }
        }
        Channel::Noise | Channel::Unknown(_) => Sorted::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_their_level_and_reports_to_the_lab() {
        let mut console = Console::new(Style::Silent, None).unwrap();
        console.take(Channel::Noise, b"bios\n").unwrap();
        console.take(Channel::Log, b"up\n").unwrap();
        console.take(Channel::Console, b"boot").unwrap();
        assert_eq!(console.unfinished().as_deref(), Some("boot"));
        let reports = console
            .take(Channel::Data, b"L2 a hello there\nodd\n{\"event\":1}\n")
            .unwrap();
        assert_eq!(
            reports,
            [
                Report::L2Line("a".into(), "hello there".into()),
                Report::L1Line("odd".into()),
                Report::L1("{\"event\":1}".into())
            ]
        );
        console.take(Channel::Console, b"ing\n").unwrap();
        assert_eq!(console.take(Channel::Report, b"{}").unwrap(), []);
        assert_eq!(console.finish().unwrap(), [Report::L0("{}".into())]);
        let last: Vec<(String, Vec<String>)> = console
            .last()
            .map(|(level, lines)| (level.to_string(), lines.iter().cloned().collect()))
            .collect();
        assert_eq!(
            last,
            [
                ("L0".to_owned(), vec!["up".to_owned()]),
                (
                    "L1".to_owned(),
                    vec!["odd".to_owned(), "booting".to_owned()]
                ),
                ("L2 a".to_owned(), vec!["hello there".to_owned()]),
            ]
        );
    }

    #[test]
    fn a_guest_cannot_play_with_the_terminal() {
        assert_eq!(
            printable("a\u{7}b\u{1b}[2Jc\u{1b}[31md\u{1b}[0m"),
            "abc\u{1b}[31md\u{1b}[0m"
        );
        assert_eq!(printable("\u{1b}"), "");
        assert_eq!(printable("\u{1b}[12"), "");
        assert_eq!(printable("x\u{1b}[1é"), "x");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut console = Console::new(Style::Silent, None).unwrap();
        for n in 0..100 {
            console
                .take(Channel::Log, format!("{n}\n").as_bytes())
                .unwrap();
        }
        assert_eq!(
            console.last().next().unwrap().1,
            &["95", "96", "97", "98", "99"]
        );
        assert_eq!(console.tail().count(), TAIL);
    }
}
