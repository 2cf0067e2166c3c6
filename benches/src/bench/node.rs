//! The node that the pipeline in memory forwards for: one ClusterIP with ten endpoints, all behind the uplink's gateway.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atalho_engine::conntrack::{ConnTable, Geometry, TableMemory};
use atalho_engine::flow::Protocol;
use atalho_engine::next_hops::{Mac, NextHop, NextHops};
use atalho_engine::route::{Route, RouteTarget, Routes};
use atalho_engine::service::{Backends, Endpoint, Route as ServiceRoute, Services, Vip, VipKey, VipKind};
use atalho_engine::tables::{Cluster, FastMap, Node, Port, Tables};
use atalho_layout::{NextHopKind, SECRET_WORDS};
use atalho_sys::mmap::PrivateArray;

use super::connections::Family;

pub const UPLINK: u32 = 2;
pub const GATEWAY_HOP: u32 = 1;
pub const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const UPLINK_MAC: Mac = [2, 0, 0, 0, 0, 2];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const VIP_PORT: u16 = 53;
pub const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 11);
pub const ENDPOINTS: u32 = 10;
pub const ENDPOINT_PORT: u16 = 5353;

/// The smallest page there is.
const PAGE_BYTES: usize = 4096;

/// A connection table in memory of its own, with huge pages; never given back.
pub fn connection_table(max_flows: usize, secret: &[u64; SECRET_WORDS]) -> io::Result<ConnTable> {
    let geometry = Geometry::for_max_flows(max_flows);
    Ok(ConnTable::new(table_memory(geometry)?, geometry, secret))
}

/// Memory for a connection table. That of IPv4 is there from the start, as in a table of the kernel's; pages of the other
/// family that nobody writes take up nothing.
pub fn table_memory(geometry: Geometry) -> io::Result<TableMemory> {
    let memory = TableMemory {
        tags4: PrivateArray::words64(geometry.tags_bytes())?,
        entries4: PrivateArray::words32(geometry.entries4_bytes())?,
        tags6: PrivateArray::words64(geometry.tags_bytes())?,
        entries6: PrivateArray::words32(geometry.entries6_bytes())?,
    };
    memory.tags4.iter().step_by(PAGE_BYTES / 8).for_each(|word| word.store(0, Ordering::Relaxed));
    memory.entries4.iter().step_by(PAGE_BYTES / 4).for_each(|word| word.store(0, Ordering::Relaxed));
    Ok(memory)
}

/// The gateway, resolved.
pub fn next_hops() -> NextHops {
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
    next_hops
}

/// One Service with ten endpoints behind the gateway.
pub fn tables() -> Tables {
    let vip = cluster_ip("default/bench:dns", endpoints(Into::into));
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
        ports: Arc::new(FastMap::from_iter([(UPLINK, Port::Uplink)])),
        routes: Arc::new(Routes::new(everywhere.into_iter().collect(), [(GATEWAY.into(), GATEWAY_HOP)])),
        ..Tables::default()
    }
}

/// Of TCP, in both families.
pub const TCP_VIP_PORT: u16 = 80;

/// The node of [`tables`] with a second Service for TCP, in both families.
pub fn dual_stack_tables() -> Tables {
    let tables = tables();
    let service = |family: Family| {
        let endpoints = endpoints(|address| family.address(address));
        let key = VipKey { address: vip(family), protocol: Protocol::Tcp, port: TCP_VIP_PORT };
        (key, Some(Arc::new(cluster_ip("default/bench:http", endpoints))))
    };
    let routes = [("0.0.0.0/0", Family::V4), ("::/0", Family::V6)].into_iter().filter_map(|(destination, family)| {
        let gateway = family.address(GATEWAY);
        Some(Route { destination: destination.parse().ok()?, target: RouteTarget::Gateway(gateway) })
    });
    let neighbours = [Family::V4, Family::V6].map(|family| (family.address(GATEWAY), GATEWAY_HOP));
    Tables {
        services: tables.services.with_changes([service(Family::V4), service(Family::V6)]),
        routes: Arc::new(Routes::new(routes.collect(), neighbours)),
        ..tables
    }
}

/// The Service's address.
pub fn vip(family: Family) -> IpAddr {
    family.address(VIP)
}

/// A client outside.
pub fn client(family: Family) -> IpAddr {
    family.address(Ipv4Addr::new(198, 18, 0, 1))
}

fn endpoints(address: impl Fn(Ipv4Addr) -> IpAddr) -> Vec<Endpoint> {
    (0..ENDPOINTS)
        .map(|index| Endpoint {
            address: address(Ipv4Addr::from(u32::from(FIRST_ENDPOINT) + index)),
            port: ENDPOINT_PORT,
            weight: 1,
            node: Some("node-b".into()),
            local: false,
        })
        .collect()
}

/// A Service whose endpoints serve everybody.
fn cluster_ip(service: &str, endpoints: Vec<Endpoint>) -> Vip {
    let side = ServiceRoute {
        backends: Arc::new(Backends::maglev(endpoints)),
        masquerade: false,
        drop_without_backend: false,
    };
    Vip::new(service.into(), VipKind::ClusterIP, side.clone(), side)
}
