//! Captures: the ordinary ones through another implementation, the odd ones block by block.

use std::borrow::Cow;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};

use crate::lab::Frame;

/// One interface for each port, nanoseconds.
pub fn write(frames: &[Frame]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).expect("a capture");
    let mut ports: Vec<&str> = Vec::new();
    for frame in frames {
        let at = ports.iter().position(|port| *port == frame.port).unwrap_or_else(|| {
            ports.push(&frame.port);
            let options = vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(&frame.port)),
                InterfaceDescriptionOption::IfTsResol(9),
            ];
            let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
            writer.write_block(&block.into_block()).expect("an interface");
            ports.len() - 1
        });
        let block = EnhancedPacketBlock {
            interface_id: at as u32,
            timestamp: Duration::from_nanos(frame.time_ns),
            original_len: frame.bytes.len() as u32,
            data: Cow::Borrowed(&frame.bytes),
            options: vec![],
        };
        writer.write_block(&block.into_block()).expect("a packet");
    }
    writer.into_inner()
}

/// What was written by the program, checked on the way: names, resolution, whole packets.
pub fn read(bytes: &[u8]) -> Vec<Frame> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut reader = PcapNgReader::new(bytes).expect("a capture");
    let mut names: Vec<String> = Vec::new();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.expect("a whole block") {
            Block::InterfaceDescription(interface) => {
                assert_eq!(interface.linktype, DataLink::ETHERNET);
                assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                names.push(name.expect("a name"));
            }
            Block::EnhancedPacket(packet) => {
                assert_eq!(packet.original_len as usize, packet.data.len());
                frames.push(Frame {
                    port: names[packet.interface_id as usize].clone(),
                    time_ns: packet.timestamp.as_nanos() as u64,
                    bytes: packet.data.into_owned(),
                });
            }
            other => panic!("an unexpected block: {other:?}"),
        }
    }
    assert_eq!(&names[..2], ["uplink", "node"]);
    assert!(names[2..].is_sorted());
    frames
}

/// Bytes of one section, in either byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Big,
    Little,
}

impl Order {
    fn word32(self, value: u32) -> [u8; 4] {
        if self == Self::Big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn word16(self, value: u16) -> [u8; 2] {
        if self == Self::Big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    /// A block of any type; `body` gets its padding here.
    pub fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = self.word32(padded as u32 + 12);
        let mut bytes = [self.word32(kind), length].concat();
        bytes.extend_from_slice(body);
        bytes.resize(8 + padded, 0);
        bytes.extend_from_slice(&length);
        bytes
    }

    pub fn section(self) -> Vec<u8> {
        self.block(0x0a0d_0d0a, &[&self.word32(0x1a2b_3c4d)[..], &self.word16(1), &self.word16(0), &[0xff; 8]].concat())
    }

    /// `options`: code and value.
    pub fn interface(self, link_type: u16, snap_bytes: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = [&self.word16(link_type)[..], &[0; 2], &self.word32(snap_bytes)].concat();
        for (code, value) in options {
            body.extend_from_slice(&self.word16(*code));
            body.extend_from_slice(&self.word16(value.len() as u16));
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        self.block(1, &body)
    }

    /// An Ethernet interface with a name and a resolution.
    pub fn port(self, name: &str, resolution: u8) -> Vec<u8> {
        self.interface(1, 0, &[(2, name.as_bytes()), (9, &[resolution]), (0, &[])])
    }

    pub fn packet(self, interface: u32, time: u64, original_bytes: usize, bytes: &[u8]) -> Vec<u8> {
        let head = [interface, (time >> 32) as u32, time as u32, bytes.len() as u32, original_bytes as u32];
        let mut body: Vec<u8> = head.into_iter().flat_map(|word| self.word32(word)).collect();
        body.extend_from_slice(bytes);
        self.block(6, &body)
    }

    pub fn simple_packet(self, bytes: &[u8]) -> Vec<u8> {
        self.block(3, &[&self.word32(bytes.len() as u32)[..], bytes].concat())
    }
}
