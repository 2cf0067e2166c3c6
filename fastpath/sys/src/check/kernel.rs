//! The kernel's version: tcx links came with 6.6, and some kernels panic under copy-mode transmission into a veth.

use super::CheckError;

/// First kernel with tcx links.
const FLOOR: (u32, u32) = (6, 6);
/// Kernels that panic in copy-mode AF_XDP transmission into a veth (CVE-2025-40290): 6.17.0 to this patch level.
const PANICS: ((u32, u32), u32) = ((6, 17), 10);

/// Checks the running kernel; returns its release.
///
/// # Errors
/// [`kernel_release`]'s.
pub fn kernel() -> Result<String, CheckError> {
    // SAFETY: utsname is plain bytes, for which zeroes are valid.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a live, writable utsname.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        let error = std::io::Error::last_os_error().to_string();
        return Err(CheckError::new("the kernel's release cannot be read", error, "Run on Linux 6.6 or later"));
    }
    let release: Vec<u8> = name.release.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    let release = String::from_utf8_lossy(&release).into_owned();
    kernel_release(&release)?;
    Ok(release)
}

/// Judges a kernel release as `uname -r` prints it.
///
/// # Errors
/// A release below the floor, on the deny list, or unreadable.
pub fn kernel_release(release: &str) -> Result<(), CheckError> {
    let what = format!("kernel {release}");
    let Some((version, patch)) = parse(release) else {
        return Err(CheckError::new(what, "its version cannot be read", "Run on Linux 6.6 or later"));
    };
    if version < FLOOR {
        let why =
            format!("it is older than {}.{}, which brought the links that pod ports need (tcx)", FLOOR.0, FLOOR.1);
        return Err(CheckError::new(what, why, "Boot Linux 6.6 or later (6.12 or later recommended)"));
    }
    if version == PANICS.0 && patch <= PANICS.1 {
        let why = "6.17.0 to 6.17.10 panic when AF_XDP sends into a veth (CVE-2025-40290)";
        return Err(CheckError::new(what, why, "Boot 6.17.11 or later, or another series"));
    }
    Ok(())
}

/// Major and minor version, and the patch level (0 where none is printed).
fn parse(release: &str) -> Option<((u32, u32), u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut dotted = release.split('.');
    let major = dotted.next()?.parse().ok()?;
    numbers.next()?;
    let minor = numbers.next()?.parse().ok()?;
    let patch = dotted.nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    Some(((major, minor), patch.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_at_the_borders_of_floor_and_deny_list() {
        let cases = [
            ("6.6.0", true),
            ("6.6", true),
            ("6.6-rc1", true),
            ("6.5.13", false),
            ("5.15.0-91-generic", false),
            ("6.16.12", true),
            ("6.17.0", false),
            ("6.17.0-5-generic", false),
            ("6.17", false),
            ("6.17-rc3", false),
            ("6.17.10-arch1", false),
            ("6.17.11", true),
            ("6.18.44-fc-v669", true),
            ("7.0.1", true),
            ("10.2.3", true),
            ("six", false),
            ("", false),
        ];
        for (release, fine) in cases {
            assert_eq!(kernel_release(release).is_ok(), fine, "{release}");
        }
    }

    #[test]
    fn a_refusal_names_the_release_and_the_way_out() {
        let text = kernel_release("6.17.4").unwrap_err().to_string();
        assert!(text.contains("6.17.4") && text.contains("CVE-2025-40290") && text.contains("6.17.11"), "{text}");
    }

    #[test]
    fn the_running_kernel_has_a_release() {
        assert!(kernel().is_ok_and(|release| !release.is_empty()));
    }
}
