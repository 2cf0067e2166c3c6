//! A node's control as it runs, with workers that forward meanwhile: watch events go in at one end, and at the other every
//! worker notes when it has the tables. In memory: claims and next hops are written to nobody's kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use arc_swap::{ArcSwap, Cache};
use atalho_control::config::Config;
use atalho_control::dataplane::{Dataplane, InForce};
use atalho_control::facts::{KernelRoute, KernelRouteKind, Link, NodeFacts};
use atalho_control::model::{Change, Kind};
use atalho_control::node::follow::Picture;
use atalho_control::publish::{Asks, Inputs, Parts, Publisher};
use atalho_control::shared::Shared;
use atalho_control::watch::{Feed, KINDS};
use atalho_engine::conntrack::Epochs;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_engine::pipeline::BATCH;
use atalho_engine::tables::Tables;
use atalho_layout::{ClaimKey, ClaimKind, KernelCounter, LpmKey, PortRecord};
use atalho_sys::{clock, cores};
use tokio::sync::{mpsc, watch};

use crate::bench::frames::FRAMES;
use crate::bench::in_memory::{Draw, InMemoryWorker, Look, secret};
use crate::bench::node::{GATEWAY_MAC, UPLINK, UPLINK_MAC, connection_table};

/// Established flows.
const FLOWS: u32 = 1024;
/// Of so many frames one begins a flow, of so many in turn.
const FRAMES_PER_NEW: usize = 1024;
const NEW_FLOWS: u32 = 100_000;
/// While there are no tables, a worker looks for them so often: it has no packets and sleeps.
const ASLEEP: Duration = Duration::from_micros(50);
const FEED: usize = 1024;
/// Index of the funnel: there is none, nor does any other link carry anything of this.
const FUNNEL: u32 = 3;

/// It ends when this is dropped.
pub struct Node {
    feed: Option<mpsc::Sender<Feed>>,
    // The picture is looked at as long as somebody may show another.
    _picture: watch::Sender<Picture>,
    workers: Vec<Arc<Seen>>,
    over: Arc<AtomicBool>,
    control: Option<JoinHandle<Result<(), String>>>,
    forwarding: Vec<JoinHandle<Result<Packets>>>,
    start: Instant,
}

/// What a worker has seen last.
#[derive(Default)]
struct Seen {
    generation: AtomicU64,
    /// When, nanoseconds since the start.
    at_ns: AtomicU64,
}

/// A worker's packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Packets {
    pub received: u64,
    /// All that did not go on.
    pub lost: u64,
}

impl Node {
    /// Starts a worker on each core but the first. Control runs where it finds room, as in a daemon.
    pub fn start() -> Result<Self> {
        let all = cores::available();
        let [_, workers @ ..] = &all[..] else { bail!("no core to run on") };
        ensure!(!workers.is_empty(), "control and a worker need a core each: this process may use {all:?}");
        let start = Instant::now();
        let over = Arc::new(AtomicBool::new(false));
        let snapshot: Arc<ArcSwap<Tables>> = Arc::default();
        let epochs = Arc::new(Epochs::new());
        let next_hops = NextHops::in_memory(256);
        let table = connection_table(2 * (FLOWS + NEW_FLOWS) as usize, &secret())?;
        let queues: Vec<_> = workers.iter().map(|_| WorkerQueues::new(1)).collect();
        let (feed, fed) = mpsc::channel(FEED);
        let (show, picture) = watch::channel(Picture::default());
        show.send_replace(Picture { facts: Arc::new(facts()?), ..Picture::default() });
        let parts = Parts {
            config: config()?,
            node: "node-a".into(),
            snapshot: snapshot.clone(),
            next_hops,
            table,
            epochs: epochs.clone(),
            queues,
            wake: Arc::new(|_| {}),
            published: Arc::new(|| {}),
            dataplane: Arc::new(Mutex::new(Box::new(Nobody))),
            shared: Arc::new(Shared::default()),
            health_checks: watch::channel(Arc::default()).0,
            f1: FUNNEL,
        };
        let mut node = Self {
            feed: Some(feed),
            _picture: show,
            workers: Vec::new(),
            over,
            control: None,
            forwarding: Vec::new(),
            start,
        };
        let control = thread::Builder::new().name("control".into()).spawn(move || run(parts, fed, picture))?;
        node.control = Some(control);
        for (index, core) in workers.iter().copied().enumerate() {
            let seen = Arc::new(Seen::default());
            node.workers.push(seen.clone());
            let inside = InMemoryWorker::new(index as u8, table, epochs.clone(), next_hops);
            let (over, tables) = (node.over.clone(), Cache::new(snapshot.clone()));
            let watched = Watched { tables, seen, last: 0, start };
            let name = format!("worker-{index}");
            let forward = move || {
                forward(core, inside, watched, &over)
                    .inspect_err(|error| eprintln!("bench: worker on core {core}: {error:#}"))
            };
            node.forwarding.push(thread::Builder::new().name(name).spawn(forward)?);
        }
        Ok(node)
    }

    /// Gives control a watch's event.
    pub fn tell(&self, changes: Vec<Change>) -> Result<()> {
        self.say(Feed::Changes(changes))
    }

    /// Says that all first lists but one are complete, and waits until control has taken all that it was told.
    pub fn list_all_but_one(&self) -> Result<()> {
        KINDS.iter().filter(|kind| **kind != Kind::ServiceCidr).try_for_each(|kind| self.say(Feed::Listed(*kind)))?;
        let feed = self.feed.as_ref().context("the node has ended")?;
        while feed.capacity() < FEED {
            thread::sleep(Duration::from_millis(1));
        }
        // The last of it may be in work.
        thread::sleep(Duration::from_millis(20));
        Ok(())
    }

    /// Lets control go ahead. Returns the seconds until every worker had the first tables.
    pub fn list_the_last(&self, within: Duration) -> Result<f64> {
        self.until_seen(Feed::Listed(Kind::ServiceCidr), within)
    }

    /// Seconds from the event until every worker had tables that were published after it.
    pub fn change(&self, change: Change, within: Duration) -> Result<f64> {
        self.until_seen(Feed::Changes(vec![change]), within)
    }

    fn until_seen(&self, feed: Feed, within: Duration) -> Result<f64> {
        let before = self.generation();
        let told = Instant::now();
        self.say(feed)?;
        // Not by spinning: the core is control's.
        while self.generation() == before {
            let is_late = told.elapsed() > within || self.forwarding.iter().any(JoinHandle::is_finished);
            ensure!(!is_late, "no new tables within {within:?}: {}", self.why_none());
            thread::sleep(Duration::from_millis(1));
        }
        let seen = self.workers.iter().map(|worker| worker.at_ns.load(Ordering::Acquire)).max().unwrap_or(0);
        Ok(Duration::from_nanos(seen).saturating_sub(told - self.start).as_secs_f64())
    }

    fn say(&self, feed: Feed) -> Result<()> {
        let to = self.feed.as_ref().context("the node has ended")?;
        to.blocking_send(feed).map_err(|_| anyhow!("control takes nothing any more: {}", self.why_none()))
    }

    /// The oldest that a worker has.
    fn generation(&self) -> u64 {
        self.workers.iter().map(|worker| worker.generation.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    fn why_none(&self) -> &'static str {
        if self.control.as_ref().is_some_and(JoinHandle::is_finished) {
            "control panicked or could not start"
        } else if self.forwarding.iter().any(JoinHandle::is_finished) {
            "a worker has given up, as said above"
        } else {
            "control is still at work"
        }
    }

    /// Ends it. Returns what became of the packets.
    pub fn end(mut self) -> Result<Packets> {
        self.over.store(true, Ordering::Release);
        self.feed = None;
        let died = |_| anyhow!("a thread of the measurement panicked");
        let mut packets = Packets::default();
        for worker in std::mem::take(&mut self.forwarding) {
            let Packets { received, lost } = worker.join().map_err(died)??;
            packets = Packets { received: packets.received + received, lost: packets.lost + lost };
        }
        if let Some(control) = self.control.take() {
            control.join().map_err(died)?.map_err(|why| anyhow!(why))?;
        }
        Ok(packets)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.feed = None;
    }
}

/// Control's thread.
fn run(parts: Parts, feed: mpsc::Receiver<Feed>, picture: watch::Receiver<Picture>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        // Nobody asks anything; the ends are kept, for a closed one would be polled again and again.
        let ((_ask, neighbours), (_question, questions)) = (mpsc::channel(1), mpsc::channel(1));
        let mut asks = Asks { neighbours, questions };
        Publisher::new(parts)?.run(Inputs { feed, picture, asks: &mut asks }).await;
        Ok(())
    })
}

/// Tables as a worker finds them: it notes when new ones are there.
struct Watched {
    tables: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    seen: Arc<Seen>,
    last: u64,
    start: Instant,
}

impl Look for Watched {
    #[inline]
    fn look(&mut self) -> &Tables {
        let tables = self.tables.load();
        if tables.generation != self.last {
            self.last = tables.generation;
            self.seen.at_ns.store(self.start.elapsed().as_nanos() as u64, Ordering::Release);
            self.seen.generation.store(self.last, Ordering::Release);
        }
        tables
    }
}

impl Look for &mut Watched {
    #[inline]
    fn look(&mut self) -> &Tables {
        Watched::look(self)
    }
}

/// A worker's thread: forwards to the first Service until it is over, without a pause.
fn forward(core: usize, mut inside: InMemoryWorker, mut tables: Watched, over: &AtomicBool) -> Result<Packets> {
    cores::pin(core)?;
    let (mut random, mut new) = (Draw::new(core as u64), 0);
    while tables.look().generation == 0 && !over.load(Ordering::Acquire) {
        thread::sleep(ASLEEP);
    }
    let mut packets = Packets::default();
    while !over.load(Ordering::Acquire) {
        for (at, flow) in inside.drawn.iter_mut().enumerate() {
            *flow = random.below(FLOWS);
            if at % FRAMES_PER_NEW == 0 {
                new = (new + 1) % NEW_FLOWS;
                *flow = FLOWS + new;
            }
        }
        // New frames take longer than a batch: a worker that received them would look in between.
        for at in (0..FRAMES).step_by(BATCH) {
            tables.look();
            let InMemoryWorker { frames, drawn, .. } = &mut inside;
            frames.write_from(at, &drawn[at..at + BATCH]);
        }
        let before = inside.counters.books().forwarded;
        let refused = inside.batches(&mut tables, clock::coarse_seconds(), |_| {});
        let lost = FRAMES as u64 - (inside.counters.books().forwarded - before);
        packets.received += FRAMES as u64;
        packets.lost += lost;
        match refused {
            Ok(()) => inside.check()?,
            Err(_) if lost > 0 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(packets)
}

fn config() -> Result<Config> {
    let text = "[node]\nname = 'node-a'\n[cluster]\nservice_cidrs = ['10.96.0.0/16']\n";
    Config::parse(Path::new("bench.toml"), text).map_err(|error| anyhow!("the bench's configuration: {error}"))
}

/// A node with an uplink and its gateway. Links are down, so that no route or neighbour is written anywhere.
fn facts() -> Result<NodeFacts> {
    let gateway: IpAddr = Ipv4Addr::new(192, 168, 0, 1).into();
    let mut facts = NodeFacts { uplink: UPLINK, funnel: FUNNEL, ..NodeFacts::default() };
    for (ifindex, name, mac) in [(UPLINK, "uplink", UPLINK_MAC), (FUNNEL, "node", [2, 0, 0, 0, 0, 3])] {
        facts.links.insert(ifindex, Link { name: name.into(), mac, mtu: 1500, up: false });
    }
    facts.addresses.insert((UPLINK, "192.168.0.2/24".parse()?));
    facts.neighbours.insert((UPLINK, gateway), GATEWAY_MAC);
    facts.routes.push(KernelRoute {
        destination: "0.0.0.0/0".parse()?,
        gateway: Some(gateway),
        interface: Some(UPLINK),
        kind: KernelRouteKind::Unicast,
        metric: 0,
    });
    Ok(facts)
}

/// A kernel side that takes everything.
struct Nobody;

impl Dataplane for Nobody {
    fn claim(&mut self, _: ClaimKey, _: ClaimKind) -> Result<(), String> {
        Ok(())
    }
    fn unclaim(&mut self, _: ClaimKey) -> Result<(), String> {
        Ok(())
    }
    fn claim_range(&mut self, _: LpmKey) -> Result<(), String> {
        Ok(())
    }
    fn unclaim_range(&mut self, _: LpmKey) -> Result<(), String> {
        Ok(())
    }
    fn attach_pod(&mut self, _: u32, _: PortRecord) -> Result<(), String> {
        Ok(())
    }
    fn detach_pod(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }
    fn current(&mut self) -> Result<InForce, String> {
        Ok(InForce::default())
    }
    fn kernel_counters(&mut self) -> Result<Vec<u64>, String> {
        Ok(Vec::new())
    }
    fn pod_drops(&mut self) -> Result<Vec<(u32, KernelCounter, u64)>, String> {
        Ok(Vec::new())
    }
    fn keep_offloads(&mut self) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
}
