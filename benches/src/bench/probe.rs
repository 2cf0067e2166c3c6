//! How long a packet and its answer take: one thread that sends, spins on what comes back, answers and spins again, so that
//! nobody's waking up is measured. Each way crosses the node once. In between the same thread sends bursts of other
//! traffic, if it is told to.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::IntoRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::SocketFilter;
use etherparse::PacketBuilder;
use hdrhistogram::Histogram;
use pnet_datalink::{Channel, DataLinkReceiver, DataLinkSender};
use rustix::net::{AddressFamily, SocketType, socket};
use serde::{Deserialize, Serialize};

use super::programs::{CLIENT_FLOWS, FRAME_BYTES, PORT_BASE, Stream};

const MAGIC: [u8; 2] = *b"LT";
const TIME_TO_LIVE: u8 = 64;
/// An answer that takes longer is lost.
const LOST_AFTER: Duration = Duration::from_millis(20);
/// Untimed ones at the beginning: flows admitted, caches as in the middle of a run.
const WARM_UP: u32 = 100;
/// Clients of probes, that many addresses behind those of the other traffic.
const CLIENTS_APART: u32 = 20_000;
const NS_MAX: u64 = 1_000_000_000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probing {
    pub samples: u32,
    /// Every probe begins a flow, or all belong to one.
    pub fresh: bool,
    /// Other traffic meanwhile, packets a second; `None`: nothing.
    pub beside_pps: Option<f64>,
}

/// Nanoseconds there and back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub samples: u64,
    pub lost: u64,
}

/// A socket for probes at the interface towards the node.
pub struct Probe<'a> {
    stream: &'a Stream,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    /// Probes so far, of earlier sockets too: tells them apart, and the flows of fresh ones.
    count: &'a mut u32,
}

impl<'a> Probe<'a> {
    /// `filter`: loaded, lets nothing but probes through. `count`: probes so far.
    pub fn open(stream: &'a Stream, interface: &str, filter: &mut SocketFilter, count: &'a mut u32) -> Result<Self> {
        let found = pnet_datalink::interfaces().into_iter().find(|found| found.name == interface);
        let found = found.with_context(|| format!("no interface {interface}"))?;
        // Without a protocol it hears nothing until it is bound.
        let socket = socket(AddressFamily::PACKET, SocketType::RAW, None).context("no socket for probes")?;
        filter.attach(&socket)?;
        let config = pnet_datalink::Config {
            read_timeout: Some(Duration::ZERO),
            socket_fd: Some(socket.into_raw_fd()),
            ..Default::default()
        };
        match pnet_datalink::channel(&found, config) {
            Ok(Channel::Ethernet(sender, receiver)) => Ok(Self { stream, sender, receiver, count }),
            Ok(_) => bail!("{interface} is no Ethernet interface"),
            Err(error) => Err(error).with_context(|| format!("cannot open {interface} for probes")),
        }
    }

    /// Sends one after the other. `beside` is called all the time, to send other traffic when that is due.
    pub fn run(&mut self, probing: &Probing, mut beside: impl FnMut() -> Result<()>) -> Result<Latency> {
        ensure!((1..=1_000_000).contains(&probing.samples), "{} samples", probing.samples);
        let mut times = Histogram::<u64>::new_with_max(NS_MAX, 3)?;
        let mut lost = 0;
        for sample in 0..probing.samples + WARM_UP {
            let time = self.there_and_back(probing.fresh, &mut beside)?;
            match time {
                _ if sample < WARM_UP => {}
                Some(time) => times.saturating_record(time.as_nanos() as u64),
                None => lost += 1,
            }
        }
        let at = |quantile| times.value_at_quantile(quantile);
        Ok(Latency { p50_ns: at(0.5), p99_ns: at(0.99), p999_ns: at(0.999), samples: times.len(), lost })
    }

    fn there_and_back(&mut self, fresh: bool, beside: &mut impl FnMut() -> Result<()>) -> Result<Option<Duration>> {
        *self.count += 1;
        let flow = if fresh { *self.count } else { 0 };
        let request = self.stream.probe(flow, *self.count)?;
        let start = Instant::now();
        self.send(&request)?;
        let Some(arrived) = self.wait(start, beside)? else { return Ok(None) };
        self.send(&self.stream.answer(arrived))?;
        let Some(answer) = self.wait(start, beside)? else { return Ok(None) };
        let time = start.elapsed();
        ensure!(
            [&answer[26..30], &answer[30..34], &answer[34..36], &answer[36..38]]
                == [&request[30..34], &request[26..30], &request[36..38], &request[34..36]],
            "an answer came back from elsewhere than the request went to: this run says nothing"
        );
        Ok(Some(time))
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        match self.sender.send_to(frame, None) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(error).context("a probe cannot be sent"),
            None => bail!("a probe cannot be sent"),
        }
    }

    /// The probe that is under way, or `None` if it is lost.
    fn wait(&mut self, start: Instant, beside: &mut impl FnMut() -> Result<()>) -> Result<Option<[u8; FRAME_BYTES]>> {
        while start.elapsed() < LOST_AFTER {
            beside()?;
            match self.receiver.next() {
                // One that was given up may come late.
                Ok(frame) if frame.get(44..48) == Some(&self.count.to_be_bytes()) => {
                    return Ok(frame.first_chunk().copied());
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error).context("cannot wait for a probe"),
            }
        }
        Ok(None)
    }
}

impl Stream {
    /// Frame of probe `count`, of a flow that is none of the other traffic's.
    fn probe(&self, flow: u32, count: u32) -> Result<Vec<u8>> {
        let client = Ipv4Addr::from(u32::from(self.first_client) + CLIENTS_APART + flow / CLIENT_FLOWS);
        let service = Ipv4Addr::from(u32::from(self.first_service) + flow % self.services);
        let mut data = [0; 18];
        data[..2].copy_from_slice(&MAGIC);
        data[2..6].copy_from_slice(&count.to_be_bytes());
        let mut frame = Vec::with_capacity(FRAME_BYTES);
        PacketBuilder::ethernet2(self.from_mac, self.to_mac)
            .ipv4(client.octets(), service.octets(), TIME_TO_LIVE)
            .udp(PORT_BASE + (flow % CLIENT_FLOWS) as u16, self.service_port)
            .write(&mut frame, &data)
            .context("cannot build a probe")?;
        Ok(frame)
    }

    /// What the receiver of a probe sends back: addresses and ports change places, which no checksum notices.
    fn answer(&self, mut frame: [u8; FRAME_BYTES]) -> [u8; FRAME_BYTES] {
        frame[..6].copy_from_slice(&self.to_mac);
        frame[6..12].copy_from_slice(&self.from_mac);
        let (source, destination) = frame[26..34].split_at_mut(4);
        source.swap_with_slice(destination);
        let (source, destination) = frame[34..38].split_at_mut(2);
        source.swap_with_slice(destination);
        frame
    }
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    fn stream() -> Stream {
        Stream {
            from_mac: [2, 0, 0, 0, 0, 1],
            to_mac: [2, 0, 0, 0, 0, 2],
            first_client: Ipv4Addr::new(10, 244, 2, 200),
            first_service: Ipv4Addr::new(10, 96, 16, 0),
            services: 10,
            service_port: 53,
            first_endpoint: Ipv4Addr::new(10, 248, 0, 0),
            endpoints: 10,
            endpoint_port: 5353,
            hops: 1,
            sink_mac: [2, 0, 0, 0, 0, 1],
        }
    }

    #[test]
    fn an_answer_goes_back_where_the_probe_came_from_with_right_checksums() {
        let probe: [u8; FRAME_BYTES] = stream().probe(40_013, 7).unwrap().try_into().unwrap();
        let answer = stream().answer(probe);
        let packet = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4") };
        assert_eq!(ip.header().source_addr(), Ipv4Addr::new(10, 96, 16, 3));
        assert_eq!(ip.header().destination_addr(), Ipv4Addr::new(10, 244, 80, 233));
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
        assert_eq!((udp.source_port(), udp.destination_port()), (53, 10_000 + (40_013 % 32_768)));
        let header = udp.to_header();
        assert_eq!(header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap(), udp.checksum());
        assert_eq!(answer[44..48], 7_u32.to_be_bytes());
    }
}
