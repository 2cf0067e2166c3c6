//! The scan for flows whose endpoint or port is gone.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Publisher;
use crate::model::EndpointState;
use crate::reconcile::{self, Cluster};

/// A worker that is still at a batch is looked for again so soon.
const HELD: Duration = Duration::from_millis(1);

impl Publisher {
    pub(super) fn scan(&mut self) {
        let now = Instant::now();
        if !self.parts.epochs.passed(self.scan_after, self.parts.queues.iter().map(|queues| &queues.epoch)) {
            self.scan_at = Some(now + HELD);
            return;
        }
        self.scan_at = None;
        self.scanned_at = Some(now);
        let Some(compiled) = &self.compiled else { return };
        let inherited = &self.model.take_inherited();
        let model = &self.model;
        let is_known = |service: &str, endpoint: (IpAddr, u16)| {
            model.endpoint_state(service, endpoint.0, endpoint.1) != EndpointState::Gone
        };
        let cluster = Cluster { is_known: &is_known, inherited };
        self.reconciler.scan(&self.parts.table, &compiled.tables, &cluster);
        let found = self.reconciler.waiting();
        self.scan_pause = reconcile::pause_after(now.elapsed());
        if !self.reconciler.hand_over(&self.parts.queues, &*self.parts.wake) {
            // A queue is full: what is left is handed over after the next scan.
            self.scan_at = Some(now + self.scan_pause);
        }
        let ended = found - self.reconciler.waiting();
        {
            let mut shared = self.parts.shared.lock();
            shared.flows_ended += ended as u64;
            shared.scans.record(now.elapsed());
        }
        if found > 0 {
            tracing::info!("{ended} flows end because their endpoint or port is gone");
        }
    }
}
