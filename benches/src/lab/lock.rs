//! One lab of a prefix at a time, also across a crash: the kernel gives the lock back when its holder dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};

use anyhow::{Context, Result, bail};

const FOLDER: &str = "/run/atalho-lab";

/// Held for as long as it lives.
pub struct Lock {
    _file: File,
}

impl Lock {
    pub fn take(prefix: &str) -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| format!("cannot create {FOLDER} (root is needed)"))?;
        let path = format!("{FOLDER}/{prefix}.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {path} (root is needed)"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                bail!(
                    "another lab is running (process {}): both would use the namespaces {prefix}-*; wait for it, or end it with Ctrl-C",
                    holder.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {path}")),
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn the_second_is_told_who_is_first() {
        let prefix = format!("lock-test-{}", std::process::id());
        if std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some() {
            println!("SKIPPED: the_second_is_told_who_is_first: needs root");
            return;
        }
        let first = Lock::take(&prefix).unwrap();
        let refused = Lock::take(&prefix).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        assert!(Lock::take(&prefix).is_ok());
        let _ = std::fs::remove_file(format!("/run/atalho-lab/{prefix}.lock"));
    }
}
