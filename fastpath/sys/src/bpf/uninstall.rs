//! Taking everything away that a daemon left, also after a crash.

use std::fs;
use std::path::Path;

use super::error::BpfError;
use super::pinned::Folder;

/// Unpins, and so detaches, all of a node. Returns the names of what was there, empty if nothing was.
///
/// # Errors
/// [`BpfError::Running`] while a daemon of this node lives; [`BpfError::Pinned`] where a file cannot be removed.
pub fn uninstall(bpffs: &Path, node: &str) -> Result<Vec<String>, BpfError> {
    if !Folder::path_of(bpffs, node)?.exists() {
        return Ok(Vec::new());
    }
    let folder = Folder::lock(bpffs, node)?;
    let removed = folder.clear()?;
    let next = "Something else stands in it: look, and remove it by hand";
    fs::remove_dir(&folder.path).map_err(|source| BpfError::Pinned {
        doing: "remove the folder",
        path: folder.path.clone(),
        source,
        next,
    })?;
    // Shared with other nodes of this machine: it goes with the last of them.
    let _ = fs::remove_dir(bpffs.join("atalho"));
    Ok(removed)
}
