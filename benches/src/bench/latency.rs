//! Who takes how long, in turns: probes on an idle node, and then beside other traffic at shares of the highest rate at which
//! that contender loses nothing.

use anyhow::Result;
use serde::Serialize;

use super::groups::{LatencyEntry, LatencyGroup};
use super::live::{Progress, Sites, stop_if};
use super::probe::{Latency, Probing};
use super::programs::Flows;
use super::site::{Site, Stretch};
use super::statistics::Spread;
use crate::lab::signal::Interrupt;

/// Shares of the highest lossless rate beside which probes are sent.
pub const SHARES: [f64; 3] = [0.1, 0.5, 0.9];
/// Probes of a turn: enough for one in a thousand to be more than chance over all turns.
const SAMPLES: u32 = 2000;
/// A rate that loses no more than this counts as lossless.
const LOSS_MAX: f64 = 0.001;
/// Of the best rate, tried in this order.
const RATES: [f64; 7] = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4];
const RATE_SECONDS: f64 = 0.3;

/// What an entry came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyRecord {
    pub what: String,
    pub flows: &'static str,
    /// On an idle node, one a round.
    pub idle: Vec<Latency>,
    /// Packets a second; `None` where it lost some at every rate, or was not asked.
    pub lossless_pps: Option<f64>,
    /// Beside traffic at the shares of it.
    pub busy: Vec<Latency>,
}

/// Measures all. Ends early when interrupted.
pub fn run(
    group: &LatencyGroup,
    rounds: usize,
    sites: &mut Sites<'_>,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<Vec<LatencyRecord>> {
    let mut records = Vec::new();
    for LatencyEntry { peer, fresh } in &group.entries {
        stop_if(interrupt)?;
        sites.build(*peer, progress)?;
        let site = sites.of(*peer)?;
        site.forget_flows()?;
        records.push(LatencyRecord {
            what: site.contender().name(),
            flows: if *fresh { "every probe a new flow" } else { "one flow" },
            idle: Vec::new(),
            lossless_pps: None,
            busy: Vec::new(),
        });
    }
    for round in 1..=rounds {
        for (entry, record) in group.entries.iter().zip(&mut records) {
            stop_if(interrupt)?;
            let probing = Probing { samples: SAMPLES, fresh: entry.fresh, beside_pps: None };
            record.idle.push(sites.of(entry.peer)?.probe(probing)?);
        }
        let figures: Vec<String> =
            records.iter().filter_map(|record| Some(format!("{}", record.idle.last()?.p50_ns))).collect();
        progress.say(&format!("latency, {round} of {rounds}: {} ns", figures.join(" ")));
    }
    for (entry, record) in group.entries.iter().zip(&mut records) {
        if entry.fresh {
            continue;
        }
        stop_if(interrupt)?;
        let site = sites.of(entry.peer)?;
        record.lossless_pps = lossless_pps(site)?;
        if let Some(pps) = record.lossless_pps {
            for share in SHARES {
                let probing = Probing { samples: SAMPLES, fresh: false, beside_pps: Some(share * pps) };
                record.busy.push(site.probe(probing)?);
            }
        }
        let pps = record.lossless_pps.map_or_else(|| "no rate".into(), |pps| format!("{:.2} Mpps", pps / 1e6));
        progress.say(&format!("latency beside traffic: {} loses nothing at {pps}", record.what));
    }
    Ok(records)
}

fn lossless_pps(site: &mut Site) -> Result<Option<f64>> {
    let mut stretch =
        |pps| site.measure(&Stretch { seconds: RATE_SECONDS, pps, flows: Flows::Lasting(1024), spread: false });
    let best = 1e6 * stretch(None)?.mpps();
    for rate in RATES {
        let measured = stretch(Some(rate * best))?;
        if measured.loss() < LOSS_MAX {
            return Ok(Some(rate * best));
        }
    }
    Ok(None)
}

/// The ratio of two entries' medians on an idle node, round by round.
pub fn ratio(above: &LatencyRecord, below: &LatencyRecord) -> Option<Spread> {
    Spread::of_ratios(
        above.idle.iter().zip(&below.idle).map(|(above, below)| (above.p50_ns as f64, below.p50_ns as f64)),
    )
}

impl LatencyRecord {
    /// Medians over the rounds of the three quantiles on an idle node, nanoseconds.
    pub fn idle_ns(&self) -> Option<[f64; 3]> {
        let of = |pick: fn(&Latency) -> u64| Spread::of(self.idle.iter().map(|of| pick(of) as f64));
        Some([of(|of| of.p50_ns)?.median, of(|of| of.p99_ns)?.median, of(|of| of.p999_ns)?.median])
    }

    pub fn lost(&self) -> u64 {
        self.idle.iter().chain(&self.busy).map(|latency| latency.lost).sum()
    }
}
