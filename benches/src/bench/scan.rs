//! What it takes to look through the connection table for flows that must end: a walk as control does it after a change,
//! all flows through a Service or none, beside reading every connection whole, both directions and state, without judging any.
//!
//! In memory, in huge pages as far as the kernel gives any (a node's table has small ones). CPU time of one thread; the
//! three take turns.

use std::fmt;
use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use atalho_control::reconcile::{Cluster, Reconciler};
use atalho_engine::conntrack::{ConnTable, Epochs, InsertError, NewConnection};
use serde::Serialize;

use super::connections::{Family, connection};
use super::in_memory::secret;
use super::output::OutputArguments;
use super::statistics::Spread;
use super::{cpu, node};

#[derive(clap::Args)]
pub struct ScanArguments {
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    #[command(flatten)]
    output: OutputArguments,
}

/// CPU nanoseconds a flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScanFigures {
    pub flows: u64,
    pub none_by_service_ns: Spread,
    pub all_by_service_ns: Spread,
    pub read_whole_ns: Spread,
}

/// Measures, prints and keeps.
pub fn run(arguments: &ScanArguments) -> Result<bool> {
    ensure!((1000..=10_000_000).contains(&arguments.flows), "--flows {}: 1000 to 10000000", arguments.flows);
    ensure!((1..=1000).contains(&arguments.rounds), "--rounds {}: 1 to 1000", arguments.rounds);
    arguments.output.show("scan", &[measure(arguments.flows, arguments.rounds)?])?;
    Ok(true)
}

fn measure(flows: u32, rounds: usize) -> Result<ScanFigures> {
    let tables = [false, true].map(|is_service| fill(flows, is_service));
    let [none, all] = tables;
    let (none, all) = (none?, all?);
    let mut each = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        each[0].push(walk(&none)?);
        each[1].push(walk(&all)?);
        each[2].push(of_one(&none, || {
            black_box(none.connections().count());
        }));
    }
    let [none_by_service_ns, all_by_service_ns, read_whole_ns] =
        each.map(|values| Spread::of(values).context("nothing was measured"));
    Ok(ScanFigures {
        flows: none.count(),
        none_by_service_ns: none_by_service_ns?,
        all_by_service_ns: all_by_service_ns?,
        read_whole_ns: read_whole_ns?,
    })
}

fn fill(flows: u32, is_service: bool) -> Result<ConnTable> {
    let (table, epochs) = (node::connection_table(flows as usize, &secret())?, Epochs::new());
    for number in 0..flows {
        let new = NewConnection { is_service, ..connection(Family::V4, number) };
        match table.insert(0, &epochs, &new, 1) {
            Ok(_) | Err(InsertError::TableFull) => {}
            Err(error) => anyhow::bail!("connection {number} could not be put in: {error:?}"),
        }
    }
    Ok(table)
}

/// Through the whole table; nobody has to end.
fn walk(table: &ConnTable) -> Result<f64> {
    let (tables, mut reconciler) = (node::tables(), Reconciler::default());
    let cluster = Cluster { is_known: &|_, _| true, inherited: &[] };
    let ns = of_one(table, || reconciler.scan(table, 0..table.buckets(), &tables, &cluster));
    ensure!(reconciler.waiting() == 0, "{} flows were to end", reconciler.waiting());
    Ok(ns)
}

fn of_one(table: &ConnTable, work: impl FnOnce()) -> f64 {
    let began_ns = cpu::of_this_thread_ns();
    work();
    (cpu::of_this_thread_ns() - began_ns) as f64 / table.count() as f64
}

impl fmt::Display for ScanFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} flows: {:.1} ns each if none came through a Service, {:.1} ns if all did; read whole {:.1} ns",
            self.flows, self.none_by_service_ns.median, self.all_by_service_ns.median, self.read_whole_ns.median
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_the_service_are_looked_at_and_left() {
        let figures = measure(2000, 1).unwrap();
        assert!(figures.flows > 1900 && figures.all_by_service_ns.median > 0.0, "{figures:?}");
    }
}
