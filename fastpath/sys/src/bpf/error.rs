//! What can go wrong with programs, maps and links; each text says what, where, why and what to do next.

use std::io;
use std::path::PathBuf;

/// An error of the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error(
        "{path} is not a BPF file system, so links and maps could not be pinned. Mount one: mount -t bpf bpf {path}"
    )]
    NotBpffs { path: PathBuf },
    #[error(
        "another daemon of this node is running: it holds {path}. Stop it first, or give this one another node name"
    )]
    Running { path: PathBuf },
    #[error("node name {name:?} cannot name a folder of the BPF file system: use letters, digits, '-' and '.'")]
    NodeName { name: String },
    #[error(
        "the pinned map {path} is of another layout: {found}, but this version needs {wanted}. Flows in it would be misread. Run `atalho uninstall` (established flows end), or start the version that made it"
    )]
    OtherLayout { path: PathBuf, found: String, wanted: String },
    #[error(
        "{interface} already has {hook} program {id} ({name}) that is not ours. Two dataplanes on one interface would fight: detach it first (see `bpftool net`)"
    )]
    Foreign { interface: String, hook: &'static str, id: u32, name: String },
    #[error(
        "the driver of {interface} cannot run XDP natively ({source}). Generic mode is refused: it loses joined packets. Use an interface whose driver supports native XDP; on a veth both ends need the same number of queues, and the MTU must fit"
    )]
    NoNativeXdp { interface: String, source: io::Error },
    #[error("sizes of the connection table are wrong: {0}")]
    Sizes(String),
    #[error(
        "the kernel refused the program {program}: {reason}. This is a defect or an unsupported kernel: please report it with this text and `uname -r`"
    )]
    Load { program: &'static str, reason: String },
    #[error("cannot {doing} {path}: {source}. {next}")]
    Pinned { doing: &'static str, path: PathBuf, source: io::Error, next: &'static str },
    #[error(
        "cannot attach {link} to interface index {ifindex}: {source}. Does the interface still exist in this network namespace?"
    )]
    Attach { link: String, ifindex: u32, source: io::Error },
    #[error("map {map}: cannot {doing}: {reason}")]
    Map { map: &'static str, doing: &'static str, reason: String },
    #[error("cannot wait for a kernel grace period: {0}. Freed flow slots are not reused until this works")]
    Grace(io::Error),
    #[error(transparent)]
    Interface(#[from] crate::check::CheckError),
}
