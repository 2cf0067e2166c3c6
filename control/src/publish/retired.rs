//! The tables before: kept until nobody reads them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atalho_engine::conntrack::Epochs;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::tables::Tables;

use crate::shared::Shared;

/// Retired tables are looked at so often while a reader still holds them.
const HELD: Duration = Duration::from_millis(20);

/// Waits until every worker has passed a batch since the swap, notes how long the change took to get there, and keeps
/// the tables before until nobody reads them.
pub(super) async fn see_out(
    before: Arc<Tables>,
    epochs: Arc<Epochs>,
    queues: Vec<Arc<WorkerQueues>>,
    since: Option<Instant>,
    shared: Arc<Shared>,
) {
    let target = epochs.advance();
    let mut pause = Duration::from_micros(100);
    while !epochs.passed(target, queues.iter().map(|q| &q.epoch)) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(HELD);
    }
    if let Some(since) = since {
        shared.lock().change_to_use.record(since.elapsed());
    }
    while Arc::strong_count(&before) > 1 {
        tokio::time::sleep(HELD).await;
    }
}
