//! The TCP reset that a closed port answers with (RFC 9293 section 3.10.7.1), built by smoltcp.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::ip;
use crate::punted::Punted;

/// The reset to `segment`, from the address it was sent to. A reset is never answered, nor what is no TCP segment: `None`.
pub fn reset(segment: &Punted<'_>) -> Option<Vec<u8>> {
    let tcp = TcpPacket::new_checked(segment.transport).ok()?;
    if tcp.rst() {
        return None;
    }
    // With an ACK the reset takes its place in the sequence from it; without one it acknowledges the segment.
    let (seq_number, ack_number) = if tcp.ack() {
        (tcp.ack_number(), None)
    } else {
        (TcpSeqNumber(0), Some(tcp.seq_number() + tcp.segment_len()))
    };
    let repr = TcpRepr {
        src_port: tcp.dst_port(),
        dst_port: tcp.src_port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (src, dst) = (segment.dst, segment.src);
    ip::packet(src, dst, IpProtocol::Tcp, 0, repr.buffer_len(), |bytes| {
        let (src, dst) = (IpAddress::from(src), IpAddress::from(dst));
        repr.emit(&mut TcpPacket::new_unchecked(bytes), &src, &dst, &ChecksumCapabilities::default());
    })
}
