//! The script against a guest of software whose processors hold translations.

use std::collections::BTreeMap;

use super::*;

/// What a processor is not told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missing {
    /// Nothing: it forgets what it must.
    Nothing,
    /// That a page was given back.
    Zap,
    /// That pages changed places.
    Swap,
    /// Either of them, if it is not the first processor.
    OnOthers,
    /// That pages must not be written any more.
    Protection,
}

/// A translation: which frame, and whether it may be written without being logged.
#[derive(Clone, Copy)]
struct Entry {
    frame: usize,
    writable: bool,
}

struct Software {
    missing: Missing,
    /// Frames are never used twice, so that what is stale stays so.
    frames: Vec<Vec<u64>>,
    map: Vec<usize>,
    held: Vec<BTreeMap<u64, Entry>>,
    answers: Vec<Option<Answer>>,
    logging: bool,
    dirty: BTreeSet<u64>,
}

const PAGES: u64 = 600;

impl Software {
    fn new(vcpus: usize, missing: Missing) -> Self {
        Software {
            missing,
            frames: vec![vec![0; 512]; PAGES as usize],
            map: (0..PAGES as usize).collect(),
            held: vec![BTreeMap::new(); vcpus],
            answers: vec![None; vcpus],
            logging: false,
            dirty: BTreeSet::new(),
        }
    }

    fn forget(&mut self, page: u64, cause: Missing) {
        for (vcpu, held) in self.held.iter_mut().enumerate() {
            let missed = self.missing == cause || (self.missing == Missing::OnOthers && vcpu > 0);
            if !missed {
                held.remove(&page);
            }
        }
    }

    fn protect(&mut self) {
        if self.missing != Missing::Protection {
            self.held.iter_mut().for_each(BTreeMap::clear);
        }
    }

    fn entry(&mut self, vcpu: usize, page: u64, write: bool) -> usize {
        let held = self.held[vcpu].get(&page).copied();
        if let Some(entry) = held.filter(|entry| entry.writable || !write) {
            return entry.frame;
        }
        if write && self.logging {
            self.dirty.insert(page);
        }
        let entry = Entry {
            frame: self.map[page as usize],
            writable: write || !self.logging,
        };
        self.held[vcpu].insert(page, entry);
        entry.frame
    }

    fn execute(&mut self, vcpu: usize, batch: &[Command]) -> Answer {
        let mut sum = 0;
        for command in batch {
            let frame = self.entry(vcpu, command.page, command.fill);
            if command.fill {
                self.frames[frame] = command.content.words().collect();
                continue;
            }
            for (n, (found, expected)) in self.frames[frame]
                .iter()
                .zip(command.content.words())
                .enumerate()
            {
                sum = checksum(sum, [*found].into_iter());
                if *found != expected {
                    return Answer {
                        wrong: Some((command.page, n as u64, *found)),
                        checksum: sum,
                    };
                }
            }
        }
        Answer {
            wrong: None,
            checksum: sum,
        }
    }
}

impl Machine for Software {
    fn vcpus(&self) -> usize {
        self.held.len()
    }

    fn start(&mut self, vcpu: usize, batch: &[Command]) -> Result<()> {
        assert!((1..=BATCH).contains(&batch.len()));
        let answer = self.execute(vcpu, batch);
        assert!(self.answers[vcpu].replace(answer).is_none());
        Ok(())
    }

    fn wait(&mut self, vcpu: usize) -> Result<Answer> {
        Ok(self.answers[vcpu].take().expect("a batch was started"))
    }

    fn zap(&mut self, page: u64) -> Result<()> {
        self.map[page as usize] = self.frames.len();
        self.frames.push(vec![0; 512]);
        self.forget(page, Missing::Zap);
        Ok(())
    }

    fn swap(&mut self, one: u64, other: u64) -> Result<()> {
        self.map.swap(one as usize, other as usize);
        self.forget(one, Missing::Swap);
        self.forget(other, Missing::Swap);
        Ok(())
    }

    fn write(&mut self, page: u64, content: Content) -> Result<()> {
        self.frames[self.map[page as usize]] = content.words().collect();
        Ok(())
    }

    fn read(&self, page: u64) -> Result<Vec<u64>> {
        Ok(self.frames[self.map[page as usize]].clone())
    }

    fn log(&mut self, on: bool) -> Result<()> {
        self.logging = on;
        self.dirty.clear();
        self.protect();
        Ok(())
    }

    fn dirty(&mut self) -> Result<BTreeSet<u64>> {
        self.protect();
        Ok(std::mem::take(&mut self.dirty))
    }

    fn rotate(&mut self) -> Result<()> {
        Ok(())
    }
}

fn run(vcpus: usize, missing: Missing) -> Result<Done> {
    Script::new(Software::new(vcpus, missing), PAGES, 1).run(20)
}

#[test]
fn a_machine_that_forgets_what_it_must_passes() {
    for vcpus in [1, 2] {
        let done = run(vcpus, Missing::Nothing).unwrap();
        assert_eq!(done.rounds, 20);
        for count in [
            done.zapped,
            done.replaced,
            done.swapped,
            done.protected,
            done.logged,
        ] {
            assert!(count > 0, "{done:?}");
        }
        assert!(done.filled >= PAGES && done.checked >= PAGES);
    }
}

#[test]
fn each_flush_that_is_missing_is_found() {
    for (vcpus, missing) in [
        (1, Missing::Zap),
        (2, Missing::Zap),
        (1, Missing::Swap),
        (2, Missing::Swap),
        (2, Missing::OnOthers),
        (1, Missing::Protection),
        (2, Missing::Protection),
    ] {
        let error = run(vcpus, missing).expect_err("it must be found");
        assert!(matches!(error, Error::Churn { .. }), "{missing:?}: {error}");
    }
}

#[test]
fn the_message_says_whose_contents_were_found() {
    let error = run(1, Missing::Swap).unwrap_err().to_string();
    assert!(
        error.contains("round 1") && error.contains("of page 0x"),
        "{error}"
    );
}
