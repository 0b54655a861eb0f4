//! L1's user space: a small VMM that runs and measures L2 guests under /dev/kvm.
fn main() {}
