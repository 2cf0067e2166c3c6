//! A datagram flow whose endpoint goes every few seconds: how long after the change its datagrams still go there.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::apiserver::ApiServer;
use crate::lab::objects;
use crate::lab::paths;
use crate::lab::plan::Family;
use crate::lab::session::Session;
use crate::traffic::client::{JobKind, Outcome, now_ms};

/// From one change to the next.
const EVERY: Duration = Duration::from_secs(3);

/// The flow, and the changes of its endpoint so far.
pub struct Moving {
    pub id: u32,
    due: Instant,
    /// Before each one was written, milliseconds since 1970.
    written_ms: Vec<u64>,
}

/// What it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Changes that took the flow's endpoint away, and those of them after which another one answered before the next.
    pub changes: usize,
    pub moves: usize,
    /// From before the change was written until the other endpoint's first answer.
    pub median_ms: u64,
    pub most_ms: u64,
    /// Requests that were not answered. One may be on its way at each move.
    pub lost: u64,
}

impl Moving {
    /// Asks through the Service of the lab whose endpoint is replaced.
    pub fn start(session: &mut Session) -> Result<Self> {
        let path = paths::moving(Family::V4);
        let id = session.ask(path.from, paths::job(&path, JobKind::HoldUdp, 1200.0))?;
        Ok(Self { id, due: Instant::now() + EVERY, written_ms: Vec::new() })
    }

    /// Replaces the endpoint if it is time to.
    pub fn advance(&mut self, session: &Session, server: &ApiServer) -> Result<()> {
        if Instant::now() < self.due {
            return Ok(());
        }
        let file = match self.written_ms.len() % 2 {
            0 => objects::replacement(),
            _ => session.plan().manifests().join(objects::MOVING),
        };
        self.written_ms.push(now_ms());
        self.due = Instant::now() + EVERY;
        server.apply(&[file])
    }

    pub fn result(&self, outcome: &Outcome) -> Moved {
        let nexts = self.written_ms.iter().skip(1).copied().chain([u64::MAX]);
        let mut waits_ms: Vec<u64> = self
            .written_ms
            .iter()
            .zip(nexts)
            .filter_map(|(written, next)| {
                let moved = outcome.moves.iter().map(|(at_ms, _)| *at_ms).find(|at_ms| at_ms >= written)?;
                (moved < next).then_some(moved - written)
            })
            .collect();
        waits_ms.sort_unstable();
        Moved {
            changes: self.written_ms.len(),
            moves: waits_ms.len(),
            median_ms: waits_ms.get(waits_ms.len() / 2).copied().unwrap_or_default(),
            most_ms: waits_ms.last().copied().unwrap_or_default(),
            lost: outcome.failed + outcome.wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_counts_for_the_change_before_it() {
        let moving = Moving { id: 1, due: Instant::now(), written_ms: vec![1000, 4000, 7000] };
        let moves = [(10, "pod-1"), (1400, "pod-3"), (7100, "pod-1")].map(|(at_ms, who)| (at_ms, who.to_owned()));
        let moved = moving.result(&Outcome { moves: moves.into(), failed: 1, ..Outcome::default() });
        assert_eq!(moved, Moved { changes: 3, moves: 2, median_ms: 400, most_ms: 400, lost: 1 });
    }
}
