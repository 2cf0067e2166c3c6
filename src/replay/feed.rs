//! Packets in their order, and before each of them all that is due by then: new objects, the end of idle flows, packets
//! that waited.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader};

use atalho_engine::verdict::DropReason;

use super::claims::{Claim, Claims};
use super::clock::Clock;
use super::fragments::ClaimedDatagrams;
use super::node::Node;
use super::objects::Objects;
use super::out::Out;
use super::progress::Progress;
use super::report::End;
use crate::pcapng::{Block, Packet, Reader};

/// How often the slow path looks after packets that wait, as on a node.
const LOOK_EVERY_NS: u64 = 20_000_000;
/// Longer than anything waits in the slow path.
const WAIT_MAX_NS: u64 = 300_000_000_000;
/// Ports that an error names.
const PORTS_NAMED: usize = 20;

/// How the capture ended.
pub enum Ended {
    AtTheEnd,
    /// After so many packets.
    Damaged {
        packets: u64,
        why: String,
    },
}

/// A node and the world around it.
pub struct Feed {
    node: Node,
    objects: Objects,
    clock: Clock,
    /// When the next objects come into force, nanoseconds after the first packet.
    due_ns: VecDeque<u64>,
    datagrams: ClaimedDatagrams,
    /// The table's second in which idle flows were last looked for.
    expired_s: u32,
    packets: u64,
}

impl Feed {
    /// `due_ns`: when further objects come into force, in order.
    pub fn new(node: Node, objects: Objects, due_ns: VecDeque<u64>) -> Self {
        let clock = Clock::default();
        let expired_s = clock.coarse_s();
        Self { node, objects, expired_s, clock, due_ns, datagrams: ClaimedDatagrams::default(), packets: 0 }
    }

    /// Runs the whole capture, and the time up to `until_ns` after its first packet.
    pub fn run(&mut self, input: BufReader<File>, until_ns: Option<u64>, out: &mut Out) -> io::Result<Ended> {
        let mut reader = Reader::new(input);
        let mut progress = Progress::start();
        // By interface of the section: its port, or the name that is none.
        let mut interfaces: Vec<Result<usize, String>> = Vec::new();
        let ended = loop {
            match reader.next() {
                Ok(None) => break Ended::AtTheEnd,
                Err(damage) => break Ended::Damaged { packets: self.packets, why: damage.to_string() },
                Ok(Some(Block::Section)) => interfaces.clear(),
                Ok(Some(Block::Interface { name })) => {
                    let name = name.unwrap_or_default();
                    interfaces.push(out.ports.position(name).ok_or_else(|| name.to_owned()));
                }
                Ok(Some(Block::Packet(packet))) => match &interfaces[packet.interface] {
                    Ok(port) => self.take(*port, packet, out)?,
                    Err(name) => {
                        let why = no_such_port(name, out.ports.names());
                        break Ended::Damaged { packets: self.packets, why };
                    }
                },
            }
            progress.at(self.packets);
        };
        if let Some(until_ns) = until_ns {
            self.advance(until_ns, out)?;
        }
        self.wait_out(out)?;
        progress.end(self.packets);
        Ok(ended)
    }

    /// Everything that was refused of the objects.
    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.objects.refusals()
    }

    /// When the first objects come that did not come into force any more, nanoseconds after the first packet.
    pub fn left_over_ns(&self) -> Option<u64> {
        self.due_ns.front().copied()
    }

    /// Whether every packet ended in one place.
    pub fn is_even(&self) -> bool {
        self.node.is_even()
    }

    fn take(&mut self, port: usize, packet: Packet<'_>, out: &mut Out) -> io::Result<()> {
        let arrival_ns = self.clock.arrival_ns(packet.time_ns);
        self.advance(arrival_ns, out)?;
        self.packets += 1;
        let n = self.packets;
        out.report.begin(n, arrival_ns, out.ports.name(port))?;
        if (packet.original_bytes as usize) > packet.bytes.len() {
            return out.report.end(n, End::Drop(DropReason::CaptureCut));
        }
        let compiled = self.objects.compiled();
        let from = out.ports.ifindex(port).and_then(|i| Some((i, compiled.tables.ports.get(&i)?)));
        let Some((ingress, port)) = from else { return out.report.end(n, End::Drop(DropReason::UnknownPort)) };
        let mut claims =
            Claims { compiled, table: self.node.table(), datagrams: &mut self.datagrams, now_ms: self.clock.now_ms() };
        match claims.judge(port, out.ports.node(), packet.bytes) {
            Claim::Ours => self.node.receive(n, ingress, packet.bytes, &self.clock, out),
            Claim::Pass => {
                out.pass(n, packet.bytes, &self.clock)?;
                out.report.end(n, End::Pass)
            }
            Claim::Drop(reason) => out.report.end(n, End::Drop(reason)),
        }
    }

    /// Lets all happen that is due until `to_ns` after the first packet, in its order.
    fn advance(&mut self, to_ns: u64, out: &mut Out) -> io::Result<()> {
        loop {
            let objects_ns = self.due_ns.front().copied();
            let look_ns = self.next_look_ns();
            let Some(next_ns) = [objects_ns, look_ns].into_iter().flatten().min().filter(|next| *next <= to_ns) else {
                break;
            };
            self.step(next_ns);
            if objects_ns == Some(next_ns) {
                self.due_ns.pop_front();
                self.objects.advance();
                self.node.publish(&self.objects);
                out.ports.set(self.objects.compiled());
            }
            self.node.tick(&self.clock, out)?;
        }
        self.step(to_ns);
        Ok(())
    }

    /// Moves the clock. Idle flows go whenever it enters another second; between two packets nothing makes one less idle,
    /// so looking once after a gap of any length finds what looking at each second would have found.
    fn step(&mut self, to_ns: u64) {
        loop {
            let is_there = self.clock.step(to_ns);
            let now_s = self.clock.coarse_s();
            if now_s != self.expired_s {
                self.expired_s = now_s;
                self.node.expire(now_s);
            }
            if is_there {
                return;
            }
        }
    }

    /// Gives packets that still wait their time, so that every one has an end.
    fn wait_out(&mut self, out: &mut Out) -> io::Result<()> {
        let until_ns = self.clock.now_ns().saturating_add(WAIT_MAX_NS);
        while let Some(next_ns) = self.next_look_ns().filter(|next_ns| *next_ns <= until_ns) {
            self.step(next_ns);
            self.node.tick(&self.clock, out)?;
        }
        Ok(())
    }

    /// When the slow path has to look after packets that wait; never at the end of all time.
    fn next_look_ns(&self) -> Option<u64> {
        self.clock.now_ns().checked_add(LOOK_EVERY_NS).filter(|_| self.node.has_waiting())
    }
}

fn no_such_port(name: &str, ports: &[String]) -> String {
    let named = ports.iter().take(PORTS_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match ports.len().saturating_sub(PORTS_NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let what = if name.is_empty() {
        "a packet of an interface without a name".to_owned()
    } else {
        format!("a packet of interface {name:?}, which is no port of this node")
    };
    format!("{what}; the ports are {named}{more}. Name the interface as one of them, or say which node with --node")
}
