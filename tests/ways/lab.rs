//! The lab at work: network, API server with its objects, and an agent for everybody who asks or answers.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use atalho_benches::apiserver::{self, ApiServer};
use atalho_benches::lab::command::run_in;
use atalho_benches::lab::lock::Lock;
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::Programs;
use atalho_benches::lab::stack::{counters, wrong_packets};
use atalho_benches::traffic::driver::Agent;

use crate::hosts::{ENDPOINT_PORT, HOSTS, Host, PLAIN_PORT};
use crate::network::Network;
use crate::objects;

/// The lab at work. Dropping it takes everything away.
pub struct Lab {
    // In the order in which they have to go.
    pub agents: BTreeMap<Host, Agent>,
    pub api: ApiServer,
    pub programs: Programs,
    network: Network,
    _lock: Lock,
}

impl Lab {
    pub fn build(prefix: &str, programs: &Programs) -> Result<Self> {
        let lock = Lock::take(prefix)?;
        let network = Network::build(prefix).context("cannot build the lab's network (root is needed)")?;
        let [plan, _] = &network.plans;
        let api = ApiServer::start(&apiserver::binaries()?, plan, &programs.lab)?;
        let manifest = plan.folder().join("objects.yaml");
        fs::write(&manifest, objects::manifest())?;
        api.apply(&[manifest])?;
        let mut agents = BTreeMap::new();
        for host in HOSTS {
            agents.insert(host, Agent::start(&programs.lab, &network.namespace(host))?);
        }
        let mut lab = Self { agents, api, programs: programs.clone(), network, _lock: lock };
        lab.serve()?;
        Ok(lab)
    }

    fn serve(&mut self) -> Result<()> {
        for host in [Host::Endpoint, Host::Other, Host::EndpointB, Host::Node, Host::NodeB] {
            self.serve_at(host, Family::BOTH.map(|family| (host.address(family), ENDPOINT_PORT)))?;
        }
        for host in [Host::Node, Host::Outside] {
            self.serve_at(host, Family::BOTH.map(|family| (host.address(family), PLAIN_PORT)))?;
        }
        self.serve_at(Host::Router, Family::BOTH.map(|family| (objects::PROXIED.address(family), objects::PORT)))
    }

    fn serve_at(&mut self, host: Host, sockets: [(IpAddr, u16); 2]) -> Result<()> {
        let agent = self.agents.get_mut(&host).context("every host has an agent")?;
        agent.serve(host.name(), sockets.map(Into::into).to_vec())
    }

    /// Of node-a and of node-b.
    pub fn plans(&self) -> &[Plan; 2] {
        &self.network.plans
    }

    /// Packets with a wrong checksum, length or header that any namespace received; empty if none.
    pub fn wrong_packets(&self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for host in HOSTS {
            let mut counted = wrong_packets(&self.network.namespace(host))?;
            // See `loopback_refusals`.
            if host == Host::Node {
                counted.remove(REFUSED_V6);
            }
            wrong.extend(counted.into_iter().map(|(name, count)| format!("{}: {name} {count}", host.name())));
        }
        Ok(wrong)
    }

    /// Packets for its loopback addresses that node-a has got from its link, and refused: that they came is what their silence
    /// is worth. IPv6 counts them as wrong headers (ip6_rcv_core), IPv4 as martians of the whole machine.
    pub fn loopback_refusals(&self) -> Result<[u64; 2]> {
        let namespace = self.network.namespace(Host::Node);
        let martians = run_in(&namespace, "cat", &["/proc/net/stat/rt_cache"])?;
        let mut lines = martians.lines().map(str::split_whitespace);
        let names = lines.next().context("/proc/net/stat/rt_cache is empty")?;
        let column = names.into_iter().position(|name| name == MARTIANS_V4).context("no count of martians")?;
        let counts = lines.filter_map(|mut cpu| u64::from_str_radix(cpu.nth(column)?, 16).ok());
        Ok([counts.sum(), counters(&namespace)?.get(REFUSED_V6).copied().unwrap_or_default()])
    }
}

const REFUSED_V6: &str = "Ip6InHdrErrors";
const MARTIANS_V4: &str = "in_martian_dst";
