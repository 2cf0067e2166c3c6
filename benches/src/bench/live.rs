//! The run of a group: every entry once, then again, and so on, so that a ratio is taken between neighbours in time.
//!
//! First as fast as it goes: what arrives a second. Then each at a rate that it can bear: what a packet costs, for a
//! receiver in userspace also pays for packets that it then drops. The control beside them, the generator with an XDP
//! program that drops, says what the machine could do, which rounds count, and what of the cost is the generator's.

use anyhow::{Context, Result, bail};

use super::groups::{Entry, Group};
use super::pacing::{SearchOptions, highest_lossless};
use super::peer::Peer;
use super::programs::Flows;
use super::progress::Progress;
use super::record::{EntryRecord, GroupRecord, control_mpps};
use super::site::{Measured, Site, Stretch};
use super::sites::{LiveOptions, Sites};
use super::{handover, schedule, steadiness};
use crate::lab::signal::Interrupt;

/// Share of its own best rate at which an entry's cost is taken.
const BEARABLE: f64 = 0.6;
/// New flows are bounded: more than these would find every table full.
pub const FRESH_SECONDS_MAX: f64 = 0.2;
pub const CONTROL_SECONDS: f64 = 0.1;
/// Of the search for the highest rate without loss: wide once before the rounds, and in each round from there on.
pub const FIRST_SEARCH: SearchOptions = SearchOptions { tries: 8, stride: 1.5 };
pub const SEARCH: SearchOptions = SearchOptions { tries: 4, stride: 1.12 };
pub const SEARCH_SECONDS: f64 = 0.15;
const FIRST_GUESS_PPS: f64 = 300_000.0;
/// Packets a second at which lasting flows are begun.
const ADMITTED_PPS: f64 = 300_000.0;

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
    for entry in &group.entries {
        stop_if(interrupt)?;
        admit(entry, sites.of(entry.peer)?)?;
    }
    let first = group.entries.first().context("a group without entries")?.peer;
    let cores = sites.of(first)?.cores();
    let (mut controls, mut handover_ns) = (Vec::new(), Vec::new());
    let mut guesses = vec![FIRST_GUESS_PPS; entries.len()];
    for (entry, guess_pps) in group.entries.iter().zip(&mut guesses).filter(|(entry, _)| entry.spread) {
        stop_if(interrupt)?;
        lossless(sites.of(entry.peer)?, entry, FIRST_SEARCH, guess_pps)?;
    }
    let repeats_max = sites.options.repeats_max.min(progress.room_for(schedule::of_round_s(group, sites.options)));
    let steadiness = steadiness::rounds(pairs, repeats_max, |round| {
        let mut beside = Vec::new();
        for ((entry, record), guess_pps) in group.entries.iter().zip(&mut entries).zip(&mut guesses) {
            stop_if(interrupt)?;
            beside.push(sites.of(first)?.control(CONTROL_SECONDS)?);
            record.fastest.push(fastest(sites.of(entry.peer)?, entry, seconds, guess_pps)?);
        }
        beside.push(sites.of(first)?.control(CONTROL_SECONDS)?);
        handover_ns.push(handover::between_ns(cores.sender, cores.forwarder)?);
        let control = control_mpps(&beside);
        controls.push(beside);
        if round < pairs {
            progress.done(schedule::of_round_s(group, sites.options));
        }
        let figures: Vec<String> =
            entries.iter().filter_map(|record| Some(format!("{:.2}", record.fastest.last()?.mpps()))).collect();
        let which = if round < pairs { format!("{} of {pairs}", round + 1) } else { "one more".into() };
        progress.say(&format!("{}, {which}: {} Mpps; control {control:.2}", group.name, figures.join(" ")));
        Ok(control)
    })?;
    let mut record = GroupRecord { name: group.name, entries, controls, steadiness, handover_ns };
    let medians: Vec<f64> =
        record.entries.iter().map(|entry| record.mpps(entry).map_or(0.0, |mpps| mpps.median)).collect();
    for ((entry, of), mpps) in group.entries.iter().zip(&mut record.entries).zip(medians) {
        of.paced_pps = BEARABLE * 1e6 * mpps;
        for _ in 0..paced {
            stop_if(interrupt)?;
            of.paced.push(stretch(sites.of(entry.peer)?, entry, seconds, Some(of.paced_pps))?);
        }
    }
    progress.done(schedule::of_rest_s(group, sites.options));
    Ok(record)
}

fn blank(entry: &Entry, sites: &mut Sites<'_>) -> Result<EntryRecord> {
    let contender = sites.of(entry.peer)?.contender();
    let flows = match entry.flows {
        Flows::Lasting(flows) => format!("{flows} flows"),
        Flows::Fresh => "every packet a new flow".into(),
    };
    Ok(EntryRecord {
        what: contender.name(),
        traffic: if entry.spread { format!("{flows}, two cores, lossless") } else { flows },
        cores: if entry.spread { 2 } else { contender.cores() },
        cpu_is_known: !entry.spread,
        fastest: Vec::new(),
        paced_pps: 0.0,
        paced: Vec::new(),
    })
}

/// Begins the flows that last.
fn admit(entry: &Entry, site: &mut Site) -> Result<()> {
    let seconds = admission_s(entry);
    if seconds == 0.0 {
        return Ok(());
    }
    site.measure(&Stretch { seconds, pps: Some(ADMITTED_PPS), flows: entry.flows, spread: entry.spread }).map(drop)
}

/// Twice over all flows, where somebody keeps them: one may get lost, or meet a flow that is just ending.
pub fn admission_s(entry: &Entry) -> f64 {
    match (entry.flows, entry.peer) {
        (Flows::Lasting(flows), Peer::Worker { .. } | Peer::KubeProxy(_)) => {
            (2.0 * f64::from(flows) / ADMITTED_PPS).max(0.05)
        }
        _ => 0.0,
    }
}

/// As fast as it goes; or, on two cores, as fast as nothing is lost.
fn fastest(site: &mut Site, entry: &Entry, seconds: f64, guess_pps: &mut f64) -> Result<Measured> {
    if entry.spread { lossless(site, entry, SEARCH, guess_pps) } else { stretch(site, entry, seconds, None) }
}

/// By a search that starts at the guess and improves it.
fn lossless(site: &mut Site, entry: &Entry, search: SearchOptions, guess_pps: &mut f64) -> Result<Measured> {
    let found = highest_lossless(*guess_pps, search, |pps| stretch(site, entry, SEARCH_SECONDS, Some(pps)))?;
    *guess_pps = found.pps.unwrap_or(*guess_pps / search.stride);
    Ok(found.measured)
}

fn stretch(site: &mut Site, entry: &Entry, seconds: f64, pps: Option<f64>) -> Result<Measured> {
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
