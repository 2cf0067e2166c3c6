//! kube-proxy itself in nftables mode, fed by a real API server, in a node's namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::apiserver;
use crate::lab::command::run_in;

/// A running kube-proxy. It ends when this is dropped; its rules stay.
pub struct KubeProxy {
    process: Child,
    namespace: String,
    log: PathBuf,
}

impl KubeProxy {
    /// Starts it as `node`, for pods of these ranges; its output goes to `log`.
    pub fn start(namespace: &str, node: &str, pod_cidrs: &str, kubeconfig: &Path, log: PathBuf) -> Result<Self> {
        let program = apiserver::binaries()?.join("kube-proxy");
        if !program.exists() {
            bail!("{} is missing: run ./scripts/apiserver kube-proxy to build it", program.display());
        }
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // The limits of connections are the machine's, not a namespace's.
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg(&program)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--proxy-mode=nftables", "--detect-local-mode=ClusterCIDR"])
            .args([format!("--hostname-override={node}"), format!("--cluster-cidr={pod_cidrs}")])
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
            .args(["--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { process, namespace: namespace.into(), log })
    }

    /// Waits until what `nft list` says of a part of its rules is as asked. It writes all rules of a family at once.
    pub fn wait_for_rules(&mut self, part: &[&str], at_most: Duration, is_so: impl Fn(&str) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let rules = run_in(&self.namespace, "nft", &[&["list"], part].concat());
            if rules.is_ok_and(|rules| is_so(&rules)) {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("kube-proxy ended ({status}); see {}:\n{said}", self.log.display());
            }
            if start.elapsed() > at_most {
                bail!("kube-proxy's rules are not in the kernel after {at_most:?}; see {}", self.log.display());
            }
            thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // Ended already is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
