//! The configuration file: TOML, every key optional.
//!
//! Read by hand from the spanned tree rather than derived, because a message must name file, line, the key, what stands
//! there and what was wanted, and because a misspelt key is answered with the nearest known one. All problems of a
//! file are reported at once.
//!
//! What this does not do: it checks keys alone, not the machine (that interface exists, that many cores).

mod reader;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use atalho_engine::snat::SnatPorts;
use atalho_engine::tables::{Settings, Timeouts};
use ipnet::IpNet;
use reader::{FromToml, Reader, Section};

/// Everything that the file says, with defaults for what it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node: NodeConfig,
    pub cluster: ClusterConfig,
    pub uplink: UplinkConfig,
    pub funnel: FunnelConfig,
    pub worker: WorkerConfig,
    pub conntrack: ConntrackConfig,
    pub pods: PodsConfig,
    pub shortcut: ShortcutConfig,
    pub service: ServiceConfig,
    pub status: StatusConfig,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The Node object's name: from the file, else `$NODE_NAME`, else the hostname.
    pub name: String,
    /// Node addresses, the first of a family being the primary one; empty: found out.
    pub addresses: Vec<IpAddr>,
    pub bpffs: PathBuf,
    pub run_dir: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// What counts as a pod. `None`: the Node objects' podCIDRs; empty: pods cannot be told by address.
    pub pod_cidrs: Option<Vec<IpNet>>,
    /// `None`: the ServiceCIDR objects.
    pub service_cidrs: Option<Vec<IpNet>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UplinkConfig {
    /// `None`: the interface of the default route.
    pub interface: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunnelConfig {
    /// Names of the veth pair that carries all pods' packets: the workers' end, then the kernel's.
    pub names: [String; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// `None`: one per queue, at most one per core.
    pub count: Option<u32>,
    /// Microseconds without packets before a worker sleeps; `None`: never.
    pub spin_us: Option<u32>,
    /// Whether pods are kept from crowding each other out while a worker is overloaded.
    pub is_fair: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// Connections that the table holds, per family.
    pub max_flows: u32,
    pub timeouts: Timeouts,
    /// Pick up TCP connections in the middle.
    pub loose: bool,
    /// Refuse only TCP resets for their sequence number.
    pub liberal: bool,
    /// Source ports for masqueraded flows; `None`: what the node does not use itself.
    pub snat_ports: Option<RangeInclusive<u16>>,
}

/// Whose the pods' traffic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodNetwork {
    /// All of it is ours.
    Own,
    /// Services only; the rest is another plugin's.
    Adopt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodsConfig {
    pub network: PodNetwork,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortcutConfig {
    pub on: bool,
    /// Seconds that established flows may go on in the kernel without a daemon.
    pub orphan_max_s: u32,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    Maglev,
    Random,
}

/// Node addresses on which node ports are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The primary one of each family.
    Primary,
    /// Those inside these ranges.
    Cidrs(Vec<IpNet>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    pub scheduler: Scheduler,
    pub masquerade_all: bool,
    pub node_port_addresses: NodePortAddresses,
    pub external_ip_cidrs: Vec<IpNet>,
    /// Value of the label `service.kubernetes.io/service-proxy-name` that makes a Service ours; empty: unlabelled ones.
    pub service_proxy_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusConfig {
    pub healthz_addresses: Vec<SocketAddr>,
    pub metrics_addresses: Vec<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: NodeConfig {
                name: default_node_name(),
                addresses: Vec::new(),
                bpffs: PathBuf::from("/sys/fs/bpf"),
                run_dir: PathBuf::from("/run/atalho"),
            },
            cluster: ClusterConfig::default(),
            uplink: UplinkConfig::default(),
            funnel: FunnelConfig { names: ["atl-f0".to_owned(), "atl-f1".to_owned()] },
            worker: WorkerConfig { count: None, spin_us: Some(50), is_fair: true },
            conntrack: ConntrackConfig {
                max_flows: 262_144,
                timeouts: Timeouts::default(),
                loose: Settings::default().tcp_loose,
                liberal: Settings::default().tcp_liberal,
                snat_ports: None,
            },
            pods: PodsConfig { network: PodNetwork::Own },
            shortcut: ShortcutConfig { on: true, orphan_max_s: 300 },
            service: ServiceConfig {
                scheduler: Scheduler::Maglev,
                masquerade_all: false,
                node_port_addresses: NodePortAddresses::Primary,
                external_ip_cidrs: Vec::new(),
                service_proxy_name: String::new(),
            },
            status: StatusConfig {
                healthz_addresses: vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 10256)],
                metrics_addresses: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249)],
            },
        }
    }
}

/// One problem of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 where the file could not be read at all.
    pub line: usize,
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.message),
        }
    }
}

/// Every problem of a configuration file, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads `path`; `None` is a file that says nothing.
    ///
    /// # Errors
    /// Every problem of the file: unreadable, not TOML, unknown keys, wrong types, values out of bounds.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot be read: {error}; name an existing file, or leave --config out for defaults");
            ConfigErrors(vec![Problem { file: path.to_owned(), line: 0, message }])
        })?;
        Self::parse(path, &text)
    }

    /// Reads `text`; `path` is for messages only.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut reader = Reader::new(path, text)?;
        reader.section("node", |s| config.node.read(s));
        reader.section("cluster", |s| config.cluster.read(s));
        reader.section("uplink", |s| config.uplink.read(s));
        reader.section("funnel", |s| config.funnel.read(s));
        reader.section("worker", |s| config.worker.read(s));
        reader.section("conntrack", |s| config.conntrack.read(s));
        reader.section("pods", |s| s.take("network", &mut config.pods.network));
        reader.section("shortcut", |s| config.shortcut.read(s));
        reader.section("service", |s| config.service.read(s));
        reader.section("status", |s| config.status.read(s));
        reader.finish()?;
        Ok(config)
    }

    /// The part that the engine reads, as far as it does not depend on the node.
    pub fn settings(&self) -> Settings {
        Settings {
            masquerade_all: self.service.masquerade_all,
            snat_ports: SnatPorts::default(),
            timeouts: self.conntrack.timeouts,
            tcp_loose: self.conntrack.loose,
            tcp_liberal: self.conntrack.liberal,
        }
    }
}

impl NodeConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.take("name", &mut self.name);
        s.take("addresses", &mut self.addresses);
        s.take("bpffs", &mut self.bpffs);
        s.take("run_dir", &mut self.run_dir);
        s.check("name", !self.name.is_empty(), "must not be empty; leave it out to take $NODE_NAME or the hostname");
        s.check("bpffs", self.bpffs.is_absolute(), "must be an absolute path");
        s.check("run_dir", self.run_dir.is_absolute(), "must be an absolute path");
    }
}

impl ClusterConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.take("pod_cidrs", &mut self.pod_cidrs);
        s.take("service_cidrs", &mut self.service_cidrs);
    }
}

impl UplinkConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.take("interface", &mut self.interface);
        self.interface.take_if(|name| name.is_empty());
        s.check("interface", self.interface.as_deref().is_none_or(is_interface_name), INTERFACE_NAME);
    }
}

impl FunnelConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        let mut names = Vec::new();
        s.take("names", &mut names);
        if s.has("names") {
            match <[String; 2]>::try_from(names) {
                Ok(names) => self.names = names,
                Err(names) => {
                    s.check("names", false, &format!("must be two interface names, not {}", names.len()));
                }
            }
            s.check("names", self.names.iter().all(|name| is_interface_name(name)), INTERFACE_NAME);
            s.check("names", self.names[0] != self.names[1], "must be two different names");
        }
    }
}

impl WorkerConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        let (mut count, mut spin) = (CountOrAuto(self.count), MicrosecondsOrAlways(self.spin_us));
        s.take("count", &mut count);
        s.take("spin_us", &mut spin);
        let mut fairness = OnOff(self.is_fair);
        s.take("fairness", &mut fairness);
        self.is_fair = fairness.0;
        s.check("count", count.0.is_none_or(|n| (1..=128).contains(&n)), "must be \"auto\" or 1 to 128");
        s.check("spin_us", spin.0.is_none_or(|n| n <= 1_000_000), "must be \"always\" or at most 1000000");
        (self.count, self.spin_us) = (count.0, spin.0);
    }
}

impl ConntrackConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.take("max_flows", &mut self.max_flows);
        s.check("max_flows", (1024..=16_777_216).contains(&self.max_flows), "must be 1024 to 16777216");
        s.take("loose", &mut self.loose);
        s.take("liberal", &mut self.liberal);
        let mut ports = PortsOrAuto(self.snat_ports.clone());
        s.take("snat_ports", &mut ports);
        let is_range = ports.0.as_ref().is_none_or(|range| *range.start() >= 1024 && !range.is_empty());
        s.check(
            "snat_ports",
            is_range,
            "must be \"auto\", or a first and a last port, both from 1024 on: \"61000-65535\"",
        );
        self.snat_ports = ports.0;
        let t = &mut self.timeouts;
        for (key, value) in [
            ("tcp_syn_sent_s", &mut t.tcp_syn_sent_s),
            ("tcp_syn_recv_s", &mut t.tcp_syn_recv_s),
            ("tcp_established_s", &mut t.tcp_established_s),
            ("tcp_fin_wait_s", &mut t.tcp_fin_wait_s),
            ("tcp_close_wait_s", &mut t.tcp_close_wait_s),
            ("tcp_last_ack_s", &mut t.tcp_last_ack_s),
            ("tcp_time_wait_s", &mut t.tcp_time_wait_s),
            ("tcp_close_s", &mut t.tcp_close_s),
            ("tcp_max_retrans_s", &mut t.tcp_max_retrans_s),
            ("tcp_unacknowledged_s", &mut t.tcp_unacknowledged_s),
            ("udp_s", &mut t.udp_s),
            ("udp_stream_s", &mut t.udp_stream_s),
            ("icmp_s", &mut t.icmp_s),
            ("icmpv6_s", &mut t.icmpv6_s),
            ("sctp_closed_s", &mut t.sctp_closed_s),
            ("sctp_cookie_wait_s", &mut t.sctp_cookie_wait_s),
            ("sctp_cookie_echoed_s", &mut t.sctp_cookie_echoed_s),
            ("sctp_established_s", &mut t.sctp_established_s),
            ("sctp_shutdown_sent_s", &mut t.sctp_shutdown_sent_s),
            ("sctp_shutdown_recd_s", &mut t.sctp_shutdown_recd_s),
            ("sctp_shutdown_ack_sent_s", &mut t.sctp_shutdown_ack_sent_s),
            ("sctp_heartbeat_sent_s", &mut t.sctp_heartbeat_sent_s),
        ] {
            s.take(key, value);
            // Ticks are 32-bit seconds compared by difference: half their range must never be reached.
            s.check(key, (1..=31_536_000).contains(value), "must be 1 to 31536000 seconds (a year)");
        }
    }
}

impl ShortcutConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        let mut mode = OnOff(self.on);
        s.take("mode", &mut mode);
        self.on = mode.0;
        s.take("orphan_max_s", &mut self.orphan_max_s);
    }
}

impl ServiceConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.take("scheduler", &mut self.scheduler);
        s.take("masquerade_all", &mut self.masquerade_all);
        s.take("node_port_addresses", &mut self.node_port_addresses);
        s.take("external_ip_cidrs", &mut self.external_ip_cidrs);
        s.take("service_proxy_name", &mut self.service_proxy_name);
    }
}

impl StatusConfig {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.take("healthz_addresses", &mut self.healthz_addresses);
        s.take("metrics_addresses", &mut self.metrics_addresses);
    }
}

const INTERFACE_NAME: &str = "must be an interface name: 1 to 15 bytes, no slash, no space";

/// The kernel's rule (net/core/dev.c, dev_valid_name).
fn is_interface_name(name: &str) -> bool {
    let plain = |c: char| c != '/' && c != ':' && !c.is_whitespace();
    !name.is_empty() && name.len() <= 15 && name != "." && name != ".." && name.chars().all(plain)
}

/// `$NODE_NAME`, else the hostname.
pub fn default_node_name() -> String {
    std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // A Node's name is a DNS subdomain: kubelet lower-cases the hostname too.
        hostname.trim().to_lowercase()
    })
}

struct CountOrAuto(Option<u32>);

impl FromToml for CountOrAuto {
    const WANTED: &'static str = "\"auto\" or a number of workers";
    fn from_toml(value: &reader::Value<'_>) -> Option<Self> {
        if value.as_str() == Some("auto") { Some(Self(None)) } else { u32::from_toml(value).map(|n| Self(Some(n))) }
    }
}

struct MicrosecondsOrAlways(Option<u32>);

impl FromToml for MicrosecondsOrAlways {
    const WANTED: &'static str = "\"always\" or microseconds";
    fn from_toml(value: &reader::Value<'_>) -> Option<Self> {
        if value.as_str() == Some("always") { Some(Self(None)) } else { u32::from_toml(value).map(|n| Self(Some(n))) }
    }
}

struct PortsOrAuto(Option<RangeInclusive<u16>>);

impl FromToml for PortsOrAuto {
    const WANTED: &'static str = "\"auto\", a range of ports such as \"61000-65535\", or [61000, 65535]";
    fn from_toml(value: &reader::Value<'_>) -> Option<Self> {
        if value.as_str() == Some("auto") {
            return Some(Self(None));
        }
        let (first, last) = match value.as_str() {
            Some(text) => {
                let (first, last) = text.split_once('-')?;
                (first.trim().parse().ok()?, last.trim().parse().ok()?)
            }
            None => <[u16; 2]>::try_from(Vec::from_toml(value)?).ok()?.into(),
        };
        Some(Self(Some(first..=last)))
    }
}

struct OnOff(bool);

impl FromToml for OnOff {
    const WANTED: &'static str = "\"on\" or \"off\"";
    fn from_toml(value: &reader::Value<'_>) -> Option<Self> {
        match value.as_str()? {
            "on" => Some(Self(true)),
            "off" => Some(Self(false)),
            _ => None,
        }
    }
}

impl FromToml for PodNetwork {
    const WANTED: &'static str = "\"own\" or \"adopt\"";
    fn from_toml(value: &reader::Value<'_>) -> Option<Self> {
        match value.as_str()? {
            "own" => Some(Self::Own),
            "adopt" => Some(Self::Adopt),
            _ => None,
        }
    }
}

impl FromToml for Scheduler {
    const WANTED: &'static str = "\"maglev\" or \"random\"";
    fn from_toml(value: &reader::Value<'_>) -> Option<Self> {
        match value.as_str()? {
            "maglev" => Some(Self::Maglev),
            "random" => Some(Self::Random),
            _ => None,
        }
    }
}

impl FromToml for NodePortAddresses {
    const WANTED: &'static str = "[\"primary\"] or a list of CIDRs";
    fn from_toml(value: &reader::Value<'_>) -> Option<Self> {
        match value.as_array() {
            Some(list) if list.len() == 1 && list[0].get_ref().as_str() == Some("primary") => Some(Self::Primary),
            _ => Vec::from_toml(value).map(Self::Cidrs),
        }
    }
}

#[cfg(test)]
mod tests;
