//! Whatever changes, in whatever order, before the walk begins, while it is under way, and while a worker still admits flows by
//! the tables before: what it ends and what it leaves is what the objects say, read in the simplest way.

mod objects;

use std::time::Instant;

use atalho_engine::conntrack::{Direction, Epochs, FlowRef, NewConnection, Rewrite, Segment};
use atalho_engine::flow::FlowKey;
use proptest::prelude::*;

use super::*;
use crate::compile::{Compiled, NextHopIndexes, compile, offline_facts};
use crate::config::Config;
use crate::facts::NodeFacts;
use crate::manifests::parse_one;
use crate::model::{Change, EndpointState, Key, Kind, Model, Source};
use objects::{CONDITIONS, Endpoint, Flow, Hands, Objects, pod_ip};

/// Protocols of every Service, all at port 80.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
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
    /// What changed is published.
    Publish,
    /// The worker begins a batch, with the newest tables.
    Enter,
    /// The walk goes on by so many steps at most.
    Walk {
        steps: u64,
    },
    /// All of it, until the walk rests.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = proptest::collection::vec((0..4_u8, 0..2_u8, 0..3_usize), 0..4);
    prop_oneof![
        1 => (0..2_u8, proptest::bool::weighted(0.7)).prop_map(|(name, is_there)| Step::Service { name, is_there }),
        4 => (0..3_u8, 0..2_u8, proptest::option::weighted(0.8, endpoints))
            .prop_map(|(name, service, endpoints)| Step::Slice { name, service, endpoints }),
        4 => (0..2_u8, 0..3_usize, 0..4_usize)
            .prop_map(|(service, protocol, choice)| Step::Open { service, protocol, choice }),
        3 => Just(Step::Publish),
        2 => Just(Step::Enter),
        4 => (1..8_u64).prop_map(|steps| Step::Walk { steps }),
        1 => Just(Step::Settle),
    ]
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
    /// Those that the worker uses.
    tables: Arc<Tables>,
    table: ConnTable,
    epochs: Arc<Epochs>,
    queues: Vec<Arc<WorkerQueues>>,
    reconciler: Reconciler,
    walk: Walk,
    now: Objects,
    published: Objects,
    rounds: Vec<Hands>,
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
        let table = ConnTable::in_memory(512, &[3; atalho_layout::SECRET_WORDS]);
        Self {
            model,
            config,
            facts,
            indexes,
            tables: compiled.tables.clone(),
            compiled,
            table,
            epochs: Arc::new(Epochs::new()),
            queues: vec![WorkerQueues::new(1)],
            reconciler: Reconciler::default(),
            walk: Walk::new(table.buckets()),
            now: Objects::default(),
            published: Objects::default(),
            rounds: Vec::new(),
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
            Step::Publish => self.publish(),
            Step::Enter => self.enter(),
            Step::Walk { steps } => self.walk_on(*steps),
            Step::Settle => {
                self.publish();
                self.enter();
                self.walk_on(u64::MAX);
                assert!(self.walk.rests() && !self.walk.waits());
                self.check_settled();
            }
        }
    }

    fn enter(&mut self) {
        self.epochs.enter(&self.queues[0].epoch);
        self.tables = self.compiled.tables.clone();
    }

    /// A flow as the worker admits it.
    fn open(&mut self, service: u8, protocol: Protocol, choice: usize) {
        let vip_key = VipKey { address: vip_ip(service), protocol, port: 80 };
        let Some(vip) = self.tables.services.look_up(&vip_key) else { return };
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
        self.flows.push(Flow { at, rounds: self.rounds.len(), service, protocol, endpoint: dst });
    }

    fn publish(&mut self) {
        if self.now == self.published {
            return;
        }
        self.published = self.now.clone();
        let before = self.compiled.tables.clone();
        let previous = std::mem::replace(&mut self.compiled, Compiled::empty(&self.facts, &self.config));
        self.compiled = compile(&self.model, &self.facts, &self.config, Some(previous), &mut self.indexes);
        for key in &self.compiled.delta.vips_removed {
            self.reconciler.depart(*key, before.services.look_up(key).unwrap());
        }
        self.walk.publish(self.epochs.advance(), Instant::now());
    }

    /// As control does it, and the worker ends what it is told to.
    fn walk_on(&mut self, mut steps: u64) {
        let passed = |epoch| self.epochs.passed(epoch, [&self.queues[0].epoch]);
        self.walk.begin(passed, || {
            let before = self.rounds.last().map(|round| round.after.clone()).unwrap_or_default();
            self.rounds.push(Hands { before, after: self.now.clone(), walked: 0 });
            self.model.take_inherited()
        });
        while steps > 0 && !self.walk.rests() {
            steps -= 1;
            let (model, before) = (&self.model, self.walk.walked());
            let is_known = |service: &str, (address, port): (IpAddr, u16)| {
                model.endpoint_state(service, address, port) != EndpointState::Gone
            };
            self.reconciler.walk(&mut self.walk, &self.table, &self.compiled.tables, &is_known, || true);
            assert!(self.reconciler.hand_over(&self.queues, &|_| {}));
            while let Some(at) = self.queues[0].end_flows.pop() {
                assert!(self.table.end(&self.epochs, at));
            }
            self.check_ended();
            self.rounds.iter_mut().for_each(|round| round.walked += self.walk.walked() - before);
        }
        self.reconciler.tidy(&self.compiled.tables);
    }

    /// Nobody ended who is led on, unless by a round under way his endpoint's address is another's.
    fn check_ended(&mut self) {
        let live = self.live();
        for flow in self.flows.extract_if(.., |flow| !live.contains(&flow.at)) {
            let is_led_on = self.published.has_choice(&flow) || self.now.vouches_for(&flow);
            let mut rounds = self.rounds.iter().filter(|round| round.walked < self.table.buckets());
            assert!(!is_led_on || rounds.any(|round| round.moved(&flow)), "{:?} to {}", flow.protocol, flow.endpoint);
        }
    }

    /// Nobody is left who is not led on, or whose endpoint's address became another's after he was admitted.
    fn check_settled(&self) {
        for flow in &self.flows {
            let is_led_on = self.now.has_choice(flow) || self.now.vouches_for(flow);
            let moved = self.rounds[flow.rounds..].iter().any(|round| round.moved(flow));
            assert!(is_led_on && !moved, "{:?} to {}", flow.protocol, flow.endpoint);
        }
    }

    fn live(&self) -> HashSet<FlowRef> {
        self.table.connections().map(|connection| connection.at).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_ends_what_the_objects_say_and_nothing_else(steps in proptest::collection::vec(step(), 1..80)) {
        let mut node = Node::new();
        steps.iter().chain([&Step::Settle]).for_each(|step| node.take(step));
    }
}
