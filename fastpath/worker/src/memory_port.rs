//! A port in plain memory: a wire whose other end a test (or a replay) holds. Same trait, same frames, no kernel.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use atalho_engine::handoff::HANDOFF_FRAME_BYTES;
use atalho_engine::verdict::DropReason;
use atalho_sys::doorbell::Doorbell;
use atalho_sys::xsk::{Frame, FrameBooks, FramePool};
use crossbeam::queue::ArrayQueue;

use crate::port::{Port, PortState};

/// Bytes of the largest frame on the wire: no port takes a longer one.
pub const WIRE_FRAME_BYTES: usize = HANDOFF_FRAME_BYTES;

/// A frame on the wire; copied whole, so that the worker's end allocates nothing.
#[derive(Clone)]
pub struct WireFrame {
    len: usize,
    bytes: [u8; WIRE_FRAME_BYTES],
}

impl WireFrame {
    /// Longer frames than [`WIRE_FRAME_BYTES`] are cut off.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(WIRE_FRAME_BYTES);
        let mut frame = Self { len, bytes: [0; WIRE_FRAME_BYTES] };
        frame.bytes[..len].copy_from_slice(&bytes[..len]);
        frame
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The wire between a [`MemoryPort`] and whoever holds the other end.
pub struct Wire {
    to_port: ArrayQueue<WireFrame>,
    from_port: ArrayQueue<WireFrame>,
    bell: Doorbell,
    state: AtomicU8,
}

impl Wire {
    /// `frames` fit into each direction.
    pub fn new(frames: usize) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            to_port: ArrayQueue::new(frames),
            from_port: ArrayQueue::new(frames),
            bell: Doorbell::new()?,
            state: AtomicU8::new(PortState::Up as u8),
        }))
    }

    /// Puts a frame on the wire; `false`: it is full.
    pub fn send(&self, bytes: &[u8]) -> bool {
        let sent = self.to_port.push(WireFrame::new(bytes)).is_ok();
        self.bell.ring();
        sent
    }

    /// Takes a frame that the port sent.
    pub fn receive(&self) -> Option<WireFrame> {
        self.from_port.pop()
    }

    /// Frames that the port has not taken yet.
    pub fn waiting(&self) -> usize {
        self.to_port.len()
    }

    /// Takes the link down, or up again.
    pub fn set_state(&self, state: PortState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// The worker's end of a [`Wire`].
pub struct MemoryPort {
    wire: Arc<Wire>,
}

impl MemoryPort {
    pub fn new(wire: Arc<Wire>) -> Self {
        Self { wire }
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, pool: &mut FramePool, into: &mut Vec<Frame>, max: usize) -> usize {
        let before = into.len();
        while into.len() - before < max && pool.free_count() > 0 {
            let Some(frame) = self.wire.to_port.pop() else {
                // Answered only when empty, so that a frame sent in between rings again.
                self.wire.bell.answer();
                break;
            };
            // A frame that does not fit into the memory is lost on the wire, as with a device.
            into.extend(pool.copy_from(frame.bytes()));
        }
        into.len() - before
    }

    fn transmit(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if self.state() != PortState::Up {
            return Err((frame, DropReason::TxPortDown));
        }
        let mut sent = WireFrame { len: 0, bytes: [0; WIRE_FRAME_BYTES] };
        sent.len = pool.copy_to(&frame, &mut sent.bytes).unwrap_or(0);
        match self.wire.from_port.push(sent) {
            Ok(()) => {
                pool.give_back(frame);
                Ok(())
            }
            Err(_) => Err((frame, DropReason::TxRingFull)),
        }
    }

    fn flush(&mut self, _now_ms: u64) {}

    fn reclaim(&mut self, _pool: &mut FramePool, _now_ms: u64) {}

    fn refill(&mut self, _pool: &mut FramePool) {}

    fn waiting(&self) -> u32 {
        self.wire.to_port.len() as u32
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wire.bell.as_fd())
    }

    fn add_to_books(&self, _books: &mut FrameBooks) {}

    fn state(&self) -> PortState {
        PortState::of(u64::from(self.wire.state.load(Ordering::Relaxed)))
    }

    fn refused_by_kernel(&self) -> u64 {
        0
    }
}
