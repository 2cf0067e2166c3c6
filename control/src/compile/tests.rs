//! A cluster under test and its node, for the tests below.

mod external;
mod many;
mod nearness;
mod node;
mod property;
mod services;
mod sharing;

use atalho_engine::route::Routed;
use atalho_engine::service::{Route, VipKind};

use super::*;
use crate::facts::{KernelRoute, KernelRouteKind, Link};
use crate::model::{Change, Key, Kind, Source};

/// A cluster under test, compiled after every step as a daemon would.
pub(super) struct World {
    pub model: Model,
    pub config: Config,
    pub facts: Arc<NodeFacts>,
    pub indexes: NextHopIndexes,
    pub compiled: Option<Compiled>,
}

impl World {
    pub fn new(config: &str) -> Self {
        let text = format!("[node]\nname = \"node-a\"\n{config}");
        let config = Config::parse(std::path::Path::new("test.toml"), &text).unwrap();
        let model = Model::new(&config);
        Self { model, config, facts: Arc::new(facts()), indexes: NextHopIndexes::new(1 << 16), compiled: None }
    }

    pub fn put(&mut self, yaml: &str) {
        let object = crate::manifests::parse_one(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
        self.model.apply(Change::Put(object, Source::Api));
    }

    pub fn delete(&mut self, kind: Kind, name: &str) {
        let namespace = if kind.is_namespaced() { "default" } else { "" };
        self.model.apply(Change::Delete(Key { kind, namespace: namespace.into(), name: name.into() }));
    }

    pub fn compile(&mut self) -> &Compiled {
        let previous = self.compiled.take();
        self.compiled.insert(compile(&self.model, &self.facts, &self.config, previous, &mut self.indexes))
    }

    fn vip(&self, text: &str) -> Option<Vip> {
        let (protocol, address) = text.split_once(' ').unwrap();
        let address: std::net::SocketAddr = address.parse().unwrap();
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Sctp,
        };
        let key = VipKey { address: address.ip(), protocol, port: address.port() };
        self.compiled.as_ref().unwrap().tables.services.look_up(&key).cloned()
    }
}

/// node-a: uplink eth0 with 192.168.0.2 and fd00::2, a funnel, pods p1 and p2 behind v1 and v2, a gateway.
pub(super) fn facts() -> NodeFacts {
    let mut facts = NodeFacts { uplink: 2, funnel: 4, ..NodeFacts::default() };
    for (ifindex, name) in [(1, "lo"), (2, "eth0"), (4, "atl-f1"), (11, "v1"), (12, "v2"), (13, "v3")] {
        let link = Link { name: name.into(), mac: [2, 0, 0, 0, 0, ifindex as u8], mtu: 1500, up: true };
        facts.links.insert(ifindex, link);
    }
    for (ifindex, net) in [
        (1, "127.0.0.1/8"),
        (1, "::1/128"),
        (2, "192.168.0.2/24"),
        (2, "fd00::2/64"),
        (2, "fe80::2/64"),
        (4, "169.254.97.1/32"),
        (11, "10.244.0.1/32"),
        (12, "10.244.0.1/32"),
    ] {
        facts.addresses.insert((ifindex, net.parse().unwrap()));
    }
    let mut route = |destination: &str, gateway: Option<&str>, interface: u32, kind: KernelRouteKind, metric: u32| {
        facts.routes.push(KernelRoute {
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            interface: Some(interface),
            kind,
            metric,
        });
    };
    use KernelRouteKind::{Blackhole, Local, Other, Refused, Unicast};
    route("0.0.0.0/0", Some("192.168.0.1"), 2, Unicast, 100);
    route("0.0.0.0/0", Some("192.168.0.9"), 2, Unicast, 200);
    route("192.168.0.0/24", None, 2, Unicast, 0);
    route("192.168.0.2/32", None, 2, Local, 0);
    route("192.168.0.255/32", None, 2, Other, 0);
    route("10.244.1.0/24", Some("192.168.0.3"), 2, Unicast, 0);
    route("172.31.0.0/16", None, 77, Unicast, 0);
    route("10.66.0.0/16", None, 2, Refused, 0);
    route("10.67.0.0/16", None, 2, Blackhole, 0);
    route("10.96.0.0/12", Some("169.254.97.2"), 4, Unicast, 0);
    route("10.244.0.11/32", None, 11, Unicast, 0);
    route("10.244.0.12/32", None, 12, Unicast, 0);
    route("fd00::/64", None, 2, Unicast, 0);
    route("fd44::11/128", None, 11, Unicast, 0);
    facts.neighbours.insert((2, "192.168.0.1".parse().unwrap()), [0xa; 6]);
    facts.neighbours.insert((11, "10.244.0.11".parse().unwrap()), [0xb; 6]);
    facts
}

pub(super) fn service(name: &str, rest: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{rest}}}}}")
}

pub(super) fn slice(name: &str, service: &str, family: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}, \
         addressType: {family}, ports: [{ports}], endpoints: [{endpoints}]}}"
    )
}

pub(super) fn pod(name: &str, ips: &[&str]) -> String {
    let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node-a, containers: []}}, status: {{phase: Running, podIPs: [{}]}}}}",
        ips.join(", ")
    )
}

fn endpoints(route: &Route) -> Vec<String> {
    route.backends.endpoints.iter().map(|e| format!("{}:{}", e.address, e.port)).collect()
}

const READY: &str = "conditions: {ready: true}";
const GOING: &str = "conditions: {ready: false, serving: true, terminating: true}";
const DOWN: &str = "conditions: {ready: false, serving: false}";

fn on(address: &str, node: &str, conditions: &str) -> String {
    format!("{{addresses: [\"{address}\"], nodeName: {node}, {conditions}}}")
}
