//! Makes removed slots of the connection table usable again. A slot may be reused only after every worker has passed a
//! batch and the kernel a grace period; waiting for the latter blocks for up to 130 ms, so a thread of its own does it.
//! Removed slots queue by epoch meanwhile, and while none waits this thread only looks, ten times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atalho_engine::conntrack::Epochs;
use atalho_engine::handoff::WorkerQueues;

use crate::shared::Shared;
use crate::supervise::{Supervised, keep_thread};

/// Pause between two looks for removed slots.
const LOOK: Duration = Duration::from_millis(100);
/// First pause while a worker is in a batch; it doubles up to [`LOOK`].
const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// A worker that has passed no batch for so long is told of once; its supervisor deals with it.
const SLOW: Duration = Duration::from_secs(5);

/// Starts the thread; it ends within a few hundred milliseconds of `stop`.
pub fn start(
    epochs: Arc<Epochs>,
    queues: Vec<Arc<WorkerQueues>>,
    mut kernel_grace: Box<dyn FnMut() -> Result<(), String> + Send>,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("reclaim".into()).spawn(move || {
        keep_thread(Supervised::Reclaim, shared, &stop, || {
            while !stop.load(Ordering::Relaxed) {
                if !epochs.waits() || !round(&epochs, &queues, &mut *kernel_grace, &stop) {
                    std::thread::sleep(LOOK);
                }
            }
        });
    })
}

/// One grace period. `false`: nothing became safe, because of `stop` or because the kernel refused.
fn round(
    epochs: &Epochs,
    queues: &[Arc<WorkerQueues>],
    kernel_grace: &mut (dyn FnMut() -> Result<(), String> + Send),
    stop: &AtomicBool,
) -> bool {
    let target = epochs.advance();
    let since = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    while !epochs.passed(target, queues.iter().map(|q| &q.epoch)) {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        if !told && since.elapsed() > SLOW {
            told = true;
            tracing::warn!("a worker has passed no batch for {SLOW:?}; removed flows keep their slots until it does");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK);
    }
    match kernel_grace() {
        Ok(()) => {
            epochs.mark_safe(target);
            true
        }
        Err(why) => {
            tracing::warn!("waiting for the kernel's grace period: {why}; removed flows keep their slots for now");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    use atalho_engine::conntrack::{ConnTable, Direction, NewConnection, Rewrite, Segment};
    use atalho_engine::flow::{FlowKey, Protocol};

    fn connection(port: u16) -> NewConnection {
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let direction = |key: FlowKey| Direction {
            key,
            rewrite: Rewrite { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port },
            next_hop: 0,
            ingress: 1,
        };
        let key = FlowKey { src: ip(1), dst: ip(2), src_port: port, dst_port: 53, protocol: Protocol::Udp };
        NewConnection {
            original: direction(key),
            reply: direction(key.reversed()),
            is_service: false,
            first: Segment::Other,
        }
    }

    #[test]
    fn a_removed_slot_waits_for_the_worker_and_the_kernel() {
        let epochs = Arc::new(Epochs::new());
        let table = ConnTable::in_memory(64, &[7; atalho_layout::SECRET_WORDS]);
        let queues = vec![WorkerQueues::new(1)];
        epochs.enter(&queues[0].epoch);
        let flow = table.insert(0, &epochs, &connection(1000), 1).unwrap().flow;
        assert!(!epochs.waits());
        assert!(table.end(&epochs, flow.at));
        assert!(epochs.waits());

        // The worker stands in its batch: nothing becomes safe.
        let stop = Arc::new(AtomicBool::new(false));
        let graces = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = graces.clone();
        let grace = Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let thread = start(epochs.clone(), queues.clone(), grace, Arc::default(), stop.clone()).unwrap();
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(graces.load(Ordering::SeqCst), 0);
        assert!(epochs.waits());

        epochs.enter(&queues[0].epoch);
        epochs.leave(&queues[0].epoch);
        let until = Instant::now() + Duration::from_secs(5);
        while epochs.waits() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!epochs.waits());
        assert!(graces.load(Ordering::SeqCst) >= 1);
        stop.store(true, Ordering::SeqCst);
        thread.join().unwrap();
    }
}
