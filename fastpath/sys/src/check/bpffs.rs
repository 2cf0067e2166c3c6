//! The BPF file system, where links and maps are pinned.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::CheckError;

/// BPF_FS_MAGIC, include/uapi/linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

/// Checks that a BPF file system is mounted at `path`.
///
/// # Errors
/// Another file system, or none.
pub fn bpffs(path: &Path) -> Result<(), CheckError> {
    let what = format!("{}", path.display());
    let next = format!("Mount one: mount -t bpf bpf {}", path.display());
    let no_path = || CheckError::new(&what, "not a path", &next);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| no_path())?;
    // SAFETY: statfs is plain integers, for which zeroes are valid.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is NUL-terminated and alive, `found` is a live, writable statfs.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut found) } != 0 {
        return Err(CheckError::new(what, io::Error::last_os_error().to_string(), next));
    }
    if found.f_type as u32 != MAGIC {
        return Err(CheckError::new(
            what,
            "no BPF file system is mounted there, so nothing could outlive a restart",
            next,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_and_a_missing_folder_are_refused_with_the_command_to_run() {
        for path in ["/proc", "/no/such/folder"] {
            let text = bpffs(Path::new(path)).unwrap_err().to_string();
            assert!(text.contains(&format!("mount -t bpf bpf {path}")), "{text}");
        }
    }
}
