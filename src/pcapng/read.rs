//! Reading. Blocks that carry no packet and describe no interface are skipped; memory is one block.

use std::fmt;
use std::io::{self, Read};

use super::interface::Interface;
use super::order::Order;
use super::{
    BLOCK_OVERHEAD_BYTES, BYTE_ORDER_MAGIC, ENHANCED_PACKET, ETHERNET, INTERFACE_DESCRIPTION, OBSOLETE_PACKET,
    SECTION_HEADER, SIMPLE_PACKET,
};

/// No packet comes near this; a longer block is a damaged length.
const BLOCK_BYTES_MAX: u32 = 16 << 20;

/// What a file says next.
pub enum Block<'r> {
    /// An interface of this section, named or not; the next packets may be its.
    Interface {
        name: Option<&'r str>,
    },
    /// A section begins: interfaces count anew.
    Section,
    Packet(Packet<'r>),
}

/// A packet as it was captured.
pub struct Packet<'r> {
    /// Number of its interface in this section, from 0.
    pub interface: usize,
    /// Since 1970, nanoseconds; `None` in a block that has no time.
    pub time_ns: Option<u64>,
    /// Bytes that it had on the wire, where `bytes` may be fewer.
    pub original_bytes: u32,
    pub bytes: &'r mut [u8],
}

/// Where and why a file cannot be read further.
#[derive(Debug)]
pub struct Damage {
    /// Where the block begins.
    pub at_byte: u64,
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at_byte, self.what)
    }
}

/// A file being read.
pub struct Reader<R> {
    input: R,
    /// Of the block in `body`.
    at_byte: u64,
    /// Of the block after it.
    next_byte: u64,
    order: Option<Order>,
    interfaces: Vec<Interface>,
    body: Vec<u8>,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input, at_byte: 0, next_byte: 0, order: None, interfaces: Vec::new(), body: Vec::new() }
    }

    /// The next block of interest; `None` at the end of the file.
    pub fn next(&mut self) -> Result<Option<Block<'_>>, Damage> {
        loop {
            let Some((order, kind)) = self.read_block()? else { return Ok(None) };
            match kind {
                SECTION_HEADER => {
                    self.interfaces.clear();
                    return Ok(Some(Block::Section));
                }
                INTERFACE_DESCRIPTION => {
                    let interface =
                        Interface::read(order, &self.body).ok_or_else(|| self.damage("an interface cut short"))?;
                    self.interfaces.push(interface);
                    let name = self.interfaces.last().and_then(|interface| interface.name.as_deref());
                    return Ok(Some(Block::Interface { name }));
                }
                ENHANCED_PACKET | SIMPLE_PACKET | OBSOLETE_PACKET => return self.packet(order, kind).map(Some),
                _ => {}
            }
        }
    }

    /// Reads a whole block into `body`, without its type and lengths.
    fn read_block(&mut self) -> Result<Option<(Order, u32)>, Damage> {
        self.at_byte = self.next_byte;
        let mut head = [0; 8];
        match self.fill(&mut head)? {
            0 => return Ok(None),
            8 => {}
            n => return Err(self.damage(format!("the file ends {n} bytes into a block"))),
        }
        let (kind_bytes, length_bytes) = (first4(&head), first4(&head[4..]));
        // The type of a section reads the same in both orders; its byte-order magic comes right after its length.
        let is_section = u32::from_le_bytes(kind_bytes) == SECTION_HEADER;
        self.body.clear();
        if is_section {
            let mut magic = [0; 4];
            self.fill_all(&mut magic)?;
            self.order = Some(match u32::from_le_bytes(magic) {
                BYTE_ORDER_MAGIC => Order::Little,
                magic if magic.swap_bytes() == BYTE_ORDER_MAGIC => Order::Big,
                magic => return Err(self.damage(format!("a section with the byte-order magic {magic:#010x}"))),
            });
            self.body.extend_from_slice(&magic);
        }
        let Some(order) = self.order else { return Err(self.damage(other_format(kind_bytes))) };
        let kind = order.word32(kind_bytes);
        let length = order.word32(length_bytes);
        if length < (BLOCK_OVERHEAD_BYTES + self.body.len()) as u32 || length % 4 != 0 || length > BLOCK_BYTES_MAX {
            return Err(self.damage(format!("a block of type {kind} with the length {length}")));
        }
        let have = self.body.len();
        let mut body = std::mem::take(&mut self.body);
        body.resize(length as usize - BLOCK_OVERHEAD_BYTES, 0);
        let filled = self.fill_all(&mut body[have..]);
        self.body = body;
        filled?;
        let mut trailer = [0; 4];
        self.fill_all(&mut trailer)?;
        if trailer != length_bytes {
            let trailer = order.word32(trailer);
            return Err(self.damage(format!("a block of {length} bytes ends with another length, {trailer}")));
        }
        Ok(Some((order, kind)))
    }

    fn packet(&mut self, order: Order, kind: u32) -> Result<Block<'_>, Damage> {
        let cut = |reader: &Self| reader.damage("a packet cut short");
        let (interface, time, header_bytes) = match kind {
            ENHANCED_PACKET => (order.at32(&self.body, 0), order.time(&self.body), 20),
            OBSOLETE_PACKET => (order.at16(&self.body, 0).map(u32::from), order.time(&self.body), 20),
            // Of the first interface; it has no time.
            _ => (Some(0), None, 4),
        };
        let index = interface.ok_or_else(|| cut(self))?;
        let Some(of) = self.interfaces.get(index as usize) else {
            let known = self.interfaces.len();
            return Err(self.damage(format!("a packet of interface {index}, and the section has described {known}")));
        };
        if of.link_type != ETHERNET {
            let what = format!(
                "a packet of interface {} with the link type {}; only Ethernet (1) can be replayed",
                of.name.as_deref().unwrap_or("without a name"),
                of.link_type
            );
            return Err(self.damage(what));
        }
        let (captured, original) = if kind == SIMPLE_PACKET {
            let original = order.at32(&self.body, 0).ok_or_else(|| cut(self))?;
            let limit = if of.snap_bytes == 0 { u32::MAX } else { of.snap_bytes };
            (original.min(limit).min(self.body.len() as u32 - 4), original)
        } else {
            let at = |at| order.at32(&self.body, at).ok_or_else(|| cut(self));
            (at(12)?, at(16)?)
        };
        let time_ns = time.map(|units| of.time_ns(units));
        let end = header_bytes + captured as usize;
        if end > self.body.len() {
            return Err(self.damage(format!("a packet of {captured} bytes in a block that is too short for it")));
        }
        let bytes = &mut self.body[header_bytes..end];
        Ok(Block::Packet(Packet { interface: index as usize, time_ns, original_bytes: original, bytes }))
    }

    /// Reads until `into` is full or the file ends; returns how much there was.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, Damage> {
        let mut have = 0;
        while have < into.len() {
            match self.input.read(&mut into[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.damage(format!("it cannot be read: {error}"))),
            }
        }
        self.next_byte += have as u64;
        Ok(have)
    }

    fn fill_all(&mut self, into: &mut [u8]) -> Result<(), Damage> {
        if self.fill(into)? == into.len() {
            return Ok(());
        }
        let n = self.next_byte - self.at_byte;
        Err(self.damage(format!("the file ends {n} bytes into a block")))
    }

    fn damage(&self, what: impl Into<String>) -> Damage {
        Damage { at_byte: self.at_byte, what: what.into() }
    }
}

/// What to say of a file that does not begin with a section.
fn other_format(first: [u8; 4]) -> String {
    match u32::from_le_bytes(first) {
        0xa1b2_c3d4 | 0xd4c3_b2a1 | 0xa1b2_3c4d | 0x4d3c_b2a1 => {
            "a file of the older pcap format, which has no interface names; convert it (editcap -F pcapng) and name its \
             interface as a port"
                .to_owned()
        }
        _ => "not a pcapng file: it does not begin with a section header".to_owned(),
    }
}

fn first4(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pcapng_is_named() {
        let said = |bytes: &[u8]| Reader::new(bytes).next().err().expect("damage").to_string();
        assert!(said(&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]).contains("older pcap format"));
        assert!(said(b"hello world").contains("not a pcapng file"));
        assert!(said(b"hey").contains("byte 0: the file ends 3 bytes into a block"));
        assert!(Reader::new(&b""[..]).next().expect("an empty file").is_none());
    }
}
