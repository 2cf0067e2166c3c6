//! One node with its far side: what forwards in it is either a worker of ours or the node's kernel, all else is equal.
//!
//! Frames come from the far side into the node's uplink and leave by the uplink to the far side, where they are judged:
//! through a Service where the worker forwards, straight to the addresses of its endpoints where the kernel does.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::agent::Agent;
use super::cpu;
use super::programs::{Arrived, Sending, Sent, Stream};
use crate::lab::command::{ip, run_in};
use crate::lab::daemon::{self, Daemon, Objects};
use crate::lab::network::{self, Network};
use crate::lab::plan::{Family, Plan, remote_pod_address};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 200);
const VIP_PORT: u16 = 53;
const ENDPOINTS: u32 = 10;
const ENDPOINT_PORT: u16 = 5353;
/// A pod of another node: its packets keep their source on the way through a Service, as in the kernel's twin.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 200);
const SPARE: [&str; 2] = ["spare0", "spare1"];
/// What is under way has arrived, or never will.
const SETTLE: Duration = Duration::from_millis(50);

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarder {
    Worker,
    Kernel,
}

/// A standing node; it goes when this is dropped.
pub struct Site {
    agent: Agent,
    daemon: Option<Daemon>,
    // Last, so that processes end before their namespaces go.
    _network: Network,
}

/// One stretch of traffic and all that it cost.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Measured {
    pub seconds: f64,
    pub sent: u64,
    pub delivered: u64,
    /// CPU nanoseconds of the calls that sent: on this core also the receiving half of the node.
    pub sender_cpu_ns: u64,
    pub ksoftirqd_cpu_ns: u64,
    /// Of the whole daemon, every thread.
    pub daemon_cpu_ns: u64,
    /// Of its workers alone.
    pub workers_cpu_ns: u64,
    /// Of the machine, by samples.
    pub softirq_ns: u64,
}

/// Where the parts run.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    pub sender: usize,
    pub worker: usize,
}

impl Site {
    /// Builds it, and sees one burst arrive. `flows`: a power of two.
    pub fn build(prefix: &str, forwarder: Forwarder, programs: [&Path; 2], flows: u32) -> Result<(Self, Cores)> {
        let [atalho, bench] = programs;
        let plan = Plan { queues: 1, forwarding: forwarder == Forwarder::Kernel, ..Plan::new(prefix) };
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
        let daemon = match forwarder {
            Forwarder::Worker => Some(start_daemon(atalho, &plan)?),
            Forwarder::Kernel => None,
        };
        let cores = cores(daemon.as_ref())?;
        let mut agent = Agent::start(bench, &plan.far())?;
        agent.load(stream(&plan, forwarder, flows)?, "eth0", SPARE, cores.sender)?;
        let mut site = Self { agent, daemon, _network: network };
        site.warm_up()?;
        Ok((site, cores))
    }

    /// Sends, waits for what is under way, and takes every figure before and after. A wrong packet is an error.
    pub fn measure(&mut self, seconds: f64, pps: Option<f64>) -> Result<Measured> {
        self.stretch(Sending { seconds, pps, into_nothing: false })
    }

    /// The same generator with nothing behind it but an XDP program that drops.
    pub fn control(&mut self, seconds: f64, pps: Option<f64>) -> Result<Measured> {
        self.stretch(Sending { seconds, pps, into_nothing: true })
    }

    fn stretch(&mut self, sending: Sending) -> Result<Measured> {
        let before = self.reading()?;
        let Sent { frames, seconds, cpu_ns } = self.agent.send(sending)?;
        std::thread::sleep(SETTLE);
        let after = self.reading()?;
        let wrong = after.arrived.wrong - before.arrived.wrong;
        ensure!(wrong == 0, "{wrong} packets came out wrong: this run says nothing");
        let (right, swallowed) =
            (after.arrived.right - before.arrived.right, after.arrived.swallowed - before.arrived.swallowed);
        Ok(Measured {
            seconds,
            sent: frames,
            delivered: if sending.into_nothing { swallowed } else { right },
            sender_cpu_ns: cpu_ns,
            ksoftirqd_cpu_ns: after.ksoftirqd_ns - before.ksoftirqd_ns,
            daemon_cpu_ns: after.daemon_ns - before.daemon_ns,
            workers_cpu_ns: after.workers_ns - before.workers_ns,
            softirq_ns: after.softirq_ns.saturating_sub(before.softirq_ns),
        })
    }

    fn reading(&mut self) -> Result<Reading> {
        let daemon = self.daemon.as_ref().map(Daemon::pid);
        Ok(Reading {
            arrived: self.agent.arrived()?,
            ksoftirqd_ns: cpu::of_ksoftirqd_ns()?,
            daemon_ns: daemon.map_or(Ok(0), |pid| cpu::of_process_ns(pid, ""))?,
            workers_ns: daemon.map_or(Ok(0), |pid| cpu::of_process_ns(pid, "worker-"))?,
            softirq_ns: cpu::softirq_ns()?,
        })
    }

    /// Neighbours resolved, flows admitted, and nothing of it still under way: a packet that waited for a neighbour would be
    /// one too many later.
    fn warm_up(&mut self) -> Result<()> {
        let mut whole = 0;
        for _ in 0..60 {
            let measured = self.measure(0.05, Some(100_000.0))?;
            whole = if measured.delivered == measured.sent { whole + 1 } else { 0 };
            if whole == 2 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let words = self.daemon.as_ref().map(|daemon| format!("{:?}\n{}", daemon.status(), daemon.last_words()));
        bail!("packets get lost even at 100,000 a second; {}", words.unwrap_or_else(|| "the kernel forwards".into()))
    }
}

/// Everything that is read before and after.
struct Reading {
    arrived: Arrived,
    ksoftirqd_ns: u64,
    daemon_ns: u64,
    workers_ns: u64,
    softirq_ns: u64,
}

fn start_daemon(atalho: &Path, plan: &Plan) -> Result<Daemon> {
    let folder = plan.manifests();
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("bench.yaml"), objects())?;
    let config = daemon::write_config(plan, Some(1), "")?;
    let mut daemon = Daemon::start(atalho, plan, &config, &Objects::Manifests(folder))?;
    daemon.wait_ready(Duration::from_secs(20))?;
    Ok(daemon)
}

/// The sender has a core of its own; where there is no worker, the same one as if there were.
fn cores(daemon: Option<&Daemon>) -> Result<Cores> {
    let available = atalho_sys::cores::available();
    let worker = match daemon {
        Some(daemon) => {
            let status = daemon.status()?;
            status.workers.first().context("the daemon has no worker")?.core as usize
        }
        None => *available.last().context("no core")?,
    };
    let sender = available.into_iter().find(|core| *core != worker);
    Ok(Cores { sender: sender.context("the bench needs two cores: one sends, one is the worker's")?, worker })
}

fn stream(plan: &Plan, forwarder: Forwarder, flows: u32) -> Result<Stream> {
    let IpAddr::V4(first_endpoint) = remote_pod_address(1, Family::V4) else { bail!("an IPv4 address was asked for") };
    let (to, to_port) = match forwarder {
        Forwarder::Worker => (VIP, VIP_PORT),
        Forwarder::Kernel => (first_endpoint, ENDPOINT_PORT),
    };
    let (from_mac, to_mac) = (mac(&plan.far(), "eth0")?, mac(&plan.node(), "uplink")?);
    Ok(Stream {
        from_mac,
        to_mac,
        from: CLIENT,
        to,
        to_port,
        flows,
        first_endpoint,
        endpoints: ENDPOINTS,
        endpoint_port: ENDPOINT_PORT,
        sink_mac: from_mac,
    })
}

fn mac(namespace: &str, interface: &str) -> Result<[u8; 6]> {
    let text = network::mac(namespace, interface)?;
    let mac: pnet_datalink::MacAddr = text.parse().map_err(|_| anyhow::anyhow!("{text:?} is no MAC address"))?;
    Ok(mac.octets())
}

/// One Service with endpoints on the other node, in the plain YAML that any cluster would take.
fn objects() -> String {
    let endpoints: String = (0..ENDPOINTS)
        .map(|index| {
            format!("- addresses: [\"10.244.2.{}\"]\n  nodeName: node-b\n  conditions: {{ready: true}}\n", 11 + index)
        })
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: bench, namespace: default}}\n\
         spec:\n  type: ClusterIP\n  clusterIP: {VIP}\n  clusterIPs: [{VIP}]\n  ipFamilies: [IPv4]\n\
         \x20 ports:\n  - {{name: dns, protocol: UDP, port: {VIP_PORT}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: bench-1, namespace: default, labels: {{kubernetes.io/service-name: bench}}}}\n\
         addressType: IPv4\nports:\n- {{name: dns, protocol: UDP, port: {ENDPOINT_PORT}}}\nendpoints:\n{endpoints}"
    )
}
