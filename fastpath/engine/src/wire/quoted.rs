//! The packet that an ICMP error quotes: its header and at least eight bytes behind it, mostly cut off after that.

use std::net::IpAddr;

use super::ethernet::EtherType;
use super::icmp::{self, Icmp};
use super::{ipv4, ipv6, word16};
use crate::flow::{FlowKey, Protocol};
use crate::verdict::DropReason;

/// A quoted packet. Offsets count from the start of the ICMP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// As it was on the wire when the error's sender got it.
    pub key: FlowKey,
    pub transport: u16,
    /// Bytes from there on that the packet had before it was cut off.
    pub transport_bytes: u16,
    /// Where the quotation ends.
    pub end: u16,
    /// UDP without a checksum.
    pub no_checksum: bool,
    /// The error was not addressed to the sender of the quoted packet.
    pub is_handed_on: bool,
}

/// Reads the quotation in an ICMP error that was sent to `addressee`.
pub fn read(message: &[u8], family: EtherType, addressee: IpAddr) -> Result<Quoted, DropReason> {
    const UNREADABLE: DropReason = DropReason::IcmpQuote;
    let quotation = message.get(icmp::HEADER_BYTES..).ok_or(UNREADABLE)?;
    let (src, dst, protocol, header_bytes, total_bytes): (IpAddr, IpAddr, u8, usize, usize) = match family {
        EtherType::Ipv4 => {
            let ip = ipv4::fields(quotation).map_err(|_| UNREADABLE)?;
            if ip.fragment_offset != 0 {
                return Err(UNREADABLE);
            }
            (ip.src.into(), ip.dst.into(), ip.protocol, ip.header_bytes, ip.total_bytes)
        }
        EtherType::Ipv6 => {
            let ip = ipv6::fields(quotation).map_err(|_| UNREADABLE)?;
            let (protocol, header_bytes) = ipv6::transport(quotation).map_err(|_| UNREADABLE)?;
            (ip.src.into(), ip.dst.into(), protocol, header_bytes, ip.total_bytes)
        }
    };
    let transport = quotation.get(header_bytes..).filter(|rest| rest.len() >= 8).ok_or(UNREADABLE)?;
    let protocol = Protocol::from_number(protocol).ok_or(UNREADABLE)?;
    let (src_port, dst_port) = match protocol {
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => (word16(transport, 0), word16(transport, 2)),
        Protocol::Icmp | Protocol::Icmpv6 => match icmp::check(transport, family).map_err(|_| UNREADABLE)? {
            Icmp::EchoRequest { identifier } => (identifier, 0),
            Icmp::EchoReply { identifier } => (0, identifier),
            Icmp::Error => return Err(DropReason::IcmpAboutError),
        },
    };
    Ok(Quoted {
        key: FlowKey { src, dst, src_port, dst_port, protocol },
        transport: (icmp::HEADER_BYTES + header_bytes) as u16,
        transport_bytes: total_bytes.saturating_sub(header_bytes) as u16,
        end: message.len() as u16,
        no_checksum: protocol == Protocol::Udp && word16(transport, super::udp::CHECKSUM) == 0,
        is_handed_on: src != addressee,
    })
}
