//! The run: every entry of a group once, then again, and so on, so that a ratio is taken between neighbours in time.
//!
//! First as fast as it goes: what arrives a second. Then each at a rate that it can bear: what a packet costs, for a
//! receiver in userspace also pays for packets that it then drops. The control beside them, the generator with an XDP
//! program that drops, says what the machine could do and what of the cost is the generator's.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::contender::Tools;
use super::groups::{Comparison, Entry, Group, Peer};
use super::handover;
use super::programs::Flows;
use super::site::{Measured, Site, Stretch};
use super::statistics::Spread;
use crate::lab::signal::Interrupt;

/// Share of its own best rate at which an entry's cost is taken.
const BEARABLE: f64 = 0.6;
/// New flows are bounded: more than these would find every table full.
const FRESH_SECONDS_MAX: f64 = 0.2;

#[derive(Debug, Clone, PartialEq)]
pub struct LiveOptions {
    pub tools: Tools,
    pub prefix: String,
    pub pairs: usize,
    /// Rounds at the bearable rate.
    pub paced: usize,
    /// Of each stretch.
    pub seconds: f64,
}

/// What an entry came to, nothing worked out yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntryRecord {
    pub what: String,
    pub traffic: String,
    pub cores: u32,
    /// Whether its CPU time can be told: what soft interrupts take from an idle core is nobody's.
    pub cpu_is_known: bool,
    /// As fast as it goes, one a round.
    pub fastest: Vec<Measured>,
    /// At this rate, packets a second.
    pub paced_pps: f64,
    pub paced: Vec<Measured>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupRecord {
    pub name: &'static str,
    pub entries: Vec<EntryRecord>,
    /// One a round.
    pub controls: Vec<Measured>,
    /// A cache line from the sender's core to the forwarder's, once a round.
    pub handover_ns: Vec<f64>,
}

/// Nodes that stand, by who forwards in them.
pub struct Sites<'a> {
    options: &'a LiveOptions,
    standing: HashMap<Peer, Site>,
}

impl<'a> Sites<'a> {
    pub fn new(options: &'a LiveOptions) -> Result<Self> {
        let LiveOptions { pairs, seconds, .. } = options;
        ensure!((1..=100).contains(pairs), "--pairs {pairs}: 1 to 100");
        ensure!((0.05..=10.0).contains(seconds), "--seconds {seconds}: 0.05 to 10");
        Ok(Self { options, standing: HashMap::new() })
    }

    pub fn build(&mut self, peer: Peer, progress: &Progress) -> Result<()> {
        if !self.standing.contains_key(&peer) {
            let contender = peer.contender();
            progress.say(&format!("building a node with {}", contender.name()));
            let site =
                Site::build(&format!("{}-{}", self.options.prefix, peer.label()), contender, &self.options.tools)?;
            self.standing.insert(peer, site);
        }
        Ok(())
    }

    /// Takes away those that nobody needs any more.
    pub fn keep(&mut self, needed: impl Fn(Peer) -> bool) {
        self.standing.retain(|peer, _| needed(*peer));
    }

    pub fn of(&mut self, peer: Peer) -> Result<&mut Site> {
        self.standing.get_mut(&peer).with_context(|| format!("no node with {}", peer.label()))
    }
}

/// Measures a group. Ends early when interrupted.
pub fn run(group: &Group, sites: &mut Sites<'_>, progress: &Progress, interrupt: &Interrupt) -> Result<GroupRecord> {
    let LiveOptions { pairs, paced, seconds, .. } = *sites.options;
    for entry in &group.entries {
        stop_if(interrupt)?;
        sites.build(entry.peer, progress)?;
    }
    for entry in &group.entries {
        sites.of(entry.peer)?.forget_flows()?;
    }
    let mut entries = group.entries.iter().map(|entry| blank(entry, sites)).collect::<Result<Vec<_>>>()?;
    for Entry { peer, flows, spread } in &group.entries {
        if let Flows::Lasting(flows) = flows {
            sites.of(*peer)?.admit(*flows, *spread)?;
        }
    }
    let first = group.entries.first().context("a group without entries")?.peer;
    let cores = sites.of(first)?.cores();
    let (mut controls, mut handover_ns) = (Vec::new(), Vec::new());
    for pair in 1..=pairs {
        for (entry, record) in group.entries.iter().zip(&mut entries) {
            stop_if(interrupt)?;
            record.fastest.push(stretch(sites, entry, seconds, None)?);
        }
        handover_ns.push(handover::between_ns(cores.sender, cores.forwarder)?);
        controls.push(sites.of(first)?.control(seconds / 2.0)?);
        let figures: Vec<String> =
            entries.iter().filter_map(|record| Some(format!("{:.2}", record.fastest.last()?.mpps()))).collect();
        let control = controls.last().map_or(0.0, Measured::mpps);
        progress.say(&format!("{}, {pair} of {pairs}: {} Mpps; control {control:.2}", group.name, figures.join(" ")));
    }
    for (entry, record) in group.entries.iter().zip(&mut entries) {
        record.paced_pps = BEARABLE * 1e6 * record.mpps().map_or(0.0, |spread| spread.median);
        for _ in 0..paced {
            stop_if(interrupt)?;
            record.paced.push(stretch(sites, entry, seconds, Some(record.paced_pps))?);
        }
    }
    Ok(GroupRecord { name: group.name, entries, controls, handover_ns })
}

fn blank(entry: &Entry, sites: &mut Sites<'_>) -> Result<EntryRecord> {
    let contender = sites.of(entry.peer)?.contender();
    let flows = match entry.flows {
        Flows::Lasting(flows) => format!("{flows} flows"),
        Flows::Fresh => "every packet a new flow".into(),
    };
    Ok(EntryRecord {
        what: contender.name(),
        traffic: if entry.spread { format!("{flows}, two cores") } else { flows },
        cores: if entry.spread { 2 } else { contender.cores() },
        cpu_is_known: !entry.spread,
        fastest: Vec::new(),
        paced_pps: 0.0,
        paced: Vec::new(),
    })
}

fn stretch(sites: &mut Sites<'_>, entry: &Entry, seconds: f64, pps: Option<f64>) -> Result<Measured> {
    let site = sites.of(entry.peer)?;
    let seconds = match entry.flows {
        Flows::Lasting(_) => seconds,
        Flows::Fresh => {
            site.forget_flows()?;
            seconds.min(FRESH_SECONDS_MAX)
        }
    };
    site.measure(&Stretch { seconds, pps, flows: entry.flows, spread: entry.spread })
}

pub fn stop_if(interrupt: &Interrupt) -> Result<()> {
    if interrupt.is_set() {
        bail!("interrupted; everything is cleaned up");
    }
    Ok(())
}

impl EntryRecord {
    /// Delivered, millions a second.
    pub fn mpps(&self) -> Option<Spread> {
        Spread::of(self.fastest.iter().map(Measured::mpps))
    }

    /// CPU nanoseconds of a delivered packet at the bearable rate; a packet of the generator's own costs so much.
    pub fn cpu_ns_per_packet(&self, generating_ns: f64) -> Option<Spread> {
        Spread::of(self.paced.iter().map(|measured| measured.cpu_ns_per_packet(generating_ns)))
            .filter(|_| self.cpu_is_known)
    }

    /// Share of the packets that got lost at the bearable rate.
    pub fn loss(&self) -> Option<Spread> {
        Spread::of(self.paced.iter().map(Measured::loss))
    }
}

impl GroupRecord {
    /// CPU nanoseconds of the generator and an XDP program that drops, a packet.
    pub fn generating_ns(&self) -> f64 {
        let each = self.controls.iter().map(|control| control.cpu_ns() as f64 / control.sent.max(1) as f64);
        Spread::of(each).map_or(0.0, |spread| spread.median)
    }

    /// The ratio of two entries, round by round.
    pub fn ratio(&self, comparison: &Comparison) -> Option<Spread> {
        let rounds = self.entries[comparison.above].fastest.iter().enumerate();
        Spread::of_ratios(rounds.map(|(round, above)| {
            let rivals = comparison.below.iter().map(|below| self.entries[*below].fastest[round].mpps());
            (above.mpps(), rivals.fold(0.0, f64::max))
        }))
    }

    /// From the slowest control to the fastest, as a share of their median.
    pub fn control_moved(&self) -> f64 {
        let mpps = || self.controls.iter().map(Measured::mpps);
        let (slowest, fastest) = (mpps().fold(f64::INFINITY, f64::min), mpps().fold(0.0, f64::max));
        Spread::of(mpps()).map_or(f64::INFINITY, |spread| (fastest - slowest) / spread.median)
    }
}

impl Measured {
    /// Delivered, millions a second.
    pub fn mpps(&self) -> f64 {
        self.delivered as f64 / self.seconds / 1e6
    }

    /// Share of what was sent.
    pub fn loss(&self) -> f64 {
        1.0 - self.delivered as f64 / self.sent.max(1) as f64
    }

    /// CPU nanoseconds of everything that had a hand in it, the generator included.
    pub fn cpu_ns(&self) -> u64 {
        self.sender_cpu_ns + self.ksoftirqd_cpu_ns + self.forwarder_cpu_ns
    }

    /// CPU nanoseconds of a delivered packet beyond what the generator takes for one that is sent.
    pub fn cpu_ns_per_packet(&self, generating_ns: f64) -> f64 {
        (self.cpu_ns() as f64 - generating_ns * self.sent as f64) / self.delivered.max(1) as f64
    }
}

/// What the run is at, on standard error: standard output is for the result.
pub struct Progress {
    start: Instant,
}

impl Progress {
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub fn say(&self, what: &str) {
        eprintln!("bench: {:6.1} s  {what}", self.start.elapsed().as_secs_f64());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(sent: u64, delivered: u64, sender: u64, forwarder: u64) -> Measured {
        Measured {
            seconds: 2.0,
            sent,
            delivered,
            sender_cpu_ns: sender,
            ksoftirqd_cpu_ns: 0,
            forwarder_cpu_ns: forwarder,
            softirq_ns: 0,
        }
    }

    #[test]
    fn the_generators_own_cost_is_taken_off_for_every_packet_that_it_sent() {
        // 100 ns of 300 a packet are the generator's; half of them got lost.
        let live = measured(1000, 500, 300_000, 50_000);
        assert_eq!(live.cpu_ns_per_packet(100.0), (350_000.0 - 100_000.0) / 500.0);
        assert_eq!((live.loss(), live.mpps()), (0.5, 250e-6));
    }

    #[test]
    fn nothing_sent_is_no_division_by_zero() {
        let nothing = measured(0, 0, 0, 0);
        assert!(nothing.cpu_ns_per_packet(0.0).is_finite() && nothing.loss().is_finite());
    }

    #[test]
    fn a_ratio_is_taken_against_the_best_rival_of_its_own_round() {
        let entry = |delivered: [u64; 2]| EntryRecord {
            what: String::new(),
            traffic: String::new(),
            cores: 1,
            cpu_is_known: true,
            fastest: delivered.map(|delivered| measured(1000, delivered, 0, 0)).to_vec(),
            paced_pps: 0.0,
            paced: Vec::new(),
        };
        let comparison = Comparison { goal: None, case: String::new(), above: 0, below: vec![1, 2], not_judged: None };
        let group = GroupRecord {
            name: "test",
            entries: vec![entry([800, 400]), entry([200, 100]), entry([100, 200])],
            controls: vec![measured(1000, 1000, 0, 0), measured(1000, 800, 0, 0)],
            handover_ns: Vec::new(),
        };
        let values = group.ratio(&comparison).unwrap();
        assert_eq!((values.high, values.low), (3.5, 2.5));
        assert!((group.control_moved() - 200.0 / 900.0).abs() < 1e-9);
    }
}
