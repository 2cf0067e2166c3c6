//! The end of step 3: an admitted packet's connection goes into the table, with a source port if it is masqueraded.

use std::iter;

use atalho_layout::hop;

use super::EngineParts;
use super::slot::Detour;
use super::way_out::route;
use crate::admit::{Decision, Egress};
use crate::conntrack::{Direction, Flow, InsertError, NewConnection, Rewrite};
use crate::flow::{FlowKey, Protocol};
use crate::snat::PortDraw;
use crate::tables::Tables;
use crate::verdict::DropReason;
use crate::wire::Packet;

/// Puts a decision into the table: both directions as a whole, or nothing.
pub(super) fn connect(
    parts: &EngineParts,
    draw: &mut PortDraw,
    tables: &Tables,
    ingress: u32,
    packet: &Packet,
    decision: &Decision<'_>,
    now_s: u32,
) -> Result<Flow, Detour> {
    let next_hop = next_hop_of(decision.egress)?;
    let back = next_hop_of(decision.back)?;
    // A packet that cannot leave makes no flow.
    let from_node = parts.next_hops.get(hop::NODE).is_some_and(|node| node.ifindex == ingress);
    let way_out = route(&parts.next_hops, tables, packet, next_hop, decision.destination.0, from_node)?;

    let key = packet.key;
    let source = decision.source.unwrap_or(key.src);
    // Who keeps his address keeps his port too, unless another flow looks like his then.
    let own_port = decision.source.is_none().then_some(key.src_port);
    let drawn = iter::once_with(|| draw.candidates(&tables.settings.snat_ports, &key, decision.destination)).flatten();
    for source_port in own_port.into_iter().chain(drawn) {
        let rewrite = Rewrite {
            src: source,
            dst: decision.destination.0,
            src_port: source_port,
            dst_port: decision.destination.1,
        };
        let answers = answers_to(&rewrite, key.protocol);
        // Cheaper than an insert that fails, and where many ports are taken most do.
        if own_port != Some(source_port) && parts.table.find(&answers).is_some() {
            continue;
        }
        let new = NewConnection {
            original: Direction { key, rewrite, next_hop, ingress },
            reply: Direction {
                key: answers,
                rewrite: Rewrite { src: key.dst, dst: key.src, src_port: key.dst_port, dst_port: key.src_port },
                next_hop: back,
                ingress: way_out.next_hop.ifindex,
            },
            is_service: decision.vip.is_some(),
            first: packet.segment(),
        };
        match parts.table.insert(parts.worker, &parts.epochs, &new, now_s) {
            Ok(inserted) => {
                parts.counters.admitted();
                return Ok(inserted.flow);
            }
            // Another worker, or an earlier packet of this batch, was first with the same flow.
            Err(InsertError::Exists { is_reply: false, flow }) => return Ok(flow),
            // The answers' tuple is another flow's, unless the two ends have just begun to talk at once.
            Err(InsertError::Exists { is_reply: true, .. }) => {
                if let Some(flow) = parts.table.find(&key) {
                    return Ok(flow);
                }
            }
            Err(InsertError::Contention) => return Err(Detour::Drop(DropReason::InsertContention)),
            Err(InsertError::TableFull) => return Err(Detour::Drop(DropReason::TableFull)),
            Err(InsertError::MixedFamilies | InsertError::SameKey) => return Err(Detour::Drop(DropReason::Martian)),
        }
    }
    Err(Detour::Drop(DropReason::SnatPortsExhausted))
}

/// The key of what comes back.
fn answers_to(rewrite: &Rewrite, protocol: Protocol) -> FlowKey {
    FlowKey { src: rewrite.dst, dst: rewrite.src, src_port: rewrite.dst_port, dst_port: rewrite.src_port, protocol }
}

fn next_hop_of(egress: Option<Egress>) -> Result<u32, Detour> {
    match egress {
        Some(Egress::Node) => Ok(hop::NODE),
        Some(Egress::Pod(index) | Egress::Uplink(index)) => Ok(index),
        Some(Egress::UplinkUnresolved(neighbour)) => Err(Detour::Unresolved(neighbour)),
        None => Err(Detour::Drop(DropReason::NoRoute)),
    }
}
