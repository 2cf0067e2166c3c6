//! Session affinity: a client's connections go to one endpoint.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::affinity::Affinity;
use atalho_engine::flow::Protocol;
use atalho_engine::service::{Endpoint, Vip, VipKey, VipKind};

use crate::lab::packet::{Packet, SYN};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("Service v1, sessionAffinity", "a client stays with its endpoint, on every port", a_client_stays),
    vector("Service v1, sessionAffinity", "an endpoint that goes sets its clients free", an_endpoint_goes),
    vector("Service v1, sessionAffinity", "timeoutSeconds after its last connection a client is free", the_timeout),
];

const TIMEOUT_S: u32 = 100;
const PORTS: [u16; 2] = [80, 443];
const CLIENTS: u8 = 40;

/// The Service at `vip_unallocated`, which from now on has `endpoints`.
fn serve(lab: &mut Lab, family: Family, endpoints: &[IpAddr]) {
    let endpoint = |address: &IpAddr| Endpoint { address: *address, port: 8080, weight: 1, node: None, local: false };
    let side = side(endpoints.iter().map(endpoint).collect());
    let changes = PORTS.map(|port| {
        let affinity = Some(Affinity { service: 77, timeout_s: TIMEOUT_S });
        let (service, kind) = (format!("default/sticky:{port}").into(), VipKind::ClusterIP);
        let vip = Vip { affinity, ..Vip::new(service, kind, side.clone(), side.clone()) };
        let key = VipKey { address: family.vip_unallocated(), protocol: Protocol::Tcp, port };
        (key, Some(Arc::new(vip)))
    });
    lab.tables.services = lab.tables.services.with_changes(changes);
}

fn client(family: Family, n: u8) -> IpAddr {
    match family.far() {
        IpAddr::V4(v4) => (v4.to_bits() + 1 + u32::from(n)).to_be_bytes().into(),
        IpAddr::V6(v6) => (v6.to_bits() + 1 + u128::from(n)).to_be_bytes().into(),
    }
}

/// Where a new connection of client `n` goes.
fn connect(lab: &mut Lab, family: Family, n: u8, src_port: u16, port: u16) -> IpAddr {
    let packet = Packet::new((client(family, n), src_port), SYN, (family.vip_unallocated(), port));
    let sent = lab.send(UPLINK, &packet.build());
    packet::verify(&sent.frame).dst.0
}

fn both(family: Family) -> [IpAddr; 2] {
    [family.web(), family.remote_pod()]
}

fn a_client_stays() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        serve(&mut lab, family, &both(family));
        let mut taken = HashSet::new();
        for n in 0..CLIENTS {
            let first = connect(&mut lab, family, n, 1000, PORTS[0]);
            taken.insert(first);
            for (src_port, port) in (1001..1020).zip(PORTS.into_iter().cycle()) {
                assert_eq!(connect(&mut lab, family, n, src_port, port), first, "client {n}, from port {src_port}");
            }
        }
        assert_eq!(taken, HashSet::from(both(family)), "clients spread over the endpoints");
    }
}

fn an_endpoint_goes() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        serve(&mut lab, family, &both(family));
        let [stays, goes] = both(family);
        for n in 0..CLIENTS {
            connect(&mut lab, family, n, 1000, PORTS[0]);
        }
        serve(&mut lab, family, &[stays]);
        for n in 0..CLIENTS {
            assert_eq!(connect(&mut lab, family, n, 1001, PORTS[0]), stays);
        }
        serve(&mut lab, family, &[stays, goes]);
        for n in 0..CLIENTS {
            assert_eq!(connect(&mut lab, family, n, 1002, PORTS[1]), stays, "bound anew");
        }
    }
}

fn the_timeout() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        serve(&mut lab, family, &both(family));
        let first: Vec<_> = (0..CLIENTS).map(|n| connect(&mut lab, family, n, 1000, PORTS[0])).collect();
        lab.now_s += TIMEOUT_S - 1;
        let refreshed: Vec<_> = (0..CLIENTS).map(|n| connect(&mut lab, family, n, 1001, PORTS[0])).collect();
        assert_eq!(refreshed, first);
        lab.now_s += TIMEOUT_S - 1;
        let again: Vec<_> = (0..CLIENTS).map(|n| connect(&mut lab, family, n, 1002, PORTS[0])).collect();
        assert_eq!(again, first, "refreshed by use");
        lab.now_s += TIMEOUT_S;
        let free: Vec<_> = (0..CLIENTS).map(|n| connect(&mut lab, family, n, 1003, PORTS[0])).collect();
        assert_ne!(free, first, "of {CLIENTS} free clients some choose otherwise");
    }
}
