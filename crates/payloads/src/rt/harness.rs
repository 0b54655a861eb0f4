//! Tests, and what is printed of them.
//!
//! A test prints one line for each thing it looks at: `ok NAME`, `FAIL NAME: expected, came`, or
//! `skip NAME: why`. The last line is `payload: N passed, N failed`.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::console::say;
use super::{apic, cpu, fault, memory, paging};

/// A test: its name, and what it does.
pub struct Test {
    /// Unique in its group.
    pub name: &'static str,
    /// The test.
    pub run: fn(&Check),
}

/// Tests about one thing.
pub struct Group {
    /// What `groups=` calls it.
    pub name: &'static str,
    /// Its tests, in order.
    pub tests: &'static [Test],
    /// Brings the processor back to where a test may begin, whatever the last one did.
    pub reset: fn(),
}

impl Group {
    /// Whether the group starts with the processor as the loader left it, in xAPIC mode.
    pub fn is_about_the_platform(&self) -> bool {
        self.name == "platform"
    }

    /// Whether the group runs where none is asked for.
    pub fn runs_by_default(&self) -> bool {
        !matches!(self.name, "audit" | "saving" | "time")
    }
}

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// What a test reports to.
pub struct Check {
    group: &'static str,
    test: &'static str,
}

impl Check {
    /// `got` is to be `expected`.
    pub fn equal<T: PartialEq + fmt::Debug>(&self, name: impl fmt::Display, got: T, expected: T) {
        self.that(
            name,
            got == expected,
            format_args!("expected {expected:x?}, came {got:x?}"),
        );
    }

    /// `holds` is to be true; `otherwise` says what it means when it is not.
    pub fn that(&self, name: impl fmt::Display, holds: bool, otherwise: impl fmt::Display) {
        let (group, test) = (self.group, self.test);
        if holds {
            PASSED.fetch_add(1, Ordering::Relaxed);
            say!("ok {group}.{test}: {name}");
        } else {
            FAILED.fetch_add(1, Ordering::Relaxed);
            say!("FAIL {group}.{test}: {name}: {otherwise}");
        }
    }

    /// A verdict whose line is of a form of its own.
    pub fn verdict(&self, holds: bool, line: impl fmt::Display) {
        let counter = if holds { &PASSED } else { &FAILED };
        counter.fetch_add(1, Ordering::Relaxed);
        self.line(line);
    }

    /// A line of a form of its own that is no verdict.
    pub fn line(&self, line: impl fmt::Display) {
        say!("{line}");
    }

    /// What is looked at is not there.
    pub fn skip(&self, name: impl fmt::Display, why: impl fmt::Display) {
        say!("skip {}.{}: {name}: {why}", self.group, self.test);
    }

    /// Anything a reader may want to know.
    pub fn note(&self, text: impl fmt::Display) {
        say!("note {}.{}: {text}", self.group, self.test);
    }
}

/// Runs the tests of `group` whose `GROUP.NAME` holds `filter`.
pub fn run(group: &Group, filter: Option<&str>) {
    let mark = memory::mark();
    for test in group.tests {
        if filter.is_some_and(|text| !test.name.contains(text)) {
            continue;
        }
        let check = Check {
            group: group.name,
            test: test.name,
        };
        (group.reset)();
        if let Err(fault) = fault::attempt(|| (test.run)(&check)) {
            check.that(
                "runs to its end",
                false,
                format_args!(
                    "{fault:?} at {:#x}, CR2 {:#x}",
                    fault::last_rip(),
                    cpu::cr2()
                ),
            );
        }
        (group.reset)();
        paging::unmap_window();
        fault::set_automatic_eoi(true);
        apic::stop_timer();
        memory::release(mark);
    }
}

/// Prints the sums.
pub fn summary() {
    let (passed, failed) = (
        PASSED.load(Ordering::Relaxed),
        FAILED.load(Ordering::Relaxed),
    );
    say!("payload: {passed} passed, {failed} failed");
}
