//! kube-proxy itself in nftables mode, fed by a real API server. Once its rules are in the kernel both are ended: what a
//! packet meets is the rules, and nothing that kube-proxy does beside them costs it anything.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Contender, Ground, Running, Way};
use crate::apiserver::{self, ApiServer};
use crate::bench::cluster::Cluster;
use crate::kube_proxy;
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
        let start = Instant::now();
        let mut proxy =
            kube_proxy::KubeProxy::start(&plan.node(), "node-a", "10.244.0.0/16", &server.kubeconfig(), log)?;
        // Every Service's address is in the map that packets are looked up in.
        proxy.wait_for_rules(&["map", "ip", "kube-proxy", "service-ips"], RULES_WITHIN, |map| {
            map.matches("default/bench-").count() >= self.cluster.services as usize
        })?;
        // Flows that last must not end because the generator has not come round to them.
        run_in(&plan.node(), "sysctl", &["-q", "-w", UDP_TIMEOUT])?;
        eprintln!("bench:          kube-proxy took {:.1} s for its rules", start.elapsed().as_secs_f64());
        Ok(None)
    }

    fn forget_flows(&self, plan: &Plan) -> Result<()> {
        run_in(&plan.node(), "conntrack", &["-F"]).map(drop)
    }
}
