//! What the loop needs of a port: rings, free list and doorbell of one queue. AF_XDP sockets here, plain memory in
//! [`crate::memory_port`]; the loop does not know which.

use std::os::fd::{AsFd, BorrowedFd};

use atalho_engine::verdict::DropReason;
use atalho_sys::xsk::{Frame, FrameBooks, FramePool, Kick, Queue};

/// How often a port that is down is asked whether it is up again.
pub const PROBE_MS: u64 = 100;

/// One queue of one interface. Frames enter and leave against the worker's pool; nothing here allocates or waits.
pub trait Port {
    /// Takes up to `max` frames that came in, appended to `into`.
    fn receive(&mut self, pool: &mut FramePool, into: &mut Vec<Frame>, max: usize) -> usize;
    /// Queues a frame to be sent by the next flush; gives it back with the reason if it cannot.
    fn transmit(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), (Frame, DropReason)>;
    /// Sends what was queued.
    fn flush(&mut self, now_ms: u64);
    /// Takes back frames that were sent, and looks after a port that is down.
    fn reclaim(&mut self, pool: &mut FramePool, now_ms: u64);
    /// Hands free frames out to be received into.
    fn refill(&mut self, pool: &mut FramePool);
    /// Ring entries that wait to be received.
    fn waiting(&self) -> u32;
    /// Becomes readable when a frame comes in; `None`: the port never wakes anybody.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;
    /// Adds what waits in this port's rings to the books of the pool.
    fn add_to_books(&self, books: &mut FrameBooks);
    fn state(&self) -> PortState;
    /// Frames that were taken to be sent and dropped by the kernel.
    fn refused_by_kernel(&self) -> u64;
}

/// Whether a port can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum PortState {
    #[default]
    Up = 0,
    /// The link is down; it is probed until it is back.
    Down = 1,
    /// The interface is gone: a new socket is needed, so the process has to start anew.
    Gone = 2,
}

impl PortState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Gone => "gone",
        }
    }

    pub(crate) const fn of(value: u64) -> Self {
        match value {
            0 => Self::Up,
            1 => Self::Down,
            _ => Self::Gone,
        }
    }
}

/// An AF_XDP socket's queue. A link that went down keeps its socket; a dead socket says nothing by itself (poll stays
/// silent), so a port that is down is probed.
pub struct XskPort {
    queue: Queue,
    state: PortState,
    probe_at_ms: u64,
}

impl XskPort {
    pub fn new(queue: Queue) -> Self {
        Self { queue, state: PortState::Up, probe_at_ms: 0 }
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    fn follow(&mut self, kick: Kick, now_ms: u64) {
        self.state = match kick {
            Kick::Done | Kick::Busy => PortState::Up,
            Kick::Down => PortState::Down,
            Kick::Gone => PortState::Gone,
        };
        self.probe_at_ms = now_ms + PROBE_MS;
    }
}

impl Port for XskPort {
    #[inline]
    fn receive(&mut self, pool: &mut FramePool, into: &mut Vec<Frame>, max: usize) -> usize {
        self.queue.receive(pool, into, max)
    }

    #[inline(always)]
    fn transmit(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if self.state != PortState::Up {
            return Err((frame, DropReason::TxPortDown));
        }
        self.queue.transmit(pool, frame).map_err(|frame| (frame, DropReason::TxRingFull))
    }

    #[inline]
    fn flush(&mut self, now_ms: u64) {
        if self.state == PortState::Up {
            let kick = self.queue.flush();
            self.follow(kick, now_ms);
        }
    }

    #[inline]
    fn reclaim(&mut self, pool: &mut FramePool, now_ms: u64) {
        self.queue.complete(pool);
        if self.state != PortState::Up && now_ms >= self.probe_at_ms {
            let kick = self.queue.probe();
            self.follow(kick, now_ms);
            if self.state == PortState::Gone {
                self.queue.abandon(pool);
            }
        }
    }

    #[inline]
    fn refill(&mut self, pool: &mut FramePool) {
        if self.state != PortState::Gone {
            self.queue.refill(pool);
        }
    }

    fn waiting(&self) -> u32 {
        self.queue.waiting()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        // A socket without its interface is always in error: polling it would spin.
        (self.state != PortState::Gone).then(|| self.queue.as_fd())
    }

    fn add_to_books(&self, books: &mut FrameBooks) {
        if self.state != PortState::Gone {
            self.queue.add_to_books(books);
        }
    }

    fn state(&self) -> PortState {
        self.state
    }

    fn refused_by_kernel(&self) -> u64 {
        self.queue.refused_by_kernel()
    }
}
