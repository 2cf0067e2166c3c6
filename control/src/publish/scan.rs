//! The walk for flows whose endpoint or port is gone, a slice at a time: between two of them the loop publishes and answers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::Publisher;
use crate::model::EndpointState;

/// A slice of the walk takes about so long: what everything else on control's thread may wait for it.
const SLICE: Duration = Duration::from_millis(2);
/// A worker that is still at a batch, or whose queue is full, is looked for again so soon.
const HELD: Duration = Duration::from_millis(1);

/// What is told once for many slices.
#[derive(Debug, Default)]
pub(super) struct Lap {
    /// CPU time that slices took.
    busy: Duration,
    /// Flows that were handed to workers.
    ended: usize,
    /// Since when the changes waited whose rounds are over, while flows that they end wait for room in a queue.
    over: Vec<Instant>,
}

impl Publisher {
    pub(super) fn scan(&mut self) {
        let (started, cpu_before) = (Instant::now(), cpu_time());
        let Some(compiled) = &self.compiled else {
            self.scan_at = None;
            return;
        };
        let epochs = &self.parts.epochs;
        let passed = |epoch| epochs.passed(epoch, self.parts.queues.iter().map(|queues| &queues.epoch));
        self.walk.begin(passed, || self.model.take_inherited());

        let model = &self.model;
        let is_known = |service: &str, endpoint: (IpAddr, u16)| {
            model.endpoint_state(service, endpoint.0, endpoint.1) != EndpointState::Gone
        };
        let laps = self.walk.laps();
        let is_enough = || started.elapsed() >= SLICE;
        let over = self.reconciler.walk(&mut self.walk, &self.parts.table, &compiled.tables, &is_known, is_enough);
        let is_through = !over.is_empty() && self.walk.rests();
        self.lap.over.extend(over);
        let found = self.reconciler.waiting();
        let all_taken = self.reconciler.hand_over(&self.parts.queues, &*self.parts.wake);
        let ended = found - self.reconciler.waiting();

        let (now, busy) = (Instant::now(), cpu_time().saturating_sub(cpu_before));
        let (has_lapped, rests) = (self.walk.laps() > laps, self.walk.rests());
        if has_lapped || is_through {
            self.reconciler.tidy(&compiled.tables);
        }
        self.pace.spend(now, busy);
        self.lap.busy += busy;
        self.lap.ended += ended;
        {
            let mut shared = self.parts.shared.lock();
            shared.flows_ended += ended as u64;
            if has_lapped {
                shared.scans.record(std::mem::take(&mut self.lap.busy));
            }
            if all_taken {
                self.lap.over.drain(..).for_each(|since| shared.change_to_ended.record(now - since));
            }
        }
        if self.lap.ended > 0 && (has_lapped || rests && all_taken) {
            tracing::info!("{} flows end because their endpoint or port is gone", std::mem::take(&mut self.lap.ended));
        }
        self.scan_at = match () {
            () if !all_taken || rests && self.walk.waits() => Some(self.pace.due().max(now + HELD)),
            () if !rests => Some(self.pace.due()),
            () => None,
        };
    }
}

/// Of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
