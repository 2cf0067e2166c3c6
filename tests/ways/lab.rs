//! The lab at work: network, API server with its objects, and an agent for everybody who asks or answers.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use atalho_benches::apiserver::{self, ApiServer};
use atalho_benches::lab::lock::Lock;
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::Programs;
use atalho_benches::lab::stack::wrong_packets;
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
            // What asks for its loopback address from off the node, IPv6 counts as a wrong header (ip6_rcv_core).
            if host == Host::Node {
                counted.remove("Ip6InHdrErrors");
            }
            wrong.extend(counted.into_iter().map(|(name, count)| format!("{}: {name} {count}", host.name())));
        }
        Ok(wrong)
    }
}
