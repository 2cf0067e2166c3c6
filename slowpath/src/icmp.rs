//! ICMP and ICMPv6: echo replies and errors, built by smoltcp.
//!
//! Errors quote the packet as its sender sent it, options and identification included, byte for byte.

use std::net::IpAddr;

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4TimeExceeded, Icmpv6DstUnreachable, Icmpv6Message,
    Icmpv6Packet, Icmpv6TimeExceeded, IpProtocol,
};

use crate::ip;
use crate::punted::Punted;

/// Type, code and the four bytes after the checksum: both families have them.
const HEADER_BYTES: usize = 8;
/// An error is at most 576 bytes in all (RFC 1812 section 4.3.2.3).
const ERROR_BYTES_V4: usize = 576;
const HEADERS_V4: usize = 20 + HEADER_BYTES;
/// An error is at most IPv6's smallest MTU (RFC 4443 section 2.4 c).
const ERROR_BYTES_V6: usize = 1280;
const HEADERS_V6: usize = 40 + HEADER_BYTES;
/// Errors have the precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const ERROR_CLASS_V4: u8 = 0xc0;

/// What an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// RFC 792 type 3 code 3, RFC 4443 type 1 code 4.
    PortUnreachable,
    /// RFC 792 type 3 code 0, RFC 4443 type 1 code 0.
    NetUnreachable,
    /// RFC 792 type 3 code 1, RFC 4443 type 1 code 3.
    HostUnreachable,
    /// RFC 792 type 11 code 0, RFC 4443 type 3 code 0.
    TimeExceeded,
    /// RFC 1191 type 3 code 4 with the next hop's MTU, RFC 4443 type 2.
    TooBig { mtu: u16 },
}

/// The reply to an echo request, from the address that was asked; `None` if the packet is no echo request.
pub fn echo_reply(request: &Punted<'_>) -> Option<Vec<u8>> {
    // Its DSCP is the request's (RFC 1812 section 4.3.2.5); congestion marks are not.
    let (src, dst, class) = (request.dst, request.src, request.traffic_class & 0xfc);
    let len = request.transport.len();
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) if request.protocol == u8::from(IpProtocol::Icmp) => {
            let icmp = Icmpv4Packet::new_checked(request.transport).ok()?;
            (icmp.msg_type() == Icmpv4Message::EchoRequest && icmp.msg_code() == 0).then_some(())?;
            ip::packet(src, dst, IpProtocol::Icmp, class, len, |bytes| {
                bytes.copy_from_slice(request.transport);
                let mut reply = Icmpv4Packet::new_unchecked(bytes);
                reply.set_msg_type(Icmpv4Message::EchoReply);
                reply.fill_checksum();
            })
        }
        (IpAddr::V6(src_v6), IpAddr::V6(dst_v6)) if request.protocol == u8::from(IpProtocol::Icmpv6) => {
            let icmp = Icmpv6Packet::new_checked(request.transport).ok()?;
            (icmp.msg_type() == Icmpv6Message::EchoRequest && icmp.msg_code() == 0).then_some(())?;
            ip::packet(src, dst, IpProtocol::Icmpv6, class, len, |bytes| {
                bytes.copy_from_slice(request.transport);
                let mut reply = Icmpv6Packet::new_unchecked(bytes);
                reply.set_msg_type(Icmpv6Message::EchoReply);
                reply.fill_checksum(&src_v6, &dst_v6);
            })
        }
        _ => None,
    }
}

/// An error from `src` to the sender of `about`; `None` if the families differ.
pub fn error(src: IpAddr, about: &Punted<'_>, what: Error) -> Option<Vec<u8>> {
    match (src, about.src) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let quote = &about.packet[..about.packet.len().min(ERROR_BYTES_V4 - HEADERS_V4)];
            let len = HEADER_BYTES + quote.len();
            ip::packet(src, about.src, IpProtocol::Icmp, ERROR_CLASS_V4, len, |bytes| error_v4(bytes, what, quote))
        }
        (IpAddr::V6(src_v6), IpAddr::V6(dst_v6)) => {
            let quote = &about.packet[..about.packet.len().min(ERROR_BYTES_V6 - HEADERS_V6)];
            let len = HEADER_BYTES + quote.len();
            ip::packet(src, about.src, IpProtocol::Icmpv6, 0, len, |bytes| {
                let mut icmp = error_v6(bytes, what, quote);
                icmp.fill_checksum(&src_v6, &dst_v6);
            })
        }
        _ => None,
    }
}

fn error_v4(bytes: &mut [u8], what: Error, quote: &[u8]) {
    let mut icmp = Icmpv4Packet::new_unchecked(bytes);
    let (message, code) = match what {
        Error::PortUnreachable => (Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::PortUnreachable.into()),
        Error::NetUnreachable => (Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::NetUnreachable.into()),
        Error::HostUnreachable => (Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::HostUnreachable.into()),
        Error::TimeExceeded => (Icmpv4Message::TimeExceeded, Icmpv4TimeExceeded::TtlExpired.into()),
        Error::TooBig { .. } => (Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::FragRequired.into()),
    };
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    if let Error::TooBig { mtu } = what {
        // The MTU has the place of an echo's sequence number, bytes 6 and 7 (RFC 1191 section 4).
        icmp.set_echo_seq_no(mtu);
    }
    icmp.data_mut().copy_from_slice(quote);
    icmp.fill_checksum();
}

fn error_v6<'b>(bytes: &'b mut [u8], what: Error, quote: &[u8]) -> Icmpv6Packet<&'b mut [u8]> {
    let mut icmp = Icmpv6Packet::new_unchecked(bytes);
    let (message, code) = match what {
        Error::PortUnreachable => (Icmpv6Message::DstUnreachable, Icmpv6DstUnreachable::PortUnreachable.into()),
        Error::NetUnreachable => (Icmpv6Message::DstUnreachable, Icmpv6DstUnreachable::NoRoute.into()),
        Error::HostUnreachable => (Icmpv6Message::DstUnreachable, Icmpv6DstUnreachable::AddrUnreachable.into()),
        Error::TimeExceeded => (Icmpv6Message::TimeExceeded, Icmpv6TimeExceeded::HopLimitExceeded.into()),
        Error::TooBig { .. } => (Icmpv6Message::PktTooBig, 0),
    };
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    if let Error::TooBig { mtu } = what {
        icmp.set_pkt_too_big_mtu(u32::from(mtu));
    }
    icmp.payload_mut().copy_from_slice(quote);
    icmp
}
