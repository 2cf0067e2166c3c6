//! Ratios 7 and 8: how long it takes until a change is in force, the whole cluster at once and one endpoint of it, beside
//! nftables with the rules that kube-proxy writes for the same cluster, in turns; and what packets notice of it.
//!
//! Ours is control as it runs, from a watch's event until every worker has loaded the tables (`control::node`), in a process of
//! its own each time (`control::ours`); theirs is the `nft` program with kube-proxy's own rules (`control::nftables`), and with rules that
//! have a chain for each endpoint (`control::chains`).

pub mod chains;
pub mod nftables;
pub mod node;
pub mod ours;

use anyhow::Result;
use serde::Serialize;

use super::live::stop_if;
use super::peer::Peer;
use super::progress::Progress;
use super::ratio::{Goal, Measurement};
use super::schedule;
use super::sites::Sites;
use super::statistics::Spread;
use crate::lab::signal::Interrupt;
use nftables::Rules;
use ours::{Asked, Ours};

const COMMAND: &str = "./scripts/bench --full control";

const LOAD: Goal = Goal {
    number: 7,
    what: "nft -f / compile and publish to every worker",
    command: COMMAND,
    accept: 1000.0,
    aim: 5000.0,
};
const PUBLISH_MS: Goal =
    Goal { number: 7, what: "compile and publish to every worker, ms", command: COMMAND, accept: 200.0, aim: 50.0 };
const CHANGE: Goal = Goal {
    number: 8,
    what: "one changed endpoint, nftables / ours at p99",
    command: COMMAND,
    accept: 200.0,
    aim: 10_000.0,
};
const LOST: Goal = Goal { number: 8, what: "packets lost by publications", command: COMMAND, accept: 0.0, aim: 0.0 };

/// Of each Service that nftables has too.
const ENDPOINTS: u32 = 10;
/// The cluster of which a time is asked for.
const ASKED: Asked = Asked { services: 10_000, endpoints: 25, changes: 30 };
/// Clusters of another shape.
const OTHERS: [Asked; 2] =
    [Asked { services: 1, endpoints: 100_000, changes: 10 }, Asked { services: 50_000, endpoints: 1, changes: 30 }];

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlGroup {
    /// Services of the cluster that both have.
    pub services: u32,
    /// Why what is asked for of that cluster is not judged.
    pub not_judged: Option<String>,
    pub rounds: usize,
    /// In so many of them all rules are loaded, of both kinds; with ten thousand Services that takes minutes.
    pub loads: usize,
    /// Of ours in each round.
    pub changes: u32,
    /// Clusters that nftables is spared.
    pub alone: Vec<Asked>,
}

/// One turn of each.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    pub ours: Ours,
    /// Seconds of all of kube-proxy's rules, where they were loaded.
    pub nft_load_s: Option<f64>,
    /// Of rules with a chain for each endpoint.
    pub nft_chains_load_s: Option<f64>,
    /// Of one endpoint that goes, and that comes back.
    pub nft_change_s: [f64; 2],
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ControlRecord {
    pub rounds: Vec<Round>,
    /// Of each cluster beside it, all runs.
    pub alone: Vec<Vec<Ours>>,
}

impl ControlGroup {
    /// Of so many Services.
    pub fn new(services: u32, not_judged: Option<String>, quick: bool) -> Self {
        if quick {
            return Self { services, not_judged, rounds: 2, loads: 1, changes: 5, alone: Vec::new() };
        }
        Self { services, not_judged, rounds: 7, loads: 2, changes: 30, alone: [&[ASKED], &OTHERS[..]].concat() }
    }

    pub fn peer(&self) -> Peer {
        Peer::KubeProxy(self.services)
    }

    /// How often a cluster is measured that nftables is spared.
    pub fn runs_of(&self, asked: Asked) -> usize {
        if asked == ASKED { self.rounds } else { 1 }
    }
}

/// Measures it. Ends early when interrupted.
pub fn run(
    group: &ControlGroup,
    sites: &mut Sites<'_>,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<ControlRecord> {
    stop_if(interrupt)?;
    sites.build(group.peer(), progress)?;
    let bench = sites.options.tools.bench.clone();
    let plan = sites.of(group.peer())?.plan();
    let rules = Rules::read(&plan.node(), &plan.folder())?;
    let chains = chains::write(&plan.folder(), group.services)?;
    let mut rounds = Vec::new();
    for round in 0..group.rounds {
        stop_if(interrupt)?;
        progress.say(&format!("one changed endpoint and all rules, round {} of {}", round + 1, group.rounds));
        let asked = Asked { services: group.services, endpoints: ENDPOINTS, changes: group.changes };
        let is_loaded = round < group.loads;
        rounds.push(Round {
            nft_load_s: is_loaded.then(|| rules.load_s()).transpose()?,
            ours: asked.measure(&bench)?,
            nft_chains_load_s: is_loaded.then(|| rules.load_s_of(&chains)).transpose()?,
            nft_change_s: rules.change_s()?,
        });
        progress.done(schedule::of_control_round_s(group, round));
    }
    let mut alone = Vec::new();
    for asked in &group.alone {
        let mut runs = Vec::new();
        for _ in 0..group.runs_of(*asked) {
            stop_if(interrupt)?;
            progress.say(&format!("{} Services x {}", asked.services, asked.endpoints));
            runs.push(asked.measure(&bench)?);
            progress.done(schedule::of_cluster_s(*asked));
        }
        alone.push(runs);
    }
    Ok(ControlRecord { rounds, alone })
}

impl ControlRecord {
    /// Every ratio of it.
    pub fn ratios(&self, group: &ControlGroup) -> Vec<Measurement> {
        let case = format!("{} Services x {ENDPOINTS}", group.services);
        let loads = |nft_s: fn(&Round) -> Option<f64>| {
            Spread::of_ratios(self.rounds.iter().filter_map(|round| Some((nft_s(round)?, round.ours.publish_s))))
        };
        let changes_s: Vec<f64> = self.rounds.iter().flat_map(|round| round.ours.changes_s.iter().copied()).collect();
        let p99_s = percentile(&changes_s, 0.99);
        let changes = Spread::of_ratios(self.rounds.iter().flat_map(|r| r.nft_change_s).map(|nft_s| (nft_s, p99_s)));
        let everybody = || self.rounds.iter().map(|round| &round.ours).chain(self.alone.iter().flatten());
        // All that were lost count, not those of a typical run.
        let total = everybody().map(|ours| ours.packets.lost).sum::<u64>() as f64;
        let lost = Spread { median: total, low: total, high: total, runs: everybody().count() };
        let received: u64 = everybody().map(|ours| ours.packets.received).sum();
        let published: usize = everybody().map(|ours| ours.changes_s.len() + 1).sum();
        let asked = self.alone.iter().flatten().filter(|ours| ours.asked == ASKED);
        let publish_ms = Spread::of(asked.map(|ours| 1e3 * ours.publish_s));
        let not_judged = || group.not_judged.clone();
        [
            (LOAD, format!("{case}, kube-proxy's own rules"), loads(|round| round.nft_load_s), not_judged()),
            (LOAD, format!("{case}, a chain for each endpoint"), loads(|round| round.nft_chains_load_s), not_judged()),
            (PUBLISH_MS, format!("{} Services x {}", ASKED.services, ASKED.endpoints), publish_ms, None),
            (CHANGE, case, changes, not_judged()),
            (LOST, format!("{published} of them, {:.0} million packets", received as f64 / 1e6), Some(lost), None),
        ]
        .into_iter()
        .filter_map(|(goal, case, value, reason)| Some(Measurement::new(Some(goal), &case, value?, reason)))
        .collect()
    }

    /// What each cluster came to: the runs of one after the other.
    pub fn clusters(&self) -> Vec<Vec<&Ours>> {
        let beside = self.rounds.iter().map(|round| &round.ours).collect();
        [beside].into_iter().chain(self.alone.iter().map(|runs| runs.iter().collect())).collect()
    }
}

/// By the nearest rank; 0 of nothing.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}
