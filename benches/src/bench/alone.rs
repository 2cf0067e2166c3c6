//! What is measured without a node: the pipeline and its connection table in memory, part by part, as the commands `engine`,
//! `table`, `density`, `scale` and `setup` do each alone. Both sides of a ratio take turns inside its part.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::density::{self, DensityFigures};
use super::engine::{EngineBench, EngineCase, EngineFigures};
use super::ratio::{Goal, Measurement};
use super::scale::{self, ScaleFigures};
use super::setup::{self, SetupFigures};
use super::statistics::Spread;
use super::table::{self, TableFigures};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Engine,
    Table,
    Density,
    Scale,
    Setup,
}

/// What each part came to; those that were not asked for are empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AloneRecord {
    pub engine: Vec<EngineFigures>,
    pub table: Vec<TableFigures>,
    pub density: Vec<DensityFigures>,
    pub scale: Vec<ScaleFigures>,
    pub setup: Vec<SetupFigures>,
}

/// A case of the pipeline in memory beside Katran's own XDP program under BPF_PROG_TEST_RUN, as that was measured in
/// November 2026 on another machine with two cores and Linux 6.18.
struct BesideKatran {
    case: EngineCase,
    katran_ns: f64,
    command: &'static str,
    /// Accepted and aimed at, where something is asked.
    asked: Option<(f64, f64)>,
}

const BESIDE_KATRAN: [BesideKatran; 4] = [
    BesideKatran {
        case: EngineCase { flows: 1024, new_percent: 0 },
        katran_ns: 125.0,
        command: "./scripts/bench engine --flows 1024",
        asked: Some((0.7, 0.4)),
    },
    BesideKatran {
        case: EngineCase { flows: 100_000, new_percent: 0 },
        katran_ns: 380.0,
        command: "./scripts/bench engine --flows 100000",
        asked: None,
    },
    BesideKatran {
        case: EngineCase { flows: 500_000, new_percent: 0 },
        katran_ns: 540.0,
        command: "./scripts/bench engine --flows 500000",
        asked: Some((0.3, 0.15)),
    },
    BesideKatran {
        case: EngineCase { flows: 1024, new_percent: 100 },
        katran_ns: 590.0,
        command: "./scripts/bench engine --flows 1024 --new 100",
        asked: Some((0.5, 0.25)),
    },
];

impl Part {
    pub const ALL: [Self; 5] = [Self::Engine, Self::Table, Self::Density, Self::Scale, Self::Setup];

    /// Of its ratio.
    pub const fn number(self) -> u32 {
        match self {
            Self::Engine => 5,
            Self::Table => 6,
            Self::Density => 10,
            Self::Scale => 11,
            Self::Setup => 12,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Engine => "the pipeline in memory",
            Self::Table => "look-ups of the connection table",
            Self::Density => "memory of a connection",
            Self::Scale => "what a second worker brings",
            Self::Setup => "set-ups of connections on the way to a million",
        }
    }

    /// Measures it. A `quick` one goes the same ways fewer times.
    pub fn measure(self, quick: bool, record: &mut AloneRecord) -> Result<()> {
        let rounds = if quick { 7 } else { 21 };
        match self {
            Self::Engine => {
                let length = Duration::from_secs_f64(if quick { 1.0 } else { 3.0 });
                for BesideKatran { case, .. } in BESIDE_KATRAN {
                    record.engine.push(EngineBench::new(case)?.run(length)?);
                }
            }
            Self::Table => record.table = table::figures(&table::ENTRIES, rounds)?,
            Self::Density => record.density = density::figures(density::MAX_FLOWS, if quick { 3 } else { 9 })?,
            Self::Scale => record.scale = scale::figures(scale::FLOWS, rounds)?,
            Self::Setup => record.setup = setup::figures(setup::CONNECTIONS, if quick { 3 } else { 7 })?,
        }
        Ok(())
    }
}

impl AloneRecord {
    /// Every ratio of it, for the one table.
    pub fn ratios(&self) -> Vec<Measurement> {
        let judged = self
            .table
            .iter()
            .map(|figures| &figures.ratio)
            .chain(self.density.iter().map(|figures| &figures.ratio))
            .chain(self.scale.iter().map(|figures| &figures.ratio))
            .chain(self.setup.iter().map(|figures| &figures.ratio));
        self.engine.iter().filter_map(beside_katran).chain(judged.cloned().map(Measurement::from)).collect()
    }
}

fn katrans(figures: &EngineFigures) -> Option<&'static BesideKatran> {
    BESIDE_KATRAN.iter().find(|of| (of.case.flows, of.case.new_percent) == (figures.flows, figures.new_percent))
}

/// Of Katran's program in the same case, on another machine.
pub fn katran_ns(figures: &EngineFigures) -> Option<f64> {
    Some(katrans(figures)?.katran_ns)
}

/// Never judged here: the two figures are of two machines.
fn beside_katran(figures: &EngineFigures) -> Option<Measurement> {
    let BesideKatran { katran_ns, command, asked, .. } = katrans(figures)?;
    let EngineFigures { ns_per_packet, ns_per_packet_low, ns_per_packet_high, rounds, .. } = figures;
    let value = Spread {
        median: ns_per_packet / katran_ns,
        low: ns_per_packet_low / katran_ns,
        high: ns_per_packet_high / katran_ns,
        runs: *rounds,
    };
    let what = "pipeline in memory / Katran's XDP program";
    let case = format!("{}, {ns_per_packet:.0} ns here / {katran_ns} ns there", figures.traffic());
    let (accept, aim) = asked.unwrap_or_default();
    let goal = asked.is_some().then_some(Goal { number: 5, what, command, accept, aim });
    let reason = "Katran was measured on another machine".to_owned();
    Some(match goal {
        Some(_) => Measurement::new(goal, &case, value, Some(reason)),
        None => Measurement::new(None, &format!("{what}, {case}"), value, Some(reason)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ratio::Judgement;

    fn engine(flows: u32, new_percent: u32, ns_per_packet: f64) -> EngineFigures {
        EngineFigures {
            ns_per_packet,
            ns_per_packet_low: ns_per_packet,
            ns_per_packet_high: ns_per_packet,
            flows,
            new_percent,
            packets: 1,
            rounds: 1,
            frames: 1,
            frame_bytes: 1,
            frames_span_bytes: 1,
        }
    }

    #[test]
    fn figures_of_two_machines_stand_beside_each_other_and_are_not_judged() {
        let record = AloneRecord {
            engine: vec![engine(1024, 0, 50.0), engine(100_000, 0, 38.0), engine(1024, 100, 295.0)],
            ..AloneRecord::default()
        };
        let ratios = record.ratios();
        assert_eq!(ratios.iter().map(|ratio| ratio.value.median).collect::<Vec<_>>(), [0.4, 0.1, 0.5]);
        assert_eq!(ratios[0].judged.as_ref().unwrap().verdict, Judgement::NotJudged);
        assert!(ratios[0].what.contains("50 ns here / 125 ns there"), "{}", ratios[0].what);
        assert!(ratios[1].judged.is_none() && ratios[1].reason.is_some());
        assert!(AloneRecord { engine: vec![engine(7, 0, 1.0)], ..AloneRecord::default() }.ratios().is_empty());
    }

    #[test]
    fn every_case_beside_katran_has_a_command_that_measures_it() {
        for BesideKatran { case, command, .. } in BESIDE_KATRAN {
            let new = if case.new_percent == 0 { String::new() } else { format!(" --new {}", case.new_percent) };
            assert_eq!(command, format!("./scripts/bench engine --flows {}{new}", case.flows));
        }
    }
}
