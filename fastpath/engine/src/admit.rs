//! Admission: what becomes of the first packet of a flow, decided once and then kept in the connection table.
//!
//! [`decide`] is pure: tables and packet in, decision out, with references to every object that had a say. The pipeline
//! puts the decision into the table; `atalho why` prints it. It does not look at the connection table and picks no
//! source port, for both depend on what other flows there are.

mod ahead;

use std::net::IpAddr;

pub(crate) use self::ahead::Ahead;
use crate::affinity::Affinity;
use crate::flow::FlowKey;
pub use crate::flow::Opening;
use crate::route::Routed;
use crate::service::{Backends, Endpoint, FlowHash, Route, Vip, VipKey};
use crate::tables::{Port, Tables};
use crate::verdict::{DropReason, PuntReason};

/// The first packet of a flow, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPacket {
    /// ICMP echo: the identifier is the source port, the destination port 0.
    pub key: FlowKey,
    /// Kernel interface index of the port by which it came in.
    pub ingress: u32,
    pub opening: Opening,
}

impl FirstPacket {
    /// What it would have to be the address, protocol and port of.
    #[inline]
    pub fn vip_key(&self) -> VipKey {
        VipKey { address: self.key.dst, protocol: self.key.protocol, port: self.key.dst_port }
    }
}

/// What the tables say about a first packet by its port and destination alone, looked up at once or [ahead](Ahead).
#[derive(Clone, Copy)]
pub(crate) struct Known<'t> {
    port: Option<&'t Port>,
    vip: Option<&'t Vip>,
    flow: FlowHash,
}

/// What is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, translated or routed, and so does all that follows.
    Forward,
    /// Not ours: the node's own stack gets it unchanged.
    Pass,
    /// The slow path answers it.
    Punt(PuntReason),
    Drop(DropReason),
}

/// Where packets of one direction go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// The node's own stack.
    Node,
    /// A pod of this node, by this next hop.
    Pod(u32),
    /// The uplink, by this next hop.
    Uplink(u32),
    /// The uplink, by a neighbour that has no next hop yet.
    UplinkUnresolved(IpAddr),
}

/// A decision, and because of which objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<'t> {
    pub outcome: Outcome,
    pub vip: Option<&'t Vip>,
    /// The side of the VIP that applied.
    pub route: Option<&'t Route>,
    pub chosen: Option<&'t Endpoint>,
    /// Where it goes after DNAT.
    pub destination: (IpAddr, u16),
    /// The source is rewritten to this address, with a port of the pipeline's choice.
    pub source: Option<IpAddr>,
    /// Where it leaves.
    pub egress: Option<Egress>,
    /// Where the answers leave.
    pub back: Option<Egress>,
}

impl<'t> Decision<'t> {
    /// The session affinity of its Service: the client's next connection goes to the chosen endpoint too.
    pub fn binds(&self) -> Option<&'t Affinity> {
        self.vip?.affinity.as_ref()
    }
}

/// Decides about `packet`. `random` is any even draw: the choice among endpoints that no table orders. `last_endpoint`
/// knows where a client is bound by session affinity.
pub fn decide<'t>(
    tables: &'t Tables,
    packet: &FirstPacket,
    random: u32,
    last_endpoint: impl FnOnce(&Affinity) -> Option<IpAddr>,
) -> Decision<'t> {
    let known = Known {
        port: tables.ports.get(&packet.ingress),
        vip: tables.services.look_up(&packet.vip_key()),
        flow: FlowHash::of(&packet.key),
    };
    decide_by(tables, packet, &known, random, last_endpoint)
}

/// The same, with what is known already.
#[inline]
pub(crate) fn decide_by<'t>(
    tables: &'t Tables,
    packet: &FirstPacket,
    known: &Known<'t>,
    random: u32,
    last_endpoint: impl FnOnce(&Affinity) -> Option<IpAddr>,
) -> Decision<'t> {
    let key = &packet.key;
    let mut decision = Decision {
        outcome: Outcome::Forward,
        vip: None,
        route: None,
        chosen: None,
        destination: (key.dst, key.dst_port),
        source: None,
        egress: None,
        back: None,
    };
    if let Err(outcome) = judge(tables, packet, known, random, last_endpoint, &mut decision) {
        decision.outcome = outcome;
    }
    decision
}

/// The decision, as long as it is to forward; else why not.
fn judge<'t>(
    tables: &'t Tables,
    packet: &FirstPacket,
    known: &Known<'t>,
    random: u32,
    last_endpoint: impl FnOnce(&Affinity) -> Option<IpAddr>,
    decision: &mut Decision<'t>,
) -> Result<(), Outcome> {
    let key = &packet.key;
    let port = known.port.ok_or(Outcome::Drop(DropReason::UnknownPort))?;
    check_source(tables, port, key.src).map_err(Outcome::Drop)?;
    if matches!(packet.opening, Opening::Error | Opening::EchoReply) {
        return Err(stray(tables, port, key.dst));
    }
    if let Some(vip) = known.vip {
        let choose = |backends: &'t Backends| {
            // Bound to an endpoint that this side may no longer use, a client is free again.
            let bound = vip.affinity.as_ref().and_then(last_endpoint).and_then(|address| backends.at(address));
            bound.or_else(|| backends.choose_by(known.flow, random))
        };
        to_service(tables, packet, port, vip, choose, decision)
    } else if tables.services.has_address(key.dst) {
        begins_with_a_service(packet.opening)?;
        Err(Outcome::Punt(match packet.opening {
            Opening::EchoRequest => PuntReason::EchoToVip,
            _ => PuntReason::UnknownServicePort,
        }))
    } else if tables.is_service_address(key.dst) {
        // Who had a connection to a Service that was deleted learns of it; who begins one is told nothing.
        begins_with_a_service(packet.opening)?;
        Err(Outcome::Drop(DropReason::NoVipPort))
    } else {
        to_address(tables, packet, port, decision)
    }
}

/// An ICMP error or an echo reply that belongs to no flow: the node's own affair, or nobody's.
pub(crate) fn stray(tables: &Tables, port: &Port, dst: IpAddr) -> Outcome {
    if tables.services.has_address(dst) || tables.is_service_address(dst) {
        return Outcome::Drop(DropReason::IcmpUnknownFlow);
    }
    match (egress_to(tables, dst), port) {
        (Ok(Egress::Node) | Err(Outcome::Pass), _) => Outcome::Pass,
        (Ok(Egress::Uplink(_) | Egress::UplinkUnresolved(_)), Port::Uplink | Port::Node) => Outcome::Pass,
        _ => Outcome::Drop(DropReason::IcmpUnknownFlow),
    }
}

/// Whether a packet with this source may come in by `port`. Asked of every first packet, and of later ones that come
/// by another port than their flow's.
pub fn check_source(tables: &Tables, port: &Port, src: IpAddr) -> Result<(), DropReason> {
    match port {
        Port::Pod { addresses, .. } if !addresses.contains(&src) => Err(DropReason::WrongSource),
        // Nobody out there has an address of ours.
        Port::Uplink if tables.local_pods.contains_key(&src) || tables.is_node_address(src) => Err(DropReason::Martian),
        Port::Uplink if tables.routes.is_broadcast(src) => Err(DropReason::BroadcastSource),
        // The node also sends what it forwards for others.
        _ => Ok(()),
    }
}

/// A packet to a Service: which side's rules, which endpoint, whose source.
fn to_service<'t>(
    tables: &'t Tables,
    packet: &FirstPacket,
    port: &Port,
    vip: &'t Vip,
    choose: impl FnOnce(&'t Backends) -> Option<&'t Endpoint>,
    decision: &mut Decision<'t>,
) -> Result<(), Outcome> {
    let key = &packet.key;
    let route = side_of(tables, port, vip, key.src);
    decision.vip = Some(vip);
    if !vip.lets_in(key.src) {
        return Err(Outcome::Drop(DropReason::SourceRange));
    }
    decision.route = Some(route);
    begins_with_a_service(packet.opening)?;
    let endpoint = choose(&route.backends).ok_or(match route.drop_without_backend {
        true => Outcome::Drop(DropReason::NoLocalEndpoint),
        false => Outcome::Punt(PuntReason::NoEndpoint),
    })?;
    decision.chosen = Some(endpoint);
    decision.destination = (endpoint.address, endpoint.port);
    // An endpoint that only the node's stack leads to would answer past us, and the client refuse the answer.
    let egress = egress_to(tables, endpoint.address).map_err(|outcome| match outcome {
        Outcome::Pass => Outcome::Punt(PuntReason::Unreachable),
        other => other,
    })?;
    decision.egress = Some(egress);
    let is_hairpin = endpoint.address == key.src;
    let is_masqueraded = match (port, egress) {
        // The node itself, and whom it forwards for, would be answered past us; by a port of ours, the answer is known on lo.
        (Port::Node, Egress::Node) => true,
        // An endpoint that is the node itself answers others through this node anyway.
        (_, Egress::Node) => false,
        (Port::Node, _) if is_inside(tables, port, key.src) => vip.masquerade_node,
        _ => route.masquerade,
    };
    if is_hairpin || is_masqueraded || leaves_cluster(tables, port, endpoint.address, egress) {
        masquerade(tables, packet, decision)?;
    }
    answer_way(tables, packet, port, decision)
}

/// The side of a VIP that applies to a client behind a port.
#[inline]
fn side_of<'t>(tables: &Tables, port: &Port, vip: &'t Vip, client: IpAddr) -> &'t Route {
    if is_inside(tables, port, client) { &vip.inside } else { &vip.outside }
}

/// Whether a client is of this cluster: a pod, or this node. Whom the node's stack forwards for is not.
#[inline]
fn is_inside(tables: &Tables, port: &Port, client: IpAddr) -> bool {
    match port {
        Port::Pod { .. } => true,
        Port::Node => tables.is_node_address(client) || tables.is_pod_address(client),
        Port::Uplink => tables.is_pod_address(client),
    }
}

/// A packet to an address that is no Service's.
fn to_address(tables: &Tables, packet: &FirstPacket, port: &Port, decision: &mut Decision<'_>) -> Result<(), Outcome> {
    let key = &packet.key;
    if tables.routes.is_broadcast(key.dst) {
        return Err(Outcome::Drop(DropReason::Broadcast));
    }
    let egress = egress_to(tables, key.dst)?;
    let is_uplink = !matches!(egress, Egress::Pod(_));
    let is_others = match port {
        // What the node forwards between others.
        Port::Uplink => is_uplink,
        Port::Node => is_uplink && !tables.is_pod_address(key.dst),
        Port::Pod { .. } => false,
    };
    if egress == Egress::Node || is_others {
        return Err(Outcome::Pass);
    }
    starts_something(packet.opening)?;
    if !tables.settings.tcp_loose {
        starts_at_the_beginning(packet.opening)?;
    }
    decision.egress = Some(egress);
    if leaves_cluster(tables, port, key.dst, egress) {
        masquerade(tables, packet, decision)?;
    }
    answer_way(tables, packet, port, decision)
}

/// Refuses a packet to a Service from the middle of a connection, loose or not: the connection was some endpoint's, which is
/// gone or which another node knows, and any other one would only reset it. So it is answered here, as a host without
/// such a connection answers (RFC 9293 section 3.5.2, RFC 9260 section 8.4), whether there are endpoints or not.
fn begins_with_a_service(opening: Opening) -> Result<(), Outcome> {
    match opening {
        Opening::TcpMidStream | Opening::TcpOther | Opening::SctpMidStream | Opening::SctpOther => {
            Err(Outcome::Punt(PuntReason::NoConnection))
        }
        _ => starts_something(opening),
    }
}

/// Refuses a packet that no connection begins with.
fn starts_something(opening: Opening) -> Result<(), Outcome> {
    match opening {
        Opening::TcpOther | Opening::TcpReset => Err(Outcome::Drop(DropReason::TcpNotSyn)),
        Opening::SctpOther | Opening::SctpFinal => Err(Outcome::Drop(DropReason::SctpNotInit)),
        _ => Ok(()),
    }
}

/// Refuses a packet from the middle of a connection.
fn starts_at_the_beginning(opening: Opening) -> Result<(), Outcome> {
    match opening {
        Opening::TcpMidStream => Err(Outcome::Drop(DropReason::TcpNotSyn)),
        Opening::SctpMidStream => Err(Outcome::Drop(DropReason::SctpNotInit)),
        _ => Ok(()),
    }
}

/// Whether packets to `address` leave by the uplink.
pub(crate) fn is_beyond_uplink(tables: &Tables, address: IpAddr) -> bool {
    matches!(egress_to(tables, address), Ok(Egress::Uplink(_) | Egress::UplinkUnresolved(_)))
}

/// Where `address` is, or what becomes of a packet to it.
pub(crate) fn egress_to(tables: &Tables, address: IpAddr) -> Result<Egress, Outcome> {
    if let Some(next_hop) = tables.local_pods.get(&address) {
        return Ok(Egress::Pod(*next_hop));
    }
    if tables.is_node_address(address) {
        return Ok(Egress::Node);
    }
    egress_by_route(tables, address)
}

/// Where an address is that is neither a pod's of this node nor its own.
fn egress_by_route(tables: &Tables, address: IpAddr) -> Result<Egress, Outcome> {
    match tables.routes.look_up(address) {
        Routed::NextHop(next_hop) => Ok(Egress::Uplink(next_hop)),
        Routed::Unresolved(neighbour) => Ok(Egress::UplinkUnresolved(neighbour)),
        Routed::Local => Ok(Egress::Node),
        // Its stack has a way that is none of ours.
        Routed::Elsewhere => Err(Outcome::Pass),
        Routed::Unreachable => Err(Outcome::Punt(PuntReason::Unreachable)),
        Routed::Blackhole => Err(Outcome::Drop(DropReason::NoRoute)),
    }
}

/// Whether a pod's packet leaves the cluster, where its address means nothing. Where the configuration does not say
/// what a pod is, nobody's packets are taken for such.
fn leaves_cluster(tables: &Tables, port: &Port, destination: IpAddr, egress: Egress) -> bool {
    matches!(port, Port::Pod { .. })
        && matches!(egress, Egress::Uplink(_) | Egress::UplinkUnresolved(_))
        && !tables.cluster.pod_cidrs.is_empty()
        && !tables.is_pod_address(destination)
}

fn masquerade(tables: &Tables, packet: &FirstPacket, decision: &mut Decision<'_>) -> Result<(), Outcome> {
    decision.source = tables.primary_address(packet.key.src);
    if decision.source.is_none() { Err(Outcome::Drop(DropReason::NoSourceAddress)) } else { Ok(()) }
}

/// Answers leave by where the first packet came in.
fn answer_way(tables: &Tables, packet: &FirstPacket, port: &Port, decision: &mut Decision<'_>) -> Result<(), Outcome> {
    let client = packet.key.src;
    decision.back = Some(match port {
        Port::Node => Egress::Node,
        Port::Pod { .. } => Egress::Pod(*tables.local_pods.get(&client).ok_or(Outcome::Drop(DropReason::WrongSource))?),
        // Its source was checked to be no address of ours.
        Port::Uplink => match egress_by_route(tables, client) {
            Ok(Egress::Node | Egress::Pod(_)) => return Err(Outcome::Drop(DropReason::Martian)),
            Ok(uplink) => uplink,
            // Nor would an answer find its way.
            Err(_) => return Err(Outcome::Drop(DropReason::NoRoute)),
        },
    });
    Ok(())
}
