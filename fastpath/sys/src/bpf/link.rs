//! Pinned links: they hold a program on an interface while nobody runs, and let a successor exchange it in place.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::error::BpfError;
use super::syscall::{self, Hook, LinkInfo};

/// What a pinned link says; `None` where nothing is pinned.
pub(super) fn look(path: &Path) -> Result<Option<LinkInfo>, BpfError> {
    let failed = |source| BpfError::Pinned { doing: "open the link", path: path.into(), source, next: LINK_NEXT };
    match syscall::open_pinned(path) {
        Ok(link) => syscall::link_info(link.as_fd()).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

const LINK_NEXT: &str = "If it is no link of ours, remove the file; `atalho uninstall` removes all";

/// Puts `program` under the link pinned at `path`, or attaches and pins it where there is none, or where the link's
/// interface is another one or gone (such a link still opens, and only its update says ENOLINK).
pub(super) fn attach(path: &Path, program: BorrowedFd, ifindex: u32, hook: Hook) -> Result<(), BpfError> {
    if let Some(info) = look(path)? {
        if info.ifindex == ifindex && update(path, program)? {
            return Ok(());
        }
        detach(path)?;
    }
    let link = syscall::link_create(program, ifindex, hook).map_err(|source| {
        let refused = [libc::EOPNOTSUPP, libc::EINVAL, libc::ERANGE, libc::ENOSPC];
        if hook == Hook::Xdp && source.raw_os_error().is_some_and(|code| refused.contains(&code)) {
            BpfError::NoNativeXdp { interface: crate::check::interface_name(ifindex), source }
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            BpfError::Attach { link: name, ifindex, source }
        }
    })?;
    syscall::pin(link.as_fd(), path).map_err(|source| BpfError::Pinned {
        doing: "pin the link",
        path: path.into(),
        source,
        next: "Check that the BPF file system is mounted and writable",
    })
}

/// Exchanges the program; false where the link's interface is gone.
fn update(path: &Path, program: BorrowedFd) -> Result<bool, BpfError> {
    let failed = |source| BpfError::Pinned { doing: "update the link", path: path.into(), source, next: LINK_NEXT };
    let link = syscall::open_pinned(path).map_err(failed)?;
    match syscall::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

/// Takes a link's program off its interface and removes the pin. A missing one is no error.
pub(super) fn detach(path: &Path) -> Result<(), BpfError> {
    if let Ok(link) = syscall::open_pinned(path) {
        // Refused where the interface is gone already; then there is nothing to detach.
        let _ = syscall::link_detach(link.as_fd());
    }
    unpin(path)
}

/// Removes a pin. A missing one is no error.
pub(super) fn unpin(path: &Path) -> Result<(), BpfError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => {
            Err(BpfError::Pinned { doing: "remove", path: path.into(), source, next: "Root may remove it by hand" })
        }
    }
}
