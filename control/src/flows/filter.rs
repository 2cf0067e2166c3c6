//! Which connections are asked for.

use std::net::IpAddr;

use atalho_engine::conntrack::{Connection, ConnectionState, SctpState, TcpState};
use atalho_engine::tables::{Port, Tables};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// As the command line has it; what is absent does not matter, all else must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// `namespace/name`, or one port of it: `namespace/name:port`.
    pub service: Option<String>,
    /// `namespace/name` of a pod of this node, at either end.
    pub pod: Option<String>,
    /// An address or CIDR, at either end, translated or not.
    pub address: Option<String>,
    pub protocol: Option<String>,
    /// At either end, translated or not.
    pub port: Option<u16>,
    pub state: Option<String>,
}

/// A filter that has been read.
pub(super) struct Wanted<'f> {
    service: Option<&'f str>,
    /// Of the pod.
    addresses: Option<&'f [IpAddr]>,
    net: Option<IpNet>,
    protocol: Option<&'static str>,
    port: Option<u16>,
    state: Option<&'static str>,
}

impl Filter {
    /// Checks it. The error says what to write instead.
    pub(super) fn read<'f>(&'f self, tables: &'f Tables) -> Result<Wanted<'f>, String> {
        let pod_of = |wanted: &'f str| {
            tables.ports.values().find_map(|port| match port {
                Port::Pod { name, addresses } if **name == *wanted => Some(addresses.as_slice()),
                _ => None,
            })
        };
        let addresses = self.pod.as_deref().map(|pod| {
            pod_of(pod).ok_or_else(|| {
                format!(
                    "no pod {pod} has a port on this node; write NAMESPACE/NAME, or use --address for pods elsewhere"
                )
            })
        });
        let net = self.address.as_deref().map(|text| {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| format!("{text:?} is neither an IP address nor a CIDR like 10.244.0.0/24"))
        });
        Ok(Wanted {
            service: self.service.as_deref(),
            addresses: addresses.transpose()?,
            net: net.transpose()?,
            protocol: known("protocol", self.protocol.as_deref(), &["TCP", "UDP", "SCTP", "ICMP"])?,
            port: self.port,
            state: known("state", self.state.as_deref(), &STATES.map(ConnectionState::name))?,
        })
    }
}

/// The name that is meant, whatever its case.
fn known(what: &str, written: Option<&str>, names: &[&'static str]) -> Result<Option<&'static str>, String> {
    let Some(written) = written else { return Ok(None) };
    match names.iter().find(|name| name.eq_ignore_ascii_case(written)) {
        Some(name) => Ok(Some(*name)),
        None => {
            let mut names = names.to_vec();
            names.sort_unstable();
            names.dedup();
            Err(format!("{written:?} is no {what}; use one of {}", names.join(", ")))
        }
    }
}

/// One of each name.
const STATES: [ConnectionState; 20] = [
    ConnectionState::Tcp(TcpState::SynSent),
    ConnectionState::Tcp(TcpState::SynSent2),
    ConnectionState::Tcp(TcpState::SynRecv),
    ConnectionState::Tcp(TcpState::Established),
    ConnectionState::Tcp(TcpState::FinWait),
    ConnectionState::Tcp(TcpState::CloseWait),
    ConnectionState::Tcp(TcpState::LastAck),
    ConnectionState::Tcp(TcpState::TimeWait),
    ConnectionState::Tcp(TcpState::Close),
    ConnectionState::Sctp(SctpState::Closed),
    ConnectionState::Sctp(SctpState::CookieWait),
    ConnectionState::Sctp(SctpState::CookieEchoed),
    ConnectionState::Sctp(SctpState::Established),
    ConnectionState::Sctp(SctpState::ShutdownSent),
    ConnectionState::Sctp(SctpState::ShutdownReceived),
    ConnectionState::Sctp(SctpState::ShutdownAckSent),
    ConnectionState::Sctp(SctpState::HeartbeatSent),
    ConnectionState::Unanswered,
    ConnectionState::Answered,
    ConnectionState::Icmp,
];

impl Wanted<'_> {
    pub(super) fn has(&self, connection: &Connection, service: Option<&str>) -> bool {
        let (key, new) = (&connection.original.key, &connection.original.rewrite);
        let addresses = [key.src, key.dst, new.src, new.dst];
        let ports = [key.src_port, key.dst_port, new.src_port, new.dst_port];
        let is_service = |wanted: &str| {
            service.is_some_and(|service| {
                service.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
        };
        self.service.is_none_or(is_service)
            && self.addresses.is_none_or(|own| addresses.iter().any(|address| own.contains(address)))
            && self.net.is_none_or(|net| addresses.iter().any(|address| net.contains(address)))
            && self.protocol.is_none_or(|protocol| protocol == connection.protocol.name())
            && self.port.is_none_or(|port| ports.contains(&port))
            && self.state.is_none_or(|state| state == connection.state.name())
    }
}
