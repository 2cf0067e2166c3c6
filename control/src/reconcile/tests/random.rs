//! Whatever changes, in whatever order and however much of it between two scans: what a scan leaves and what it ends is what
//! the objects as they are then say, read in the simplest way.

use std::collections::BTreeSet;

use atalho_engine::conntrack::{Direction, Epochs, FlowRef, NewConnection, Rewrite, Segment};
use atalho_engine::flow::FlowKey;
use proptest::prelude::*;

use super::*;
use crate::compile::{Compiled, NextHopIndexes, compile, offline_facts};
use crate::config::Config;
use crate::facts::NodeFacts;
use crate::manifests::parse_one;
use crate::model::{Change, EndpointState, Key, Kind, Model, Source};

/// Protocols of every Service, all at port 80.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// As conditions are written, the best one first.
const CONDITIONS: [&str; 3] =
    ["ready: true", "ready: false, serving: true, terminating: true", "ready: false, serving: false"];

/// Number of an address, of the pod behind it, and of its condition.
type Endpoint = (u8, u8, usize);

#[derive(Debug, Clone)]
enum Step {
    Service {
        name: u8,
        is_there: bool,
    },
    /// `None`: deleted.
    Slice {
        name: u8,
        service: u8,
        endpoints: Option<Vec<Endpoint>>,
    },
    Open {
        service: u8,
        protocol: usize,
        choice: usize,
    },
    /// The tables are published, and a scan follows.
    Scan,
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = proptest::collection::vec((0..4_u8, 0..2_u8, 0..3_usize), 0..4);
    prop_oneof![
        1 => (0..2_u8, proptest::bool::weighted(0.7)).prop_map(|(name, is_there)| Step::Service { name, is_there }),
        4 => (0..3_u8, 0..2_u8, proptest::option::weighted(0.8, endpoints))
            .prop_map(|(name, service, endpoints)| Step::Slice { name, service, endpoints }),
        4 => (0..2_u8, 0..3_usize, 0..4_usize)
            .prop_map(|(service, protocol, choice)| Step::Open { service, protocol, choice }),
        3 => Just(Step::Scan),
    ]
}

struct Flow {
    at: FlowRef,
    service: u8,
    protocol: Protocol,
    endpoint: IpAddr,
}

/// Objects as they are: what each slice says of which Service.
#[derive(Clone, Default)]
struct Objects {
    services: BTreeSet<u8>,
    slices: std::collections::BTreeMap<u8, (u8, Vec<Endpoint>)>,
}

impl Objects {
    fn endpoints(&self, service: u8) -> impl Iterator<Item = &Endpoint> {
        let of_it = self.slices.values().filter(move |(of, _)| *of == service);
        of_it.flat_map(|(_, endpoints)| endpoints).filter(move |_| self.services.contains(&service))
    }

    fn pods(&self, service: u8, address: IpAddr) -> BTreeSet<u8> {
        self.endpoints(service).filter(|e| pod_ip(e.0) == address).map(|e| e.1).collect()
    }

    /// Where datagrams may go: the ready ones, else those that serve while they terminate.
    fn choices(&self, service: u8) -> BTreeSet<IpAddr> {
        let with = |condition| self.endpoints(service).filter(move |e| e.2 == condition).map(|e| pod_ip(e.0)).collect();
        let ready: BTreeSet<IpAddr> = with(0);
        if ready.is_empty() { with(1) } else { ready }
    }

    /// Whether the flow is there after a scan. `before`: the objects at the scan before it.
    fn has(&self, flow: &Flow, before: &Self) -> bool {
        let [had, got] = [before, self].map(|objects| objects.pods(flow.service, flow.endpoint));
        let is_led_on = match flow.protocol {
            Protocol::Udp => self.choices(flow.service).contains(&flow.endpoint),
            _ => !got.is_empty(),
        };
        is_led_on && (had.is_empty() || got.is_subset(&had))
    }
}

fn pod_ip(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number + 1])
}

fn vip_ip(service: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, service + 1])
}

struct Node {
    model: Model,
    config: Config,
    facts: Arc<NodeFacts>,
    indexes: NextHopIndexes,
    compiled: Compiled,
    table: ConnTable,
    epochs: Arc<Epochs>,
    queues: Vec<Arc<WorkerQueues>>,
    reconciler: Reconciler,
    now: Objects,
    scanned: Objects,
    flows: Vec<Flow>,
    next_port: u16,
}

impl Node {
    fn new() -> Self {
        let config = Config::parse(std::path::Path::new("test.toml"), "[node]\nname = \"node-a\"\n").unwrap();
        let model = Model::new(&config);
        let facts = Arc::new(offline_facts(&model, &config));
        let mut indexes = NextHopIndexes::new(64);
        let compiled = compile(&model, &facts, &config, None, &mut indexes);
        Self {
            model,
            config,
            facts,
            indexes,
            compiled,
            table: ConnTable::in_memory(512, &[3; atalho_layout::SECRET_WORDS]),
            epochs: Arc::new(Epochs::new()),
            queues: vec![WorkerQueues::new(1)],
            reconciler: Reconciler::default(),
            now: Objects::default(),
            scanned: Objects::default(),
            flows: Vec::new(),
            next_port: 1024,
        }
    }

    fn put(&mut self, yaml: &str) {
        self.model.apply(Change::Put(parse_one(yaml).unwrap(), Source::Api));
    }

    fn delete(&mut self, kind: Kind, name: String) {
        self.model.apply(Change::Delete(Key { kind, namespace: "default".into(), name }));
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Service { name, is_there: true } => {
                self.now.services.insert(*name);
                let ports = PROTOCOLS.map(|p| format!("{{name: {}, port: 80, protocol: {}}}", p.name(), p.name()));
                self.put(&format!(
                    "{{apiVersion: v1, kind: Service, metadata: {{name: s{name}}}, spec: {{clusterIPs: [{}], ports: [{}]}}}}",
                    vip_ip(*name),
                    ports.join(", ")
                ));
            }
            Step::Service { name, is_there: false } => {
                self.now.services.remove(name);
                self.delete(Kind::Service, format!("s{name}"));
            }
            Step::Slice { name, service, endpoints: Some(endpoints) } => {
                self.now.slices.insert(*name, (*service, endpoints.clone()));
                let ports = PROTOCOLS.map(|p| format!("{{name: {}, port: 8080, protocol: {}}}", p.name(), p.name()));
                let endpoints: Vec<String> = endpoints
                    .iter()
                    .map(|(address, pod, condition)| {
                        format!(
                            "{{addresses: [{}], targetRef: {{uid: u{pod}}}, conditions: {{{}}}}}",
                            pod_ip(*address),
                            CONDITIONS[*condition]
                        )
                    })
                    .collect();
                self.put(&format!(
                    "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                     metadata: {{name: e{name}, labels: {{kubernetes.io/service-name: s{service}}}}}, \
                     ports: [{}], endpoints: [{}]}}",
                    ports.join(", "),
                    endpoints.join(", ")
                ));
            }
            Step::Slice { name, endpoints: None, .. } => {
                self.now.slices.remove(name);
                self.delete(Kind::EndpointSlice, format!("e{name}"));
            }
            Step::Open { service, protocol, choice } => self.open(*service, PROTOCOLS[*protocol], *choice),
            Step::Scan => self.scan(),
        }
    }

    /// A flow as a worker admits it, by the tables that are published.
    fn open(&mut self, service: u8, protocol: Protocol, choice: usize) {
        let vip_key = VipKey { address: vip_ip(service), protocol, port: 80 };
        let Some(vip) = self.compiled.tables.services.look_up(&vip_key) else { return };
        let Some(endpoint) = vip.inside.backends.endpoints.iter().cycle().nth(choice) else { return };
        let (client, ingress) = (IpAddr::from([198, 51, 100, 1]), self.facts.uplink);
        self.next_port += 1;
        let key = FlowKey { src: client, dst: vip_key.address, src_port: self.next_port, dst_port: 80, protocol };
        let (dst, dst_port) = (endpoint.address, endpoint.port);
        let answers = FlowKey { src: dst, dst: client, src_port: dst_port, dst_port: key.src_port, protocol };
        let there = Rewrite { src: client, dst, src_port: key.src_port, dst_port };
        let back = Rewrite { src: key.dst, dst: client, src_port: 80, dst_port: key.src_port };
        let new = NewConnection {
            original: Direction { key, rewrite: there, next_hop: 1, ingress },
            reply: Direction { key: answers, rewrite: back, next_hop: 1, ingress },
            is_service: true,
            first: Segment::Other,
        };
        let at = self.table.insert(0, &self.epochs, &new, 1).unwrap().flow.at;
        self.flows.push(Flow { at, service, protocol, endpoint: dst });
    }

    /// As control does it: publish, then scan; and a worker that ends what it is told to.
    fn scan(&mut self) {
        let before = self.compiled.tables.clone();
        let previous = std::mem::replace(&mut self.compiled, Compiled::empty(&self.facts, &self.config));
        self.compiled = compile(&self.model, &self.facts, &self.config, Some(previous), &mut self.indexes);
        for key in &self.compiled.delta.vips_removed {
            self.reconciler.depart(*key, before.services.look_up(key).unwrap());
        }
        let inherited = &self.model.take_inherited();
        let model = &self.model;
        let is_known = |service: &str, (address, port): (IpAddr, u16)| {
            model.endpoint_state(service, address, port) != EndpointState::Gone
        };
        self.reconciler.scan(&self.table, &self.compiled.tables, &Cluster { is_known: &is_known, inherited });
        assert!(self.reconciler.hand_over(&self.queues, &|_| {}));
        while let Some(at) = self.queues[0].end_flows.pop() {
            assert!(self.table.end(&self.epochs, at));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_scan_ends_what_the_objects_say_and_nothing_else(steps in proptest::collection::vec(step(), 1..60)) {
        let mut node = Node::new();
        for step in steps.iter().chain([&Step::Scan]) {
            let before = node.scanned.clone();
            node.take(step);
            if matches!(step, Step::Scan) {
                node.scanned = node.now.clone();
                let live: HashSet<FlowRef> = node.table.connections().map(|connection| connection.at).collect();
                for flow in &node.flows {
                    let (is_there, wanted) = (live.contains(&flow.at), node.now.has(flow, &before));
                    prop_assert_eq!(is_there, wanted, "{:?} to {}", flow.protocol, flow.endpoint);
                }
                node.flows.retain(|flow| live.contains(&flow.at));
            }
        }
    }
}
