//! What happens to the guest's memory, in which order, and what must be found there.
//!
//! The script knows what each page holds. In each round the vCPUs check and fill
//! pages while others are changed under them; then all of them look at what was
//! changed. A translation that outlived its end shows as the contents of another
//! page or time, a write that was lost, or a write that the dirty log does not know.

use std::collections::BTreeSet;

use super::content::{Content, checksum};
use crate::error::{Error, Result};
use crate::random::Random;

/// A command for a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// Which page.
    pub page: u64,
    /// Fill it with the content, or else check that it has it.
    pub fill: bool,
    /// What it is to hold.
    pub content: Content,
}

/// The most commands in a batch.
pub const BATCH: usize = 128;

/// What a vCPU says of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The page of the first wrong word, which word it is and what was there. The
    /// batch ended there.
    pub wrong: Option<(u64, u64, u64)>,
    /// Of all words read.
    pub checksum: u64,
}

/// A guest whose memory can be changed.
pub trait Machine {
    /// How many vCPUs it has.
    fn vcpus(&self) -> usize;
    /// Gives a vCPU a batch of 1 to [`BATCH`] commands, and does not wait.
    fn start(&mut self, vcpu: usize, batch: &[Command]) -> Result<()>;
    /// Waits for the batch's end.
    fn wait(&mut self, vcpu: usize) -> Result<Answer>;
    /// Takes the page away: the next one there is zero.
    fn zap(&mut self, page: u64) -> Result<()>;
    /// Lets two pages change places.
    fn swap(&mut self, one: u64, other: u64) -> Result<()>;
    /// Writes a page from the vmm's side.
    fn write(&mut self, page: u64, content: Content) -> Result<()>;
    /// Reads a page from the vmm's side.
    fn read(&self, page: u64) -> Result<Vec<u64>>;
    /// Has the guest's writes logged, or no longer.
    fn log(&mut self, on: bool) -> Result<()>;
    /// The pages written since the log was last read, which are logged anew.
    fn dirty(&mut self) -> Result<BTreeSet<u64>>;
    /// Moves the vCPUs to other CPUs, where there are some.
    fn rotate(&mut self) -> Result<()>;
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Done {
    /// Rounds.
    pub rounds: u64,
    /// Pages given back to the kernel, and found zero by the guest.
    pub zapped: u64,
    /// Pages given back and filled anew by the vmm.
    pub replaced: u64,
    /// Pages that changed places.
    pub swapped: u64,
    /// How often the dirty log was read, and the guest's pages with it protected.
    pub protected: u64,
    /// Pages that the guest wrote while its writes were logged, each found in the log.
    pub logged: u64,
    /// Pages that the guest filled.
    pub filled: u64,
    /// Pages that the guest checked, word by word.
    pub checked: u64,
    /// Of all memory, as both the guest and the vmm read it at the end.
    pub checksum: u64,
}

/// Pages changed in a round while the vCPUs are at work, and while they look on.
const CHANGED: usize = 24;
const CHANGED_IN_SIGHT: usize = 8;
/// Pages each vCPU works on in a round.
const WORKED_ON: usize = 48;

/// The least memory, in pages: what a round with that many vCPUs takes at once,
/// four times over.
pub const fn min_pages(vcpus: u64) -> u64 {
    4 * (CHANGED as u64 + WORKED_ON as u64 * vcpus)
}

/// The script and what it knows.
pub struct Script<M> {
    machine: M,
    random: Random,
    /// What each page holds.
    pages: Vec<Content>,
    fills: u64,
    is_logging: bool,
    /// Pages the guest wrote since the log was last read.
    written: BTreeSet<u64>,
    done: Done,
}

impl<M: Machine> Script<M> {
    /// A script for a machine with that many pages, all of them zero: at least
    /// [`min_pages`]. The same `seed` gives the same script.
    pub fn new(machine: M, pages: u64, seed: u64) -> Self {
        assert!(pages >= min_pages(machine.vcpus() as u64));
        Script {
            machine,
            random: Random::new(seed),
            pages: vec![Content::ZERO; pages as usize],
            fills: 0,
            is_logging: false,
            written: BTreeSet::new(),
            done: Done::default(),
        }
    }

    /// Fills the memory, changes it for that many rounds, verifies all of it.
    ///
    /// # Errors
    /// [`Error::Churn`] with the place and the round for what is not as it must be.
    pub fn run(mut self, rounds: u64) -> Result<Done> {
        self.fill_all()?;
        let mut seen = Vec::new();
        for round in 1..=rounds {
            self.done.rounds = round;
            seen = self.round(seen)?;
        }
        self.verify_all()?;
        Ok(self.done)
    }

    fn round(&mut self, seen: Vec<u64>) -> Result<Vec<u64>> {
        // What the vCPUs looked at last is what their processors may still hold.
        let mut taken: BTreeSet<u64> = seen.into_iter().collect();
        let mut changing: Vec<u64> = taken.iter().copied().collect();
        changing.extend(self.pick(CHANGED - changing.len(), &mut taken));

        let vcpus = self.machine.vcpus();
        for vcpu in 0..vcpus {
            let pages = self.pick(WORKED_ON, &mut taken);
            let batch = self.work(&pages);
            self.machine.start(vcpu, &batch)?;
        }
        for pair in changing.chunks(2) {
            self.change(pair)?;
        }
        for vcpu in 0..vcpus {
            self.finish(vcpu)?;
        }
        self.all_check(&changing)?;

        // From here to the next check the vCPUs have no reason to exit.
        let in_sight = changing[..CHANGED_IN_SIGHT].to_vec();
        for pair in in_sight.chunks(2) {
            self.change(pair)?;
        }
        self.all_check(&in_sight)?;
        self.write_and_log(&in_sight)?;

        if self.random.below(4) == 0 {
            self.is_logging = !self.is_logging;
            self.machine.log(self.is_logging)?;
            self.written.clear();
        }
        if self.random.below(4) == 0 {
            self.machine.rotate()?;
        }
        Ok(in_sight)
    }

    /// Commands to check or fill these pages.
    fn work(&mut self, pages: &[u64]) -> Vec<Command> {
        pages
            .iter()
            .map(|&page| match self.random.below(2) {
                0 => self.check(page),
                _ => self.fill(page),
            })
            .collect()
    }

    fn check(&mut self, page: u64) -> Command {
        self.done.checked += 1;
        Command {
            page,
            fill: false,
            content: self.pages[page as usize],
        }
    }

    fn fill(&mut self, page: u64) -> Command {
        self.done.filled += 1;
        if self.is_logging {
            self.written.insert(page);
        }
        Command {
            page,
            fill: true,
            content: self.renew(page),
        }
    }

    /// The page's next content.
    fn renew(&mut self, page: u64) -> Content {
        self.fills += 1;
        let content = Content::of(page, self.fills);
        self.pages[page as usize] = content;
        content
    }

    /// Changes two pages in one of the ways there are; a single one is zapped.
    fn change(&mut self, pages: &[u64]) -> Result<()> {
        match (pages, self.random.below(3)) {
            (&[one, other], 0) => {
                self.machine.swap(one, other)?;
                self.pages.swap(one as usize, other as usize);
                self.done.swapped += 2;
            }
            (pages, 1) => {
                // All go before one comes back, so that none gets its own frame again.
                for &page in pages {
                    self.machine.zap(page)?;
                }
                for &page in pages {
                    let content = self.renew(page);
                    self.machine.write(page, content)?;
                    self.done.replaced += 1;
                }
            }
            (pages, _) => {
                for &page in pages {
                    self.machine.zap(page)?;
                    self.pages[page as usize] = Content::ZERO;
                    self.done.zapped += 1;
                }
            }
        }
        Ok(())
    }

    /// Every vCPU looks at all of these pages.
    fn all_check(&mut self, pages: &[u64]) -> Result<()> {
        for vcpu in 0..self.machine.vcpus() {
            let batch: Vec<_> = pages.iter().map(|&page| self.check(page)).collect();
            self.machine.start(vcpu, &batch)?;
        }
        (0..self.machine.vcpus()).try_for_each(|vcpu| self.finish(vcpu).map(drop))
    }

    /// Each vCPU fills its share of these pages, twice while the log is on: a
    /// processor that may write a page may do so still after the log was read.
    fn write_and_log(&mut self, pages: &[u64]) -> Result<()> {
        let times = if self.is_logging { 2 } else { 1 };
        for _ in 0..times {
            let share = pages.len().div_ceil(self.machine.vcpus());
            let mut busy = Vec::new();
            for (vcpu, pages) in pages.chunks(share).enumerate() {
                let batch: Vec<_> = pages.iter().map(|&page| self.fill(page)).collect();
                self.machine.start(vcpu, &batch)?;
                busy.push(vcpu);
            }
            for vcpu in busy {
                self.finish(vcpu)?;
            }
            if self.is_logging {
                self.read_log()?;
            }
        }
        Ok(())
    }

    fn read_log(&mut self) -> Result<()> {
        let dirty = self.machine.dirty()?;
        self.done.protected += 1;
        self.done.logged += self.written.len() as u64;
        match self.written.difference(&dirty).next() {
            Some(page) => Err(self.wrong(format!(
                "the guest wrote page {page:#x} and the dirty log does not know"
            ))),
            None => {
                self.written.clear();
                Ok(())
            }
        }
    }

    fn finish(&mut self, vcpu: usize) -> Result<u64> {
        let answer = self.machine.wait(vcpu)?;
        match answer.wrong {
            None => Ok(answer.checksum),
            Some((page, n, found)) => {
                let held = self.pages.get(page as usize).copied();
                let whose = self.whose(found);
                Err(self.wrong(format!(
                    "vCPU {vcpu} found {found:#018x} ({whose}) in word {n} of page {page:#x}, \
                     which holds {held:x?}"
                )))
            }
        }
    }

    /// Where a word that was found should be.
    fn whose(&self, word: u64) -> String {
        let holder = self
            .pages
            .iter()
            .position(|content| *content != Content::ZERO && content.words().any(|w| w == word));
        match (word, holder) {
            (0, _) => "zero".into(),
            (_, Some(page)) => format!("of page {page:#x}"),
            (_, None) => "of no page now".into(),
        }
    }

    fn wrong(&self, what: String) -> Error {
        let round = self.done.rounds;
        Error::Churn { round, what }
    }

    /// The vCPUs fill all pages, each its share.
    fn fill_all(&mut self) -> Result<()> {
        let all: Vec<u64> = (0..self.pages.len() as u64).collect();
        for turn in all.chunks(BATCH * self.machine.vcpus()) {
            let mut busy = Vec::new();
            for (vcpu, pages) in turn.chunks(BATCH).enumerate() {
                let batch: Vec<_> = pages.iter().map(|&page| self.fill(page)).collect();
                self.machine.start(vcpu, &batch)?;
                busy.push(vcpu);
            }
            for vcpu in busy {
                self.finish(vcpu)?;
            }
        }
        Ok(())
    }

    /// All pages, by the guest's sight and by the vmm's.
    fn verify_all(&mut self) -> Result<()> {
        let all: Vec<u64> = (0..self.pages.len() as u64).collect();
        for (turn, pages) in all.chunks(BATCH).enumerate() {
            let vcpu = turn % self.machine.vcpus();
            let batch: Vec<_> = pages.iter().map(|&page| self.check(page)).collect();
            self.machine.start(vcpu, &batch)?;
            let guests = self.finish(vcpu)?;
            let mut own = 0;
            for &page in pages {
                let words = self.machine.read(page)?;
                if !words.iter().copied().eq(self.pages[page as usize].words()) {
                    return Err(self.wrong(format!(
                        "the vmm finds something else in page {page:#x} than the guest"
                    )));
                }
                own = checksum(own, words.into_iter());
            }
            if own != guests {
                return Err(self.wrong(format!(
                    "the guest's checksum from page {:#x} on is {guests:#018x}, the vmm's {own:#018x}",
                    pages[0]
                )));
            }
            self.done.checksum = checksum(self.done.checksum, [own].into_iter());
        }
        Ok(())
    }

    /// Pages that are not taken yet, and takes them.
    fn pick(&mut self, count: usize, taken: &mut BTreeSet<u64>) -> Vec<u64> {
        let mut picked = Vec::with_capacity(count);
        while picked.len() < count {
            let page = self.random.below(self.pages.len() as u64);
            if taken.insert(page) {
                picked.push(page);
            }
        }
        picked
    }
}

#[cfg(test)]
mod tests;
