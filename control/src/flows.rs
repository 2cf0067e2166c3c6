//! `atalho flows`: the connections as they are now. The daemon's half reads the table part by part, a bounded number of
//! slots for each question, so that a million flows stop neither a worker nor control; the client's half asks for one
//! part after the other and prints.

mod command;
mod filter;

use std::net::{IpAddr, SocketAddr};

use atalho_engine::conntrack::Connection;
use atalho_engine::service::VipKey;
use atalho_engine::tables::{Port, Tables};
use serde::{Deserialize, Serialize};

use crate::status::Collector;

pub use command::{FlowsOptions, run};
pub use filter::Filter;

/// Buckets (32 slots each) that one question reads.
const BUCKETS: u64 = 256;

/// The question: what is wanted, and where the walk goes on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Asked {
    /// A bucket; 0 begins.
    #[serde(default)]
    pub from: u64,
    #[serde(default)]
    pub filter: Filter,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub flows: Vec<FlowRow>,
    /// Where to go on; null after the last part.
    pub next: Option<u64>,
    /// Connections in the table, wanted or not.
    pub total: u64,
}

/// A connection, as its first packet came in and as it went on. Of ICMP echo the source's port is the identifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    pub protocol: String,
    /// netfilter's name of it.
    pub state: String,
    pub source: String,
    pub destination: String,
    pub new_source: String,
    pub new_destination: String,
    /// `namespace/name:port` of the Service that it was let in by; null if by none, or if that is gone.
    pub service: Option<String>,
    /// Where its packets come in: uplink, node, pod:NAMESPACE/NAME; null if that port is gone.
    #[serde(rename = "in")]
    pub came_in: Option<String>,
    /// Seconds since its last packet, either way.
    pub idle_s: u32,
}

/// Reads the next part.
pub fn part(collector: &Collector, asked: &Asked) -> Result<Part, String> {
    let tables = collector.snapshot.load_full();
    let wanted = asked.filter.read(&tables)?;
    let (table, now_s) = (&collector.table, (collector.now_s)());
    let until = asked.from.saturating_add(BUCKETS);
    let flows = table
        .connections_in(asked.from..until)
        .filter_map(|connection| {
            let service = service_of(&tables, &connection);
            wanted.has(&connection, service).then(|| row(&tables, &connection, service, now_s))
        })
        .collect();
    Ok(Part { flows, next: (until < table.buckets()).then_some(until), total: table.count() })
}

/// The Service port whose VIP the first packet was for.
fn service_of<'t>(tables: &'t Tables, connection: &Connection) -> Option<&'t str> {
    let to = &connection.original.key;
    let key = VipKey { address: to.dst, protocol: to.protocol, port: to.dst_port };
    let vip = connection.is_service.then(|| tables.services.look_up(&key))?;
    vip.map(|vip| &*vip.service)
}

fn row(tables: &Tables, connection: &Connection, service: Option<&str>, now_s: u32) -> FlowRow {
    let original = &connection.original;
    let end = |address: IpAddr, port: u16| SocketAddr::new(address, port).to_string();
    FlowRow {
        protocol: connection.protocol.name().to_owned(),
        state: connection.state.name().to_owned(),
        source: end(original.key.src, original.key.src_port),
        destination: end(original.key.dst, original.key.dst_port),
        new_source: end(original.rewrite.src, original.rewrite.src_port),
        new_destination: end(original.rewrite.dst, original.rewrite.dst_port),
        service: service.map(str::to_owned),
        came_in: tables.ports.get(&original.ingress).map(|port| match port {
            Port::Uplink => "uplink".to_owned(),
            Port::Node => "node".to_owned(),
            Port::Pod { name, .. } => format!("pod:{name}"),
        }),
        idle_s: now_s.saturating_sub(connection.original_seen_s.max(connection.reply_seen_s)),
    }
}

#[cfg(test)]
mod tests;
