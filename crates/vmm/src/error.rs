//! What can go wrong, each with the one line that the user reads.

use std::path::PathBuf;

use vmm_sys_util::errno;

/// Why a command of the vmm failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` cannot be opened.
    #[error(
        "cannot open /dev/kvm: {0} (is kvm-intel or kvm-amd loaded, and may this user open it?)"
    )]
    NoKvm(errno::Error),
    /// No hynest answers at its port.
    #[error("this is no machine of hynest's, or this user may not use its ports")]
    NoHynest,
    /// A KVM ioctl failed.
    #[error("KVM refused to {what}: {errno}")]
    Kvm {
        /// What the ioctl was to do.
        what: &'static str,
        /// What the kernel answered.
        errno: errno::Error,
    },
    /// KVM lacks something that the command cannot do without.
    #[error("this KVM does not offer {0}")]
    NotOffered(&'static str),
    /// L0 has no rate port, or may not use it.
    #[error("L0 does not let its TSC's rate be changed: its option tsc_rate_port does")]
    NoRatePort,
    /// A file could not be opened, read or written.
    #[error("{path}: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// Lines could not be written to where reports go.
    #[error("cannot write the report: {0}")]
    Report(std::io::Error),
    /// A system call other than an ioctl failed.
    #[error("cannot {what}: {cause}")]
    System {
        /// What the call was to do.
        what: &'static str,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// Guest memory could not be laid out or accessed.
    #[error("guest memory: {0}")]
    Memory(String),
    /// A kernel image that cannot be booted.
    #[error("{path}: not a kernel this vmm can boot: {cause}")]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A kernel command line that Linux would not take.
    #[error("the kernel's command line is longer than {most} bytes or has a zero in it")]
    Cmdline {
        /// The most bytes it can have.
        most: usize,
    },
    /// The guest does not fit into the memory asked for.
    #[error("{memory} MiB are too little for this guest: it needs {needed} MiB")]
    TooLittleMemory {
        /// What was asked for, in MiB.
        memory: u64,
        /// What kernel and initramfs need at the least, in MiB.
        needed: u64,
    },
    /// A guest ended in a way that guests should not end in.
    #[error("the guest: {0}")]
    Guest(String),
    /// A guest's memory did not hold what it should.
    #[error("round {round}: {what}")]
    Churn {
        /// The round; 0 is the first filling.
        round: u64,
        /// What was found where.
        what: String,
    },
    /// A payload ended in another way than by its end marker.
    #[error("operation {operation}: {what}")]
    Payload {
        /// The operation that was measured.
        operation: &'static str,
        /// What happened instead.
        what: String,
    },
    /// An operation that was asked for by name cannot be measured here.
    #[error("operation {operation} cannot be measured: {why}")]
    NotMeasurable {
        /// The operation.
        operation: &'static str,
        /// What it lacks.
        why: String,
    },
}

/// The vmm's own result.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the attempt in the error of a KVM ioctl.
pub fn refused(what: &'static str) -> impl FnOnce(errno::Error) -> Error {
    move |errno| Error::Kvm { what, errno }
}

/// Wraps `errno` after a failed system call.
pub fn last_system_error(what: &'static str) -> Error {
    Error::System {
        what,
        cause: std::io::Error::last_os_error(),
    }
}
