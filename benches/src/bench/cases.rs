//! The cases whose instructions are counted: a fixed number of packets of one kind, each of a flow of its own, through one
//! engine on the node of [`super::node`].

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Result, ensure};
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::counters::Counters;
use atalho_engine::flow::mapped;
use atalho_engine::pipeline::{BATCH, Engine, EngineParts, Slot};
use atalho_engine::tables::Tables;
use atalho_engine::verdict::Verdict;
use atalho_worker::Native;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

use super::connections::Family;
use super::in_memory::{SEED, secret};
use super::node::{self, ENDPOINT_PORT, GATEWAY_MAC, UPLINK, UPLINK_MAC, VIP, VIP_PORT};

/// Packets of a case.
pub const PACKETS: usize = 16 * BATCH;
const NOW_S: u32 = 1000;
const FIRST_PORT: u16 = 20_000;
const SEQUENCE: u32 = 1000;
const WINDOW: u16 = 0xff00;
const PAYLOAD: [u8; 22] = [7; 22];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    UdpV4,
    UdpV4Answer,
    TcpV4,
    TcpV6,
    UdpV4New,
}

impl Case {
    pub const ALL: [Self; 5] = [Self::UdpV4, Self::UdpV4Answer, Self::TcpV4, Self::TcpV6, Self::UdpV4New];

    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpV4 => "udp4-to-service",
            Self::UdpV4Answer => "udp4-answer",
            Self::TcpV4 => "tcp4-to-service",
            Self::TcpV6 => "tcp6-to-service",
            Self::UdpV4New => "udp4-new-flow",
        }
    }
}

/// The packets of a case, all that precedes them done.
pub struct Prepared {
    engine: Engine<Native>,
    tables: Tables,
    epochs: Arc<Epochs>,
    epoch: AtomicU64,
    frames: Vec<Vec<u8>>,
}

impl Prepared {
    /// # Errors
    /// A packet that precedes them was not forwarded.
    pub fn new(case: Case) -> Result<Self> {
        let epochs = Arc::new(Epochs::new());
        let engine = Engine::new(EngineParts {
            worker: 0,
            table: node::connection_table(8 * PACKETS, &secret())?,
            affinity: AffinityTable::in_memory(64, &secret()),
            epochs: epochs.clone(),
            next_hops: node::next_hops(),
            counters: Arc::new(Counters::default()),
            seed: SEED,
            processor: Native,
        });
        let tables = node::dual_stack_tables();
        let mut prepared = Self { engine, tables, epochs, epoch: AtomicU64::new(0), frames: Vec::new() };
        let requests = || each(|port| udp((node::client(Family::V4), port), (VIP.into(), VIP_PORT)));
        prepared.frames = match case {
            Case::UdpV4New => requests(),
            Case::UdpV4 => {
                prepared.send(requests(), process)?;
                requests()
            }
            Case::UdpV4Answer => {
                let endpoints = destinations(&prepared.send(requests(), process)?, Family::V4);
                each(|port| {
                    let endpoint = (endpoints[usize::from(port - FIRST_PORT)], ENDPOINT_PORT);
                    udp(endpoint, (node::client(Family::V4), port))
                })
            }
            Case::TcpV4 => prepared.connect(Family::V4)?,
            Case::TcpV6 => prepared.connect(Family::V6)?,
        };
        Ok(prepared)
    }

    pub fn table(&self) -> &ConnTable {
        self.engine.table()
    }

    pub fn frames(&self) -> &[Vec<u8>] {
        &self.frames
    }

    /// Runs the packets.
    ///
    /// # Errors
    /// One was not forwarded.
    pub fn run(mut self) -> Result<()> {
        let frames = std::mem::take(&mut self.frames);
        self.send(frames, process_counted).map(|_| ())
    }

    /// Shakes hands on every connection. Returns a segment of each that follows.
    fn connect(&mut self, family: Family) -> Result<Vec<Vec<u8>>> {
        let (client, vip) = (node::client(family), (node::vip(family), node::TCP_VIP_PORT));
        let from_client = |kind| each(|port| tcp((client, port), vip, kind));
        let requests = self.send(from_client(Kind::Syn), process)?;
        let servers = destinations(&requests, family);
        let answers = each(|port| {
            let server = (servers[usize::from(port - FIRST_PORT)], ENDPOINT_PORT);
            tcp(server, (client, port), Kind::SynAck)
        });
        self.send(answers, process)?;
        self.send(from_client(Kind::Ack), process)?;
        Ok(from_client(Kind::Data))
    }

    /// Sends all of them, batch by batch. Returns what they became.
    fn send(&mut self, mut frames: Vec<Vec<u8>>, process: Process) -> Result<Vec<Vec<u8>>> {
        let Self { engine, tables, epochs, epoch, .. } = self;
        for frames in frames.chunks_mut(BATCH) {
            epochs.enter(epoch);
            let mut batch: Vec<Slot<'_>> = frames.iter_mut().map(|frame| Slot::new(frame, UPLINK)).collect();
            process(engine, tables, &mut batch);
            for slot in &batch {
                ensure!(matches!(slot.verdict, Verdict::Forward { .. }), "a packet got {:?}", slot.verdict);
            }
        }
        Ok(frames)
    }
}

type Process = fn(&mut Engine<Native>, &Tables, &mut [Slot<'_>]) -> usize;

fn process(engine: &mut Engine<Native>, tables: &Tables, batch: &mut [Slot<'_>]) -> usize {
    engine.process(tables, NOW_S, batch);
    batch.len()
}

/// Where counting begins and ends: callgrind knows it by its name. The last line keeps it from being merged with its twin.
#[inline(never)]
fn process_counted(engine: &mut Engine<Native>, tables: &Tables, batch: &mut [Slot<'_>]) -> usize {
    black_box(process(engine, tables, batch))
}

/// A frame for each port of a client.
fn each(frame: impl FnMut(u16) -> Vec<u8>) -> Vec<Vec<u8>> {
    (FIRST_PORT..FIRST_PORT + PACKETS as u16).map(frame).collect()
}

/// The IP destination of each frame.
fn destinations(frames: &[Vec<u8>], family: Family) -> Vec<IpAddr> {
    let of = |frame: &Vec<u8>| match family {
        Family::V4 => <[u8; 4]>::try_from(&frame[30..34]).map(IpAddr::from),
        Family::V6 => <[u8; 16]>::try_from(&frame[38..54]).map(IpAddr::from),
    };
    frames.iter().flat_map(of).collect()
}

fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Vec<u8> {
    let builder = ip(src.0, dst.0).udp(src.1, dst.1);
    let mut frame = Vec::new();
    // Into memory, and short enough for every length field.
    builder.write(&mut frame, &PAYLOAD).expect("a frame in memory");
    frame
}

/// What a segment of a connection is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Syn,
    SynAck,
    Ack,
    Data,
}

fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), kind: Kind) -> Vec<u8> {
    let next = SEQUENCE + 1;
    let builder = ip(src.0, dst.0);
    let builder = match kind {
        Kind::Syn => builder.tcp(src.1, dst.1, SEQUENCE, WINDOW).syn(),
        Kind::SynAck => builder.tcp(src.1, dst.1, SEQUENCE, WINDOW).syn().ack(next),
        Kind::Ack | Kind::Data => builder.tcp(src.1, dst.1, next, WINDOW).ack(next),
    };
    let payload = if matches!(kind, Kind::Data) { &PAYLOAD[..] } else { &[] };
    let mut frame = Vec::new();
    // As above.
    builder.write(&mut frame, payload).expect("a frame in memory");
    frame
}

fn ip(src: IpAddr, dst: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let link = PacketBuilder::ethernet2(GATEWAY_MAC, UPLINK_MAC);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
        (src, dst) => link.ipv6(mapped(src), mapped(dst), 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_every_case_goes_its_way() {
        for case in Case::ALL {
            let prepared = Prepared::new(case).unwrap();
            assert_eq!(prepared.frames.len(), PACKETS);
            let counters = prepared.engine.counters().clone();
            let admitted = counters.books().admitted;
            prepared.run().unwrap();
            let new = if case == Case::UdpV4New { PACKETS as u64 } else { 0 };
            assert_eq!(counters.books().admitted - admitted, new, "{case:?}");
        }
    }
}
