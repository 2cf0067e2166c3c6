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

/// Starts kube-proxy on both nodes; returns when all rules are in their kernels.
pub fn start_kube_proxies(lab: &Lab) -> Result<KubeProxies> {
    let start = |at: usize| {
        let plan = &lab.plans()[at];
        let log = plan.folder().join("kube-proxy.log");
        KubeProxy::start(&plan.node(), NODES[at], POD_CIDRS, &lab.api.kubeconfig(), log)
    };
    let mut proxies = [start(0)?, start(1)?];
    for proxy in &mut proxies {
        for (family, name) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
            proxy.wait_for_rules(&["table", name, "kube-proxy"], WITHIN, |rules| {
                objects::services().iter().all(|service| rules.contains(&format!("{} ", service.balancer(family))))
            })?;
        }
    }
    Ok(KubeProxies(proxies))
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
