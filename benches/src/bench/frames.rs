//! Frames in memory as in a UMEM: written for a draw of flows, and checked byte for byte after a pass.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use atalho_engine::flow::Protocol;

use super::node::{ENDPOINT_PORT, ENDPOINTS, FIRST_ENDPOINT, GATEWAY_MAC, UPLINK_MAC, VIP, VIP_PORT};

/// Distinct frames of a round.
pub const FRAMES: usize = 4096;
pub const FRAME_BYTES: usize = 64;
/// From one frame to the next, as in a UMEM: 8 MB in all.
pub const STRIDE_BYTES: usize = 2048;
/// Client of flow 0 (RFC 2544's range for benchmarks, and as far beyond as there are flows).
const FIRST_CLIENT: u32 = u32::from_be_bytes([198, 18, 0, 1]);
const PORTS_PER_CLIENT: u32 = 50_000;
const FIRST_PORT: u16 = 10_000;
const TIME_TO_LIVE: u8 = 64;

/// UDP from clients outside to the Service of [`super::node`], a flow number each.
pub struct Frames {
    bytes: Vec<u8>,
    /// A frame of nobody: no client, no checksums.
    blank: [u8; FRAME_BYTES],
}

impl Default for Frames {
    fn default() -> Self {
        Self { bytes: vec![0; FRAMES * STRIDE_BYTES], blank: blank_frame() }
    }
}

impl Frames {
    /// All memory, a frame at the start of each [`STRIDE_BYTES`].
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Writes a packet of each flow, from the first place on.
    pub fn write(&mut self, flows: &[u32]) {
        self.write_from(0, flows);
    }

    /// The same from place `at` on.
    pub fn write_from(&mut self, at: usize, flows: &[u32]) {
        for (frame, flow) in self.bytes[at * STRIDE_BYTES..].chunks_exact_mut(STRIDE_BYTES).zip(flows) {
            let frame = &mut frame[..FRAME_BYTES];
            frame.copy_from_slice(&self.blank);
            let (client, port) = client_of(*flow);
            frame[26..30].copy_from_slice(&client.octets());
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            set_checksums(frame);
        }
    }

    /// Checks what became of the packet of `flow` at place `at`, and tells the endpoint that it goes to.
    pub fn check(&self, at: usize, flow: u32) -> Result<Ipv4Addr> {
        let frame = &self.bytes[at * STRIDE_BYTES..][..FRAME_BYTES];
        let endpoint = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
        let mut expected = self.blank;
        expected[..6].copy_from_slice(&GATEWAY_MAC);
        expected[6..12].copy_from_slice(&UPLINK_MAC);
        expected[22] = TIME_TO_LIVE - 1;
        let (client, port) = client_of(flow);
        expected[26..30].copy_from_slice(&client.octets());
        expected[30..34].copy_from_slice(&endpoint.octets());
        expected[34..36].copy_from_slice(&port.to_be_bytes());
        expected[36..38].copy_from_slice(&ENDPOINT_PORT.to_be_bytes());
        set_checksums(&mut expected);
        let index = u32::from(endpoint).wrapping_sub(u32::from(FIRST_ENDPOINT));
        if frame != expected || index >= ENDPOINTS {
            bail!("a packet of flow {flow} came out wrong, so this run says nothing: {frame:02x?}");
        }
        Ok(endpoint)
    }
}

/// Client address and port of a flow: ports first, then addresses, so that both grow with the flow.
pub fn client_of(flow: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(FIRST_CLIENT + flow / PORTS_PER_CLIENT), FIRST_PORT + (flow % PORTS_PER_CLIENT) as u16)
}

fn blank_frame() -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].copy_from_slice(&UPLINK_MAC);
    frame[6..12].copy_from_slice(&GATEWAY_MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((FRAME_BYTES - 14) as u16).to_be_bytes());
    frame[22] = TIME_TO_LIVE;
    frame[23] = Protocol::Udp as u8;
    frame[30..34].copy_from_slice(&VIP.octets());
    frame[36..38].copy_from_slice(&VIP_PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&((FRAME_BYTES - 34) as u16).to_be_bytes());
    for (at, byte) in frame[42..].iter_mut().enumerate() {
        *byte = at as u8;
    }
    frame
}

/// Header and datagram checksums, computed from scratch (RFC 791, RFC 768): nothing of the engine's own arithmetic.
fn set_checksums(frame: &mut [u8]) {
    frame[24..26].fill(0);
    frame[40..42].fill(0);
    let header = !ones_sum(0, &frame[14..34]);
    let pseudo = ones_sum(Protocol::Udp as u32 + (FRAME_BYTES - 34) as u32, &frame[26..34]);
    let datagram = match !ones_sum(u32::from(pseudo), &frame[34..]) {
        0 => u16::MAX,
        sum => sum,
    };
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame[40..42].copy_from_slice(&datagram.to_be_bytes());
}

/// One's complement sum of an even number of bytes (RFC 1071).
fn ones_sum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = bytes.as_chunks::<2>().0.iter().fold(start, |sum, pair| sum + u32::from(u16::from_be_bytes(*pair)));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_told_apart_by_their_client() {
        assert_eq!(client_of(0), (Ipv4Addr::new(198, 18, 0, 1), FIRST_PORT));
        assert_eq!(client_of(PORTS_PER_CLIENT), (Ipv4Addr::new(198, 18, 0, 2), FIRST_PORT));
        assert_ne!(client_of(PORTS_PER_CLIENT - 1), client_of(PORTS_PER_CLIENT));
    }
}
