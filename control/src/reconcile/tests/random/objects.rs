//! The objects as they are, and what they say of a flow, read in the simplest way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use atalho_engine::conntrack::FlowRef;
use atalho_engine::flow::Protocol;

/// As conditions are written, the best one first.
pub const CONDITIONS: [&str; 3] =
    ["ready: true", "ready: false, serving: true, terminating: true", "ready: false, serving: false"];

/// Number of an address, of the pod behind it, and of its condition.
pub type Endpoint = (u8, u8, usize);

pub struct Flow {
    pub at: FlowRef,
    /// Rounds that had begun when it was admitted.
    pub rounds: usize,
    pub service: u8,
    pub protocol: Protocol,
    pub endpoint: IpAddr,
}

/// Objects as they are: what each slice says of which Service.
#[derive(Clone, Default, PartialEq)]
pub struct Objects {
    pub services: BTreeSet<u8>,
    pub slices: BTreeMap<u8, (u8, Vec<Endpoint>)>,
}

impl Objects {
    /// Those of its slices, whether it is there or not.
    fn endpoints(&self, service: u8) -> impl Iterator<Item = &Endpoint> {
        let of_it = self.slices.values().filter(move |(of, _)| *of == service);
        of_it.flat_map(|(_, endpoints)| endpoints)
    }

    fn pods(&self, flow: &Flow) -> BTreeSet<u8> {
        self.endpoints(flow.service).filter(|e| pod_ip(e.0) == flow.endpoint).map(|e| e.1).collect()
    }

    /// Where new flows may go: to the ready ones, else to those that serve while they terminate.
    pub fn has_choice(&self, flow: &Flow) -> bool {
        let with = |condition| -> BTreeSet<IpAddr> {
            self.endpoints(flow.service).filter(|e| e.2 == condition).map(|e| pod_ip(e.0)).collect()
        };
        let (ready, terminating) = (with(0), with(1));
        let choices = if ready.is_empty() { terminating } else { ready };
        self.services.contains(&flow.service) && choices.contains(&flow.endpoint)
    }

    /// Whether a flow runs on although its endpoint is no choice.
    pub fn vouches_for(&self, flow: &Flow) -> bool {
        flow.protocol != Protocol::Udp && self.services.contains(&flow.service) && !self.pods(flow).is_empty()
    }
}

/// What changed hands between two beginnings of rounds.
pub struct Hands {
    pub before: Objects,
    pub after: Objects,
    /// Steps of the walk that it was in force for, in buckets.
    pub walked: u64,
}

impl Hands {
    pub fn moved(&self, flow: &Flow) -> bool {
        let [had, got] = [&self.before, &self.after].map(|objects| objects.pods(flow));
        !had.is_empty() && !got.is_subset(&had)
    }
}

pub fn pod_ip(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number + 1])
}
