//! Ratio 10: what memory a connection takes.
//!
//! A table is filled with connections that nobody answers, until one insert in a thousand has ended another one for want
//! of room (or was refused). What lives then shares the memory of its family's tags and entries: both directions, keys,
//! translations, source ports, states and timers all stand there. Beside it stands nf_conntrack's entry with NAT.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, bail};
use atalho_engine::conntrack::{ConnTable, Epochs, Geometry, InsertError};
use atalho_layout::SECRET_WORDS;
use serde::Serialize;

use super::connections::{Family, connection};
use super::in_memory::mix;
use super::node;
use super::output::OutputArguments;
use super::ratio::{Goal, JudgedRatio};
use super::statistics::Spread;

const GOAL: Goal = Goal {
    number: 10,
    what: "bytes a connection / nf_conntrack's",
    command: "./scripts/bench density",
    accept: 0.6,
    aim: 0.5,
};

/// An IPv6 connection may take twice what an IPv4 one may.
const GOAL_V6: Goal = Goal { accept: 2.0 * GOAL.accept, aim: 2.0 * GOAL.aim, ..GOAL };

/// Bytes of an nf_conntrack entry with NAT, as `struct nf_conn` alone. Its extension for NAT (128 bytes of a slab of its own) and its
/// place in the hash table are left out in its favour.
const NF_CONNTRACK_BYTES: f64 = 255.0;
const NF_CONNTRACK_SLAB: &str = "/sys/kernel/slab/nf_conntrack/slab_size";

/// Of so many inserts, one may end another connection.
const INSERTS_PER_EVICTION: u64 = 1000;

/// Connections that a table is made for, and tables.
pub const MAX_FLOWS: u32 = 262_144;
const TABLES: u32 = 9;

/// After so many the slots of what has ended may be used again.
const INSERTS_PER_EPOCH: u64 = 4096;

#[derive(clap::Args)]
pub struct DensityArguments {
    /// Connections that the table is made for.
    #[arg(long, default_value_t = MAX_FLOWS)]
    max_flows: u32,
    /// Tables to fill, each with another secret.
    #[arg(long, default_value_t = TABLES)]
    tables: u32,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DensityFigures {
    pub max_flows: u32,
    pub bytes_per_connection: Spread,
    /// Of all slots, those in use.
    pub load: Spread,
    /// What this machine's kernel sets aside for one entry; `None` where it does not tell.
    pub nf_conntrack_slab_bytes: Option<u32>,
    pub ratio: JudgedRatio,
}

/// Fills, prints and keeps. `false`: a ratio was not met.
pub fn run(arguments: &DensityArguments) -> Result<bool> {
    let figures = figures(arguments.max_flows, arguments.tables)?;
    arguments.output.show("density", &figures)?;
    Ok(figures.iter().all(|figures| figures.ratio.is_met()))
}

/// Of each family, so many tables.
pub fn figures(max_flows: u32, tables: u32) -> Result<Vec<DensityFigures>> {
    if !(10_000..=10_000_000).contains(&max_flows) || !(1..=100).contains(&tables) {
        bail!("--max-flows {max_flows} --tables {tables}: 10000 to 10000000, 1 to 100");
    }
    Ok(vec![measure(Family::V4, GOAL, max_flows, tables)?, measure(Family::V6, GOAL_V6, max_flows, tables)?])
}

fn measure(family: Family, goal: Goal, max_flows: u32, tables: u32) -> Result<DensityFigures> {
    let full = (0..tables).map(|number| fill(family, max_flows, number)).collect::<Result<Vec<_>>>()?;
    let spread = |of: fn(&Full) -> f64| Spread::of(full.iter().map(of)).context("no table was filled");
    let bytes_per_connection = spread(|full| full.bytes as f64 / full.connections as f64)?;
    let ratio = Spread::of(full.iter().map(|full| full.bytes as f64 / full.connections as f64 / NF_CONNTRACK_BYTES));
    Ok(DensityFigures {
        max_flows,
        bytes_per_connection,
        load: spread(|full| 2.0 * full.connections as f64 / full.slots as f64)?,
        nf_conntrack_slab_bytes: fs::read_to_string(NF_CONNTRACK_SLAB).ok().and_then(|text| text.trim().parse().ok()),
        ratio: goal.judge(family.name(), ratio.context("no table was filled")?, true),
    })
}

/// A table in which no more inserts end others than may.
struct Full {
    connections: u64,
    slots: u64,
    bytes: usize,
}

fn fill(family: Family, max_flows: u32, number: u32) -> Result<Full> {
    let geometry = Geometry::for_max_flows(max_flows as usize);
    let memory = node::table_memory(geometry)?;
    let bytes = match family {
        Family::V4 => size_of_val(memory.tags4) + size_of_val(memory.entries4),
        Family::V6 => size_of_val(memory.tags6) + size_of_val(memory.entries6),
    };
    let secret: [u64; SECRET_WORDS] = std::array::from_fn(|i| mix((u64::from(number) << 32) + i as u64));
    let table = ConnTable::new(memory, geometry, &secret);
    let epochs = Epochs::new();
    let mut refused = 0;
    // Twice what it is made for is more than it can take.
    for inserts in 1..=2 * u64::from(max_flows) {
        let connections = table.count();
        match table.insert(0, &epochs, &connection(family, inserts as u32), 1) {
            Ok(_) => {}
            Err(InsertError::TableFull) => refused += 1,
            Err(error) => bail!("connection {inserts} could not be put in: {error:?}"),
        }
        // No worker and no kernel program holds an entry of it.
        if inserts % INSERTS_PER_EPOCH == 0 {
            let target = epochs.advance();
            epochs.mark_safe(target);
        }
        if (table.evicted() + refused) * INSERTS_PER_EVICTION > inserts {
            return Ok(Full { connections, slots: u64::from(geometry.slots()), bytes });
        }
    }
    bail!("a table made for {max_flows} connections took twice as many and ended none: this measures nothing")
}

impl fmt::Display for DensityFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slab = self.nf_conntrack_slab_bytes.map_or("unknown".into(), |bytes| bytes.to_string());
        writeln!(
            f,
            "{}: {:.1} bytes a connection at a load of {:.1} %, where 0.1 % of the inserts have ended another; this kernel's\n\
             slab for nf_conn: {slab} bytes, without extensions",
            self.ratio.case,
            self.bytes_per_connection.median,
            100.0 * self.load.median
        )?;
        write!(f, "{}", self.ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_full_near_its_design_load_and_no_byte_of_it_is_left_out() {
        for (family, entry_bytes) in [(Family::V4, 64), (Family::V6, 128)] {
            let full = fill(family, 10_000, 1).unwrap();
            let load = 2.0 * full.connections as f64 / full.slots as f64;
            assert!((0.7..0.95).contains(&load), "{load}");
            assert_eq!(full.bytes as u64, full.slots * (entry_bytes + 2));
        }
    }
}
