//! Who takes how long, in turns: probes on an idle node, and then beside other traffic at shares of the highest rate at which
//! that contender loses nothing. The control beside each turn is the one of all groups, so rounds are kept by the same rule.

pub mod picture;

use anyhow::{Context, Result};
use serde::Serialize;

use super::groups::{Comparison, LatencyEntry, LatencyGroup};
use super::live::{CONTROL_SECONDS, stop_if};
use super::pacing::{SearchOptions, highest_lossless};
use super::probe::{Latency, Probing};
use super::programs::Flows;
use super::progress::Progress;
use super::record::control_mpps;
use super::site::{Measured, Site, Stretch};
use super::sites::Sites;
use super::statistics::Spread;
use super::steadiness::{self, Steadiness};
use super::{handover, schedule};
use crate::lab::signal::Interrupt;

/// Shares of the highest lossless rate beside which probes are sent.
pub const SHARES: [f64; 3] = [0.1, 0.5, 0.9];
/// Probes of a turn: enough for one in a thousand to be more than chance over all turns.
const SAMPLES: u32 = 2000;
/// Of the search for the highest rate without loss: it begins at this share of the best rate.
const FIRST_SHARE: f64 = 0.7;
pub const RATE_SEARCH: SearchOptions = SearchOptions { tries: 8, stride: 1.3 };
pub const RATE_SECONDS: f64 = 0.3;

/// What an entry came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyRecord {
    pub what: String,
    pub flows: &'static str,
    /// On an idle node, one a round.
    pub idle: Vec<Latency>,
    /// Packets a second; `None` where it lost some at every rate, or was not asked.
    pub lossless_pps: Option<f64>,
    /// Beside traffic at each of the shares of it, one a round.
    pub busy: [Vec<Latency>; SHARES.len()],
}

/// All rounds, those too that do not count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyGroupRecord {
    pub entries: Vec<LatencyRecord>,
    /// Of each round, one beside every entry.
    pub controls: Vec<Vec<Measured>>,
    pub steadiness: Steadiness,
    /// A cache line from the sender's core to the forwarder's, once a round.
    pub handover_ns: Vec<f64>,
}

/// Measures all. Ends early when interrupted.
pub fn run(
    group: &LatencyGroup,
    sites: &mut Sites<'_>,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<LatencyGroupRecord> {
    let pairs = sites.options.pairs;
    for entry in &group.entries {
        stop_if(interrupt)?;
        sites.build(entry.peer, progress)?;
    }
    let mut entries = Vec::new();
    for LatencyEntry { peer, fresh } in &group.entries {
        stop_if(interrupt)?;
        let site = sites.of(*peer)?;
        site.forget_flows()?;
        let what = site.contender().name();
        let lossless_pps = if *fresh { None } else { lossless_pps(site)? };
        let pps = lossless_pps.map_or_else(|| "at no rate".into(), |pps| format!("at {:.2} Mpps", pps / 1e6));
        if !fresh {
            progress.say(&format!("latency: {what} loses nothing {pps}"));
        }
        let flows = if *fresh { "every probe a new flow" } else { "one flow" };
        entries.push(LatencyRecord { what, flows, idle: Vec::new(), lossless_pps, busy: Default::default() });
    }
    progress.done(schedule::of_rates_s(group));
    let first = group.entries.first().context("nobody to be probed")?.peer;
    let cores = sites.of(first)?.cores();
    let (mut controls, mut handover_ns) = (Vec::new(), Vec::new());
    let repeats_max = sites.options.repeats_max.min(progress.room_for(schedule::of_probes_s(group)));
    let steadiness = steadiness::rounds(pairs, repeats_max, |round| {
        let mut beside = Vec::new();
        for (entry, record) in group.entries.iter().zip(&mut entries) {
            stop_if(interrupt)?;
            beside.push(sites.of(first)?.control(CONTROL_SECONDS)?);
            probe(sites.of(entry.peer)?, entry.fresh, record)?;
        }
        beside.push(sites.of(first)?.control(CONTROL_SECONDS)?);
        handover_ns.push(handover::between_ns(cores.sender, cores.forwarder)?);
        let control = control_mpps(&beside);
        controls.push(beside);
        if round < pairs {
            progress.done(schedule::of_probes_s(group));
        }
        let figures: Vec<String> =
            entries.iter().filter_map(|record| Some(record.idle.last()?.p50_ns.to_string())).collect();
        let which = if round < pairs { format!("{} of {pairs}", round + 1) } else { "one more".into() };
        progress.say(&format!("latency, {which}: {} ns; control {control:.2}", figures.join(" ")));
        Ok(control)
    })?;
    Ok(LatencyGroupRecord { entries, controls, steadiness, handover_ns })
}

/// One turn of an entry.
fn probe(site: &mut Site, fresh: bool, record: &mut LatencyRecord) -> Result<()> {
    let probing = Probing { samples: SAMPLES, fresh, beside_pps: None };
    record.idle.push(site.probe(probing)?);
    if let Some(pps) = record.lossless_pps {
        for (share, busy) in SHARES.iter().zip(&mut record.busy) {
            busy.push(site.probe(Probing { beside_pps: Some(share * pps), ..probing })?);
        }
    }
    Ok(())
}

fn lossless_pps(site: &mut Site) -> Result<Option<f64>> {
    let mut stretch =
        |pps| site.measure(&Stretch { seconds: RATE_SECONDS, pps, flows: Flows::Lasting(1024), spread: false });
    let best_pps = 1e6 * stretch(None)?.mpps();
    Ok(highest_lossless(FIRST_SHARE * best_pps, RATE_SEARCH, |pps| stretch(Some(pps)))?.pps)
}

/// Nanoseconds: p50, p99, p99.9, each the median over the rounds that count.
fn quantiles_ns(rounds: &[Latency], kept: &[usize]) -> Option<[f64; 3]> {
    let of = |pick: fn(&Latency) -> u64| {
        Spread::of(kept.iter().filter_map(|round| rounds.get(*round)).map(|of| pick(of) as f64))
    };
    Some([of(|of| of.p50_ns)?.median, of(|of| of.p99_ns)?.median, of(|of| of.p999_ns)?.median])
}

impl LatencyGroupRecord {
    /// The ratio of two entries' medians on an idle node, round by round.
    pub fn ratio(&self, comparison: &Comparison) -> Option<Spread> {
        let [above, below] = [comparison.above, *comparison.below.first()?].map(|entry| self.entries.get(entry));
        let (above, below) = (above?, below?);
        let p50_ns = |of: &LatencyRecord, round: usize| of.idle[round].p50_ns as f64;
        Spread::of_ratios(self.steadiness.kept.iter().map(|round| (p50_ns(above, *round), p50_ns(below, *round))))
    }

    /// On an idle node.
    pub fn idle_ns(&self, entry: &LatencyRecord) -> Option<[f64; 3]> {
        quantiles_ns(&entry.idle, &self.steadiness.kept)
    }

    /// Beside traffic, by the index of its share.
    pub fn busy_ns(&self, entry: &LatencyRecord, share: usize) -> Option<[f64; 3]> {
        quantiles_ns(&entry.busy[share], &self.steadiness.kept)
    }
}

impl LatencyRecord {
    pub fn lost(&self) -> u64 {
        self.idle.iter().chain(self.busy.iter().flatten()).map(|latency| latency.lost).sum()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn entry(what: &str, p50_ns: &[u64]) -> LatencyRecord {
        let of = |factor: u64| -> Vec<Latency> {
            let latency = |p50: &u64| Latency {
                p50_ns: p50 * factor,
                p99_ns: 2 * p50 * factor,
                p999_ns: 10 * p50 * factor,
                samples: 2000,
                lost: 1,
            };
            p50_ns.iter().map(latency).collect()
        };
        LatencyRecord {
            what: what.into(),
            flows: "one flow",
            idle: of(1),
            lossless_pps: Some(8e5),
            busy: [of(2), of(3), of(4)],
        }
    }

    pub fn record(entries: Vec<LatencyRecord>, controls: &[f64], wanted: usize) -> LatencyGroupRecord {
        let steadiness = Steadiness::of(controls, wanted);
        LatencyGroupRecord { entries, controls: Vec::new(), steadiness, handover_ns: Vec::new() }
    }

    #[test]
    fn only_rounds_that_count_are_in_the_figures() {
        let record = record(vec![entry("a", &[1000, 90_000, 3000]), entry("b", &[2000, 1, 2000])], &[5.0, 2.0, 5.1], 2);
        let comparison = Comparison { goal: None, case: String::new(), above: 0, below: vec![1], not_judged: None };
        let ratio = record.ratio(&comparison).unwrap();
        assert_eq!((ratio.median, ratio.runs), (1.0, 2));
        assert_eq!(record.idle_ns(&record.entries[0]).unwrap(), [2000.0, 4000.0, 20_000.0]);
        assert_eq!(record.busy_ns(&record.entries[0], 2).unwrap()[0], 8000.0);
        assert_eq!(record.entries[0].lost(), 12);
    }
}
