//! What an SCTP packet of no association is answered with (RFC 9260 section 8.4).

use atalho_engine::wire::sctp::{self, CHUNK_HEADER_BYTES, HEADER_BYTES, VERIFICATION_TAG, chunk};
use smoltcp::wire::IpProtocol;

use crate::ip;
use crate::punted::Punted;

/// The bit T of an ABORT or SHUTDOWN COMPLETE: the tag is the other side's own, reflected (RFC 9260 section 3.3.7).
const REFLECTED: u8 = 1;

/// An ABORT from the address that `packet` was sent to; who is about to end the association anyway gets its end confirmed.
/// `None` for what is no SCTP packet, or must not be answered.
pub fn abort(packet: &Punted<'_>) -> Option<Vec<u8>> {
    let came = sctp::check(packet.transport).ok()?;
    let kind = match came.segment.chunk {
        chunk::SHUTDOWN_ACK => chunk::SHUTDOWN_COMPLETE,
        chunk::INIT | chunk::ABORT | chunk::SHUTDOWN_COMPLETE => return None,
        chunk::COOKIE_ECHO | chunk::COOKIE_ACK | chunk::ERROR => return None,
        _ => chunk::ABORT,
    };
    let protocol = IpProtocol::from(packet.protocol);
    let len = HEADER_BYTES + CHUNK_HEADER_BYTES;
    ip::packet(packet.dst, packet.src, protocol, 0, len, |bytes| {
        bytes[VERIFICATION_TAG..VERIFICATION_TAG + 4].copy_from_slice(&came.segment.verification_tag.to_be_bytes());
        bytes[HEADER_BYTES..].copy_from_slice(&[kind, REFLECTED, 0, CHUNK_HEADER_BYTES as u8]);
        sctp::set_ports(bytes, came.dst_port, came.src_port);
    })
}
