//! A node in memory: two pods, an uplink, neighbours and a few Services in both families, and an engine before it.
//! Every packet that leaves is read with etherparse, and every checksum in it computed anew.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod damage;
pub mod icmp;
pub mod node;
pub mod packet;
pub mod pieces;
pub mod sctp;
pub mod trace;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs, ExpiryScan};
use atalho_engine::counters::{Books, Counters};
use atalho_engine::flow::Protocol;
use atalho_engine::next_hops::{Mac, NextHop, NextHops};
use atalho_engine::pipeline::{Engine, EngineParts, Slot};
use atalho_engine::route::{Route, RouteTarget, Routes};
use atalho_engine::service::{Backends, Endpoint, Route as ServiceRoute, Services, Vip, VipKey, VipKind};
use atalho_engine::tables::{Cluster, FastMap, Node, Port, Settings, Tables, Timeouts};
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};
use atalho_layout::{NextHopKind, SECRET_WORDS, tag_mac};

use self::packet::{Packet, Seen};

pub const UPLINK: u32 = 2;
pub const FUNNEL: u32 = 9;
pub const WEB: u32 = 101;
pub const CLIENT: u32 = 102;

pub const UPLINK_MAC: Mac = [0x0a, 0, 0, 0, 0, 2];
pub const GATEWAY_MAC: Mac = [0x0a, 0, 0, 0, 0, 1];
pub const OTHER_NODE_MAC: Mac = [0x0a, 0, 0, 0, 0, 3];
pub const FUNNEL_MAC: Mac = [0x0a, 0, 0, 0, 1, 0];
pub const HOST_END_MAC: Mac = [0x0a, 0, 0, 0, 2, 0];
pub const POD_MAC: Mac = [0x0a, 0, 0, 0, 3, 0];

pub const HOP_NODE: u32 = 0;
pub const HOP_WEB: u32 = 1;
pub const HOP_CLIENT: u32 = 2;
pub const HOP_GATEWAY: u32 = 3;
pub const HOP_OTHER_NODE: u32 = 4;
pub const MTU: u16 = 1500;

/// The family that a case runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    fn pick(self, v4: &str, v6: &str) -> IpAddr {
        match self {
            Self::V4 => v4.parse().unwrap(),
            Self::V6 => v6.parse().unwrap(),
        }
    }

    pub fn node(self) -> IpAddr {
        self.pick("192.168.0.2", "fd00:168::2")
    }
    pub fn gateway(self) -> IpAddr {
        self.pick("192.168.0.1", "fd00:168::1")
    }
    pub fn other_node(self) -> IpAddr {
        self.pick("192.168.0.3", "fd00:168::3")
    }
    /// On the uplink's own net, not asked for yet.
    pub fn stranger(self) -> IpAddr {
        self.pick("192.168.0.77", "fd00:168::77")
    }
    /// Behind the gateway.
    pub fn far(self) -> IpAddr {
        self.pick("203.0.113.9", "2001:db8:113::9")
    }
    /// A pod here: serves.
    pub fn web(self) -> IpAddr {
        self.pick("10.244.0.11", "fd00:10:244::11")
    }
    /// A pod here: asks.
    pub fn client(self) -> IpAddr {
        self.pick("10.244.0.12", "fd00:10:244::12")
    }
    /// A pod of the other node.
    pub fn remote_pod(self) -> IpAddr {
        self.pick("10.244.1.7", "fd00:10:244:1::7")
    }
    /// Port 80 TCP leads to `web`:8080, port 53 UDP to `web`:5353, port 38412 SCTP to `web`:3868.
    pub fn vip_local(self) -> IpAddr {
        self.pick("10.96.0.10", "fd00:10:96::10")
    }
    /// Ports 80 TCP, 53 UDP and 38412 SCTP lead to `remote_pod`.
    pub fn vip_remote(self) -> IpAddr {
        self.pick("10.96.0.20", "fd00:10:96::20")
    }
    /// Without endpoints.
    pub fn vip_empty(self) -> IpAddr {
        self.pick("10.96.0.30", "fd00:10:96::30")
    }
    /// Policy Local, no endpoint here.
    pub fn vip_elsewhere(self) -> IpAddr {
        self.pick("10.96.0.40", "fd00:10:96::40")
    }
    /// Port 80 TCP leads to the node itself, port 6443.
    pub fn vip_node(self) -> IpAddr {
        self.pick("10.96.0.50", "fd00:10:96::50")
    }
    /// A second address of the Service at `vip_remote`.
    pub fn vip_remote_twin(self) -> IpAddr {
        self.pick("10.96.0.21", "fd00:10:96::21")
    }
    pub fn vip_unallocated(self) -> IpAddr {
        self.pick("10.96.9.9", "fd00:10:96::99")
    }
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// Node port of `web`, masqueraded, and of `remote_pod`; TCP, UDP and SCTP.
pub const NODE_PORT_WEB: u16 = 30_080;
pub const NODE_PORT_REMOTE: u16 = 30_081;
/// Leads to the node itself, port 6443.
pub const NODE_PORT_NODE: u16 = 30_082;

/// The table's, for its hash.
pub const SECRET: [u64; SECRET_WORDS] = {
    let (mut words, mut at) = ([0; SECRET_WORDS], 0);
    while at < SECRET_WORDS {
        // Words without a relation between them: with multiples of one number keys meet that differ in two words.
        let mut word = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(at as u64 + 1);
        word = (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        words[at] = (word ^ word >> 32).wrapping_mul(0x94d0_49bb_1331_11eb);
        at += 1;
    }
    words
};

pub struct Lab {
    pub engine: Engine,
    pub tables: Tables,
    pub now_s: u32,
    pub hops: NextHops,
    pub table: ConnTable,
    pub affinity: AffinityTable,
    pub epochs: Arc<Epochs>,
}

/// What became of one packet.
#[derive(Debug)]
pub struct Sent {
    pub verdict: Verdict,
    pub via: NextHopKind,
    pub frame: Vec<u8>,
    pub neighbour: Option<IpAddr>,
    pub mtu: u16,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    pub fn new() -> Self {
        Self::with_flows(1024)
    }

    /// With room for so many connections.
    pub fn with_flows(max_flows: usize) -> Self {
        let table = ConnTable::in_memory(max_flows, &SECRET);
        Self::on(table, AffinityTable::in_memory(64, &SECRET), NextHops::in_memory(16))
    }

    /// The same in memory of the caller's, for those who make many: it is never given back. The tables are empty.
    pub fn on(table: ConnTable, affinity: AffinityTable, hops: NextHops) -> Self {
        let set = |index, kind, ifindex, destination, source| {
            hops.set(index, &NextHop { kind, ifindex, destination: Some(destination), source, mtu: MTU });
        };
        set(HOP_NODE, NextHopKind::Node, FUNNEL, FUNNEL_MAC, [0; 6]);
        set(HOP_WEB, NextHopKind::Pod, WEB, POD_MAC, HOST_END_MAC);
        set(HOP_CLIENT, NextHopKind::Pod, CLIENT, POD_MAC, HOST_END_MAC);
        set(HOP_GATEWAY, NextHopKind::Uplink, UPLINK, GATEWAY_MAC, UPLINK_MAC);
        set(HOP_OTHER_NODE, NextHopKind::Uplink, UPLINK, OTHER_NODE_MAC, UPLINK_MAC);
        let epochs = Arc::new(Epochs::new());
        let engine = Engine::new(EngineParts {
            worker: 0,
            table,
            affinity,
            epochs: epochs.clone(),
            next_hops: hops,
            counters: Arc::new(Counters::default()),
            seed: 1,
            processor: (),
        });
        Self { engine, tables: tables(), now_s: 1000, hops, table, affinity, epochs }
    }

    /// One packet through the engine. The books must be even after it, a frame that is not forwarded unchanged, and one
    /// that is forwarded right to the last checksum.
    pub fn send(&mut self, ingress: u32, frame: &[u8]) -> Sent {
        let sent = self.send_unverified(ingress, frame);
        if let Verdict::Forward { .. } = sent.verdict {
            packet::verify(&sent.frame);
            trace::keep(frame, &sent.frame);
        }
        sent
    }

    /// The same with packets that may be damaged where the engine does not look, and then leave as damaged.
    pub fn send_unverified(&mut self, ingress: u32, frame: &[u8]) -> Sent {
        let mut bytes = frame.to_vec();
        let mut batch = [Slot::new(&mut bytes, ingress)];
        self.engine.process(&self.tables, self.now_s, &mut batch);
        let [slot] = batch;
        let (verdict, via, neighbour, mtu, send_len) =
            (slot.verdict, slot.via, slot.neighbour, slot.mtu, slot.send_len);
        self.engine.counters().settle(verdict, send_len);
        trace::count(verdict);
        assert!(self.books().is_even(), "{:?}", self.books());
        if let Verdict::Forward { .. } = verdict {
            bytes.truncate(send_len);
        } else {
            assert_eq!(bytes, frame, "a frame that is not forwarded stays as it came");
        }
        Sent { verdict, via, frame: bytes, neighbour, mtu }
    }

    /// Sends `packet` by `ingress` and expects it to leave as `expected` by the next hop `hop`.
    #[track_caller]
    pub fn forwards(&mut self, what: &str, ingress: u32, packet: &Packet, hop: u32, expected: &Packet) {
        let seen = self.forwarded(what, ingress, packet, hop);
        assert_eq!(seen, Seen::of(expected), "{what}");
    }

    /// The same where the packet that leaves is not known beforehand.
    #[track_caller]
    pub fn forwarded(&mut self, what: &str, ingress: u32, packet: &Packet, hop: u32) -> Seen {
        let sent = self.send(ingress, &packet.build());
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: hop }, "{what}");
        let (kind, destination, source) = match hop {
            HOP_NODE => (NextHopKind::Node, FUNNEL_MAC, tag_mac(FUNNEL)),
            HOP_WEB => (NextHopKind::Pod, tag_mac(WEB), HOST_END_MAC),
            HOP_CLIENT => (NextHopKind::Pod, tag_mac(CLIENT), HOST_END_MAC),
            HOP_GATEWAY => (NextHopKind::Uplink, GATEWAY_MAC, UPLINK_MAC),
            _ => (NextHopKind::Uplink, OTHER_NODE_MAC, UPLINK_MAC),
        };
        assert_eq!(sent.via, kind, "{what}");
        assert_eq!(sent.frame[..6], destination, "{what}: destination MAC");
        assert_eq!(sent.frame[6..12], source, "{what}: source MAC");
        packet::verify(&sent.frame)
    }

    #[track_caller]
    pub fn drops(&mut self, what: &str, ingress: u32, frame: &[u8], reason: DropReason) {
        let before = self.books().dropped_by(reason);
        assert_eq!(self.send(ingress, frame).verdict, Verdict::Drop(reason), "{what}");
        assert_eq!(self.books().dropped_by(reason), before + 1, "{what}");
    }

    #[track_caller]
    pub fn punts(&mut self, what: &str, ingress: u32, frame: &[u8], reason: PuntReason) -> Sent {
        let sent = self.send(ingress, frame);
        assert_eq!(sent.verdict, Verdict::Punt(reason), "{what}");
        sent
    }

    /// One walk over the whole table: what has been idle for too long goes.
    pub fn expire(&mut self, timeouts: &Timeouts) {
        self.table.expire(&mut ExpiryScan::new(0, 1), u32::MAX, self.now_s, timeouts, &self.epochs);
    }

    /// Makes the slots of what has ended free, as control does.
    pub fn let_epochs_pass(&self) {
        let target = self.epochs.advance();
        self.epochs.mark_safe(target);
    }

    pub fn books(&self) -> Books {
        self.engine.counters().books()
    }

    pub fn set_mtu(&self, hop: u32, mtu: u16) {
        let next_hop = self.hops.get(hop).unwrap();
        self.hops.set(hop, &NextHop { mtu, ..next_hop });
    }
}

fn endpoint(address: IpAddr, port: u16) -> Endpoint {
    Endpoint { address, port, weight: 1, node: None, local: false }
}

pub fn side(endpoints: Vec<Endpoint>) -> ServiceRoute {
    ServiceRoute { backends: Arc::new(Backends::maglev(endpoints)), masquerade: false, drop_without_backend: false }
}

pub fn vip(name: &str, kind: VipKind, inside: ServiceRoute, outside: ServiceRoute) -> Option<Arc<Vip>> {
    Some(Arc::new(Vip::new(name.into(), kind, inside, outside)))
}

/// The node's snapshot.
pub fn tables() -> Tables {
    static TABLES: LazyLock<Tables> = LazyLock::new(make_tables);
    TABLES.clone()
}

fn make_tables() -> Tables {
    let both = |pick: fn(Family) -> IpAddr| FAMILIES.map(pick).to_vec();
    let pod = |name: &str, pick: fn(Family) -> IpAddr| Port::Pod { name: name.into(), addresses: both(pick) };
    let local_pods = FAMILIES.into_iter().flat_map(|f| [(f.web(), HOP_WEB), (f.client(), HOP_CLIENT)]);
    let routes = [
        ("0.0.0.0/0", RouteTarget::Gateway(Family::V4.gateway())),
        ("192.168.0.0/24", RouteTarget::OnLink),
        ("10.244.1.0/24", RouteTarget::Gateway(Family::V4.other_node())),
        ("198.51.100.0/24", RouteTarget::Blackhole),
        ("198.19.0.0/24", RouteTarget::Unreachable),
        ("2000::/3", RouteTarget::Gateway(Family::V6.gateway())),
        ("fd00:168::/64", RouteTarget::OnLink),
        ("fd00:10:244:1::/64", RouteTarget::Gateway(Family::V6.other_node())),
    ]
    .map(|(destination, target)| Route { destination: destination.parse().unwrap(), target });
    let neighbours = FAMILIES.into_iter().flat_map(|f| [(f.gateway(), HOP_GATEWAY), (f.other_node(), HOP_OTHER_NODE)]);
    Tables {
        generation: 1,
        node: Arc::new(Node {
            name: "node-a".into(),
            addresses: both(Family::node),
            primary_v4: Some(Ipv4Addr::new(192, 168, 0, 2)),
            primary_v6: Some(Ipv6Addr::new(0xfd00, 0x168, 0, 0, 0, 0, 0, 2)),
        }),
        cluster: Arc::new(Cluster {
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/46".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()],
        }),
        other_nodes: Arc::new(both(Family::other_node)),
        services: services(),
        ports: Arc::new(FastMap::from_iter([
            (UPLINK, Port::Uplink),
            (FUNNEL, Port::Node),
            (WEB, pod("default/web", Family::web)),
            (CLIENT, pod("default/client", Family::client)),
        ])),
        local_pods: Arc::new(local_pods.collect()),
        routes: Arc::new(Routes::new(routes.to_vec(), neighbours)),
        settings: Arc::new(Settings::default()),
    }
}

fn services() -> Services {
    use Protocol::{Sctp, Tcp, Udp};
    let mut changes = Vec::new();
    for f in FAMILIES {
        let mut put = |address, protocol, port, vip| changes.push((VipKey { address, protocol, port }, vip));
        let plain = |name: &str, endpoints: Vec<Endpoint>| {
            vip(name, VipKind::ClusterIP, side(endpoints.clone()), side(endpoints))
        };
        put(f.vip_local(), Tcp, 80, plain("default/web:http", vec![endpoint(f.web(), 8080)]));
        put(f.vip_local(), Udp, 53, plain("default/web:dns", vec![endpoint(f.web(), 5353)]));
        put(f.vip_local(), Sctp, 38412, plain("default/web:n2", vec![endpoint(f.web(), 3868)]));
        put(f.vip_empty(), Sctp, 38412, plain("default/empty:n2", vec![]));
        for address in [f.vip_remote(), f.vip_remote_twin()] {
            put(address, Tcp, 80, plain("default/far:http", vec![endpoint(f.remote_pod(), 8080)]));
            put(address, Udp, 53, plain("default/far:dns", vec![endpoint(f.remote_pod(), 5353)]));
            put(address, Sctp, 38412, plain("default/far:n2", vec![endpoint(f.remote_pod(), 3868)]));
        }
        put(f.vip_empty(), Tcp, 80, plain("default/empty:http", vec![]));
        put(f.vip_node(), Tcp, 80, plain("default/api:https", vec![endpoint(f.node(), 6443)]));
        let closed = ServiceRoute { drop_without_backend: true, ..side(vec![]) };
        put(f.vip_elsewhere(), Tcp, 80, vip("default/local:http", VipKind::ClusterIP, closed.clone(), closed));
        for (port, target) in [
            (NODE_PORT_WEB, endpoint(f.web(), 8080)),
            (NODE_PORT_REMOTE, endpoint(f.remote_pod(), 8080)),
            (NODE_PORT_NODE, endpoint(f.node(), 6443)),
        ] {
            for protocol in [Tcp, Udp, Sctp] {
                let masqueraded = ServiceRoute { masquerade: true, ..side(vec![target.clone()]) };
                let service = vip("default/web:http", VipKind::NodePort, masqueraded.clone(), masqueraded);
                put(f.node(), protocol, port, service);
            }
        }
    }
    Services::default().with_changes(changes)
}
