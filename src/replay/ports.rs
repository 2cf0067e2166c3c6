//! The node's ports by name and by interface index, and what frames look like there.

use std::collections::HashMap;
use std::net::IpAddr;

use atalho_control::compile::{Compiled, offline_mac};
use atalho_engine::next_hops::Mac;
use atalho_engine::tables::Port;
use atalho_layout::{NextHopKind, hop};

use super::objects::{NODE, UPLINK};

/// Where an IP header's destination stands in a frame.
const DESTINATION_V4: usize = 30;
const DESTINATION_V6: usize = 38;

/// Every port that there is at any time, in the order of the interfaces of the capture that is written.
pub struct Ports {
    names: Vec<String>,
    /// By position in `names`; `None` while there is no such pod.
    ifindexes: Vec<Option<u32>>,
    exits: HashMap<u32, Exit>,
    node: u32,
}

/// Where frames leave.
pub struct Exit {
    /// Position of the port.
    pub at: usize,
    /// Our end of the link.
    source: Mac,
    destination: Destination,
}

#[derive(Clone, Copy)]
enum Destination {
    /// The one station there.
    Station(Mac),
    /// Everybody is a neighbour, with the MAC of the address.
    Neighbours,
}

impl Ports {
    pub fn new(names: &[String]) -> Self {
        Self { names: names.to_vec(), ifindexes: vec![None; names.len()], exits: HashMap::new(), node: 0 }
    }

    /// Takes the ports of these tables in place of those before.
    pub fn set(&mut self, compiled: &Compiled) {
        self.ifindexes.fill(None);
        self.exits.clear();
        for (ifindex, port) in &*compiled.tables.ports {
            let pod_name;
            let name = match port {
                Port::Uplink => UPLINK,
                Port::Node => NODE,
                Port::Pod { name, .. } => {
                    pod_name = format!("pod:{name}");
                    &pod_name
                }
            };
            let Some(at) = self.position(name) else { continue };
            self.ifindexes[at] = Some(*ifindex);
            if matches!(port, Port::Node) {
                self.node = *ifindex;
            }
            if let Some(exit) = exit(compiled, at, *ifindex, port) {
                self.exits.insert(*ifindex, exit);
            }
        }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    pub fn name(&self, at: usize) -> &str {
        &self.names[at]
    }

    /// Interface index now.
    pub fn ifindex(&self, at: usize) -> Option<u32> {
        self.ifindexes[at]
    }

    /// Interface index of the node's own port.
    pub fn node(&self) -> u32 {
        self.node
    }

    pub fn exit(&self, ifindex: u32) -> Option<&Exit> {
        self.exits.get(&ifindex)
    }
}

fn exit(compiled: &Compiled, at: usize, ifindex: u32, port: &Port) -> Option<Exit> {
    let pod = compiled.pod_ports.get(&ifindex);
    // Whose end of a pod's link is ours has the same MAC on the node's.
    const OUR_END: Mac = [0xee; 6];
    Some(match port {
        Port::Uplink => {
            let uplink = compiled.next_hops.values().find(|next_hop| next_hop.kind == NextHopKind::Uplink)?;
            Exit { at, source: uplink.source, destination: Destination::Neighbours }
        }
        Port::Node => {
            let station = compiled.next_hops.get(&hop::NODE)?.destination?;
            Exit { at, source: OUR_END, destination: Destination::Station(station) }
        }
        Port::Pod { .. } => {
            let record = pod?;
            Exit { at, source: record.host_mac, destination: Destination::Station(record.pod_mac) }
        }
    })
}

impl Exit {
    /// Writes both MACs, as the last hop of a node would: on the way through it they only say which port is meant.
    pub fn address(&self, frame: &mut [u8]) {
        let destination = match self.destination {
            Destination::Station(mac) => Some(mac),
            Destination::Neighbours => destination_address(frame).map(offline_mac),
        };
        if let (Some(mac), Some(macs)) = (destination, frame.first_chunk_mut::<12>()) {
            macs[..6].copy_from_slice(&mac);
            macs[6..].copy_from_slice(&self.source);
        }
    }

    /// Our MAC here.
    pub fn our_mac(&self) -> Mac {
        self.source
    }
}

fn destination_address(frame: &[u8]) -> Option<IpAddr> {
    let is_ipv4 = frame.get(12..14)? == [0x08, 0x00];
    Some(if is_ipv4 {
        IpAddr::from(*frame.get(DESTINATION_V4..)?.first_chunk::<4>()?)
    } else {
        IpAddr::from(*frame.get(DESTINATION_V6..)?.first_chunk::<16>()?)
    })
}
