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
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use etherparse::PacketBuilder;
use serde::{Deserialize, Serialize};

use super::cpu;

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
/// Frames of one call. A quarter of a worker's receive ring: a burst of it finds room.
const BURST: u32 = 512;

const SENT: u32 = 0;
const SWALLOWED: u32 = 1;
const RIGHT: u32 = 2;
const WRONG: u32 = 3;

/// What is sent, and what has to arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub from_mac: [u8; 6],
    /// The node's, where the frames come in.
    pub to_mac: [u8; 6],
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub to_port: u16,
    /// A power of two, 32,768 at most; they differ in their source port.
    pub flows: u32,
    /// Where they may arrive: so many addresses in a row, at this port, at the interface with this MAC address.
    pub first_endpoint: Ipv4Addr,
    pub endpoints: u32,
    pub endpoint_port: u16,
    pub sink_mac: [u8; 6],
}

/// One stretch of sending.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sending {
    pub seconds: f64,
    /// Frames a second; `None`: as many as can be made.
    pub pps: Option<f64>,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    pub swallowed: u64,
    pub right: u64,
    pub wrong: u64,
}

/// The loaded programs. What they are attached to comes loose when this is dropped.
pub struct Programs {
    object: Ebpf,
    frame: Vec<u8>,
    interface: u32,
    nothing: u32,
}

impl Programs {
    /// `interface`: towards the node; frames leave and arrive there. `spare`: the two ends of a veth that nobody uses.
    pub fn load(stream: &Stream, interface: &str, spare: [&str; 2]) -> Result<Self> {
        ensure!(
            stream.flows.is_power_of_two() && stream.flows <= 32_768,
            "{} flows: a power of two up to 32,768",
            stream.flows
        );
        let frame = stream.template()?;
        let mut object = load(stream, &frame)?;
        attach_judge(&mut object, interface)?;
        attach_xdp(&mut object, "swallow", spare[1])?;
        // Nothing comes in there. Of a program that is attached nowhere the kernel rebuilds its call table at each run,
        // and waits for a grace period each time.
        attach_xdp(&mut object, "generate", spare[0])?;
        Ok(Self { object, frame, interface: ifindex(interface)?, nothing: ifindex(spare[0])? })
    }

    /// Sends for a while. Returns later than asked by one burst at most.
    pub fn send(&mut self, sending: &Sending) -> Result<Sent> {
        ensure!(sending.seconds > 0.0 && sending.seconds <= 60.0, "{} seconds: above 0, 60 at most", sending.seconds);
        let mut out: Array<&mut MapData, u32> = Array::try_from(self.object.map_mut("out").context("no map out")?)?;
        out.set(0, if sending.into_nothing { self.nothing } else { self.interface }, 0)?;
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
            let options = TestRunOptions {
                data_in: Some(&self.frame),
                repeat: BURST,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            };
            generator.test_run(options).context("the kernel does not send the generator's frames")?;
            cpu_ns += cpu::of_this_thread_ns() - began_ns;
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Sent { frames: sum(&self.object, SENT)? - before, seconds, cpu_ns })
    }

    pub fn arrived(&self) -> Result<Arrived> {
        Ok(Arrived {
            swallowed: sum(&self.object, SWALLOWED)?,
            right: sum(&self.object, RIGHT)?,
            wrong: sum(&self.object, WRONG)?,
        })
    }
}

impl Stream {
    /// The frame of flow 0 with an empty sequence number.
    fn template(&self) -> Result<Vec<u8>> {
        let mut data = [0; FRAME_BYTES - HEADER_BYTES];
        data[..MAGIC.len()].copy_from_slice(&MAGIC);
        let packet = PacketBuilder::ethernet2(self.from_mac, self.to_mac)
            .ipv4(self.from.octets(), self.to.octets(), TIME_TO_LIVE)
            .udp(PORT_BASE, self.to_port);
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
        .override_global("flows", &stream.flows, true)
        .override_global("sink_mac", &stream.sink_mac, true)
        .override_global("first_endpoint", &u32::from(stream.first_endpoint), true)
        .override_global("endpoints", &stream.endpoints, true)
        .override_global("endpoint_port", &stream.endpoint_port, true)
        .override_global("sink_ttl", &(TIME_TO_LIVE - 1), true)
        .load(TRAFFIC)
        .context("cannot load the bench's kernel programs")
}

fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
    program.try_into().with_context(|| format!("{name} is no XDP program"))
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
