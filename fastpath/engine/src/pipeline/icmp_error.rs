//! ICMP errors: who may send one about a flow, and what becomes of those about packets of no flow that this node knows.
//!
//! Where several nodes serve an address, a router's error about an answer is addressed to the Service and may come to another
//! node than the one that tracks the flow; path MTU discovery hangs if it is lost there. Where every node would choose
//! the same endpoint, the error goes there translated, without an entry; else the slow path hands it to the other nodes,
//! of which the one that tracks the flow finds it by the quoted packet. Either way a pod gets only what its own node
//! knows a flow for: an error that nobody vouches for could as well be forged (RFC 5927), and what a pod sends makes
//! a flow, so there is nothing else that one could be about.

use atalho_layout::hop;

use super::long_way::Way;
use super::slot::{Detour, Slot};
use crate::admit::{self, Egress, Outcome};
use crate::conntrack::{ConnTable, Rewrite};
use crate::flow::FlowKey;
use crate::service::{Endpoint, Vip, VipKey};
use crate::tables::{Port, Tables};
use crate::verdict::{DropReason, PuntReason};
use crate::wire::{self, Packet, Quoted};

/// Whether the error `packet` may come in by its port and be about the packet that it quotes.
#[cold]
pub(super) fn check_error(
    tables: &Tables,
    slot: &Slot<'_>,
    packet: &Packet,
    quoted: &Quoted,
) -> Result<(), DropReason> {
    let port = tables.ports.get(&slot.ingress).ok_or(DropReason::UnknownPort)?;
    admit::check_source(tables, port, packet.src)?;
    // Another node hands it to this one. Else anybody could reach a host through us with an error about another one's flow.
    let may_be_handed_on = || {
        matches!(port, Port::Uplink)
            && tables.services.has_address(packet.key.dst)
            && wire::destination(slot.frame).is_some_and(|address| tables.is_node_address(address))
    };
    if quoted.is_handed_on && !may_be_handed_on() { Err(DropReason::IcmpQuote) } else { Ok(()) }
}

/// What becomes of the error `packet`, which is about no known flow.
#[cold]
pub(super) fn stray_error(
    table: &ConnTable,
    tables: &Tables,
    slot: &Slot<'_>,
    packet: &Packet,
    quoted: &Quoted,
) -> Result<Way, Detour> {
    const UNKNOWN: Detour = Detour::Drop(DropReason::IcmpUnknownFlow);
    check_error(tables, slot, packet, quoted).map_err(Detour::Drop)?;
    let port = tables.ports.get(&slot.ingress).ok_or(Detour::Drop(DropReason::UnknownPort))?;
    // Another node has handed it on already.
    if quoted.is_handed_on {
        return Err(UNKNOWN);
    }
    if matches!(port, Port::Uplink) {
        if let Some(next_hop) = tables.local_pods.get(&packet.key.dst) {
            return about_own_answer(table, quoted).then(|| as_it_is(packet, *next_hop)).ok_or(UNKNOWN);
        }
        let vip_key = VipKey { address: packet.key.dst, protocol: packet.key.protocol, port: packet.key.dst_port };
        if tables.services.has_address(packet.key.dst)
            && let Some(vip) = tables.services.look_up(&vip_key)
        {
            return about_service(table, tables, packet, vip);
        }
    }
    match admit::stray(tables, port, packet.key.dst) {
        Outcome::Pass if tables.local_pods.contains_key(&packet.src) => Ok(Way::Unchanged),
        Outcome::Pass => Err(Detour::Drop(DropReason::NotForUs)),
        _ => Err(UNKNOWN),
    }
}

/// About a packet of a Service: an answer that another node has sent to a client beyond the uplink.
fn about_service(table: &ConnTable, tables: &Tables, packet: &Packet, vip: &Vip) -> Result<Way, Detour> {
    const UNKNOWN: Detour = Detour::Drop(DropReason::IcmpUnknownFlow);
    // Clients of this node were served here, and their flows are gone.
    if !admit::is_beyond_uplink(tables, packet.key.src) {
        return Err(UNKNOWN);
    }
    let route = if tables.is_pod_address(packet.key.src) { &vip.inside } else { &vip.outside };
    if route.backends.endpoints.is_empty() && !route.drop_without_backend {
        return Err(UNKNOWN);
    }
    let is_same_everywhere = !route.masquerade && !route.drop_without_backend && vip.affinity.is_none();
    match route.backends.choice_of_every_node(&packet.key) {
        // A client that is the endpoint itself is masqueraded whatever the route says.
        Some(endpoint) if is_same_everywhere && endpoint.address != packet.key.src => {
            to_endpoint(table, tables, packet, endpoint)
        }
        // Another node's address as the source, its own endpoints, what it remembers of the client, its draw.
        _ if tables.other_nodes.is_empty() => Err(UNKNOWN),
        _ if packet.ttl <= 1 => Err(Detour::Drop(DropReason::TtlExceededSilently)),
        _ => Err(Detour::Punt(PuntReason::TrackedElsewhere)),
    }
}

/// Translated as the flow that another node tracks is.
fn to_endpoint(table: &ConnTable, tables: &Tables, packet: &Packet, endpoint: &Endpoint) -> Result<Way, Detour> {
    let translated = FlowKey { dst: endpoint.address, dst_port: endpoint.port, ..packet.key };
    let next_hop = match admit::egress_to(tables, endpoint.address) {
        Ok(Egress::Node) => hop::NODE,
        // What that node sends to a pod here, is a flow here.
        Ok(Egress::Pod(next_hop)) if table.find(&translated).is_some() => next_hop,
        Ok(Egress::Pod(_)) => return Err(Detour::Drop(DropReason::IcmpUnknownFlow)),
        Ok(Egress::Uplink(next_hop)) => next_hop,
        Ok(Egress::UplinkUnresolved(neighbour)) => return Err(Detour::Unresolved(neighbour)),
        Err(_) => return Err(Detour::Drop(DropReason::NoRoute)),
    };
    Ok(Way::Stateless { rewrite: unchanged(&translated), next_hop })
}

/// Whether the packet is an answer of a pod here as the pod sent it, before this node translated it: so quotes who has
/// translated the error already.
fn about_own_answer(table: &ConnTable, quoted: &Quoted) -> bool {
    table.find(&quoted.key).is_some_and(|flow| flow.is_reply && flow.is_service)
}

fn as_it_is(packet: &Packet, next_hop: u32) -> Way {
    Way::Stateless { rewrite: unchanged(&packet.key), next_hop }
}

/// The translation to a key.
fn unchanged(key: &FlowKey) -> Rewrite {
    Rewrite { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port }
}
