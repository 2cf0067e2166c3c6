//! kube-proxy itself in nftables mode, fed by a real API server. Once its rules are in the kernel both are ended: what a
//! packet meets is the rules, and nothing that kube-proxy does beside them costs it anything.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use std::fs::{self, File};

use super::{Contender, Ground, Running, Way};
use crate::apiserver::{self, ApiServer};
use crate::bench::cluster::Cluster;
use crate::lab::command::run_in;
use crate::lab::plan::Plan;

/// The kernel takes minutes for the rules of ten thousand Services.
const RULES_WITHIN: Duration = Duration::from_secs(20 * 60);

/// Linux Documentation/networking/nf_conntrack-sysctl.rst; seconds.
const UDP_TIMEOUT: &str = "net.netfilter.nf_conntrack_udp_timeout=3600";

pub struct KubeProxy {
    pub cluster: Cluster,
}

impl Contender for KubeProxy {
    fn name(&self) -> String {
        format!("kube-proxy nftables, {} Services", self.cluster.services)
    }

    fn way(&self) -> Way {
        Way::Services(self.cluster)
    }

    fn cores(&self) -> u32 {
        1
    }

    fn kernel_forwards(&self) -> bool {
        true
    }

    fn start(&self, ground: &Ground<'_>) -> Result<Option<Box<dyn Running>>> {
        let Ground { plan, tools, .. } = ground;
        let binaries = apiserver::binaries()?;
        let program = binaries.join("kube-proxy");
        if !program.exists() {
            bail!("{} is missing: run ./scripts/apiserver kube-proxy to build it", program.display());
        }
        let server = ApiServer::start(&binaries, plan, &tools.lab)?;
        let put = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", plan.far()))
            .arg(&tools.bench)
            .args(["put", "--services", &self.cluster.services.to_string(), "--kubeconfig"])
            .arg(server.kubeconfig())
            .status()?;
        if !put.success() {
            bail!("the objects did not get to the API server ({put}); the reason stands above");
        }
        let log = plan.folder().join("kube-proxy.log");
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // The limits of connections are the machine's, not a namespace's.
        let proxy = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", plan.node()))
            .arg(&program)
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .args(["--proxy-mode=nftables", "--hostname-override=node-a", "--bind-address=192.168.0.2"])
            .args(["--detect-local-mode=ClusterCIDR", "--cluster-cidr=10.244.0.0/16"])
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
            .args(["--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut proxy = Proxy(proxy);
        let start = Instant::now();
        while !self.rules_are_there(plan) {
            if let Some(status) = proxy.0.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("kube-proxy ended ({status}); see {}:\n{said}", log.display());
            }
            if start.elapsed() > RULES_WITHIN {
                bail!("kube-proxy's rules are not in the kernel after {RULES_WITHIN:?}; see {}", log.display());
            }
            thread::sleep(Duration::from_millis(500));
        }
        // Flows that last must not end because the generator has not come round to them.
        run_in(&plan.node(), "sysctl", &["-q", "-w", UDP_TIMEOUT])?;
        eprintln!("bench:          kube-proxy took {:.1} s for its rules", start.elapsed().as_secs_f64());
        Ok(None)
    }

    fn forget_flows(&self, plan: &Plan) -> Result<()> {
        run_in(&plan.node(), "conntrack", &["-F"]).map(drop)
    }
}

impl KubeProxy {
    /// Whether every Service's address is in the map that packets are looked up in; kube-proxy writes all of it at once.
    fn rules_are_there(&self, plan: &Plan) -> bool {
        let map = run_in(&plan.node(), "nft", &["list", "map", "ip", "kube-proxy", "service-ips"]);
        map.is_ok_and(|text| text.matches("default/bench-").count() >= self.cluster.services as usize)
    }
}

/// It ends when this is dropped; the rules stay.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
