//! pcapng files (draft-ietf-opsawg-pcapng-03), read and written as streams, a block at a time.
//!
//! Own code, because what matters here is the odd file: the interface's own time resolution, sections of either byte
//! order, and at which byte a damaged file stops making sense. It takes no other link type than Ethernet.

mod interface;
mod order;
mod read;
mod write;

pub use read::{Block, Packet, Reader};
pub use write::Writer;

/// Block types (section 11.1).
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Tells the byte order of a section (section 4.1).
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Options of an interface (section 4.2).
const OPTION_END: u16 = 0;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Type, length, and the length once more at the end.
const BLOCK_OVERHEAD_BYTES: usize = 12;
