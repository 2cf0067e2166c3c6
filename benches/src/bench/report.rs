//! What a run came to: one table for people, the same and all that it was made of as JSON.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use super::live::{Recorded, Round};
use super::site::Measured;
use super::statistics::Spread;

/// A control that moved by more than this within a run voids its ratios.
const CONTROL_MOVED_MAX: f64 = 0.15;

/// Cores that were so many times farther apart for a while were not the same cores.
const HANDOVER_MOVED_MAX: f64 = 1.5;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub what: String,
    /// Delivered, millions a second.
    pub mpps: Spread,
    pub ns_per_packet: f64,
    /// Offered, millions a second, where there is a generator.
    pub offered_mpps: Option<f64>,
    /// Of a delivered packet, the generator's own taken off.
    pub cpu_ns_per_packet: Option<Spread>,
    pub cores: u32,
}

/// A ratio inside each pair.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    pub what: &'static str,
    pub value: Spread,
}

/// The machine, as far as figures depend on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    /// Load average of the last minute when the run began: others at work move the figures.
    pub load: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    pub machine: Machine,
    pub rows: Vec<Row>,
    pub ratios: Vec<Ratio>,
    /// From the slowest control to the fastest, as a share of their median.
    pub control_moved: f64,
    pub steady: bool,
    /// Nanoseconds of a cache line from the sender's core to the worker's; the worker's figure moves with it.
    pub handover_ns: Spread,
    pub worker_core_busy: f64,
    pub softirq_cores: f64,
    pub recorded: Recorded,
}

impl Machine {
    pub fn read() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpu = read("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let load = read("/proc/loadavg")?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            load: load.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default(),
        })
    }
}

impl BenchReport {
    pub fn new(machine: Machine, recorded: Recorded) -> Result<Self> {
        let mut rows = engine_rows(&recorded)?;
        rows.push(live_row("worker on veth, ClusterIP", 2, &recorded, |round| &round.worker)?);
        rows.push(live_row("kernel forwarding, no NAT", 1, &recorded, |round| &round.kernel)?);
        rows.push(live_row("control: XDP_DROP", 1, &recorded, |round| &round.control)?);
        let fastest = |pick: fn(&Round) -> (f64, f64)| Spread::of_ratios(recorded.fastest.iter().map(pick));
        let ratios = [
            ("packets a second, worker / kernel", fastest(|round| (round.worker.mpps(), round.kernel.mpps()))),
            (
                "CPU a packet, worker / kernel",
                Spread::of_ratios(recorded.paced.iter().map(|round| {
                    (round.worker.cpu_ns_per_packet(&round.control), round.kernel.cpu_ns_per_packet(&round.control))
                })),
            ),
        ];
        let controls = || recorded.fastest.iter().map(|round| round.control.mpps());
        let slowest = controls().fold(f64::INFINITY, f64::min);
        let quickest = controls().fold(0.0, f64::max);
        let control_moved = (quickest - slowest) / spread(controls())?.median;
        let share = |ns: fn(&Measured) -> u64| {
            let paced = recorded.paced.iter().map(|round| &round.worker);
            spread(paced.map(|worker| ns(worker) as f64 / 1e9 / worker.seconds)).map(|spread| spread.median)
        };
        Ok(Self {
            machine,
            rows,
            ratios: ratios.into_iter().filter_map(|(what, value)| Some(Ratio { what, value: value? })).collect(),
            control_moved,
            steady: control_moved <= CONTROL_MOVED_MAX,
            handover_ns: spread(recorded.fastest.iter().map(|round| round.handover_ns))?,
            worker_core_busy: share(|worker| worker.workers_cpu_ns)?,
            softirq_cores: share(|worker| worker.softirq_ns)?,
            recorded,
        })
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let Self { machine, recorded, .. } = self;
        let width = self.rows.iter().map(|row| row.what.len()).max().unwrap_or_default();
        writeln!(
            out,
            "{:width$}  {:>7} {:>14} {:>10} {:>8} {:>13} {:>6}",
            "what", "Mpps", "(quartiles)", "ns/packet", "offered", "CPU ns/packet", "cores"
        )?;
        for row in &self.rows {
            let optional = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let quartiles = format!("{:.2}-{:.2}", row.mpps.low, row.mpps.high);
            writeln!(
                out,
                "{:width$}  {:>7.2} {quartiles:>14} {:>10.0} {:>8} {:>13} {:>6}",
                row.what,
                row.mpps.median,
                row.ns_per_packet,
                optional(row.offered_mpps, 2),
                optional(row.cpu_ns_per_packet.map(|spread| spread.median), 0),
                row.cores
            )?;
        }
        writeln!(out)?;
        for Ratio { what, value } in &self.ratios {
            writeln!(
                out,
                "{what}: {:.2} ({:.2}-{:.2}, median of {} pairs)",
                value.median, value.low, value.high, value.runs
            )?;
        }
        writeln!(
            out,
            "\n{} flows of {}-byte UDP. Every packet was counted and checked where it arrived; none was wrong. CPU was\n\
             taken with {:.2} Mpps offered to each (lost: worker {:.2} %, kernel {:.2} %): soft interrupts and all threads\n\
             of the daemon included, the generator's own ({:.0} ns by the control) taken off. The worker's core was\n\
             {:.0} % busy with it then; the receiving half of its packets' way is on the sender's core, {:.0} ns away\n\
             for a cache line ({:.0}-{:.0}).",
            recorded.flows,
            super::programs::FRAME_BYTES,
            recorded.paced_pps / 1e6,
            100.0 * self.paced_median(|round| round.worker.loss()),
            100.0 * self.paced_median(|round| round.kernel.loss()),
            self.paced_median(|round| round.control.cpu_ns() as f64 / round.control.sent.max(1) as f64),
            100.0 * self.worker_core_busy,
            self.handover_ns.median,
            self.handover_ns.low,
            self.handover_ns.high
        )?;
        writeln!(
            out,
            "On veth most of what AF_XDP costs is the transmit: in the sendto the kernel copies the frame into a new skb\n\
             and runs the receiver's stack. A NIC with zero-copy does neither, so these are not a NIC's figures."
        )?;
        let away = |fold: fn(f64, f64) -> f64, from| {
            self.recorded.fastest.iter().map(|round| round.handover_ns).fold(from, fold)
        };
        let (nearest, farthest) = (away(f64::min, f64::INFINITY), away(f64::max, 0.0));
        if farthest > HANDOVER_MOVED_MAX * nearest {
            writeln!(
                out,
                "THE CORES MOVED: {nearest:.0} to {farthest:.0} ns apart within the run, as a virtual machine's host has it. The worker,\n\
                 which takes every packet from the sender's core, is slower while they are far; the kernel's path, on one\n\
                 core, is not. Look at the pairs one by one."
            )?;
        }
        if !self.steady {
            writeln!(
                out,
                "NOT STEADY: the control moved by {:.0} % within the run (load {:.1}); take no ratio from it.",
                100.0 * self.control_moved,
                machine.load
            )?;
        }
        writeln!(out, "Linux {}, {} x {}, load {:.1}", machine.kernel, machine.cpus, machine.cpu, machine.load)
    }

    fn paced_median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        Spread::of(self.recorded.paced.iter().map(figure)).map_or(0.0, |spread| spread.median)
    }
}

fn engine_rows(recorded: &Recorded) -> Result<Vec<Row>> {
    let rows = recorded.engine.iter().filter_map(|figures| Some((figures.first()?, figures)));
    rows.map(|(case, figures)| {
        let ns = spread(figures.iter().map(|figure| figure.ns_per_packet))?;
        let new = match case.new_percent {
            0 => String::new(),
            percent => format!(", {percent} % new"),
        };
        Ok(Row {
            what: format!("in memory, {} flows{new}", case.flows),
            mpps: spread(figures.iter().map(|figure| 1e3 / figure.ns_per_packet))?,
            ns_per_packet: ns.median,
            offered_mpps: None,
            cpu_ns_per_packet: Some(ns),
            cores: 1,
        })
    })
    .collect()
}

fn live_row(what: &str, cores: u32, recorded: &Recorded, pick: fn(&Round) -> &Measured) -> Result<Row> {
    let mpps = spread(recorded.fastest.iter().map(|round| pick(round).mpps()))?;
    let paced = recorded.paced.iter().map(|round| pick(round).cpu_ns_per_packet(&round.control));
    Ok(Row {
        what: what.into(),
        ns_per_packet: 1e3 / mpps.median,
        mpps,
        offered_mpps: Some(spread(recorded.fastest.iter().map(|round| pick(round).offered_mpps()))?.median),
        // Of the control nothing is left.
        cpu_ns_per_packet: Spread::of(paced).filter(|spread| spread.median.abs() >= 0.5),
        cores,
    })
}

fn spread(values: impl IntoIterator<Item = f64>) -> Result<Spread> {
    Spread::of(values).context("nothing was measured")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(delivered: u64, cpu_ns: u64) -> Measured {
        Measured {
            seconds: 1.0,
            sent: 4_000_000,
            delivered,
            sender_cpu_ns: cpu_ns,
            ksoftirqd_cpu_ns: 0,
            daemon_cpu_ns: 0,
            workers_cpu_ns: 500_000_000,
            softirq_ns: 0,
        }
    }

    /// A run of three pairs whose controls delivered so much.
    fn report(controls: [u64; 3]) -> BenchReport {
        let rounds = controls.map(|control| Round {
            worker: measured(2_000_000, 800_000_000),
            kernel: measured(1_000_000, 700_000_000),
            control: measured(control, 400_000_000),
            handover_ns: 50.0,
        });
        let recorded = Recorded {
            flows: 1024,
            sender_core: 0,
            worker_core: 1,
            fastest: rounds.to_vec(),
            paced_pps: 1e6,
            paced: rounds.to_vec(),
            engine: Vec::new(),
        };
        let machine = Machine { kernel: "6.18".into(), cpu: "test".into(), cpus: 2, load: 0.0 };
        BenchReport::new(machine, recorded).unwrap()
    }

    #[test]
    fn a_row_has_what_arrived_and_what_it_cost_beyond_the_generator() {
        let report = report([4_000_000; 3]);
        let worker = &report.rows[0];
        assert_eq!((worker.mpps.median, worker.ns_per_packet, worker.offered_mpps), (2.0, 500.0, Some(4.0)));
        // 800 ms for 2M packets; 100 ns of each of 4M sent are the generator's.
        assert_eq!(worker.cpu_ns_per_packet.unwrap().median, 200.0);
        assert_eq!(report.rows[2].cpu_ns_per_packet, None, "nothing is left of the control");
        assert_eq!(report.ratios[0].value.median, 2.0);
        assert!(report.steady && !report.text().contains("NOT STEADY"));
    }

    #[test]
    fn cores_that_moved_are_told() {
        let mut report = report([4_000_000; 3]);
        assert!(!report.text().contains("THE CORES MOVED"));
        report.recorded.fastest[1].handover_ns = 170.0;
        assert!(report.text().contains("THE CORES MOVED: 50 to 170 ns"), "{}", report.text());
    }

    #[test]
    fn a_control_that_moves_voids_the_ratios() {
        let report = report([4_000_000, 3_000_000, 2_000_000]);
        assert!(!report.steady);
        assert!(report.text().contains("NOT STEADY"), "{}", report.text());
    }
}
