//! Writing: one section, little-endian on every machine, times in nanoseconds.

use std::io::{self, Write};

use super::{
    BLOCK_OVERHEAD_BYTES, BYTE_ORDER_MAGIC, ENHANCED_PACKET, ETHERNET, IF_NAME, IF_TSRESOL, INTERFACE_DESCRIPTION,
    OPTION_END, SECTION_HEADER,
};

/// 10^-9 s.
const NANOSECONDS: u8 = 9;

/// A file being written.
pub struct Writer<W> {
    output: W,
    /// One block, put together before it is written.
    block: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file; [`Self::interface`] comes next.
    pub fn new(output: W) -> io::Result<Self> {
        let mut writer = Self { output, block: Vec::with_capacity(2048), bytes: 0 };
        writer.begin(SECTION_HEADER);
        writer.put(&BYTE_ORDER_MAGIC.to_le_bytes());
        // Version 1.0, a section of unknown length.
        writer.put(&[1, 0, 0, 0]);
        writer.put(&u64::MAX.to_le_bytes());
        writer.end()?;
        Ok(writer)
    }

    /// Describes the next interface: the first one is number 0.
    pub fn interface(&mut self, name: &str) -> io::Result<()> {
        self.begin(INTERFACE_DESCRIPTION);
        self.put(&u32::from(ETHERNET).to_le_bytes());
        // No limit to a packet's length.
        self.put(&[0; 4]);
        self.option(IF_NAME, name.as_bytes());
        self.option(IF_TSRESOL, &[NANOSECONDS]);
        self.option(OPTION_END, &[]);
        self.end()
    }

    /// A packet on interface number `interface`, at `time_ns` nanoseconds since 1970.
    pub fn packet(&mut self, interface: u32, time_ns: u64, bytes: &[u8]) -> io::Result<()> {
        self.begin(ENHANCED_PACKET);
        self.put(&interface.to_le_bytes());
        self.put(&((time_ns >> 32) as u32).to_le_bytes());
        self.put(&(time_ns as u32).to_le_bytes());
        let length = (bytes.len() as u32).to_le_bytes();
        self.put(&length);
        self.put(&length);
        self.put_padded(bytes);
        self.end()
    }

    /// Written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.put(&code.to_le_bytes());
        self.put(&(value.len() as u16).to_le_bytes());
        self.put_padded(value);
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.put(&kind.to_le_bytes());
        // The length, once it is known.
        self.put(&[0; 4]);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn put_padded(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn end(&mut self) -> io::Result<()> {
        let length = (self.block.len() + BLOCK_OVERHEAD_BYTES - 8) as u32;
        self.block[4..8].copy_from_slice(&length.to_le_bytes());
        self.put(&length.to_le_bytes());
        self.bytes += self.block.len() as u64;
        self.output.write_all(&self.block)
    }
}
