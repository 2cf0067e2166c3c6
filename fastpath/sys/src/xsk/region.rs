//! The memory that packets lie in: equal chunks, one region per worker, registered with the kernel once per port.
//!
//! xsk-rs maps it and registers it for the funnel's socket; `socket` registers the same range again for the uplink's,
//! so that a frame received on one port is sent on the other without a copy while each port keeps its own UMEM mode.

use std::ptr::NonNull;

use xsk_rs::Umem;

use crate::mmap::Mapping;

/// Bytes that the kernel leaves free before a received packet (`XDP_PACKET_HEADROOM`, uapi/linux/bpf.h).
pub const HEADROOM_BYTES: u32 = 256;

/// Who unmaps the memory: dropped with the region, used for nothing else.
#[derive(Debug)]
enum Owner {
    /// xsk-rs' mapping, and with it the funnel's UMEM.
    Xsk {
        _umem: Umem,
    },
    Plain {
        _mapping: Mapping,
    },
}

/// Chunks of memory. Hands out addresses only; who may touch which chunk is the business of `frames`.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    pub chunk_bytes: u32,
    pub chunks: u32,
    _owner: Owner,
}

// SAFETY: the region belongs to the process; accesses through `base` are proved where they are made.
unsafe impl Send for Region {}

impl Region {
    /// The region that xsk-rs mapped for `umem`, whose first chunk lies at `base`.
    pub fn of_umem(umem: Umem, base: NonNull<u8>, chunk_bytes: u32, chunks: u32) -> Self {
        Self { base, chunk_bytes, chunks, _owner: Owner::Xsk { _umem: umem } }
    }

    /// Plain memory, for ports without a socket.
    pub fn plain(chunk_bytes: u32, chunks: u32) -> std::io::Result<Self> {
        let mapping = Mapping::anonymous(chunk_bytes as usize * chunks as usize)?;
        Ok(Self { base: mapping.address(), chunk_bytes, chunks, _owner: Owner::Plain { _mapping: mapping } })
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn bytes(&self) -> usize {
        self.chunk_bytes as usize * self.chunks as usize
    }
}
