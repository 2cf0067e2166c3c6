//! A packet's whole story, in five steps over a batch: **parse**, **find** its flow, else **admit** it, **route** it,
//! **rewrite** it. Branching on outcomes stays here; what the steps call computes and returns.
//!
//! What a packet costs, cheapest first: dropped while parsing (no memory but the frame's); found (one line of tags, one
//! of the entry, the rewrite); admitted (hash look-ups in the tables, two inserts), once per flow. Batches exist so that
//! the memory of all packets is on its way before the first one needs it.
//!
//! Time comes in as a parameter, randomness from a seed, so a run can be repeated. Nothing here allocates, waits, logs or
//! does input or output; the frame is changed only where it is forwarded.

use std::iter;
use std::net::IpAddr;
use std::sync::Arc;

use atalho_layout::{NextHopKind, hop, tag_mac};

use crate::admit::{self, Decision, Egress, FirstPacket, Outcome};
use crate::affinity::AffinityTable;
use crate::conntrack::{ConnTable, Direction, Epochs, Flow, Followed, InsertError, NewConnection, Probe, Rewrite};
use crate::counters::Counters;
use crate::flow::{FlowKey, Protocol};
use crate::fragments;
use crate::handoff::Handoff;
use crate::next_hops::{NextHop, NextHops};
use crate::rewrite::{self, Hop};
use crate::snat::PortDraw;
use crate::tables::Tables;
use crate::verdict::{DropReason, PuntReason, Verdict};
use crate::wire::{self, Packet};

/// Packets that go through a step together. 64 keeps a batch's state within a first-level cache of 32 KiB.
pub const BATCH: usize = 64;

/// One packet of a batch: a frame in, a verdict out.
#[derive(Debug)]
pub struct Slot<'a> {
    /// From the Ethernet header, with whatever padding the port delivered.
    pub frame: &'a mut [u8],
    /// Bytes of the whole frame: more than `frame` has where a port delivers long ones in pieces, of which this is the first.
    pub frame_bytes: usize,
    /// Kernel interface index of the port by which it came in: the uplink, the funnel's kernel end for the node itself,
    /// a pod's host end. After `Punt(ToCut)` the port by which it leaves.
    pub ingress: u32,
    /// A fragment that the slow path followed to its flow.
    pub fragment: Option<&'a Packet>,
    pub verdict: Verdict,
    /// `Forward`: bytes of the frame to send, without padding.
    pub send_len: usize,
    /// `Forward`: what the next hop is; pods and the node are behind the funnel.
    pub via: NextHopKind,
    /// `Punt(NeighbourUnresolved)`: whom to ask for.
    pub neighbour: Option<IpAddr>,
    /// `Punt(TooBig)`, `Punt(ToCut)`: the next hop's MTU, bytes of an IP packet; else 0.
    pub mtu: u16,
}

impl<'a> Slot<'a> {
    /// A frame in one piece.
    pub fn new(frame: &'a mut [u8], ingress: u32) -> Self {
        let frame_bytes = frame.len();
        Self {
            frame,
            frame_bytes,
            ingress,
            fragment: None,
            verdict: Verdict::Drop(DropReason::TooShort),
            send_len: 0,
            via: NextHopKind::Unused,
            neighbour: None,
            mtu: 0,
        }
    }

    /// A packet that the slow path gives back, for [`Engine::resume`].
    pub fn resumed(buffer: &'a mut Handoff) -> Self {
        let Handoff { frame, len, ingress, fragment, .. } = buffer;
        Self { fragment: fragment.as_ref(), ..Self::new(&mut frame[..*len], *ingress) }
    }

    fn drops(&mut self, reason: DropReason) {
        self.verdict = Verdict::Drop(reason);
    }

    /// Ready to be sent, but for its length (RFC 1812 section 4.2.2.7).
    #[cold]
    fn is_to_be_cut(&mut self, next_hop: &NextHop) {
        self.verdict = Verdict::Punt(PuntReason::ToCut);
        (self.mtu, self.ingress) = (next_hop.mtu, next_hop.ifindex);
    }

    fn ends(&mut self, detour: Detour) {
        match detour {
            Detour::Drop(reason) => self.drops(reason),
            Detour::Punt(reason) => self.verdict = Verdict::Punt(reason),
            Detour::TooBig { mtu } => {
                self.verdict = Verdict::Punt(PuntReason::TooBig);
                self.mtu = mtu;
            }
            Detour::Unresolved(neighbour) => {
                self.verdict = Verdict::Punt(PuntReason::NeighbourUnresolved);
                self.neighbour = Some(neighbour);
            }
        }
    }
}

/// An empty frame, for arrays that are filled later.
impl Default for Slot<'_> {
    fn default() -> Self {
        Slot::new(&mut [], 0)
    }
}

/// What an engine is made of.
pub struct EngineParts {
    /// Index of the worker, below 255.
    pub worker: u8,
    pub table: ConnTable,
    pub affinity: AffinityTable,
    pub epochs: Arc<Epochs>,
    pub next_hops: NextHops,
    pub counters: Arc<Counters>,
    /// Same seed, same packets, same times: the same run. A live worker's is drawn and told nobody: source ports come of it.
    pub seed: u64,
    /// Asks the processor to load the line at an address; may do nothing.
    pub prefetch: fn(*const u8),
}

/// The packet logic of one worker.
pub struct Engine {
    parts: EngineParts,
    random: Random,
    draw: PortDraw,
    work: Box<[Work]>,
}

/// What is known of one packet between two steps.
#[derive(Clone, Copy)]
struct Work {
    packet: Packet,
    probe: Option<Probe>,
    way: Way,
}

/// How far a packet has come.
#[derive(Clone, Copy)]
enum Way {
    /// The verdict stands.
    Ended,
    /// No flow: to be admitted.
    Unknown,
    Found(Flow),
    /// The node's own affair: to its stack as it is.
    Unchanged,
}

/// Why a packet does not go on.
#[derive(Debug, Clone, Copy)]
enum Detour {
    Drop(DropReason),
    Punt(PuntReason),
    TooBig { mtu: u16 },
    Unresolved(IpAddr),
}

impl Engine {
    /// Everything that is allocated, is allocated here.
    pub fn new(parts: EngineParts) -> Self {
        let blank = Work { packet: Packet::BLANK, probe: None, way: Way::Ended };
        let draw = PortDraw::new([parts.seed, crate::service::mix(parts.seed)]);
        Self { random: Random::new(parts.seed), draw, parts, work: vec![blank; BATCH].into() }
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.parts.counters
    }

    pub fn table(&self) -> &ConnTable {
        &self.parts.table
    }

    /// Decides about packets that came in from ports. `now_s`: the kernel's coarse monotonic clock, seconds.
    pub fn process(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        for slot in &*batch {
            self.parts.counters.received(slot.frame_bytes);
        }
        self.run(tables, now_s, batch);
    }

    /// Decides about packets that the slow path gives back, as if they had just come in.
    pub fn resume(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        for _ in &*batch {
            self.parts.counters.returned();
        }
        self.run(tables, now_s, batch);
    }

    fn run(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        for batch in batch.chunks_mut(BATCH) {
            self.parse(batch);
            self.find(tables, batch);
            self.admit(tables, now_s, batch);
            self.route_and_rewrite(tables, batch);
        }
    }

    /// Step 1: headers, hash, and the first line of the table on its way.
    fn parse(&mut self, batch: &mut [Slot<'_>]) {
        let table = &self.parts.table;
        for (slot, work) in batch.iter_mut().zip(&mut self.work) {
            let parsed = match wire::parse(slot.frame, slot.frame_bytes) {
                Err(DropReason::Fragment) => fragments::follow(slot.frame, slot.frame_bytes, slot.fragment),
                Err(reason) => Err(Verdict::Drop(reason)),
                Ok(packet) => Ok(packet),
            };
            match parsed {
                Ok(packet) => {
                    work.probe = table.probe(&packet.key);
                    if let Some(probe) = &work.probe {
                        table.prefetch_tags(probe, self.parts.prefetch);
                    }
                    work.packet = packet;
                    work.way = Way::Unknown;
                }
                Err(verdict) => {
                    slot.verdict = verdict;
                    work.way = Way::Ended;
                }
            }
        }
    }

    /// Step 2: the flow. Entries are all on their way before the first is read.
    fn find(&mut self, tables: &Tables, batch: &mut [Slot<'_>]) {
        let EngineParts { table, prefetch, .. } = &self.parts;
        let works = &mut self.work[..batch.len()];
        for work in works.iter().filter(|work| !matches!(work.way, Way::Ended)) {
            if let Some(probe) = &work.probe {
                table.prefetch_entry(probe, *prefetch);
            }
        }
        for (slot, work) in batch.iter_mut().zip(works) {
            if matches!(work.way, Way::Ended) {
                continue;
            }
            look_up(table, tables, slot, work);
            // TCP and SCTP are judged by both directions.
            if let Way::Found(flow) = &work.way
                && matches!(flow.protocol, Protocol::Tcp | Protocol::Sctp)
            {
                table.prefetch_peer(flow, *prefetch);
            }
        }
    }

    /// Step 3: packets of flows move the state of their connections, first packets become entries of the table.
    fn admit(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        let Self { parts, random, draw, work: works } = self;
        let (mut has_admitted, mut has_ended) = (false, false);
        for (slot, work) in batch.iter_mut().zip(works) {
            // The flow may have begun, or ended, in this very batch.
            let is_outdated = match work.way {
                Way::Unknown => has_admitted,
                Way::Found(_) => has_ended,
                Way::Ended | Way::Unchanged => false,
            };
            if is_outdated {
                look_up(&parts.table, tables, slot, work);
            }
            // An ICMP error is about a flow and not of it.
            if let Way::Found(flow) = work.way
                && !work.packet.is_error()
            {
                match parts.table.follow(&flow, &work.packet.segment(), now_s, &tables.settings) {
                    Followed::Belongs => {}
                    Followed::Over => {
                        parts.table.end(&parts.epochs, flow.at);
                        has_ended = true;
                        work.way = Way::Unknown;
                    }
                    Followed::Refused(reason) => {
                        slot.drops(reason);
                        work.way = Way::Ended;
                    }
                }
            }
            if !matches!(work.way, Way::Unknown) {
                continue;
            }
            let key = FlowKey { src: work.packet.src, ..work.packet.key };
            let first = FirstPacket { key, ingress: slot.ingress, opening: work.packet.opening };
            let decision = admit::decide(tables, &first, random.next(), |affinity| {
                parts.affinity.endpoint(key.src, affinity, now_s)
            });
            let outcome = match decision.outcome {
                Outcome::Forward => {
                    has_admitted = true;
                    let flow = connect(parts, draw, tables, slot.ingress, &work.packet, &decision, now_s);
                    if flow.is_ok()
                        && let Some((affinity, endpoint)) = decision.binds()
                    {
                        parts.affinity.remember(key.src, affinity, endpoint, now_s);
                    }
                    flow.map(Way::Found)
                }
                // The kernel side passes a pod's packets to its node itself; this one came before it knew the address.
                Outcome::Pass if tables.local_pods.contains_key(&work.packet.src) => Ok(Way::Unchanged),
                Outcome::Pass => Err(Detour::Drop(DropReason::NotForUs)),
                Outcome::Punt(reason) => Err(Detour::Punt(reason)),
                Outcome::Drop(reason) => Err(Detour::Drop(reason)),
            };
            work.way = outcome.unwrap_or_else(|detour| {
                slot.ends(detour);
                Way::Ended
            });
        }
    }

    /// Steps 4 and 5: the way out, and what the packet looks like there.
    fn route_and_rewrite(&mut self, tables: &Tables, batch: &mut [Slot<'_>]) {
        let EngineParts { next_hops, counters, .. } = &self.parts;
        let node_ifindex = next_hops.get(hop::NODE).map(|node| node.ifindex);
        for (slot, work) in batch.iter_mut().zip(&self.work) {
            let packet = &work.packet;
            let (next_hop, destination) = match &work.way {
                Way::Found(flow) => (flow.next_hop, flow.rewrite.dst),
                Way::Unchanged => (hop::NODE, packet.key.dst),
                Way::Ended => {
                    count_drop(counters, slot.verdict);
                    continue;
                }
                // Admission leaves none.
                Way::Unknown => continue,
            };
            let from_node = node_ifindex == Some(slot.ingress);
            match route(next_hops, tables, packet, next_hop, destination, from_node) {
                Ok(way_out) => {
                    if let Way::Found(flow) = &work.way {
                        if packet.is_fragment()
                            && let Err(reason) = fragments::check_rewrite(packet, &flow.rewrite)
                        {
                            slot.drops(reason);
                            counters.dropped(reason);
                            continue;
                        }
                        rewrite::apply(slot.frame, packet, &flow.rewrite, way_out.hop);
                    }
                    way_out.address(slot.frame);
                    slot.verdict = Verdict::Forward { next_hop };
                    slot.via = way_out.next_hop.kind;
                    slot.send_len = usize::from(packet.end);
                    if !way_out.next_hop.fits(packet) {
                        slot.is_to_be_cut(&way_out.next_hop);
                    }
                }
                Err(detour) => {
                    slot.ends(detour);
                    count_drop(counters, slot.verdict);
                }
            }
        }
    }
}

fn count_drop(counters: &Counters, verdict: Verdict) {
    if let Verdict::Drop(reason) = verdict {
        counters.dropped(reason);
    }
}

/// What the table says about a packet: its flow, none, or that it may not use the one it has.
#[inline]
fn look_up(table: &ConnTable, tables: &Tables, slot: &mut Slot<'_>, work: &mut Work) {
    work.way = match work.probe.as_ref().and_then(|probe| table.find_probe(probe)) {
        None => Way::Unknown,
        Some(flow) => match may_use(tables, slot.ingress, &work.packet, &flow) {
            Ok(()) => Way::Found(flow),
            Err(reason) => {
                slot.drops(reason);
                Way::Ended
            }
        },
    };
}

/// Whether a packet with the key of `flow` may use it: one that comes by another port than the flow's (a pod that was
/// made anew, a way that changed, a forger) has to have a source that belongs there.
#[inline]
fn may_use(tables: &Tables, ingress: u32, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    if flow.ingress == ingress && !packet.is_error() {
        return Ok(());
    }
    let port = tables.ports.get(&ingress).ok_or(DropReason::UnknownPort)?;
    admit::check_source(tables, port, packet.src)
}

impl NextHop {
    #[inline]
    fn fits(&self, packet: &Packet) -> bool {
        packet.ip_bytes() <= usize::from(self.mtu)
    }
}

/// A usable way out.
struct WayOut {
    next_hop: NextHop,
    destination: crate::next_hops::Mac,
    hop: Hop,
}

impl WayOut {
    /// Frames to the uplink carry real addresses. In the funnel the destination says whom the kernel side delivers to.
    fn address(&self, frame: &mut [u8]) {
        let NextHop { kind, ifindex, source, .. } = self.next_hop;
        match kind {
            NextHopKind::Pod => rewrite::address_frame(frame, tag_mac(ifindex), source),
            NextHopKind::Node => rewrite::address_frame(frame, self.destination, tag_mac(ifindex)),
            NextHopKind::Uplink | NextHopKind::Unused => rewrite::address_frame(frame, self.destination, source),
        }
    }
}

/// The next hop, if the packet may take it: it exists, the packet has hops left and is not too long unless it may be cut,
/// the neighbour is known. `destination` is the packet's after translation.
#[inline]
fn route(
    next_hops: &NextHops,
    tables: &Tables,
    packet: &Packet,
    index: u32,
    destination: IpAddr,
    from_node: bool,
) -> Result<WayOut, Detour> {
    let next_hop = next_hops.get(index).ok_or(Detour::Drop(DropReason::NextHopGone))?;
    // The node's own stack has counted its packets, and counts those that it gets.
    let hop = if from_node || next_hop.kind == NextHopKind::Node { Hop::Uncounted } else { Hop::Counted };
    if hop == Hop::Counted && packet.ttl <= 1 {
        // Nobody answers an ICMP error (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
        return Err(if packet.is_error() {
            Detour::Drop(DropReason::TtlExceededSilently)
        } else {
            Detour::Punt(PuntReason::TtlExceeded)
        });
    }
    if !next_hop.fits(packet) && !packet.may_be_cut {
        return Err(if packet.is_error() {
            Detour::Drop(DropReason::TooBig)
        } else {
            Detour::TooBig { mtu: next_hop.mtu }
        });
    }
    let Some(mac) = next_hop.destination else {
        let neighbour = match next_hop.kind {
            NextHopKind::Uplink => tables.routes.neighbour_to(destination).unwrap_or(destination),
            _ => destination,
        };
        return Err(Detour::Unresolved(neighbour));
    };
    Ok(WayOut { next_hop, destination: mac, hop })
}

/// Puts a decision into the table: both directions as a whole, or nothing.
fn connect(
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

/// Draws for choices that need no secrecy (SplitMix64; Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (crate::service::mix(self.0) >> 32) as u32
    }
}
