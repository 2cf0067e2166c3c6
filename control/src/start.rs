//! Starts control: a thread with a runtime of its own, in which everything asynchronous lives, and a thread that waits
//! for grace periods. What cannot work at all is told before this returns; what may come right is a fault in `status`, and
//! what panics is made anew (`supervise.rs`).

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_engine::tables::Tables;
use futures::FutureExt;
use tokio::sync::{mpsc, watch as latest};

use crate::config::Config;
use crate::dataplane::Dataplane;
use crate::health_checks::Answers;
use crate::http::{self, Service};
use crate::node::Prepared;
use crate::programming::Programming;
use crate::publish::{Asks, Parts, Question};
use crate::report::{SlowPathReport, WorkerReport};
use crate::shared::Shared;
use crate::status::{Collector, RATES_OVER, Rates};
use crate::supervise::{Supervised, keep};
use crate::{health_checks, reclaim, server};

/// Questions that wait for an answer.
const QUESTIONS: usize = 64;
/// Neighbour requests that wait; more are asks for again by the next packet.
const NEIGHBOUR_REQUESTS: usize = 1024;
/// The runtime is given so long to end.
const END_WITHIN: Duration = Duration::from_millis(300);

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The API server of this kubeconfig, or of the environment's.
    Api { kubeconfig: Option<PathBuf> },
    /// A folder of YAML and JSON files.
    Manifests(PathBuf),
}

/// What control works with and for.
pub struct ControlOptions {
    pub config: Config,
    pub node_name: String,
    pub source: Source,
    pub prepared: Prepared,
    pub snapshot: Arc<ArcSwap<Tables>>,
    pub next_hops: NextHops,
    pub table: ConnTable,
    /// Connections that the table has room for.
    pub flows_max: u64,
    pub epochs: Arc<Epochs>,
    pub queues: Vec<Arc<WorkerQueues>>,
    /// Wakes the worker of this number.
    pub wake: Arc<dyn Fn(usize) + Send + Sync>,
    /// Called after every publication and changed next hop: packets may wait for it.
    pub published: Arc<dyn Fn() + Send + Sync>,
    pub dataplane: Box<dyn Dataplane>,
    /// Neighbours on the uplink that packets ask for.
    pub neighbour_requests: crossbeam::channel::Receiver<IpAddr>,
    pub worker_reports: Box<dyn Fn() -> Vec<WorkerReport> + Send + Sync>,
    pub slow_path_report: Box<dyn Fn() -> SlowPathReport + Send + Sync>,
    /// The clock of the connection table, seconds.
    pub now_s: fn() -> u32,
    /// Blocks until the kernel's programs have left what they read before.
    pub kernel_grace: Box<dyn FnMut() -> Result<(), String> + Send>,
}

/// Why control cannot start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlError(String);

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ControlError {}

/// Control, running.
pub struct Control {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    end: latest::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Control {
    /// Starts it. Returns as soon as everything that can fail for good has not.
    pub fn start(options: ControlOptions) -> Result<Self, ControlError> {
        let shared = Arc::new(Shared::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (end, ended) = latest::channel(false);
        let listener = server::listen(&options.config.node.run_dir, &options.node_name).map_err(ControlError)?;

        let reclaim = reclaim::start(
            options.epochs.clone(),
            options.queues.clone(),
            options.kernel_grace,
            shared.clone(),
            stop.clone(),
        )
        .map_err(|error| ControlError(format!("starting the thread that reclaims slots: {error}")))?;
        let (ask, neighbours) = mpsc::channel(NEIGHBOUR_REQUESTS);
        let (ask_model, questions) = mpsc::channel(QUESTIONS);
        bridge(options.neighbour_requests, ask)
            .map_err(|error| ControlError(format!("starting the thread that takes neighbour requests: {error}")))?;

        let dataplane = Arc::new(Mutex::new(options.dataplane));
        let collector = Arc::new(Collector {
            node: options.node_name.clone(),
            shared: shared.clone(),
            reports: options.worker_reports,
            slow_path: options.slow_path_report,
            table: options.table,
            snapshot: options.snapshot.clone(),
            flows_max: options.flows_max,
            dataplane: dataplane.clone(),
            rates: Rates::default(),
            now_s: options.now_s,
        });
        let (tell_health_checks, health_checks) = latest::channel(Arc::default());
        let run = Run {
            addresses: addresses(&options.config),
            programming: Programming {
                parts: Parts {
                    config: options.config,
                    node: options.node_name,
                    snapshot: options.snapshot,
                    next_hops: options.next_hops,
                    table: options.table,
                    epochs: options.epochs,
                    queues: options.queues,
                    wake: options.wake,
                    published: options.published,
                    dataplane,
                    shared: shared.clone(),
                    health_checks: tell_health_checks,
                    f1: options.prepared.f1.ifindex,
                },
                source: options.source,
                prepared: options.prepared,
                asks: Arc::new(tokio::sync::Mutex::new(Asks { neighbours, questions })),
            },
            health_checks,
            collector,
            listener,
            questions: ask_model,
        };

        let (say, said) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || run.run(&say, ended))
            .map_err(|error| ControlError(format!("starting the thread of control: {error}")))?;
        let control = Self { shared, stop, end, threads: vec![thread, reclaim] };
        match said.recv() {
            Ok(Ok(())) => Ok(control),
            Ok(Err(why)) => {
                control.shutdown();
                Err(ControlError(why))
            }
            Err(_) => {
                control.shutdown();
                Err(ControlError("the thread of control ended before it had started; see the log".into()))
            }
        }
    }

    /// Whether the first tables are in use.
    pub fn is_ready(&self) -> bool {
        self.shared.lock().ready
    }

    /// Waits until ready, at most so long.
    pub fn wait_ready(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        while !self.is_ready() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Ends within half a second. Claims, ports, funnel and routes stay as they are, for a successor.
    pub fn shutdown(self) {
        crate::notify::sd_notify("STOPPING=1");
        self.stop.store(true, Ordering::Relaxed);
        // The receiver is gone where the thread has ended already.
        let _ = self.end.send(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of control had panicked");
            }
        }
    }
}

fn addresses(config: &Config) -> Vec<(Service, std::net::SocketAddr)> {
    let health = config.status.healthz_addresses.iter().map(|address| (Service::Health, *address));
    let metrics = config.status.metrics_addresses.iter().map(|address| (Service::Metrics, *address));
    health.chain(metrics).collect()
}

/// Carries requests from the slow path's channel into the runtime. Its thread ends when the slow path drops its end.
fn bridge(from: crossbeam::channel::Receiver<IpAddr>, to: mpsc::Sender<IpAddr>) -> std::io::Result<()> {
    std::thread::Builder::new().name("neighbour-asks".into()).spawn(move || {
        while let Ok(address) = from.recv() {
            match to.try_send(address) {
                // Full: the next packet asks again.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    })?;
    Ok(())
}

/// What the thread of control takes with it.
struct Run {
    addresses: Vec<(Service, std::net::SocketAddr)>,
    programming: Programming,
    health_checks: latest::Receiver<Arc<Answers>>,
    collector: Arc<Collector>,
    listener: std::os::unix::net::UnixListener,
    questions: mpsc::Sender<Question>,
}

impl Run {
    fn run(self, say: &std::sync::mpsc::Sender<Result<(), String>>, mut ended: latest::Receiver<bool>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = say.send(Err(format!("starting control's runtime: {error}; raise the limit of open files")));
                return;
            }
        };
        runtime.block_on(async move {
            let started = self.spawn().await;
            let well = started.is_ok();
            let _ = say.send(started);
            if well {
                // An error says that the handle is gone: end all the same.
                let _ = ended.wait_for(|end| *end).await;
            }
        });
        runtime.shutdown_timeout(END_WITHIN);
    }

    /// Starts every part. What cannot work at all is told now; what stops working later is made anew.
    async fn spawn(self) -> Result<(), String> {
        let Self { programming, collector, .. } = self;
        let shared = collector.shared.clone();
        let mut first = Some(programming.begin().await?);
        let programming = Arc::new(programming);
        tokio::spawn(keep(Supervised::Programming, shared.clone(), move || {
            let (first, programming) = (first.take(), programming.clone());
            async move {
                match first {
                    Some(life) => life.run().await,
                    None => programming.begin().await?.run().await,
                }
            }
        }));
        let (health_checks, told) = (self.health_checks, shared.clone());
        tokio::spawn(keep(Supervised::HealthChecks, shared.clone(), move || {
            let serving = health_checks::serve(health_checks.clone(), told.clone());
            serving.map(Ok)
        }));
        let (listener, questions, asked) = (self.listener, self.questions, collector.clone());
        tokio::spawn(keep(Supervised::Socket, shared.clone(), move || {
            let listener = listener.try_clone().map_err(|error| format!("sharing the status socket: {error}"));
            let (asked, questions) = (asked.clone(), questions.clone());
            async move {
                server::serve(listener?, asked, questions).await;
                Ok(())
            }
        }));
        for (service, address) in self.addresses {
            let asked = collector.clone();
            tokio::spawn(keep(Supervised::Http, shared.clone(), move || {
                http::serve(service, address, asked.clone()).map(Ok)
            }));
        }
        tokio::spawn(keep(Supervised::Rates, shared, move || {
            let collector = collector.clone();
            async move {
                loop {
                    collector.rates.sample(&(collector.reports)(), Instant::now());
                    tokio::time::sleep(RATES_OVER).await;
                }
            }
        }));
        Ok(())
    }
}
