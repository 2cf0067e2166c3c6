//! The workers of this process: their sockets, their start, and the watch over them.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use atalho_control::config::Config;
use atalho_control::node::Prepared;
use atalho_engine::counters::Counters;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::pipeline::{Engine, EngineParts};
use atalho_hwconf::Plan;
use atalho_slowpath::Bell;
use atalho_sys::bpf::{Kernel, XskPort};
use atalho_sys::doorbell::Doorbell;
use atalho_sys::mmap::SharedArray;
use atalho_sys::random;
use atalho_sys::xsk::{self, OpenOptions, QueueOf, Side};
use atalho_worker::port::PortState;
use atalho_worker::{Native, Pressure, Spin, Worker, WorkerOptions, WorkerParts, WorkerStats, XskPort as WorkerPort};

use crate::capture::Capture;
use crate::reports::Readable;
use crate::run::Joints;

/// A worker that is awake and makes no turn for this long is hung.
const HUNG_AFTER: Duration = Duration::from_secs(10);
const SIGNAL_POLL: Duration = Duration::from_millis(200);

/// One worker, as the threads beside it see it.
pub struct WorkerHandle {
    pub readable: Readable,
    pub doorbell: Arc<Doorbell>,
    pub thread: JoinHandle<()>,
}

/// Opens the sockets, puts them into the kernel side's maps and starts a thread for each line of the plan.
pub fn start(
    config: &Config,
    plan: &Plan,
    prepared: &Prepared,
    kernel: &mut Kernel,
    joints: &Joints,
    queues: &[Arc<WorkerQueues>],
    doorbells: &[Arc<Doorbell>],
    bell: &Bell,
) -> anyhow::Result<Vec<WorkerHandle>> {
    let pressures = kernel.maps().pressures;
    let pressures = SharedArray::words32(pressures.fd, pressures.bytes).context("map pressures")?;
    let mut handles = Vec::new();
    for (index, line) in plan.lines.iter().enumerate() {
        let open = OpenOptions::new(
            QueueOf { interface: prepared.uplink.name.clone(), queue: line.queue },
            QueueOf { interface: prepared.f0.name.clone(), queue: index as u32 },
            u32::from(prepared.uplink.mtu.max(prepared.f1.mtu)),
        );
        let opened = xsk::open(&open)?;
        kernel.set_xsk(XskPort::Uplink, line.queue, opened.uplink.as_fd())?;
        kernel.set_xsk(XskPort::Funnel, index as u32, opened.funnel.as_fd())?;
        let counters = Arc::new(Counters::default());
        let engine = Engine::new(EngineParts {
            worker: index as u8,
            table: joints.table,
            affinity: joints.affinity,
            epochs: joints.epochs.clone(),
            next_hops: joints.next_hops,
            counters: counters.clone(),
            processor: Native,
            seed: random::words64::<1>().context("draw a worker's seed")?[0],
        });
        let sockets = [opened.uplink.statistics_reader()?, opened.funnel.statistics_reader()?].map(Some);
        let stats = Arc::new(WorkerStats::new(index, Some(line.core as usize), sockets));
        let options = WorkerOptions {
            index,
            workers: plan.lines.len(),
            core: Some(line.core as usize),
            spin: config.worker.spin_us.map_or(Spin::Always, Spin::Micros),
            uplink_ifindex: prepared.uplink.ifindex,
            // Before what an MTU counts come the Ethernet header and, as the kernel allows, a VLAN tag.
            frame_bytes_max: [prepared.uplink.mtu, prepared.f0.mtu].map(|mtu| usize::from(mtu) + 18),
        };
        let ring_slow_path = bell.clone();
        let mut worker = Worker::new(
            options,
            WorkerParts {
                pressure: Pressure::new(pressures, index, open.ring_entries, opened.pool.frame_bytes_max() as u32),
                pool: opened.pool,
                uplink: WorkerPort::new(opened.uplink),
                funnel: WorkerPort::new(opened.funnel),
                engine,
                epochs: joints.epochs.clone(),
                queues: queues[index].clone(),
                snapshot: joints.snapshot.clone(),
                ring_slow_path: Box::new(move || ring_slow_path.ring()),
                doorbell: doorbells[index].clone(),
                stats: stats.clone(),
            },
        );
        if let Some(capture) = &joints.capture {
            worker = worker.with_tap(capture.tap(index));
        }
        tracing::info!(worker = index, core = line.core, queue = line.queue, reason = line.reason, "worker");
        handles.push(WorkerHandle {
            readable: Readable {
                core: line.core,
                queue: line.queue,
                queues: queues[index].clone(),
                counters,
                stats,
                tap: joints.capture.as_ref().map(Capture::ring),
            },
            doorbell: doorbells[index].clone(),
            thread: worker.spawn(joints.stop.clone()).context("start a worker's thread")?,
        });
    }
    Ok(handles)
}

/// Waits for a signal; watches that no thread is dead or hung meanwhile.
pub fn watch(
    signals: &mut signal_hook::iterator::Signals,
    handles: &[WorkerHandle],
    slow_thread: &JoinHandle<()>,
) -> anyhow::Result<()> {
    let mut progress: Vec<(u64, Instant)> = handles.iter().map(|_| (0, Instant::now())).collect();
    loop {
        if signals.pending().next().is_some() {
            tracing::info!("ending; table, links and counters stay pinned for the successor");
            return Ok(());
        }
        if slow_thread.is_finished() {
            bail!("the slow path's thread has ended; its error stands above. Start the daemon again");
        }
        for (handle, (last, since)) in handles.iter().zip(&mut progress) {
            let worker = &handle.readable;
            let turns = worker.stats.turns();
            if turns != *last || worker.queues.is_asleep() {
                (*last, *since) = (turns, Instant::now());
            } else if since.elapsed() > HUNG_AFTER {
                bail!(
                    "the worker on core {} has made no turn for {HUNG_AFTER:?}; ending, so that the supervisor starts it anew",
                    worker.core
                );
            }
            for (side, name) in [(Side::Uplink, "uplink"), (Side::Funnel, "funnel")] {
                if worker.stats.port_state(side) == PortState::Gone {
                    bail!(
                        "the {name}'s interface was deleted; ending, so that the supervisor starts anew when it is back"
                    );
                }
            }
        }
        std::thread::sleep(SIGNAL_POLL);
    }
}
