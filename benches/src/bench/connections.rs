//! Connections by number, as the Service of [`super::node`] makes them: for benches that fill the table without packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atalho_engine::conntrack::{Direction, NewConnection, Rewrite, Segment};
use atalho_engine::flow::{FlowKey, Protocol};

use super::in_memory::mix;
use super::node::{ENDPOINT_PORT, ENDPOINTS, FIRST_ENDPOINT, GATEWAY_HOP, UPLINK, VIP, VIP_PORT};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The address, or one in fd00::/64 that ends in its bytes.
    pub fn address(self, v4: Ipv4Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(v4.to_bits())).into(),
        }
    }
}

/// First address of the clients (RFC 2544's range for benchmarks), and bits of how many there are.
const FIRST_CLIENT: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const CLIENT_BITS: u32 = 14;
/// First of the ports that clients use, and bits of how many.
const FIRST_PORT: u16 = 32_768;
const PORT_BITS: u32 = 14;

/// Client address and port of a connection, in no order, as clients draw their ports; none comes twice in 2^28 numbers.
fn client_of(number: u32) -> (Ipv4Addr, u16) {
    const BITS: u32 = CLIENT_BITS + PORT_BITS;
    const MASK: u32 = (1 << BITS) - 1;
    // Steps that can be undone: an odd factor, and a shift onto itself.
    let spread = |word: u32| word.wrapping_mul(0x9e37_79b1) & MASK;
    let folded = spread(number & MASK);
    let drawn = spread(folded ^ folded >> (BITS / 2));
    let port = FIRST_PORT + (drawn & ((1 << PORT_BITS) - 1)) as u16;
    (Ipv4Addr::from(FIRST_CLIENT + (drawn >> PORT_BITS)), port)
}

/// Connection `number`: UDP of a client outside through the Service to one of its endpoints, not answered yet.
pub fn connection(family: Family, number: u32) -> NewConnection {
    let (client, port) = client_of(number);
    let endpoint = FIRST_ENDPOINT.to_bits() + (mix(u64::from(number)) % u64::from(ENDPOINTS)) as u32;
    let [client, vip, endpoint] = [client, VIP, endpoint.into()].map(|address| family.address(address));
    let key = |src, src_port, dst, dst_port| FlowKey { src, dst, src_port, dst_port, protocol: Protocol::Udp };
    let rewrite = |src, src_port, dst, dst_port| Rewrite { src, dst, src_port, dst_port };
    let direction = |key, rewrite| Direction { key, rewrite, next_hop: GATEWAY_HOP, ingress: UPLINK };
    NewConnection {
        original: direction(key(client, port, vip, VIP_PORT), rewrite(client, port, endpoint, ENDPOINT_PORT)),
        reply: direction(key(endpoint, ENDPOINT_PORT, client, port), rewrite(vip, VIP_PORT, client, port)),
        is_service: true,
        first: Segment::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_client_comes_twice_and_all_ports_are_in_use() {
        let clients: HashSet<_> = (0..300_000).map(client_of).collect();
        assert_eq!(clients.len(), 300_000);
        let ports: HashSet<_> = clients.iter().map(|(_, port)| *port).collect();
        assert_eq!(ports.len(), 1 << PORT_BITS);
    }
}
