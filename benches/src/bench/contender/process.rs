//! A program that forwards by itself, started in the node's namespace and held by signals.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Running;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// The running program. Its standard input stays open for as long as this lives.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a namespace, its output in `log`, and waits until it has printed `ready`.
    pub fn start(namespace: &str, command: &[&str], log: PathBuf, ready: &str) -> Result<Self> {
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(command)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut process = Self { child, log };
        let deadline = Instant::now() + READY_WITHIN;
        while !process.output().contains(ready) {
            if let Some(status) = process.child.try_wait()? {
                bail!("`{}` ended ({status}); it said:\n{}", command.join(" "), process.output());
            }
            if Instant::now() > deadline {
                bail!("`{}` is not ready after {READY_WITHIN:?}; it said:\n{}", command.join(" "), process.output());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(process)
    }

    fn output(&self) -> String {
        read(&self.log)
    }
}

fn read(log: &Path) -> String {
    fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Running for Process {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn spins(&self) -> bool {
        true
    }

    fn words(&self) -> String {
        self.output()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
