//! What handing out tables costs: a worker that looks at them once a batch, and one publisher, each on its own core.
//!
//! Four ways: arc-swap's cache, which workers use; arc-swap without it; a pointer under crossbeam-epoch; and a lock with
//! an `Arc` in it, which no worker may take and which shows what the others save. Each is measured with nobody publishing,
//! with a publication a millisecond, and for what a publication costs while the worker looks without pause.
//!
//! What this does not do: looks follow one another with nothing in between, so a figure is what a look adds to a busy
//! core with everything in its caches, not how long one takes. crossbeam-epoch's pointers can only be followed and freed
//! in `unsafe` code, so its reader stops at the pointer, without the step into the tables that the other three take, and
//! its publisher leaves each old pointer (not the tables) behind.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use arc_swap::{ArcSwap, Cache};
use atalho_engine::tables::Tables;
use crossbeam::epoch::{self, Atomic, Owned};
use serde::Serialize;

use super::cpu;
use super::statistics::Spread;

/// Times that the four ways take turns; the spread is over these.
const ROUNDS: u32 = 15;
/// Looks between two readings of the clock.
const LOOKS: u64 = 4096;
/// Publications between two readings of the clock.
const BURST: u64 = 64;
/// Between two bursts, so that the worker also sees tables that stay.
const PAUSE: Duration = Duration::from_micros(200);
/// Tables that are published in turn: as many as the tag of a pointer can tell apart.
const VERSIONS: u64 = 8;

/// One way of handing out tables. CPU time of the thread that does it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotFigures {
    pub way: &'static str,
    /// Of one look while nobody publishes.
    pub look_ns: Spread,
    /// Of one look with 1,000 publications a second.
    pub look_while_published_ns: Spread,
    pub publish_ns: Spread,
}

/// A place where tables are published and found.
trait Place: Sync {
    const WAY: &'static str;

    fn new(first: Arc<Tables>) -> Self;

    /// A worker's eye: each call looks once and returns the generation that it sees, by its last three bits.
    fn looker(&self) -> impl FnMut() -> u64;

    fn publish(&self, tables: Arc<Tables>);
}

struct Cached(ArcSwap<Tables>);

impl Place for Cached {
    const WAY: &'static str = "arc-swap, cached";

    fn new(first: Arc<Tables>) -> Self {
        Self(ArcSwap::new(first))
    }

    fn looker(&self) -> impl FnMut() -> u64 {
        let mut cache = Cache::new(&self.0);
        move || mark(cache.load())
    }

    fn publish(&self, tables: Arc<Tables>) {
        self.0.store(tables);
    }
}

struct Loaded(ArcSwap<Tables>);

impl Place for Loaded {
    const WAY: &'static str = "arc-swap, load";

    fn new(first: Arc<Tables>) -> Self {
        Self(ArcSwap::new(first))
    }

    fn looker(&self) -> impl FnMut() -> u64 {
        || mark(&self.0.load())
    }

    fn publish(&self, tables: Arc<Tables>) {
        self.0.store(tables);
    }
}

struct Epoch(Atomic<Arc<Tables>>);

impl Place for Epoch {
    const WAY: &'static str = "crossbeam-epoch, pin and load";

    fn new(first: Arc<Tables>) -> Self {
        Self(Atomic::from(tagged(first)))
    }

    fn looker(&self) -> impl FnMut() -> u64 {
        || self.0.load(Ordering::Acquire, &epoch::pin()).tag() as u64
    }

    fn publish(&self, tables: Arc<Tables>) {
        let guard = epoch::pin();
        // Stands for the old tables, which go once no reader can have them.
        let old = tables.clone();
        self.0.swap(tagged(tables), Ordering::AcqRel, &guard);
        guard.defer(move || drop(old));
    }
}

struct Locked(RwLock<Arc<Tables>>);

impl Place for Locked {
    const WAY: &'static str = "lock";

    fn new(first: Arc<Tables>) -> Self {
        Self(RwLock::new(first))
    }

    fn looker(&self) -> impl FnMut() -> u64 {
        || self.0.read().map_or(u64::MAX, |tables| mark(&tables))
    }

    fn publish(&self, tables: Arc<Tables>) {
        if let Ok(mut place) = self.0.write() {
            *place = tables;
        }
    }
}

fn mark(tables: &Tables) -> u64 {
    tables.generation % VERSIONS
}

/// The generation in the pointer itself, where code without `unsafe` can read it.
fn tagged(tables: Arc<Tables>) -> Owned<Arc<Tables>> {
    let tag = mark(&tables) as usize;
    Owned::new(tables).with_tag(tag)
}

/// Measures for about so long, all four ways in turn, again and again.
///
/// # Errors
/// There are not two cores to use; or a worker did not see the last tables, and no figure means anything.
pub fn run(length: Duration) -> Result<Vec<SnapshotFigures>> {
    let all = atalho_sys::cores::available();
    let [publisher, .., worker] = all[..] else {
        return Err(anyhow!("a publisher and a worker need a core each: this process may use {all:?}"));
    };
    let versions: Vec<Arc<Tables>> =
        (0..VERSIONS).map(|generation| Arc::new(Tables { generation, ..Tables::default() })).collect();
    let bench = Bench { versions, worker, publisher, phase: length / (ROUNDS * 4 * 3) };
    let mut rounds: [Vec<[f64; 3]>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(bench.measure::<Cached>()?);
        rounds[1].push(bench.measure::<Loaded>()?);
        rounds[2].push(bench.measure::<Epoch>()?);
        rounds[3].push(bench.measure::<Locked>()?);
    }
    [Cached::WAY, Loaded::WAY, Epoch::WAY, Locked::WAY]
        .into_iter()
        .zip(rounds)
        .map(|(way, rounds)| {
            let spread = |at: usize| {
                Spread::of(rounds.iter().map(|round| round[at])).ok_or_else(|| anyhow!("nothing was measured"))
            };
            Ok(SnapshotFigures {
                way,
                look_ns: spread(0)?,
                look_while_published_ns: spread(1)?,
                publish_ns: spread(2)?,
            })
        })
        .collect()
}

/// How the publisher goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Never,
    EveryMillisecond,
    Bursts,
}

struct Bench {
    versions: Vec<Arc<Tables>>,
    worker: usize,
    publisher: usize,
    /// How long one figure of one round takes.
    phase: Duration,
}

impl Bench {
    /// One look quiet, one look while published, one publication; nanoseconds.
    fn measure<P: Place>(&self) -> Result<[f64; 3]> {
        let (quiet, _) = self.phase::<P>(Pace::Never)?;
        let (published, _) = self.phase::<P>(Pace::EveryMillisecond)?;
        let (_, publication) = self.phase::<P>(Pace::Bursts)?;
        Ok([quiet, published, publication])
    }

    /// Nanoseconds of one look and of one publication.
    fn phase<P: Place>(&self, pace: Pace) -> Result<(f64, f64)> {
        let place = P::new(self.versions[0].clone());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let pinned = atalho_sys::cores::pin(self.worker);
                let mut look = place.looker();
                let (mut looks, began_ns) = (0_u64, cpu::of_this_thread_ns());
                while !over.load(Ordering::Acquire) {
                    for _ in 0..LOOKS {
                        black_box(look());
                    }
                    looks += LOOKS;
                }
                let ns = cpu::of_this_thread_ns() - began_ns;
                pinned.map(|()| (ns as f64 / looks.max(1) as f64, look()))
            });
            let publisher = scope.spawn(|| {
                let pinned = atalho_sys::cores::pin(self.publisher);
                let published = self.publish(&place, pace);
                over.store(true, Ordering::Release);
                pinned.map(|()| published)
            });
            let died = |_| anyhow!("a thread of the measurement panicked");
            let (publication_ns, publications) = publisher.join().map_err(died)??;
            let (look_ns, seen) = worker.join().map_err(died)??;
            let last = publications % VERSIONS;
            ensure!(seen == last, "{}: the worker saw tables {seen} after {last} were published", P::WAY);
            Ok((look_ns, publication_ns))
        })
    }

    /// Publishes for the length of a phase. Returns nanoseconds of one publication and how many there were.
    fn publish<P: Place>(&self, place: &P, pace: Pace) -> (f64, u64) {
        let start = Instant::now();
        let (mut ns, mut count) = (0, 0_u64);
        while start.elapsed() < self.phase {
            let (pause, burst) = match pace {
                Pace::Never => (self.phase, 0),
                Pace::EveryMillisecond => (Duration::from_millis(1), 1),
                Pace::Bursts => (PAUSE, BURST),
            };
            thread::sleep(pause);
            let began_ns = cpu::of_this_thread_ns();
            for _ in 0..burst {
                count += 1;
                place.publish(self.versions[(count % VERSIONS) as usize].clone());
            }
            ns += cpu::of_this_thread_ns() - began_ns;
        }
        (ns as f64 / count.max(1) as f64, count)
    }
}
