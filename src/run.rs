//! `atalho run`: the start order. Checks, plan, funnel, kernel programs, table, workers, slow path, control; then it
//! waits for a signal. Nothing here touches a packet or an object: this file hands out the ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use atalho_control::config::{Config, PodNetwork};
use atalho_control::node::{PrepareOptions, Prepared};
use atalho_control::start::{Control, ControlOptions, Source};
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs, Geometry, TableMemory};
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_engine::tables::Tables;
use atalho_hwconf::{Plan, Wishes, WorkerCount};
use atalho_slowpath::{Bell, Limits, Parts, SlowPath, SlowPathCounters};
use atalho_sys::bpf::{Folder, Grace, Kernel, Setup, Sizes};
use atalho_sys::doorbell::Doorbell;
use atalho_sys::mmap::SharedArray;
use atalho_sys::xsk::needs_pieces;
use atalho_sys::{check, clock, ethtool, random};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::RunArguments;
use crate::capture::Capture;
use crate::kernel_side::KernelSide;
use crate::reports::{self, Readable};
use crate::workers::{self, WorkerHandle};

/// Next hops of a node: its pods and its neighbours on the uplink, with room for those that went.
const NEXT_HOPS: u32 = 16_384;
/// Buffers between a worker and the slow path: a burst of large datagrams in fragments goes through them.
const HANDOFF_BUFFERS: usize = 512;

/// What the configuration asks of the plan.
pub fn wishes(config: &Config) -> Wishes {
    Wishes { workers: config.worker.count.map_or(WorkerCount::Auto, WorkerCount::Fixed) }
}

/// Runs the node until SIGTERM or SIGINT. An error is what kept it from starting, or why it had to end.
pub fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.config.as_deref())?;
    start_log();
    check::privileges()?;
    check::kernel()?;
    check::bpffs(&config.node.bpffs)?;
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).context("register the signals")?;

    if config.pods.network == PodNetwork::Adopt {
        bail!("[pods] network = \"adopt\" is not supported by this version; remove the line, or set it to \"own\"");
    }
    let folder = Folder::lock(&config.node.bpffs, &config.node.name)?;
    let (plan, prepared) = prepare_node(&config)?;
    let workers = plan.lines.len() as u32;
    let geometry = Geometry::for_max_flows(config.conntrack.max_flows as usize);
    let setup = Setup {
        sizes: Sizes { buckets4: geometry.buckets(), buckets6: geometry.buckets(), next_hops: NEXT_HOPS },
        uplink: prepared.uplink.ifindex,
        f0: prepared.f0.ifindex,
        f1: prepared.f1.ifindex,
        workers,
        is_fair: config.worker.is_fair,
        secret: random::words64().context("draw the table's secret")?,
    };
    let (mut kernel, adopted) = Kernel::open(folder, &setup)?;
    tracing::info!(?adopted, workers, uplink = prepared.uplink.name, "kernel programs in place");
    let (table, next_hops, affinity) = map_shared(&kernel, geometry)?;
    let grace = Grace::new()?;
    // The programs of a predecessor may still be reading what repair changes.
    grace.wait()?;
    let repaired = table.repair();
    if !repaired.is_clean() {
        tracing::warn!("the connection table that was left had unfinished entries, now repaired: {repaired}");
    }

    let snapshot = Arc::new(ArcSwap::from_pointee(Tables::default()));
    let joints = Joints {
        stop: Arc::new(AtomicBool::new(false)),
        capture: Capture::start(&arguments.capture, plan.lines.len(), snapshot.clone())?,
        snapshot,
        epochs: Arc::new(Epochs::new()),
        table,
        next_hops,
        affinity,
    };
    let queues: Vec<_> = (0..workers).map(|_| WorkerQueues::new(HANDOFF_BUFFERS)).collect();
    let (neighbour_asks, neighbour_requests) = crossbeam::channel::bounded::<IpAddr>(1024);
    let doorbells: Vec<_> =
        (0..workers).map(|_| Doorbell::new().map(Arc::new)).collect::<Result<_, _>>().context("make the doorbells")?;
    let wake = waker(&queues, &doorbells);
    let slow = SlowPath::new(
        Parts {
            queues: queues.clone(),
            tables: {
                let snapshot = joints.snapshot.clone();
                Box::new(move || snapshot.load_full())
            },
            next_hops,
            ask_neighbour: Box::new(move |address| {
                // Full: control is behind; the slow path asks again within a second.
                let _ = neighbour_asks.try_send(address);
            }),
            wake_worker: {
                let wake = wake.clone();
                Box::new(move |index| wake(index))
            },
        },
        Limits::default(),
    );
    let (bell, slow_counters) = (slow.bell(), slow.counters());
    let handles = workers::start(&config, &plan, &prepared, &mut kernel, &joints, &queues, &doorbells, &bell)?;
    let slow_thread = start_slow_path(slow, &joints.stop)?;
    let control = start_control(
        arguments,
        config,
        prepared,
        kernel,
        &joints,
        &handles,
        wake,
        &bell,
        slow_counters,
        grace,
        neighbour_requests,
    )?;

    let outcome = workers::watch(&mut signals, &handles, &slow_thread);
    control.shutdown();
    joints.stop.store(true, Ordering::SeqCst);
    bell.ring();
    for handle in &handles {
        handle.doorbell.ring();
    }
    for handle in handles {
        let _ = handle.thread.join();
    }
    let _ = slow_thread.join();
    if let Some(capture) = joints.capture {
        capture.end();
    }
    outcome
}

/// What every part shares.
pub struct Joints {
    pub stop: Arc<AtomicBool>,
    /// Where workers copy what comes in, if it is captured.
    pub capture: Option<Capture>,
    pub snapshot: Arc<ArcSwap<Tables>>,
    pub epochs: Arc<Epochs>,
    pub table: ConnTable,
    pub next_hops: NextHops,
    pub affinity: AffinityTable,
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ATALHO_LOG").unwrap_or_else(|_| "info,kube=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Checks the uplink, plans cores and queues, and has the funnel made or adopted.
fn prepare_node(config: &Config) -> anyhow::Result<(Plan, Prepared)> {
    let uplink = match &config.uplink.interface {
        Some(name) => name.clone(),
        None => atalho_control::node::default_interface()?,
    };
    let interface = check::interface(&uplink)?;
    check::native_xdp(interface.ifindex, needs_pieces(interface.mtu))?;
    let facts = atalho_hwconf::probe(&uplink)?;
    let plan = atalho_hwconf::plan(&facts, &wishes(config))?;
    let workers = plan.lines.len() as u32;
    if interface.rx_queues > workers {
        bail!(
            "uplink {uplink} has {} receive queues and the plan {workers} workers: packets of a queue without a worker \
             would be lost. Give it as many queues as workers (ethtool -L {uplink} combined {workers}), or raise \
             [worker] count",
            interface.rx_queues
        );
    }
    ethtool::prepare_uplink(&uplink)?;
    let [f0, f1] = &config.funnel.names;
    let prepared = atalho_control::node::prepare(&PrepareOptions {
        uplink: &uplink,
        f0,
        f1,
        queues: workers,
        offloads: &|name| ethtool::prepare_funnel(name).map(drop).map_err(|error| error.to_string()),
    })?;
    Ok((plan, prepared))
}

/// The pinned arrays as the engine's tables.
fn map_shared(kernel: &Kernel, geometry: Geometry) -> anyhow::Result<(ConnTable, NextHops, AffinityTable)> {
    let maps = kernel.maps();
    let memory = TableMemory {
        tags4: SharedArray::words64(maps.tags4.fd, maps.tags4.bytes).context("map tags4")?,
        entries4: SharedArray::words32(maps.flows4.fd, maps.flows4.bytes).context("map flows4")?,
        tags6: SharedArray::words64(maps.tags6.fd, maps.tags6.bytes).context("map tags6")?,
        entries6: SharedArray::words32(maps.flows6.fd, maps.flows6.bytes).context("map flows6")?,
    };
    let hops = SharedArray::words64(maps.next_hops.fd, maps.next_hops.bytes).context("map next_hops")?;
    let affinity = SharedArray::words32(maps.affinity.fd, maps.affinity.bytes).context("map affinity")?;
    let secret = kernel.secret();
    Ok((ConnTable::new(memory, geometry, &secret), NextHops::new(hops), AffinityTable::new(affinity, &secret)))
}

fn waker(queues: &[Arc<WorkerQueues>], doorbells: &[Arc<Doorbell>]) -> Arc<dyn Fn(usize) + Send + Sync> {
    let both: Vec<_> = queues.iter().cloned().zip(doorbells.iter().cloned()).collect();
    Arc::new(move |index: usize| {
        if let Some((queues, doorbell)) = both.get(index)
            && queues.is_asleep()
        {
            doorbell.ring();
        }
    })
}

fn start_slow_path(slow: SlowPath, stop: &Arc<AtomicBool>) -> anyhow::Result<JoinHandle<()>> {
    let stop = stop.clone();
    std::thread::Builder::new()
        .name("slowpath".into())
        .spawn(move || slow.run(&stop))
        .context("start the slow path's thread")
}

#[expect(clippy::too_many_arguments, reason = "hands out every end there is")]
fn start_control(
    arguments: &RunArguments,
    config: Config,
    prepared: Prepared,
    kernel: Kernel,
    joints: &Joints,
    handles: &[WorkerHandle],
    wake: Arc<dyn Fn(usize) + Send + Sync>,
    bell: &Bell,
    slow_counters: Arc<SlowPathCounters>,
    grace: Grace,
    neighbour_requests: crossbeam::channel::Receiver<IpAddr>,
) -> anyhow::Result<Control> {
    let source = match &arguments.manifests {
        Some(folder) => Source::Manifests(folder.clone()),
        None => Source::Api { kubeconfig: arguments.kubeconfig.clone() },
    };
    let readable: Vec<Readable> = handles.iter().map(|handle| handle.readable.clone()).collect();
    let started = Instant::now();
    let bell = bell.clone();
    let kernel_side = KernelSide { kernel, uplink: prepared.uplink.name.clone(), funnel: prepared.f1.name.clone() };
    Ok(Control::start(ControlOptions {
        node_name: config.node.name.clone(),
        flows_max: u64::from(config.conntrack.max_flows),
        config,
        source,
        prepared,
        snapshot: joints.snapshot.clone(),
        next_hops: joints.next_hops,
        table: joints.table,
        epochs: joints.epochs.clone(),
        queues: readable.iter().map(|worker| worker.queues.clone()).collect(),
        wake,
        dataplane: Box::new(kernel_side),
        neighbour_requests,
        published: Arc::new(move || bell.ring()),
        worker_reports: Box::new(move || reports::read(&readable, started)),
        slow_path_report: Box::new(move || reports::read_slow_path(&slow_counters)),
        now_s: clock::coarse_seconds,
        kernel_grace: Box::new(move || grace.wait().map_err(|error| error.to_string())),
    })?)
}
