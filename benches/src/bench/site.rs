//! One node with its far side, and a contender that forwards in it; all else is equal.
//!
//! Frames come from the far side into the node's uplink and leave by the uplink to the far side, where they are judged.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::agent::Agent;
use super::cluster::{self, Cluster, ENDPOINTS};
use super::contender::{Contender, Ground, Running, Tools, Way};
use super::cpu;
use super::probe::{Latency, Probing};
use super::programs::{Arrived, Flows, Sending, Sent, Stream};
use crate::lab::command::{ip, run, run_in};
use crate::lab::network::{self, Network};
use crate::lab::plan::Plan;

const SPARE: [&str; 2] = ["spare0", "spare1"];
/// What is under way has arrived, or never will.
const SETTLE: Duration = Duration::from_millis(50);
/// Packets a second at which nobody loses any, who is not overloaded by something else.
const GENTLE_PPS: f64 = 100_000.0;

/// A standing node; it goes when this is dropped.
pub struct Site {
    agent: Agent,
    running: Option<Box<dyn Running>>,
    contender: Box<dyn Contender>,
    cores: Cores,
    spread: bool,
    plan: Plan,
    // Last, so that processes end before their namespaces go.
    _network: Network,
}

/// One stretch of traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    pub seconds: f64,
    /// Packets a second; `None`: as fast as it goes.
    pub pps: Option<f64>,
    pub flows: Flows,
    /// Whether what the node's kernel does for a packet that came in is done on the other core (RPS), or where it came in.
    pub spread: bool,
}

/// A stretch and all that it cost.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Measured {
    pub seconds: f64,
    pub sent: u64,
    pub delivered: u64,
    /// CPU nanoseconds of the calls that sent: on this core also the receiving half of the node.
    pub sender_cpu_ns: u64,
    pub ksoftirqd_cpu_ns: u64,
    /// Of the whole program that forwards, every thread.
    pub forwarder_cpu_ns: u64,
    /// Of the machine, by samples.
    pub softirq_ns: u64,
}

/// Where the parts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    pub sender: usize,
    pub forwarder: usize,
}

impl Site {
    /// Builds it, and sees bursts arrive.
    pub fn build(prefix: &str, contender: Box<dyn Contender>, tools: &Tools) -> Result<Self> {
        let plan = Plan { queues: 1, forwarding: contender.kernel_forwards(), ..Plan::new(prefix) };
        let network = Network::build(&plan)?;
        let [one, other] = SPARE;
        ip(
            &plan.far(),
            &format!(
                "link add {one} type veth peer name {other}\nlink set {one} addrgenmode none up\n\
                 link set {other} addrgenmode none up\n"
            ),
        )?;
        run_in(&plan.node(), "ethtool", &["-K", "uplink", "gro", "on"])?;
        // In by the uplink and out by it: the kernel would look, packet by packet, whether to tell the sender of it.
        let quiet = ["all", "uplink"].map(|scope| format!("net.ipv4.conf.{scope}.send_redirects=0"));
        run_in(&plan.node(), "sysctl", &["-q", "-w", &quiet[0], &quiet[1]])?;
        let planned = cores(None)?;
        let ground = Ground { plan: &plan, tools, core: planned.forwarder, spare: planned.sender };
        let running = contender.start(&ground)?;
        let cores = match running.as_ref().map(|running| running.core()).transpose()? {
            Some(Some(core)) => cores(Some(core))?,
            _ => planned,
        };
        let mut agent = Agent::start(&tools.bench, &plan.far())?;
        agent.load(stream(&plan, contender.way())?, "eth0", SPARE, cores.sender)?;
        let mut site = Self { agent, running, contender, cores, spread: false, plan, _network: network };
        site.hold()?;
        site.warm_up()?;
        Ok(site)
    }

    pub fn cores(&self) -> Cores {
        self.cores
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn contender(&self) -> &dyn Contender {
        &*self.contender
    }

    /// Has the flows forgotten that the contender would run out of room for.
    pub fn forget_flows(&self) -> Result<()> {
        self.contender.forget_flows(&self.plan)
    }

    /// Sends, waits for what is under way, and takes every figure before and after. A wrong packet is an error.
    pub fn measure(&mut self, stretch: &Stretch) -> Result<Measured> {
        if stretch.spread != self.spread {
            self.set_spread(stretch.spread)?;
        }
        let Stretch { seconds, pps, flows, .. } = *stretch;
        self.release()?;
        let measured = self.stretch(Sending { seconds, pps, flows, into_nothing: false });
        self.hold()?;
        measured
    }

    /// How long probes take, there and back.
    pub fn probe(&mut self, probing: Probing) -> Result<Latency> {
        if self.spread {
            self.set_spread(false)?;
        }
        self.release()?;
        let latency = self.agent.probe(probing);
        self.hold()?;
        latency.with_context(|| self.contender.name())
    }

    /// The same generator with nothing behind it but an XDP program that drops.
    pub fn control(&mut self, seconds: f64) -> Result<Measured> {
        self.stretch(Sending { seconds, pps: None, flows: Flows::Lasting(1024), into_nothing: true })
    }

    fn stretch(&mut self, sending: Sending) -> Result<Measured> {
        let before = self.reading()?;
        let Sent { frames, seconds, cpu_ns } = self.agent.send(sending)?;
        std::thread::sleep(SETTLE);
        let after = self.reading()?;
        let wrong = after.arrived.wrong - before.arrived.wrong;
        let frame = after.arrived.wrong_frame.unwrap_or_default();
        let name = self.contender.name();
        ensure!(wrong == 0, "{name}: {wrong} packets came out wrong: this run says nothing; the last one: {frame}");
        let (right, swallowed) =
            (after.arrived.right - before.arrived.right, after.arrived.swallowed - before.arrived.swallowed);
        Ok(Measured {
            seconds,
            sent: frames,
            delivered: if sending.into_nothing { swallowed } else { right },
            sender_cpu_ns: cpu_ns,
            ksoftirqd_cpu_ns: after.ksoftirqd_ns - before.ksoftirqd_ns,
            forwarder_cpu_ns: after.forwarder_ns - before.forwarder_ns,
            softirq_ns: after.softirq_ns.saturating_sub(before.softirq_ns),
        })
    }

    fn reading(&mut self) -> Result<Reading> {
        let pid = self.running.as_ref().map(|running| running.pid());
        Ok(Reading {
            arrived: self.agent.arrived()?,
            ksoftirqd_ns: cpu::of_ksoftirqd_ns()?,
            forwarder_ns: pid.map_or(Ok(0), |pid| cpu::of_process_ns(pid, ""))?,
            softirq_ns: cpu::softirq_ns()?,
        })
    }

    /// A program that spins would take its core from the others.
    fn hold(&self) -> Result<()> {
        self.signal("-STOP")
    }

    fn release(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        match &self.running {
            Some(running) if running.spins() => run("kill", [signal, &running.pid().to_string()]).map(drop),
            _ => Ok(()),
        }
    }

    /// Linux Documentation/networking/scaling.rst, RPS: a mask of cores, in hexadecimal; no core: where it came in.
    fn set_spread(&mut self, spread: bool) -> Result<()> {
        let mask = if spread { 1_u64 << self.cores.forwarder } else { 0 };
        // A namespace of its own has to be mounted to be seen in /sys.
        let write = format!("echo {mask:x} > /sys/class/net/uplink/queues/rx-0/rps_cpus");
        run("ip", ["netns", "exec", &self.plan.node(), "sh", "-c", &write])?;
        self.spread = spread;
        Ok(())
    }

    /// Neighbours resolved, flows admitted, and nothing of it still under way: a packet that waited for a neighbour would be
    /// one too many later.
    fn warm_up(&mut self) -> Result<()> {
        let gentle = Stretch { seconds: 0.05, pps: Some(GENTLE_PPS), flows: Flows::Lasting(64), spread: false };
        let (mut whole, start) = (0, Instant::now());
        while start.elapsed() < Duration::from_secs(30) {
            let measured = self.measure(&gentle)?;
            whole = if measured.delivered == measured.sent { whole + 1 } else { 0 };
            if whole == 2 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let words = self.running.as_ref().map_or_else(String::new, |running| running.words());
        bail!("{}: packets get lost even at {GENTLE_PPS} a second\n{words}", self.contender.name())
    }
}

/// Everything that is read before and after.
struct Reading {
    arrived: Arrived,
    ksoftirqd_ns: u64,
    forwarder_ns: u64,
    softirq_ns: u64,
}

/// The sender has a core of its own; where nobody else needs one, the same one as if somebody did.
fn cores(forwarder: Option<usize>) -> Result<Cores> {
    let available = atalho_sys::cores::available();
    let forwarder = forwarder.or(available.last().copied()).context("no core")?;
    let sender = available.into_iter().find(|core| *core != forwarder);
    Ok(Cores { sender: sender.context("the bench needs two cores: one sends, one forwards")?, forwarder })
}

/// The same Services and endpoints for everybody, as far as the way of the packets allows.
fn stream(plan: &Plan, way: Way) -> Result<Stream> {
    let (from_mac, to_mac) = (mac(&plan.far(), "eth0")?, mac(&plan.node(), "uplink")?);
    let translated = Stream {
        from_mac,
        to_mac,
        first_client: cluster::FIRST_CLIENT,
        first_service: cluster::FIRST_SERVICE,
        services: 1,
        service_port: cluster::SERVICE_PORT,
        first_endpoint: cluster::FIRST_ENDPOINT,
        endpoints: ENDPOINTS,
        endpoint_port: cluster::ENDPOINT_PORT,
        hops: 1,
        sink_mac: from_mac,
    };
    let unchanged = |address: Ipv4Addr| Stream {
        first_service: address,
        first_endpoint: address,
        endpoints: 1,
        endpoint_port: cluster::SERVICE_PORT,
        ..translated.clone()
    };
    Ok(match way {
        Way::Services(Cluster { services }) => Stream { services, ..translated },
        Way::Routed => unchanged(cluster::FIRST_ENDPOINT),
        Way::Reflected => Stream { hops: 0, ..unchanged(cluster::FIRST_SERVICE) },
    })
}

fn mac(namespace: &str, interface: &str) -> Result<[u8; 6]> {
    let text = network::mac(namespace, interface)?;
    let mac: pnet_datalink::MacAddr = text.parse().map_err(|_| anyhow::anyhow!("{text:?} is no MAC address"))?;
    Ok(mac.octets())
}
