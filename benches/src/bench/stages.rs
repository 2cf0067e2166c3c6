//! Where the nanoseconds of the pipeline in memory go: the time of each stage of a batch, one case beside the other.
//!
//! A stage ends where the clock is read; what a reading itself takes is taken off. Each stage stands for itself, so the
//! processor cannot begin the next one early: the sum is a little more than what `engine` measures for the same case.

mod picture;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atalho_engine::pipeline::{BATCH, Step};
use serde::Serialize;

use super::engine::{EngineBench, EngineCase};
use super::frames::FRAMES;
use super::in_memory::Lap;
use super::output::Output;
use super::statistics::Spread;

const CASES: [EngineCase; 4] = [
    EngineCase { flows: 1024, new_percent: 0 },
    EngineCase { flows: 100_000, new_percent: 0 },
    EngineCase { flows: 500_000, new_percent: 0 },
    EngineCase { flows: 1024, new_percent: 100 },
];

/// In the order of a batch.
const STAGES: [(Lap, &str); 8] = [
    (Lap::Filled, "fill slots"),
    (Lap::Passed(Step::Parse), "headers, hash"),
    (Lap::Passed(Step::Look), "tags"),
    (Lap::Passed(Step::Find), "look up (long way)"),
    (Lap::Passed(Step::Follow), "entry, state, next hop, rewrite"),
    (Lap::Passed(Step::Admit), "admit, insert"),
    (Lap::Passed(Step::Rewrite), "rewrite (long way)"),
    (Lap::Counted, "count ends"),
];

#[derive(clap::Args)]
pub struct StagesArguments {
    /// How long to measure each case.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Draws it, as SVG.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// One case, stage by stage.
#[derive(Debug, Serialize)]
pub struct CaseFigures {
    pub flows: u32,
    pub new_percent: u32,
    pub stages: Vec<StageFigures>,
    /// Sum of the stages.
    pub ns_per_packet: f64,
}

#[derive(Debug, Serialize)]
pub struct StageFigures {
    pub stage: &'static str,
    /// Median over the rounds.
    pub ns_per_packet: f64,
}

impl CaseFigures {
    fn name(&self) -> String {
        match self.new_percent {
            0 => format!("{} flows", self.flows),
            percent => format!("{percent} % new"),
        }
    }
}

/// The command.
pub fn run(arguments: &StagesArguments) -> Result<bool> {
    let length = Duration::try_from_secs_f64(arguments.seconds)
        .with_context(|| format!("--seconds {}: a time", arguments.seconds))?;
    let figures = CASES.into_iter().map(|case| measure(case, length)).collect::<Result<Vec<_>>>()?;
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string(&figures)?),
        Output::Text => print!("{}", text(&figures)),
    }
    if let Some(path) = &arguments.picture {
        fs::write(path, picture::draw(&figures)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(true)
}

/// Measures a case for about so long, one round at least.
pub fn measure(case: EngineCase, length: Duration) -> Result<CaseFigures> {
    let mut bench = EngineBench::new(case)?;
    let reading_ns = reading_ns();
    let mut rounds: [Vec<f64>; STAGES.len()] = Default::default();
    round(&mut bench)?;
    let start = Instant::now();
    while rounds[0].is_empty() || start.elapsed() < length {
        for (stage, ns) in rounds.iter_mut().zip(round(&mut bench)?) {
            let readings = (FRAMES / BATCH) as f64 * reading_ns;
            stage.push((ns as f64 - readings).max(0.0) / FRAMES as f64);
        }
    }
    let stages = STAGES
        .into_iter()
        .zip(rounds)
        .map(|((_, stage), ns)| {
            let ns_per_packet = Spread::of(ns).context("nothing was measured")?.median;
            Ok(StageFigures { stage, ns_per_packet })
        })
        .collect::<Result<Vec<_>>>()?;
    let ns_per_packet = stages.iter().map(|stage| stage.ns_per_packet).sum();
    Ok(CaseFigures { flows: case.flows, new_percent: case.new_percent, stages, ns_per_packet })
}

/// One round: nanoseconds of each stage.
fn round(bench: &mut EngineBench) -> Result<[u64; STAGES.len()]> {
    bench.round_by(|worker, tables, now_s| {
        let mut stages_ns = [0; STAGES.len()];
        let mut last = Instant::now();
        worker.batches(tables, now_s, |lap| {
            let now = Instant::now();
            if let Some(at) = STAGES.iter().position(|(of, _)| *of == lap) {
                stages_ns[at] += (now - last).as_nanos() as u64;
            }
            last = now;
        })?;
        Ok(stages_ns)
    })
}

/// What it takes to read the clock once.
fn reading_ns() -> f64 {
    const READINGS: usize = 1000;
    let each = (0..READINGS).map(|_| {
        let first = Instant::now();
        (Instant::now() - first).as_nanos() as f64
    });
    Spread::of(each).map_or(0.0, |spread| spread.median)
}

fn text(figures: &[CaseFigures]) -> String {
    let row = |name: &str, of: &dyn Fn(&CaseFigures) -> String| {
        let cells: Vec<String> = figures.iter().map(|case| format!("{:>16}", of(case))).collect();
        format!("{name:<34}{}\n", cells.concat())
    };
    let mut text = row("ns a packet", &|case| case.name());
    for (at, (_, stage)) in STAGES.iter().enumerate() {
        text += &row(stage, &|case| format!("{:.1}", case.stages[at].ns_per_packet));
    }
    text + &row("sum", &|case| format!("{:.1}", case.ns_per_packet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_batch_is_a_stage_in_its_order() {
        let mut bench = EngineBench::new(EngineCase { flows: 100, new_percent: 10 }).unwrap();
        let laps = bench
            .round_by(|worker, tables, now_s| {
                let mut laps = Vec::new();
                worker.batches(tables, now_s, |lap| laps.push(lap))?;
                Ok(laps)
            })
            .unwrap();
        let expected = STAGES.map(|(lap, _)| lap).repeat(FRAMES / BATCH);
        assert_eq!(laps, expected);
    }

    #[test]
    fn the_sum_is_that_of_the_stages_and_all_is_printed() {
        let figures = measure(EngineCase { flows: 1000, new_percent: 100 }, Duration::ZERO).unwrap();
        let sum: f64 = figures.stages.iter().map(|stage| stage.ns_per_packet).sum();
        assert!(sum > 0.0 && (sum - figures.ns_per_packet).abs() < 1e-6, "{figures:?}");
        let text = text(&[figures]);
        assert!(text.contains("100 % new") && STAGES.iter().all(|(_, stage)| text.contains(stage)), "{text}");
    }
}
