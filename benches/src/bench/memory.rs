//! What of this process's memory is in huge pages, by the kernel's own account.

use std::fs;

use anyhow::{Context, Result};

const ROLLUP: &str = "/proc/self/smaps_rollup";

/// Bytes in huge pages (Linux Documentation/filesystems/proc.rst, AnonHugePages).
pub fn huge_bytes() -> Result<u64> {
    let rollup = fs::read_to_string(ROLLUP).with_context(|| format!("cannot read {ROLLUP}"))?;
    of(&rollup).with_context(|| format!("{ROLLUP} does not tell AnonHugePages"))
}

fn of(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("AnonHugePages:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_in_kilobytes() {
        assert_eq!(of("Anonymous:  4096 kB\nAnonHugePages:      2048 kB\n"), Some(2 << 20));
        assert_eq!(of("Anonymous:  4096 kB\n"), None);
        huge_bytes().unwrap();
    }
}
