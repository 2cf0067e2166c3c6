//! The pipeline in memory: one engine, one thread, no socket.
//!
//! UDP from clients outside to one ClusterIP with ten endpoints behind the uplink. Each round writes every frame anew
//! (a fresh draw of flows, outside the timed part), then takes the CPU time of one pass over all of them in batches,
//! with what a worker does around `process`: entering the epoch, filling the slots, counting the ends. Then, outside
//! the timed part again, every frame is checked: next hop, addresses, checksums, and that a flow keeps its endpoint.

use std::array;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::counters::Counters;
use atalho_engine::flow::Protocol;
use atalho_engine::next_hops::{Mac, NextHop, NextHops};
use atalho_engine::pipeline::{BATCH, Engine, EngineParts, Slot};
use atalho_engine::route::{Route, RouteTarget, Routes};
use atalho_engine::service::{Backends, Endpoint, Route as ServiceRoute, Services, Vip, VipKey, VipKind};
use atalho_engine::tables::{Cluster, Node, Port, Tables};
use atalho_engine::verdict::Verdict;
use atalho_layout::{NextHopKind, SECRET_WORDS};
use atalho_sys::prefetch;
use serde::Serialize;

use super::cpu;
use super::statistics::Spread;

/// Distinct frames of a round.
pub const FRAMES: usize = 4096;
pub const FRAME_BYTES: usize = 64;
/// From one frame to the next, as in a UMEM: 8 MB in all.
const STRIDE_BYTES: usize = 2048;
/// New flows that the table takes in before they are ended again, outside the timed part.
const NEW_FLOWS_KEPT: u32 = 262_144;
const FLOWS_MAX: u32 = 4_000_000;

const UPLINK: u32 = 2;
const GATEWAY_HOP: u32 = 1;
const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
const UPLINK_MAC: Mac = [2, 0, 0, 0, 0, 2];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP_PORT: u16 = 53;
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 11);
const ENDPOINTS: u32 = 10;
const ENDPOINT_PORT: u16 = 5353;
/// Client of flow 0 (RFC 2544's range for benchmarks, and as far beyond as there are flows).
const FIRST_CLIENT: u32 = u32::from_be_bytes([198, 18, 0, 1]);
const PORTS_PER_CLIENT: u32 = 50_000;
const FIRST_PORT: u16 = 10_000;
const TIME_TO_LIVE: u8 = 64;
const SEED: u64 = 1;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineCase {
    /// Established flows.
    pub flows: u32,
    /// Of a hundred packets, how many begin a flow.
    pub new_percent: u32,
}

/// What it came to. CPU time of the thread; a round is one pass over all frames.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineFigures {
    /// Median over the rounds.
    pub ns_per_packet: f64,
    /// Quartiles over the rounds.
    pub ns_per_packet_low: f64,
    pub ns_per_packet_high: f64,
    pub flows: u32,
    pub new_percent: u32,
    pub packets: u64,
    pub rounds: usize,
    pub frames: usize,
    pub frame_bytes: usize,
    pub frames_span_bytes: usize,
}

/// A pipeline ready to be measured; keeps its flows between two measurements.
pub struct EngineBench {
    case: EngineCase,
    engine: Engine,
    tables: Tables,
    table: ConnTable,
    epochs: Arc<Epochs>,
    epoch: AtomicU64,
    counters: Arc<Counters>,
    frames: Vec<u8>,
    /// Flow of each frame.
    drawn: Vec<u32>,
    /// Sum of the words of the IP header and of the UDP datagram of a frame of flow nobody, RFC 1071.
    blank: [u8; FRAME_BYTES],
    next_new: u32,
    new_due: u32,
    random: u64,
    endpoint_of: HashMap<u32, Ipv4Addr>,
}

impl EngineBench {
    /// Makes the table (its memory is never given back) and admits the established flows.
    pub fn new(case: EngineCase) -> Result<Self> {
        ensure!((1..=FLOWS_MAX).contains(&case.flows), "--flows {}: 1 to {FLOWS_MAX}", case.flows);
        ensure!(case.new_percent <= 100, "--new {}: percent, 0 to 100", case.new_percent);
        let secret: [u64; SECRET_WORDS] = array::from_fn(|i| mix(SEED + i as u64));
        let kept = if case.new_percent == 0 { 0 } else { NEW_FLOWS_KEPT + FRAMES as u32 };
        // An eighth of room: of a table filled to the last flow it was made for, chance decides who gets in.
        let most = (case.flows + kept) as usize;
        let table = ConnTable::in_memory(most + most / 8, &secret);
        let epochs = Arc::new(Epochs::new());
        let counters = Arc::new(Counters::default());
        let next_hops = NextHops::in_memory(4);
        next_hops.set(
            GATEWAY_HOP,
            &NextHop {
                kind: NextHopKind::Uplink,
                ifindex: UPLINK,
                destination: Some(GATEWAY_MAC),
                source: UPLINK_MAC,
                mtu: 1500,
            },
        );
        let engine = Engine::new(EngineParts {
            worker: 0,
            table,
            affinity: AffinityTable::in_memory(64, &secret),
            epochs: epochs.clone(),
            next_hops,
            counters: counters.clone(),
            seed: SEED,
            prefetch: prefetch::line,
        });
        let mut bench = Self {
            case,
            engine,
            tables: tables(),
            table,
            epochs,
            epoch: AtomicU64::new(0),
            counters,
            frames: vec![0; FRAMES * STRIDE_BYTES],
            drawn: vec![0; FRAMES],
            blank: blank_frame(),
            next_new: case.flows,
            new_due: 0,
            random: SEED,
            endpoint_of: HashMap::new(),
        };
        bench.admit_established()?;
        Ok(bench)
    }

    /// Measures for about so long, one round at least.
    pub fn run(&mut self, length: Duration) -> Result<EngineFigures> {
        // Caches and branch predictors as they are in the middle of a run.
        self.round()?;
        let mut rounds_ns = Vec::new();
        let start = Instant::now();
        while rounds_ns.is_empty() || start.elapsed() < length {
            rounds_ns.push(self.round()? as f64 / FRAMES as f64);
        }
        let rounds = rounds_ns.len();
        let Some(spread) = Spread::of(rounds_ns) else { bail!("no round was measured") };
        Ok(EngineFigures {
            ns_per_packet: spread.median,
            ns_per_packet_low: spread.low,
            ns_per_packet_high: spread.high,
            flows: self.case.flows,
            new_percent: self.case.new_percent,
            packets: (rounds * FRAMES) as u64,
            rounds,
            frames: FRAMES,
            frame_bytes: FRAME_BYTES,
            frames_span_bytes: FRAMES * STRIDE_BYTES,
        })
    }

    /// Draws, writes, measures, checks. Returns CPU nanoseconds of the pass.
    fn round(&mut self) -> Result<u64> {
        for at in 0..FRAMES {
            self.drawn[at] = self.draw();
        }
        self.write_frames();
        let ns = self.pass()?;
        self.check()?;
        if self.next_new - self.case.flows >= NEW_FLOWS_KEPT {
            self.end_new_flows();
        }
        Ok(ns)
    }

    /// Flow of the next packet: at random among the established ones, or a new one when it is time for it.
    fn draw(&mut self) -> u32 {
        self.new_due += self.case.new_percent;
        if self.new_due >= 100 {
            self.new_due -= 100;
            self.next_new += 1;
            return self.next_new - 1;
        }
        self.random = self.random.wrapping_add(1);
        (((mix(self.random) >> 32) * u64::from(self.case.flows)) >> 32) as u32
    }

    fn admit_established(&mut self) -> Result<()> {
        for first in (0..self.case.flows).step_by(FRAMES) {
            for at in 0..FRAMES {
                self.drawn[at] = (first + at as u32).min(self.case.flows - 1);
            }
            self.write_frames();
            self.pass()?;
            self.check()?;
        }
        ensure!(
            self.table.count() == u64::from(self.case.flows),
            "the table holds {} of {} flows",
            self.table.count(),
            self.case.flows
        );
        Ok(())
    }

    fn write_frames(&mut self) {
        for (frame, flow) in self.frames.chunks_exact_mut(STRIDE_BYTES).zip(&self.drawn) {
            let frame = &mut frame[..FRAME_BYTES];
            frame.copy_from_slice(&self.blank);
            let (client, port) = client_of(*flow);
            frame[26..30].copy_from_slice(&client.octets());
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            set_checksums(frame);
        }
    }

    /// One pass over all frames. This is what is measured.
    fn pass(&mut self) -> Result<u64> {
        let Self { engine, tables, epochs, epoch, counters, frames, .. } = self;
        let now_s = atalho_sys::clock::coarse_seconds();
        let mut refused = None;
        let began_ns = cpu::of_this_thread_ns();
        for frames in frames.chunks_exact_mut(BATCH * STRIDE_BYTES) {
            epochs.enter(epoch);
            let mut each = frames.chunks_exact_mut(STRIDE_BYTES);
            let mut batch: [Slot<'_>; BATCH] = array::from_fn(|_| match each.next() {
                Some(frame) => Slot::new(&mut frame[..FRAME_BYTES], UPLINK),
                None => Slot::default(),
            });
            engine.process(tables, now_s, &mut batch);
            for slot in &batch {
                match slot.verdict {
                    Verdict::Forward { .. } => counters.forwarded(slot.send_len),
                    verdict => refused = Some(verdict),
                }
            }
        }
        let ns = cpu::of_this_thread_ns() - began_ns;
        if let Some(verdict) = refused {
            bail!("a packet was not forwarded but got {verdict:?}: this run says nothing");
        }
        Ok(ns)
    }

    /// Every frame of the last pass, byte for byte where it had to change.
    fn check(&mut self) -> Result<()> {
        for (frame, flow) in self.frames.chunks_exact(STRIDE_BYTES).zip(&self.drawn) {
            let frame = &frame[..FRAME_BYTES];
            let endpoint = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
            let mut expected = self.blank;
            expected[..6].copy_from_slice(&GATEWAY_MAC);
            expected[6..12].copy_from_slice(&UPLINK_MAC);
            expected[22] = TIME_TO_LIVE - 1;
            let (client, port) = client_of(*flow);
            expected[26..30].copy_from_slice(&client.octets());
            expected[30..34].copy_from_slice(&endpoint.octets());
            expected[34..36].copy_from_slice(&port.to_be_bytes());
            expected[36..38].copy_from_slice(&ENDPOINT_PORT.to_be_bytes());
            set_checksums(&mut expected);
            let index = u32::from(endpoint).wrapping_sub(u32::from(FIRST_ENDPOINT));
            if frame != expected || index >= ENDPOINTS {
                bail!("a packet of flow {flow} came out wrong, so this run says nothing: {frame:02x?}");
            }
            let first = *self.endpoint_of.entry(*flow).or_insert(endpoint);
            ensure!(first == endpoint, "flow {flow} went to {first} and then to {endpoint}: this run says nothing");
        }
        Ok(())
    }

    /// Ends the flows that came beyond the established ones, and lets their slots be used again.
    fn end_new_flows(&mut self) {
        let (oldest_client, oldest_port) = client_of(self.case.flows);
        let is_new = |src: IpAddr, port: u16| match src {
            IpAddr::V4(client) => (u32::from(client), port) >= (u32::from(oldest_client), oldest_port),
            IpAddr::V6(_) => false,
        };
        for connection in self.table.connections() {
            if is_new(connection.original.key.src, connection.original.key.src_port) {
                self.table.end(&self.epochs, connection.at);
            }
        }
        let target = self.epochs.advance();
        self.epochs.enter(&self.epoch);
        // One worker, at rest, and no kernel that reads this table.
        self.epochs.mark_safe(target);
        self.endpoint_of.retain(|flow, _| *flow < self.case.flows);
        self.next_new = self.case.flows;
    }
}

/// Client address and port of a flow: ports first, then addresses, so that both grow with the flow.
fn client_of(flow: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(FIRST_CLIENT + flow / PORTS_PER_CLIENT), FIRST_PORT + (flow % PORTS_PER_CLIENT) as u16)
}

/// A frame of nobody: no client, no checksums.
fn blank_frame() -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].copy_from_slice(&UPLINK_MAC);
    frame[6..12].copy_from_slice(&GATEWAY_MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((FRAME_BYTES - 14) as u16).to_be_bytes());
    frame[22] = TIME_TO_LIVE;
    frame[23] = Protocol::Udp as u8;
    frame[30..34].copy_from_slice(&VIP.octets());
    frame[36..38].copy_from_slice(&VIP_PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&((FRAME_BYTES - 34) as u16).to_be_bytes());
    for (at, byte) in frame[42..].iter_mut().enumerate() {
        *byte = at as u8;
    }
    frame
}

/// Header and datagram checksums, computed from scratch (RFC 791, RFC 768): nothing of the engine's own arithmetic.
fn set_checksums(frame: &mut [u8]) {
    frame[24..26].fill(0);
    frame[40..42].fill(0);
    let header = !ones_sum(0, &frame[14..34]);
    let pseudo = ones_sum(Protocol::Udp as u32 + (FRAME_BYTES - 34) as u32, &frame[26..34]);
    let datagram = match !ones_sum(u32::from(pseudo), &frame[34..]) {
        0 => u16::MAX,
        sum => sum,
    };
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame[40..42].copy_from_slice(&datagram.to_be_bytes());
}

/// One's complement sum of an even number of bytes (RFC 1071).
fn ones_sum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = bytes.as_chunks::<2>().0.iter().fold(start, |sum, pair| sum + u32::from(u16::from_be_bytes(*pair)));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An even draw from a counter (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// One Service with ten endpoints behind the gateway.
fn tables() -> Tables {
    let endpoints = (0..ENDPOINTS)
        .map(|index| Endpoint {
            address: Ipv4Addr::from(u32::from(FIRST_ENDPOINT) + index).into(),
            port: ENDPOINT_PORT,
            weight: 1,
            node: Some("node-b".into()),
            local: false,
        })
        .collect();
    let side = ServiceRoute {
        backends: Arc::new(Backends::maglev(endpoints)),
        masquerade: false,
        drop_without_backend: false,
    };
    let vip = Vip {
        service: "default/bench:dns".into(),
        kind: VipKind::ClusterIP,
        affinity: None,
        inside: side.clone(),
        outside: side,
    };
    let key = VipKey { address: VIP.into(), protocol: Protocol::Udp, port: VIP_PORT };
    let node = Ipv4Addr::new(192, 168, 0, 2);
    let net = |text: &str| text.parse().ok();
    let everywhere =
        net("0.0.0.0/0").map(|destination| Route { destination, target: RouteTarget::Gateway(GATEWAY.into()) });
    Tables {
        generation: 1,
        node: Arc::new(Node {
            name: "node-a".into(),
            addresses: vec![node.into()],
            primary_v4: Some(node),
            primary_v6: None,
        }),
        cluster: Arc::new(Cluster {
            pod_cidrs: net("10.244.0.0/16").into_iter().collect(),
            service_cidrs: net("10.96.0.0/16").into_iter().collect(),
        }),
        services: Services::default().with_changes([(key, Some(Arc::new(vip)))]),
        ports: Arc::new(HashMap::from([(UPLINK, Port::Uplink)])),
        routes: Arc::new(Routes::new(everywhere.into_iter().collect(), HashMap::from([(GATEWAY.into(), GATEWAY_HOP)]))),
        ..Tables::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(flows: u32, new_percent: u32) -> EngineBench {
        EngineBench::new(EngineCase { flows, new_percent }).unwrap()
    }

    #[test]
    fn established_flows_stay_as_many_and_every_packet_is_right() {
        let mut bench = bench(1000, 0);
        let figures = bench.run(Duration::ZERO).unwrap();
        assert!(figures.ns_per_packet > 0.0);
        assert_eq!((figures.packets, figures.rounds), (FRAMES as u64, 1));
        assert_eq!(bench.table.count(), 1000);
        assert!(bench.counters.books().is_even());
    }

    #[test]
    fn new_flows_come_as_often_as_asked() {
        let mut quarter = bench(1000, 25);
        quarter.round().unwrap();
        assert_eq!(quarter.table.count(), 1000 + FRAMES as u64 / 4);
        quarter.end_new_flows();
        assert_eq!(quarter.table.count(), 1000);
        // Their slots serve again, and the established ones are where they were.
        quarter.round().unwrap();
        assert_eq!(quarter.table.count(), 1000 + FRAMES as u64 / 4);
    }

    #[test]
    fn a_wrong_packet_voids_the_run() {
        let mut bench = bench(10, 0);
        bench.round().unwrap();
        bench.frames[5 * STRIDE_BYTES + 50] ^= 1;
        assert!(bench.check().unwrap_err().to_string().contains("says nothing"));
    }

    #[test]
    fn a_flow_that_changes_its_endpoint_voids_the_run() {
        let mut bench = bench(10, 0);
        bench.round().unwrap();
        bench.endpoint_of.values_mut().for_each(|endpoint| *endpoint = VIP);
        assert!(bench.check().unwrap_err().to_string().contains("and then to"));
    }

    #[test]
    fn flows_are_told_apart_by_their_client() {
        assert_eq!(client_of(0), (Ipv4Addr::new(198, 18, 0, 1), FIRST_PORT));
        assert_eq!(client_of(PORTS_PER_CLIENT), (Ipv4Addr::new(198, 18, 0, 2), FIRST_PORT));
        assert_ne!(client_of(PORTS_PER_CLIENT - 1), client_of(PORTS_PER_CLIENT));
    }
}
