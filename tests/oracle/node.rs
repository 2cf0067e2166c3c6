//! Our side: the engine and the slow path in memory, with tables compiled from the same cluster's manifests.

use std::sync::{Arc, Mutex};

use atalho_control::compile::{NextHopIndexes, compile, offline_facts};
use atalho_control::config::Config;
use atalho_control::facts::{KernelRoute, KernelRouteKind, NodeFacts};
use atalho_control::manifests::Manifests;
use atalho_control::model::Model;
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::{Handoff, Task, WorkerQueues};
use atalho_engine::next_hops::NextHops;
use atalho_engine::pipeline::{Engine, EngineParts, Slot};
use atalho_engine::tables::Tables;
use atalho_engine::verdict::Verdict;
use atalho_layout::{NextHopKind, SECRET_WORDS, ifindex_of_tag};
use atalho_slowpath::{Limits, Parts, SlowPath};

use super::Out;
use super::cluster::{Family, Host, Link};
use super::manifests;

/// Time stands still: timeouts are the subject of other tests.
const NOW_S: u32 = 1000;
/// But for the slow path, which gives up what waits for long: a packet takes this.
const PACKET_MS: u64 = 10;
const NEXT_HOPS: usize = 64;
const BUFFERS: usize = 256;

pub struct Node {
    engine: Engine,
    slow: SlowPath,
    tables: Arc<Tables>,
    next_hops: NextHops,
    now_ms: u64,
    /// The worker's buffers.
    free: Arc<WorkerQueues>,
    fault: Fault,
}

/// What is done to every frame that comes out, so that a test can be wrong on purpose.
pub type Fault = fn(&mut Out);

/// What becomes of one packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub out: Vec<Out>,
    /// Name of the last verdict's reason; `forward` where there is none.
    pub because: &'static str,
}

impl Node {
    /// With tables from the cluster's manifests; `seed` draws source ports and the table's secret; `flows` fit into the table.
    pub fn new(seed: u64, flows: usize, fault: Fault) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        manifests::write(folder.path());
        let config = config();
        let mut model = Model::new(&config);
        let loaded = Manifests::new(folder.path()).reload(std::time::Instant::now()).expect("manifests");
        assert!(loaded.refusals.is_empty(), "{:?}", loaded.refusals);
        loaded.changes.into_iter().for_each(|change| model.apply(change));
        let facts = Arc::new(facts(&model, &config));
        let compiled = compile(&model, &facts, &config, None, &mut NextHopIndexes::new(NEXT_HOPS as u32));
        assert!(
            model.refusals().is_empty() && compiled.refusals.is_empty(),
            "{:?} {:?}",
            model.refusals(),
            compiled.refusals
        );

        let next_hops = NextHops::in_memory(NEXT_HOPS);
        compiled.next_hops.iter().for_each(|(index, next_hop)| next_hops.set(*index, next_hop));
        let mut random = fastrand::Rng::with_seed(seed);
        let secret: [u64; SECRET_WORDS] = std::array::from_fn(|_| random.u64(..));
        let engine = Engine::new(EngineParts {
            worker: 0,
            table: ConnTable::in_memory(flows, &secret),
            // No Service here asks for it: its endpoint would be the same anyway.
            affinity: AffinityTable::in_memory(1, &secret),
            epochs: Arc::new(Epochs::new()),
            next_hops,
            counters: Arc::new(Counters::default()),
            seed,
            processor: (),
        });
        let tables = compiled.tables.clone();
        let free = WorkerQueues::new(BUFFERS);
        let shared = Mutex::new(tables.clone());
        let parts = Parts {
            queues: vec![free.clone()],
            tables: Box::new(move || shared.lock().expect("tables").clone()),
            next_hops,
            ask_neighbour: Box::new(|address| panic!("{address} is a neighbour that the facts do not know")),
            wake_worker: Box::new(|_| {}),
        };
        // As on the other side nothing is held back.
        let limits = Limits {
            answers_per_s: u32::MAX,
            answers_burst: u32::MAX,
            answers_to_sender_per_s: u32::MAX,
            answers_to_sender_burst: u32::MAX,
            relays_per_s: u32::MAX,
            relays_burst: u32::MAX,
            ..Limits::default()
        };
        Self { engine, slow: SlowPath::new(parts, limits), tables, next_hops, now_ms: 0, free, fault }
    }

    /// What comes out when `frame` goes in by `link`. The books are even after it.
    pub fn exchange(&mut self, link: Link, frame: &[u8]) -> Outcome {
        self.now_ms += PACKET_MS;
        self.give_up();
        let mut bytes = frame.to_vec();
        let mut batch = [Slot::new(&mut bytes, link.ifindex())];
        self.engine.process(&self.tables, NOW_S, &mut batch);
        let [slot] = batch;
        let decided = Decided::of(&slot);
        let mut outcome = Outcome::default();
        self.act(decided, bytes, &mut outcome);
        outcome.out.iter_mut().for_each(self.fault);
        let (books, slow_books) = (self.engine.counters().books(), self.slow.counters().books());
        assert!(books.is_even() && slow_books.is_even(), "{books:?} {slow_books:?}");
        outcome
    }

    /// What the slow path has waited for long enough.
    fn give_up(&mut self) {
        let Self { slow, free, now_ms, .. } = self;
        slow.tick(*now_ms, |_, buffer| {
            assert!(matches!(buffer.task, Task::Drop(_)), "nothing waits here but fragments without a first one");
            let _ = free.free.push(buffer);
        });
    }

    /// Carries a verdict out, as a worker does.
    fn act(&mut self, decided: Decided, mut bytes: Vec<u8>, outcome: &mut Outcome) {
        self.engine.counters().settle(decided.verdict, decided.send_len);
        outcome.because = match decided.verdict {
            Verdict::Forward { .. } => "forward",
            Verdict::Punt(reason) => reason.name(),
            Verdict::Drop(reason) => reason.name(),
        };
        match decided.verdict {
            Verdict::Forward { next_hop } => {
                bytes.truncate(decided.send_len);
                let next_hop = self.next_hops.get(next_hop).expect("the next hop that was chosen");
                // The node's own stack: the other side has nobody there either.
                if next_hop.kind != NextHopKind::Node {
                    outcome.out.push(delivered(next_hop.ifindex, bytes));
                }
            }
            Verdict::Punt(reason) => {
                let mut buffer = Handoff::new();
                assert!(buffer.fill(&bytes, decided.ingress), "a buffer has room for every frame");
                buffer.task = Task::Punt { reason, next_hop_address: None, mtu: decided.mtu };
                self.punt(buffer, outcome);
            }
            Verdict::Drop(_) => {}
        }
    }

    /// The slow path's part; what it gives back goes through the engine once more.
    fn punt(&mut self, buffer: Box<Handoff>, outcome: &mut Outcome) {
        let mut returned = Vec::new();
        self.slow.handle(self.now_ms, 0, buffer, |_, buffer| returned.push(buffer));
        for mut buffer in returned {
            match buffer.task {
                Task::Reply => outcome.out.push(delivered(buffer.ingress, buffer.bytes().to_vec())),
                Task::Resume => {
                    let mut batch = [Slot::resumed(&mut buffer)];
                    self.engine.resume(&self.tables, NOW_S, &mut batch);
                    let [slot] = batch;
                    let decided = Decided::of(&slot);
                    let bytes = buffer.bytes().to_vec();
                    self.act(decided, bytes, outcome);
                }
                Task::Drop(reason) => outcome.because = reason.name(),
                Task::Punt { .. } => {}
            }
            // Buffers are the worker's, and it has as many as before.
            let _ = self.free.free.push(buffer);
        }
    }
}

/// A verdict, apart from the frame that it is about.
#[derive(Clone, Copy)]
struct Decided {
    verdict: Verdict,
    send_len: usize,
    ingress: u32,
    mtu: u16,
}

impl Decided {
    fn of(slot: &Slot<'_>) -> Self {
        Self { verdict: slot.verdict, send_len: slot.send_len, ingress: slot.ingress, mtu: slot.mtu }
    }
}

/// What the kernel side makes of a frame in the funnel: the tag becomes the pod's address.
fn delivered(ifindex: u32, mut frame: Vec<u8>) -> Out {
    let link = Link::ALL.into_iter().find(|link| link.ifindex() == ifindex).expect("a link of the cluster");
    if let Some(host) = link.pod() {
        let tag = ifindex_of_tag(*frame.first_chunk().expect("a frame"));
        assert_eq!(tag, Some(ifindex), "a frame to a pod carries its tag");
        frame[..6].copy_from_slice(&host.mac());
    }
    Out { link, frame }
}

fn config() -> Config {
    let mut config = Config::default();
    "node-a".clone_into(&mut config.node.name);
    let cidrs = |of: fn(Family) -> &'static str| Some(Family::BOTH.map(|f| of(f).parse().expect("a CIDR")).to_vec());
    config.cluster.pod_cidrs = cidrs(super::cluster::pod_cidr);
    config.cluster.service_cidrs = cidrs(super::cluster::service_cidr);
    config
}

/// What is offline known of the model, with the links, routes and neighbours of the kernel's router.
fn facts(model: &Model, config: &Config) -> NodeFacts {
    let mut facts = offline_facts(model, config);
    let renamed: Vec<(u32, Link)> = facts
        .links
        .iter()
        .filter_map(|(ifindex, link)| {
            let host = Host::PODS.into_iter().find(|host| link.name == format!("pod:default/{}", host.name()));
            host.map(|host| (*ifindex, host.link())).or((link.name == "uplink").then_some((*ifindex, Link::Uplink)))
        })
        .collect();
    // Pods are numbered as they come; here each link has a number of its own.
    let number = |old: u32| renamed.iter().find(|(ifindex, _)| *ifindex == old).map_or(old, |(_, link)| link.ifindex());
    facts.links = std::mem::take(&mut facts.links).into_iter().map(|(old, link)| (number(old), link)).collect();
    facts.neighbours.clear();
    for route in &mut facts.routes {
        route.interface = route.interface.map(number);
    }
    for link in Link::ALL {
        let known = facts.links.get_mut(&link.ifindex()).expect("a link of the cluster");
        (known.mac, known.mtu) = (link.mac(), link.mtu());
    }
    facts.routes.retain(|route| route.destination.prefix_len() != 0);
    for family in Family::BOTH {
        let mut add = |destination: &str, gateway: Option<Host>| {
            facts.routes.push(KernelRoute {
                destination: destination.parse().expect("a route"),
                gateway: gateway.map(|host| host.address(family)),
                interface: Some(Link::Uplink.ifindex()),
                kind: KernelRouteKind::Unicast,
                metric: 0,
            });
        };
        add(family.pick("0.0.0.0/0", "::/0"), Some(Host::Gateway));
        add(family.pick("192.168.0.0/24", "fd00:168::/64"), None);
        add(family.pick("10.244.2.0/24", "fd00:244:0:2::/64"), Some(Host::OtherNode));
        for host in Host::PODS.into_iter().chain([Host::Gateway, Host::OtherNode]) {
            facts.neighbours.insert((host.link().ifindex(), host.address(family)), host.mac());
        }
    }
    facts
}
