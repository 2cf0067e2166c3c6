//! The kernel programs of `bpf/traffic.c`, in the network namespace of the calling thread: frames out of nothing, as
//! many a second as a core can make, and a judge for what arrives.
//!
//! Frames are made by the kernel's own test facility with live frames (Linux Documentation/bpf/bpf_prog_run.rst): what
//! the program redirects is really sent. The receiving veth needs NAPI, by an XDP program or by `gro on`.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{
    LinkOrder, SchedClassifier, SocketFilter, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use etherparse::PacketBuilder;
use serde::{Deserialize, Serialize};

use super::cpu;
use super::probe::{Latency, Probe, Probing};

static TRAFFIC: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.o"));

/// Bytes of every frame, without the checksum that a wire would add.
pub const FRAME_BYTES: usize = 60;
/// Source port of flow 0; `PORT_BASE` of the program.
pub const PORT_BASE: u16 = 10_000;
const MAGIC: [u8; 2] = *b"AT";
const HEADER_BYTES: usize = 14 + 20 + 8;
const TIME_TO_LIVE: u8 = 64;

/// Frames that the kernel sends on at once.
const BATCH: u32 = 64;
/// Frames of one call. An eighth of a worker's receive ring: a burst of it finds room.
const BURST: u32 = 512;

/// Of the traffic beside probes.
const BESIDE_FLOWS: u32 = 1024;

const SENT: u32 = 0;
const SWALLOWED: u32 = 1;
const RIGHT: u32 = 2;
const WRONG: u32 = 3;

/// Flows of one client, who has no more source ports; `CLIENT_FLOWS` of the program.
pub const CLIENT_FLOWS: u32 = 32_768;
/// The most flows of a stretch; `FLOWS_MAX` of the program.
pub const FLOWS_MAX: u32 = 1 << 20;
/// Of a Service: five bits in the program.
const ENDPOINTS_MAX: u32 = 31;
/// Generations come round again after so many stretches: eleven bits in the program.
const GENERATIONS: u32 = 2047;

/// What can be sent, and what has to arrive. Clients, Services and endpoints are addresses in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub from_mac: [u8; 6],
    /// The node's, where the frames come in.
    pub to_mac: [u8; 6],
    /// Of flow 0; every 32,768 flows another client follows.
    pub first_client: Ipv4Addr,
    /// Flow i goes to Service i modulo `services`.
    pub first_service: Ipv4Addr,
    pub services: u32,
    pub service_port: u16,
    /// Where packets may arrive: so many endpoints of each Service, Service after Service.
    pub first_endpoint: Ipv4Addr,
    pub endpoints: u32,
    pub endpoint_port: u16,
    /// What the node takes from the packets' time to live.
    pub hops: u8,
    /// Of the interface where they arrive.
    pub sink_mac: [u8; 6],
}

/// Whose packets they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flows {
    /// So many, again and again: a power of two, 2^20 at most.
    Lasting(u32),
    /// Every packet begins one.
    Fresh,
}

/// One stretch of sending. Within it a flow has to stay at its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sending {
    pub seconds: f64,
    /// Frames a second; `None`: as many as can be made.
    pub pps: Option<f64>,
    pub flows: Flows,
    /// Out of the interface to the node, or into the spare one, where an XDP program swallows them: what the machine
    /// could do if there were no node.
    pub into_nothing: bool,
}

/// What it came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub frames: u64,
    pub seconds: f64,
    /// CPU nanoseconds of the calls that sent, with whatever soft interrupts ran inside them.
    pub cpu_ns: u64,
}

/// What arrived since the programs were loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    pub swallowed: u64,
    pub right: u64,
    pub wrong: u64,
    /// The last wrong frame, in hexadecimal digits.
    pub wrong_frame: Option<String>,
}

/// The loaded programs. What they are attached to comes loose when this is dropped.
pub struct Programs {
    object: Ebpf,
    frame: Vec<u8>,
    interface: u32,
    nothing: u32,
    generation: u32,
    stream: Stream,
    interface_name: String,
    /// Probes so far: they tell them apart.
    probes: u32,
}

impl Programs {
    /// `interface`: towards the node; frames leave and arrive there. `spare`: the two ends of a veth that nobody uses.
    pub fn load(stream: &Stream, interface: &str, spare: [&str; 2]) -> Result<Self> {
        let Stream { services, endpoints, .. } = stream;
        ensure!(
            *services > 0 && (1..=ENDPOINTS_MAX).contains(endpoints),
            "{services} Services of {endpoints} endpoints"
        );
        let frame = stream.template()?;
        let mut object = load(stream, &frame)?;
        attach_judge(&mut object, interface)?;
        attach_xdp(&mut object, "swallow", spare[1])?;
        // Nothing comes in there. Of a program that is attached nowhere the kernel rebuilds its call table at each run,
        // and waits for a grace period each time.
        attach_xdp(&mut object, "generate", spare[0])?;
        probe_filter(&mut object)?.load().context("the kernel refuses the filter of probes")?;
        Ok(Self {
            object,
            frame,
            interface: ifindex(interface)?,
            nothing: ifindex(spare[0])?,
            generation: 0,
            stream: stream.clone(),
            interface_name: interface.into(),
            probes: 0,
        })
    }

    /// Probes while other traffic goes beside them, in bursts that are short enough to fit in between.
    ///
    /// Their socket is open only meanwhile: the kernel shows it every packet that arrives (packet(7)), on the core of who
    /// sent it. For an AF_XDP forwarder that was 300 of 1,460 ns.
    pub fn probe(&mut self, probing: &Probing) -> Result<Latency> {
        self.set_stretch(Flows::Lasting(BESIDE_FLOWS), self.interface)?;
        let Self { object, frame, stream, interface_name, probes, .. } = self;
        let mut probe = Probe::open(stream, interface_name, probe_filter(object)?, probes)?;
        let generator = xdp(object, "generate")?;
        let gap = probing.beside_pps.map(|pps| Duration::from_secs_f64(f64::from(BATCH) / pps.max(1.0)));
        let mut due = Instant::now();
        probe.run(probing, || {
            let Some(gap) = gap else { return Ok(()) };
            let now = Instant::now();
            if now >= due {
                // What was missed is not made up for: that would be a burst.
                due = now.max(due + gap);
                burst(generator, frame, BATCH)?;
            }
            Ok(())
        })
    }

    fn set_stretch(&mut self, flows: Flows, out: u32) -> Result<()> {
        let (flows, fresh) = match flows {
            Flows::Lasting(flows) => {
                ensure!(
                    flows.is_power_of_two() && flows <= FLOWS_MAX,
                    "{flows} flows: a power of two up to {FLOWS_MAX}"
                );
                (flows, 0)
            }
            Flows::Fresh => (1, 1),
        };
        self.generation = self.generation % GENERATIONS + 1;
        let map = self.object.map_mut("stretches").context("no map stretches")?;
        let mut stretches: Array<&mut MapData, [u32; 4]> = Array::try_from(map)?;
        Ok(stretches.set(0, [out, flows, fresh, self.generation], 0)?)
    }

    /// Sends for a while. Returns later than asked by one burst at most.
    pub fn send(&mut self, sending: &Sending) -> Result<Sent> {
        ensure!(sending.seconds > 0.0 && sending.seconds <= 60.0, "{} seconds: above 0, 60 at most", sending.seconds);
        self.set_stretch(sending.flows, if sending.into_nothing { self.nothing } else { self.interface })?;
        let before = sum(&self.object, SENT)?;
        let generator = xdp(&mut self.object, "generate")?;
        let (start, length) = (Instant::now(), Duration::from_secs_f64(sending.seconds));
        let gap = sending.pps.map(|pps| Duration::from_secs_f64(f64::from(BURST) / pps.max(1.0)));
        let (mut due, mut cpu_ns) = (start, 0);
        while start.elapsed() < length {
            if let Some(gap) = gap {
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
                due += gap;
            }
            let began_ns = cpu::of_this_thread_ns();
            burst(generator, &self.frame, BURST)?;
            cpu_ns += cpu::of_this_thread_ns() - began_ns;
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Sent { frames: sum(&self.object, SENT)? - before, seconds, cpu_ns })
    }

    pub fn arrived(&self) -> Result<Arrived> {
        let wrong = sum(&self.object, WRONG)?;
        Ok(Arrived {
            swallowed: sum(&self.object, SWALLOWED)?,
            right: sum(&self.object, RIGHT)?,
            wrong,
            wrong_frame: if wrong > 0 { Some(self.wrong_frame()?) } else { None },
        })
    }
}

impl Programs {
    fn wrong_frame(&self) -> Result<String> {
        let map = self.object.map("wrong_frame").context("no map wrong_frame")?;
        let frames: Array<&MapData, [u8; FRAME_BYTES]> = Array::try_from(map)?;
        Ok(frames.get(&0, 0)?.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Stream {
    /// The frame of flow 0 with an empty sequence number.
    fn template(&self) -> Result<Vec<u8>> {
        let mut data = [0; FRAME_BYTES - HEADER_BYTES];
        data[..MAGIC.len()].copy_from_slice(&MAGIC);
        let packet = PacketBuilder::ethernet2(self.from_mac, self.to_mac)
            .ipv4(self.first_client.octets(), self.first_service.octets(), TIME_TO_LIVE)
            .udp(PORT_BASE, self.service_port);
        let mut frame = Vec::with_capacity(FRAME_BYTES);
        packet.write(&mut frame, &data).context("cannot build a frame")?;
        ensure!(frame.len() == FRAME_BYTES, "a frame of {} bytes instead of {FRAME_BYTES}", frame.len());
        Ok(frame)
    }
}

fn load(stream: &Stream, frame: &[u8]) -> Result<Ebpf> {
    let template: [u8; FRAME_BYTES] = frame.try_into().context("a frame of another length")?;
    EbpfLoader::new()
        .override_global("template", &template, true)
        .override_global("first_client", &u32::from(stream.first_client), true)
        .override_global("first_service", &u32::from(stream.first_service), true)
        .override_global("services", &stream.services, true)
        .override_global("sink_mac", &stream.sink_mac, true)
        .override_global("first_endpoint", &u32::from(stream.first_endpoint), true)
        .override_global("endpoints", &stream.endpoints, true)
        .override_global("endpoint_port", &stream.endpoint_port, true)
        .override_global("sink_ttl", &(TIME_TO_LIVE - stream.hops), true)
        .load(TRAFFIC)
        .context("cannot load the bench's kernel programs")
}

fn burst(generator: &mut Xdp, frame: &[u8], frames: u32) -> Result<()> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: frames,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::new()
    };
    generator.test_run(options).context("the kernel does not send the generator's frames")?;
    Ok(())
}

fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
    program.try_into().with_context(|| format!("{name} is no XDP program"))
}

fn probe_filter(object: &mut Ebpf) -> Result<&mut SocketFilter> {
    object.program_mut("probes").context("no program probes")?.try_into().context("probes is no socket filter")
}

fn attach_xdp(object: &mut Ebpf, name: &str, interface: &str) -> Result<()> {
    let program = xdp(object, name)?;
    program.load().with_context(|| format!("the kernel refuses {name}"))?;
    program.attach(interface, XdpMode::Driver).with_context(|| format!("cannot attach {name} to {interface}"))?;
    Ok(())
}

fn attach_judge(object: &mut Ebpf, interface: &str) -> Result<()> {
    let program = object.program_mut("judge").context("no program judge")?;
    let judge: &mut SchedClassifier = program.try_into().context("judge is no classifier")?;
    judge.load().context("the kernel refuses the judge")?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    judge
        .attach_with_options(interface, TcAttachType::Ingress, order)
        .with_context(|| format!("cannot attach the judge to {interface} (tcx needs Linux 6.6)"))?;
    Ok(())
}

fn ifindex(interface: &str) -> Result<u32> {
    let found = pnet_datalink::interfaces().into_iter().find(|candidate| candidate.name == interface);
    found.map(|interface| interface.index).with_context(|| format!("no interface {interface} in this namespace"))
}

/// A count over all cores.
fn sum(object: &Ebpf, which: u32) -> Result<u64> {
    let map = object.map("counts").context("no map counts")?;
    let counts: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
    Ok(counts.get(&which, 0)?.iter().sum())
}
