//! Who makes Services on the two nodes: kube-proxy, then the daemon. Each leaves nothing behind for the other.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use atalho_benches::kube_proxy::KubeProxy;
use atalho_benches::lab::command::run_in;
use atalho_benches::lab::daemon::{Daemon, Objects, write_config};
use atalho_benches::lab::plan::{Family, Plan};

use crate::lab::Lab;
use crate::objects;

const NODES: [&str; 2] = ["node-a", "node-b"];
const POD_CIDRS: &str = "10.244.0.0/16,fd00:244::/48";
const WITHIN: Duration = Duration::from_secs(60);

pub struct KubeProxies([KubeProxy; 2]);

/// Starts that kube-proxy may take until it has heard of the Service ranges in time.
const STARTS_MAX: usize = 10;

/// Starts kube-proxy on both nodes; returns when all rules are in their kernels.
pub fn start_kube_proxies(lab: &Lab) -> Result<KubeProxies> {
    Ok(KubeProxies([start_kube_proxy(lab, 0)?, start_kube_proxy(lab, 1)?]))
}

/// Of the Service ranges kube-proxy hears by a watch, and writes the rule for them with its first rules or an hour later
/// (`OnServiceCIDRsChanged` and `setupNFTables` in pkg/proxy/nftables/proxier.go of 1.37): whichever comes first. So it is
/// started until they came before the rules.
fn start_kube_proxy(lab: &Lab, at: usize) -> Result<KubeProxy> {
    let plan = &lab.plans()[at];
    for _ in 0..STARTS_MAX {
        let log = plan.folder().join("kube-proxy.log");
        let mut proxy = KubeProxy::start(&plan.node(), NODES[at], POD_CIDRS, &lab.api.kubeconfig(), log)?;
        let mut knows_ranges = true;
        for (family, name) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
            proxy.wait_for_rules(&["table", name, "kube-proxy"], WITHIN, |rules| {
                objects::services().iter().all(|service| rules.contains(&format!("{} ", service.balancer(family))))
            })?;
            let chain = ["list", "chain", name, "kube-proxy", "cluster-ips-check"];
            knows_ranges &= run_in(&plan.node(), "nft", &chain)?.contains("unallocated");
        }
        if knows_ranges {
            return Ok(proxy);
        }
        drop(proxy);
        run_in(&plan.node(), "nft", &["flush", "ruleset"])?;
    }
    bail!("kube-proxy at {} wrote no rule for the Service ranges at {STARTS_MAX} starts", NODES[at])
}

impl KubeProxies {
    /// Ends them, and takes their rules and connections out of the kernels: they would translate on.
    pub fn stop(self, lab: &Lab) -> Result<()> {
        drop(self.0);
        for plan in lab.plans() {
            run_in(&plan.node(), "nft", &["flush", "ruleset"])?;
            run_in(&plan.node(), "conntrack", &["-F"])?;
        }
        Ok(())
    }
}

pub struct Daemons([Daemon; 2]);

/// Starts the daemon on both nodes; returns when it is ready there and the node's own way to every Service stands.
pub fn start_daemons(lab: &Lab) -> Result<Daemons> {
    let start = |at: usize| {
        let plan = &lab.plans()[at];
        let config = write_config(plan, None, &format!("[service]\nexternal_ip_cidrs = {:?}\n", objects::EXTERNAL))?;
        let text = fs::read_to_string(&config)?.replace(NODES[0], NODES[at]);
        fs::write(&config, text)?;
        Daemon::start(&lab.programs.atalho, plan, &config, &Objects::ApiServer { kubeconfig: lab.api.kubeconfig() })
    };
    let mut daemons = [start(0)?, start(1)?];
    for (daemon, plan) in daemons.iter_mut().zip(lab.plans()) {
        daemon.wait_ready(WITHIN)?;
        wait_for_routes(plan)?;
    }
    Ok(Daemons(daemons))
}

impl Daemons {
    /// Every packet ended in one counter; names the nodes of which this is not so.
    pub fn uneven_books(&mut self) -> Result<Vec<String>> {
        let mut uneven = Vec::new();
        for (daemon, node) in self.0.iter().zip(NODES) {
            let status = daemon.settled_status()?;
            if !status.is_even() || !status.slow_path.is_even() {
                uneven.push(format!("{node}: {status:?}"));
            }
        }
        Ok(uneven)
    }
}

fn wait_for_routes(plan: &Plan) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    for service in objects::services() {
        for family in Family::BOTH {
            let kind = if family == Family::V4 { "-4" } else { "-6" };
            for address in [service.balancer(family), service.external_ip(family)] {
                let show = [kind, "route", "show", "exact", &address.to_string()];
                while run_in(&plan.node(), "ip", &show)?.trim().is_empty() {
                    if Instant::now() >= deadline {
                        bail!("no route into the funnel for {address} after {WITHIN:?}");
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
    Ok(())
}
