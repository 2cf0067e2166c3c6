//! Turns events into packets, gives them to the engine and to the reference, and compares.

use std::collections::HashSet;
use std::net::IpAddr;

use atalho_engine::conntrack::Evictable;
use atalho_engine::flow::{FlowKey, Protocol as FlowProtocol};
use atalho_engine::pipeline::Slot;
use atalho_engine::service::{Endpoint, VipKey, VipKind};
use atalho_engine::snat::SnatPorts;
use atalho_engine::tables::Settings;
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};

use crate::lab::*;
use crate::tcp::{ACK, FIN, RST, SYN, Segment};
use crate::world::{End, Met, Protocol, Tuple, World};
use crate::{frames, lab};

/// Ports for masqueraded flows: few, so that they run out toward one destination.
const SNAT_PORTS: u16 = 12;
/// With at most so many clients the table has room for all, and packets come in batches.
const JOINED_CLIENTS_MAX: u16 = 15;
/// Slots of the smallest table.
const SLOTS: u64 = 1024;

/// Knuth's linear congruential generator: repeatable.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1)
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((self.0 >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// What happens next. Numbers of packets are meant relative to what their connection has seen.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    Packet(Choice),
    Wait {
        seconds: u32,
    },
    /// Expiry walks over the whole table.
    Walk,
    /// Slots of what has ended are free.
    Epoch,
    /// The Services get other endpoints: some, others, none.
    Change {
        endpoints: u32,
    },
}

#[derive(Debug, Clone, Copy)]
pub struct Choice {
    client: u32,
    way: u32,
    protocol: u32,
    is_reply: bool,
    flags: u32,
    seq: u32,
    ack: u32,
    bytes: u32,
    window: u32,
    /// More of the same batch follow.
    is_joined: bool,
}

impl Event {
    pub fn draw(random: &mut Random) -> Self {
        match random.below(1000) {
            0 if random.below(2) == 0 => Self::Wait { seconds: 500_000 },
            0..=19 => Self::Wait { seconds: [1, 1, 2, 5, 11, 31, 61, 125, 305][random.below(9) as usize] },
            20..=24 => Self::Walk,
            25..=44 => Self::Epoch,
            45..=48 => Self::Change { endpoints: random.below(4) },
            _ => Self::Packet(Choice {
                client: random.below(1 << 16),
                way: random.below(6),
                protocol: random.below(8),
                is_reply: random.below(2) == 1,
                flags: random.below(24),
                seq: random.below(20),
                ack: random.below(16),
                bytes: random.below(4),
                window: random.below(6),
                is_joined: random.below(3) == 0,
            }),
        }
    }
}

/// How often what came, so that a run that shows nothing is noticed.
#[derive(Debug, Default)]
pub struct Counts {
    pub packets: u64,
    pub forwarded: u64,
    pub admitted: u64,
    pub bad_state: u64,
    pub out_of_window: u64,
    pub out_of_ports: u64,
    pub table_full: u64,
    pub evicted: [u64; 3],
    pub no_endpoint: u64,
    pub not_syn: u64,
    pub no_connection: u64,
    pub moved_ports: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.forwarded += other.forwarded;
        self.admitted += other.admitted;
        self.bad_state += other.bad_state;
        self.out_of_window += other.out_of_window;
        self.out_of_ports += other.out_of_ports;
        self.table_full += other.table_full;
        self.evicted.iter_mut().zip(other.evicted).for_each(|(mine, more)| *mine += more);
        self.no_endpoint += other.no_endpoint;
        self.not_syn += other.not_syn;
        self.no_connection += other.no_connection;
        self.moved_ports += other.moved_ports;
    }

    pub fn are_all_there(&self) -> bool {
        let singles = [
            self.forwarded,
            self.admitted,
            self.bad_state,
            self.out_of_window,
            self.out_of_ports,
            self.table_full,
            self.no_endpoint,
            self.not_syn,
            self.no_connection,
            self.moved_ports,
        ];
        // Where there is anything unanswered, no datagram has to go.
        singles.into_iter().chain(self.evicted[..2].iter().copied()).all(|count| count > 20)
    }
}

/// A packet on its way.
#[derive(Debug, Clone)]
struct Sent {
    tuple: Tuple,
    segment: Option<Segment>,
    ingress: u32,
    /// From the side that answers, where there is a connection.
    is_reply: bool,
}

pub struct Driver {
    lab: Lab,
    world: World,
    clients: u16,
    endpoints: Vec<fn(Family) -> IpAddr>,
    waiting: Vec<Sent>,
    evicted: [u64; 3],
    pub counts: Counts,
    until_check: u32,
}

impl Driver {
    pub fn new(clients: u16) -> Self {
        let mut lab = Lab::with_flows(1);
        let snat_ports = SnatPorts::new(61_000..=61_000 + SNAT_PORTS - 1, |_| false);
        lab.tables.settings = Settings { snat_ports, ..Settings::default() }.into();
        let mut driver = Self {
            lab,
            world: World::default(),
            clients,
            endpoints: Vec::new(),
            waiting: Vec::new(),
            evicted: [0; 3],
            counts: Counts::default(),
            until_check: 500,
        };
        driver.change(0);
        driver
    }

    pub fn run(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Packet(choice) => {
                let sent = self.packet(&choice);
                self.waiting.push(sent);
                // Where the table may be full, somebody may have to go between two packets of a batch.
                let may_join = choice.is_joined && self.clients <= JOINED_CLIENTS_MAX;
                if !may_join || self.waiting.len() == 4 {
                    self.flush()?;
                }
                return Ok(());
            }
            _ => self.flush()?,
        }
        match *event {
            // A table is to fill up before it expires.
            Event::Wait { .. } if self.clients > JOINED_CLIENTS_MAX => self.lab.now_s += 1,
            Event::Wait { seconds } => self.lab.now_s += seconds,
            Event::Walk => {
                let timeouts = self.lab.tables.settings.timeouts;
                self.lab.expire(&timeouts);
                self.world.walk(self.lab.now_s);
            }
            Event::Epoch => self.lab.let_epochs_pass(),
            Event::Change { endpoints } => self.change(endpoints),
            Event::Packet(_) => {}
        }
        self.compare_counts()
    }

    fn change(&mut self, endpoints: u32) {
        self.endpoints = match endpoints {
            0 => vec![Family::web, Family::remote_pod],
            1 => vec![Family::remote_pod],
            2 => vec![Family::web],
            _ => vec![],
        };
        let mut changes = Vec::new();
        for f in FAMILIES {
            for (protocol, port) in [(FlowProtocol::Tcp, 80), (FlowProtocol::Udp, 80)] {
                let endpoint = |address: &fn(Family) -> IpAddr| Endpoint {
                    address: address(f),
                    port: 8080,
                    weight: 1,
                    node: None,
                    local: false,
                };
                let route = lab::side(self.endpoints.iter().map(endpoint).collect());
                let vip = lab::vip("default/some:http", VipKind::ClusterIP, route.clone(), route);
                changes.push((VipKey { address: f.vip_local(), protocol, port }, vip));
            }
        }
        self.lab.tables.services = self.lab.tables.services.with_changes(changes);
        self.lab.tables.generation += 1;
    }

    /// Where packets of a source come in.
    fn ingress_of(&self, address: IpAddr) -> u32 {
        let is = |pick: fn(Family) -> IpAddr| FAMILIES.map(pick).contains(&address);
        if is(Family::client) {
            CLIENT
        } else if is(Family::web) {
            WEB
        } else {
            UPLINK
        }
    }

    fn packet(&self, choice: &Choice) -> Sent {
        let f = FAMILIES[choice.client as usize & 1];
        let port = 1 + (choice.client >> 1) as u16 % self.clients;
        let protocol = match choice.protocol {
            0..=4 => Protocol::Tcp,
            5 | 6 => Protocol::Udp,
            _ => Protocol::Echo,
        };
        let (src, dst): (IpAddr, End) = match (choice.way, protocol) {
            (0 | 1, Protocol::Echo) => (f.client(), (f.web(), 0)),
            (_, Protocol::Echo) => (f.client(), (f.far(), 0)),
            (0, _) => (f.client(), (f.web(), 8080)),
            (1 | 2, _) => (f.client(), (f.vip_local(), 80)),
            (3, _) => (f.client(), (f.far(), 443)),
            (4, _) => (f.client(), (f.remote_pod(), 8080)),
            _ => (f.far(), (f.node(), NODE_PORT_REMOTE)),
        };
        let asked = Tuple { protocol, src: (src, port), dst };
        let holder = self.world.holder(&asked);
        let connection = holder.map(|(at, side)| (&self.world.connections[at], side));
        let (tuple, from) = match connection {
            Some((c, 0)) if choice.is_reply => (c.arrives.reversed(), 1),
            Some((_, side)) => (asked, side),
            None => (asked, 0),
        };
        let notes = connection.and_then(|(c, _)| c.tcp).map(|tcp| [tcp.0[from], tcp.0[1 - from]]);
        let segment = (protocol == Protocol::Tcp).then(|| segment(choice, notes, from == 1));
        Sent { tuple, segment, ingress: self.ingress_of(tuple.src.0), is_reply: from == 1 }
    }

    fn flush(&mut self) -> Result<(), String> {
        let batch = std::mem::take(&mut self.waiting);
        let mut frames: Vec<_> =
            batch.iter().map(|sent| frames::build(&sent.tuple, sent.segment.as_ref(), sent.is_reply)).collect();
        let mut slots: Vec<_> = frames.iter_mut().zip(&batch).map(|(f, sent)| Slot::new(f, sent.ingress)).collect();
        self.lab.engine.process(&self.lab.tables, self.lab.now_s, &mut slots);
        let verdicts: Vec<_> = slots.iter().map(|slot| slot.verdict).collect();
        for (slot, verdict) in slots.iter().zip(&verdicts) {
            self.lab.engine.counters().settle(*verdict, slot.send_len);
        }
        // Who had to go, went when room was made for the one before; in a batch nobody knows when.
        let evicted = self.evicted_by_engine();
        for ((sent, verdict), frame) in batch.iter().zip(&verdicts).zip(&frames) {
            self.counts.packets += 1;
            self.compare(sent, *verdict, frame).map_err(|why| format!("{sent:?}: {verdict:?}: {why}"))?;
        }
        self.let_go(evicted)?;
        self.compare_counts()
    }

    fn compare(&mut self, sent: &Sent, verdict: Verdict, frame: &[u8]) -> Result<(), String> {
        let now_s = self.lab.now_s;
        let segment = sent.segment.as_ref();
        match (self.world.take(&sent.tuple, segment, now_s), verdict) {
            (Met::Goes(out), Verdict::Forward { .. }) => {
                self.counts.forwarded += 1;
                let seen = frames::read(frame, sent.tuple.protocol, sent.is_reply);
                if seen == out { Ok(()) } else { Err(format!("left as {seen:?}, not as {out:?}")) }
            }
            (Met::BadState, Verdict::Drop(DropReason::TcpBadState)) => {
                self.counts.bad_state += 1;
                Ok(())
            }
            (Met::OutOfWindow, Verdict::Drop(DropReason::TcpOutOfWindow)) => {
                self.counts.out_of_window += 1;
                Ok(())
            }
            (Met::Nothing, _) => self.compare_first(sent, verdict, frame),
            (met, _) => Err(format!("the reference says {met:?}")),
        }
    }

    /// A packet that meets no connection.
    fn compare_first(&mut self, sent: &Sent, verdict: Verdict, frame: &[u8]) -> Result<(), String> {
        let Sent { tuple, segment, is_reply, .. } = *sent;
        let is_service = FAMILIES.iter().any(|f| [f.vip_local(), f.node()].contains(&tuple.dst.0));
        let is_middle = segment.is_some_and(|s| s.flags == ACK);
        let is_answerable = segment.is_some_and(|s| s.flags != SYN && s.flags & RST == 0);
        let starts =
            segment.is_none_or(|s| s.flags == SYN || is_middle) && !(tuple.protocol == Protocol::Echo && is_reply);
        let to_node = FAMILIES.iter().any(|f| f.node() == tuple.dst.0);
        match verdict {
            // An answer to what is over comes to the node and finds nobody, or comes from an endpoint and is a beginning.
            Verdict::Drop(DropReason::NotForUs) if to_node && tuple.dst.1 != NODE_PORT_REMOTE => Ok(()),
            Verdict::Drop(DropReason::TcpNotSyn) if !(starts || is_service && is_answerable) => {
                self.counts.not_syn += 1;
                Ok(())
            }
            // Reset, and given to no endpoint.
            Verdict::Punt(PuntReason::NoConnection) if is_service && is_answerable => {
                self.counts.no_connection += 1;
                Ok(())
            }
            Verdict::Drop(DropReason::IcmpUnknownFlow) if !starts => Ok(()),
            Verdict::Punt(PuntReason::NoEndpoint) if is_service && starts && self.endpoints.is_empty() && !to_node => {
                self.counts.no_endpoint += 1;
                Ok(())
            }
            Verdict::Drop(DropReason::SnatPortsExhausted) if starts => self.out_of_ports(sent),
            Verdict::Drop(DropReason::TableFull) if starts => {
                self.counts.table_full += 1;
                let used = 2 * self.lab.table.count() + self.lab.table.check().dying;
                if used * 10 > SLOTS * 7 { Ok(()) } else { Err(format!("{used} of {SLOTS} slots are used")) }
            }
            // A transit, which is not ours.
            Verdict::Drop(DropReason::NotForUs) if self.ingress_of(tuple.src.0) == UPLINK && !is_service => Ok(()),
            Verdict::Forward { .. } if starts && !(is_service && is_middle) => self.admitted(sent, frame),
            _ => Err("nothing begins so".into()),
        }
    }

    fn destinations(&self, tuple: &Tuple) -> Vec<End> {
        let f = if tuple.src.0.is_ipv4() { Family::V4 } else { Family::V6 };
        if tuple.dst.0 == f.vip_local() {
            self.endpoints.iter().map(|address| (address(f), 8080)).collect()
        } else if tuple.dst.0 == f.node() {
            vec![(f.remote_pod(), 8080)]
        } else {
            vec![tuple.dst]
        }
    }

    /// The source address that a new connection leaves with, if it is not its own.
    fn masquerade(tuple: &Tuple) -> Option<IpAddr> {
        let f = if tuple.src.0.is_ipv4() { Family::V4 } else { Family::V6 };
        let leaves =
            tuple.dst.0 == f.far() && tuple.src.0 == f.client() || tuple.dst.0 == f.far() && tuple.src.0 == f.web();
        (tuple.dst.0 == f.node() || leaves).then_some(f.node())
    }

    fn admitted(&mut self, sent: &Sent, frame: &[u8]) -> Result<(), String> {
        let asked = sent.tuple;
        let arrives = frames::read(frame, asked.protocol, false);
        if !self.destinations(&asked).contains(&arrives.dst) {
            return Err(format!("went to {:?}", arrives.dst));
        }
        let masquerade = Self::masquerade(&asked);
        if arrives.src.0 != masquerade.unwrap_or(asked.src.0) {
            return Err(format!("comes from {:?}", arrives.src));
        }
        let kept = Tuple { src: asked.src, dst: arrives.dst, ..asked };
        let may_keep = masquerade.is_none() && self.world.holder(&kept.reversed()).is_none();
        if may_keep != (arrives.src == asked.src) {
            return Err(format!("leaves as {arrives:?}, though its own port {may_keep}"));
        }
        if !may_keep && !self.lab.tables.settings.snat_ports.contains(arrives.src.1) {
            return Err(format!("port {} is not in the range", arrives.src.1));
        }
        if let Some((at, _)) = self.world.holder(&arrives.reversed()) {
            return Err(format!("its answers are those of {:?}", self.world.connections[at]));
        }
        self.counts.moved_ports += u64::from(masquerade.is_none() && !may_keep);
        self.counts.admitted += 1;
        self.world.begin(asked, arrives, sent.segment.as_ref(), self.lab.now_s);
        Ok(())
    }

    /// Whether every port is taken toward one of the destinations that might have been chosen.
    fn out_of_ports(&mut self, sent: &Sent) -> Result<(), String> {
        self.counts.out_of_ports += 1;
        let asked = sent.tuple;
        let source = Self::masquerade(&asked).unwrap_or(asked.src.0);
        let ports: Vec<u16> = self.lab.tables.settings.snat_ports.iter().collect();
        let all_taken = self.destinations(&asked).into_iter().any(|dst| {
            ports.iter().all(|port| {
                let arrives = Tuple { src: (source, *port), dst, ..asked };
                self.world.holder(&arrives.reversed()).is_some()
            })
        });
        if all_taken { Ok(()) } else { Err("a port is free".into()) }
    }

    fn evicted_by_engine(&mut self) -> [u64; 3] {
        let now = Evictable::ALL.map(|kind| self.lab.table.evicted_as(kind));
        let new = std::array::from_fn(|kind| now[kind] - self.evicted[kind]);
        self.evicted = now;
        new
    }

    /// Takes away who is gone from the table, who must be of the kinds that were counted.
    fn let_go(&mut self, evicted: [u64; 3]) -> Result<(), String> {
        if evicted == [0; 3] {
            return Ok(());
        }
        let mut gone = [0; 3];
        let table = self.lab.table;
        let mut wrong = None;
        self.world.connections.retain(|connection| {
            if table.find(&key(&connection.asked)).is_some() {
                return true;
            }
            match connection.evictable() {
                Some(kind) => gone[kind] += 1,
                None => wrong = Some(format!("{connection:?} had to go")),
            }
            false
        });
        self.counts.evicted.iter_mut().zip(gone).for_each(|(all, gone)| *all += gone);
        match wrong {
            Some(wrong) => Err(wrong),
            // A batch may have moved a connection on after it was judged, or begun and ended one.
            None if gone.iter().sum::<u64>() > evicted.iter().sum() => {
                Err(format!("{gone:?} are gone, {evicted:?} counted"))
            }
            None => Ok(()),
        }
    }

    fn compare_counts(&mut self) -> Result<(), String> {
        let (here, there) = (self.lab.table.count(), self.world.connections.len() as u64);
        if here != there {
            return Err(format!("{here} connections, the reference has {there}"));
        }
        self.until_check -= 1;
        if self.until_check > 0 {
            return Ok(());
        }
        self.until_check = 500;
        let table: HashSet<FlowKey> = self.lab.table.connections().map(|c| c.original.key).collect();
        let world: HashSet<FlowKey> = self.world.connections.iter().map(|c| key(&c.asked)).collect();
        let check = self.lab.table.check();
        if table != world {
            return Err(format!("other connections: {:?}", table.symmetric_difference(&world).collect::<Vec<_>>()));
        }
        if !check.is_clean() || !self.lab.books().is_even() {
            return Err(format!("{check}; {:?}", self.lab.books()));
        }
        Ok(())
    }
}

fn key(tuple: &Tuple) -> FlowKey {
    let protocol = match tuple.protocol {
        Protocol::Tcp => FlowProtocol::Tcp,
        Protocol::Udp => FlowProtocol::Udp,
        Protocol::Echo if tuple.src.0.is_ipv4() => FlowProtocol::Icmp,
        Protocol::Echo => FlowProtocol::Icmpv6,
    };
    FlowKey { src: tuple.src.0, dst: tuple.dst.0, src_port: tuple.src.1, dst_port: tuple.dst.1, protocol }
}

/// A segment near what both sides have sent, mostly right.
fn segment(choice: &Choice, notes: Option<[crate::tcp::Notes; 2]>, is_reply: bool) -> Segment {
    let [own, other] = notes.unwrap_or_default();
    let bytes = [0, 0, 10, 1400][choice.bytes as usize];
    let expected = other.ack.map_or(1000, |ack| ack as u32);
    let next = if own.has_spoken { own.end as u32 } else { expected };
    let window = [0, 1, 500, 5000, 30_000, 65_535][choice.window as usize];
    let seq = match choice.seq {
        0..=10 => next,
        11 => expected,
        12 => next.wrapping_sub(bytes),
        13 => next.wrapping_sub(1),
        14 => expected.wrapping_add(window),
        15 => next.wrapping_add(60_000),
        16 => next.wrapping_sub(70_000),
        // Where the other side has not spoken nothing is too far, and numbers half their range apart have no order.
        17 if other.has_spoken => next.wrapping_add(1 << 27),
        18 => u32::MAX - 5,
        _ => own.syn_at.map_or(next, |at| at as u32),
    };
    let all = if other.has_spoken { other.end as u32 } else { own.ack.map_or(7, |ack| ack as u32) };
    let ack = match choice.ack {
        // Nothing says what would be wrong.
        _ if !other.has_spoken => all,
        0..=9 => all,
        10 => all.wrapping_sub(10),
        11 => all.wrapping_add(1),
        12 => all.wrapping_sub(66_001),
        13 => all.wrapping_sub(1400),
        14 => all.wrapping_add(1 << 27),
        _ => own.ack.map_or(all, |ack| ack as u32),
    };
    let is_calling = !own.has_spoken || !other.has_spoken || own.ack.is_none();
    let flags = match choice.flags {
        0..=7 if is_calling && !is_reply && !own.has_spoken => SYN,
        0..=7 if is_calling && is_reply && !own.has_spoken => SYN | ACK,
        0..=13 => ACK,
        14 | 15 => FIN | ACK,
        16 | 17 => SYN,
        18 => SYN | ACK,
        19 => RST,
        20 => RST | ACK,
        21 => FIN | ACK,
        _ => ACK,
    };
    let scale = [None, Some(0), Some(7), Some(14)][choice.window as usize % 4];
    Segment { flags, seq, ack, bytes, window: window as u16, scale: if flags & SYN != 0 { scale } else { None } }
}
