//! The command people use: builds images, starts the machine, streams consoles, measures, reports.
fn main() {}
