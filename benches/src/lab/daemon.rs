//! The daemon under test: started in the node namespace, asked by its own command line, ended by signal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::command::run;
use super::plan::Plan;

/// From where the daemon has its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objects {
    Manifests(PathBuf),
    ApiServer { kubeconfig: PathBuf },
}

/// A running `atalho run`.
pub struct Daemon {
    child: Child,
    atalho: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

/// What `atalho status -o json` says, as far as the lab looks at it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub state: String,
    pub generation: u64,
    pub services: u64,
    pub endpoints: u64,
    pub flows: u64,
    pub received: u64,
    pub forwarded: u64,
    pub punted: u64,
    pub dropped: u64,
    pub drops: BTreeMap<String, u64>,
    pub slow_path: SlowPathStatus,
    pub flows_evicted: u64,
    /// Packets of our own making, by the slow path.
    pub originated: u64,
    /// Counters of the kernel programs.
    pub kernel: BTreeMap<String, u64>,
    /// What the kernel programs dropped, by pod and counter.
    pub pod_drops: BTreeMap<String, BTreeMap<String, u64>>,
    pub offloads_turned_off: u64,
    pub faults: Vec<String>,
    pub published: u64,
    pub change_to_use_ms: ChangeToUse,
    pub workers: Vec<WorkerStatus>,
    pub refused: Vec<serde_json::Value>,
    pub api: Option<serde_json::Value>,
    pub failing_since: Option<String>,
    /// Parts of control that were begun anew.
    pub restarts: BTreeMap<String, u64>,
}

/// What became of the punted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowPathStatus {
    pub punted: u64,
    pub resumed: u64,
    pub waiting: u64,
    pub answered: BTreeMap<String, u64>,
    pub dropped: BTreeMap<String, u64>,
}

impl SlowPathStatus {
    /// Every punted packet ended in one place.
    pub fn is_even(&self) -> bool {
        let [answered, dropped] = [&self.answered, &self.dropped].map(|counts| counts.values().sum::<u64>());
        self.punted == answered + self.resumed + self.waiting + dropped
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeToUse {
    pub last: Option<f64>,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    pub core: u32,
    pub queues: Vec<u32>,
    pub pps: f64,
    pub busy_percent: f64,
}

impl Status {
    /// Received = forwarded + punted + dropped, and the drops by reason add up to the dropped.
    pub fn is_even(&self) -> bool {
        self.received == self.forwarded + self.punted + self.dropped && self.drops.values().sum::<u64>() == self.dropped
    }
}

/// Writes the configuration of a lab's daemon and returns its path. `more` is appended as it is.
pub fn write_config(plan: &Plan, workers: Option<u32>, more: &str) -> Result<PathBuf> {
    let path = plan.folder().join("atalho.toml");
    let count = workers.map_or_else(|| "\"auto\"".into(), |count| count.to_string());
    let text = format!(
        "[node]\nname = \"node-a\"\nbpffs = {:?}\nrun_dir = {:?}\n\n\
         [cluster]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:244::/48\"]\nservice_cidrs = [\"10.96.0.0/16\", \"fd00:96::/112\"]\n\n\
         [uplink]\ninterface = \"uplink\"\n\n[worker]\ncount = {count}\n{more}",
        plan.bpffs(),
        plan.folder().join("run"),
    );
    fs::create_dir_all(plan.folder())?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The command that starts the daemon in a namespace, and runs in the foreground.
pub fn command(atalho: &Path, namespace: &str, config: &Path, objects: &Objects) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(atalho).arg("run").arg("--config").arg(config);
    match objects {
        Objects::Manifests(folder) => command.arg("--manifests").arg(folder),
        Objects::ApiServer { kubeconfig } => command.arg("--kubeconfig").arg(kubeconfig),
    };
    command.stdin(Stdio::null()).process_group(0);
    command
}

impl Daemon {
    /// Starts it; its output goes to `daemon.log` in the lab's folder, after what an earlier one wrote.
    pub fn start(atalho: &Path, plan: &Plan, config: &Path, objects: &Objects) -> Result<Self> {
        let log = plan.folder().join("daemon.log");
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let child = command(atalho, &plan.node(), config, objects)
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", atalho.display()))?;
        Ok(Self { child, atalho: atalho.into(), config: config.into(), log })
    }

    /// Waits until it says that it is ready, or degraded: some input refused, the rest at work.
    pub fn wait_ready(&mut self, at_most: Duration) -> Result<Status> {
        self.wait_for(at_most, "to be ready", |status| status.state == "ready" || status.state == "degraded")
    }

    /// Waits for a status.
    pub fn wait_for(&mut self, at_most: Duration, what: &str, holds: impl Fn(&Status) -> bool) -> Result<Status> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended ({status}) instead {what}; its last words:\n{}", self.last_words());
            }
            let now = self.status();
            match now {
                Ok(status) if holds(&status) => return Ok(status),
                _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(100)),
                Ok(status) => bail!("waited {at_most:?} for the daemon {what}: {status:?}\n{}", self.last_words()),
                Err(error) => bail!("waited {at_most:?} for the daemon {what}: {error:#}\n{}", self.last_words()),
            }
        }
    }

    /// Asks it how it is.
    pub fn status(&self) -> Result<Status> {
        let output =
            Command::new(&self.atalho).args(["status", "-o", "json", "--config"]).arg(&self.config).output()?;
        if !matches!(output.status.code(), Some(0 | 1)) {
            bail!("`atalho status`: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`atalho status` said {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// The books once traffic has stopped: two equal readings, 200 ms apart. Uneven ones are returned as they are.
    pub fn settled_status(&self) -> Result<Status> {
        let mut before = self.status()?;
        for _ in 0..25 {
            thread::sleep(Duration::from_millis(200));
            let now = self.status()?;
            if now.is_even() && now.received == before.received {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU seconds that it has used, user and system.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name in parentheses may hold spaces: count fields behind it (proc(5): utime is 14, stime 15, in ticks of 10 ms).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| {
            fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("cannot read /proc/PID/stat")
        };
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    /// SIGTERM; returns how it ended and how long that took.
    pub fn terminate(&mut self) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        run("kill", ["-TERM", &self.pid().to_string()])?;
        while start.elapsed() < Duration::from_secs(10) {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, start.elapsed()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("the daemon does not end on SIGTERM; its last words:\n{}", self.last_words())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        if status.signal() != Some(9) {
            bail!("the daemon had ended before ({status}); its last words:\n{}", self.last_words());
        }
        Ok(())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already reaped is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
