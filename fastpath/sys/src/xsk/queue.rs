//! One queue of one interface as a worker uses it: its four rings, the frames in them, and the doorbell.
//!
//! Frames enter and leave only as [`Frame`]s against the [`FramePool`], so an address that the kernel hands back is
//! believed only if it was lent. No call here allocates, and only `flush` and `refill` make system calls, when the
//! kernel asks to be woken (always, for sending in copy mode).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::clock;

use super::frames::{Frame, FrameBooks, FramePool, Gathering, Side};
use super::ring::Desc;
use super::socket::Mode;
use super::socket_memory::Rings;
use super::statistics::{self, StatisticsReader, XskStatistics};

/// Wake-ups of one flush, at most: copy mode sends 32 frames a call (`TX_BATCH_SIZE`, net/xdp/xsk.c) where the larger
/// budget is not supported, so this empties a ring of 4096.
const WAKE_UPS_MAX: u32 = 130;
/// Wake-ups in a row that moved nothing, after which the rest waits for the next turn: never spin on a full backlog.
const STALLS_MAX: u32 = 2;
/// Frames in a row that the kernel dropped instead of sending, after which the link counts as down.
const REFUSALS_MAX: u32 = 16;
/// How long a socket must have been without its interface before its frames are taken back: far more than a grace period.
const GONE_FOR_NS: u64 = 1_000_000_000;

/// What became of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// Everything is with the kernel.
    Done,
    /// The kernel takes no more for now; the rest stays in the ring.
    Busy,
    /// The link is down (ENETDOWN, or no carrier); the ring keeps its frames, and a later flush may succeed.
    Down,
    /// The socket lost its interface (ENXIO) and never comes back.
    Gone,
}

/// xsk-rs' own views of a socket's rings: never moved, kept because they keep the socket open.
pub(super) struct XskQueues {
    pub tx: xsk_rs::TxQueue,
    pub _rx: xsk_rs::RxQueue,
    pub _fill_and_completion: Option<(xsk_rs::FillQueue, xsk_rs::CompQueue)>,
}

/// The socket behind the rings.
pub(super) enum Socket {
    Own(OwnedFd),
    /// One of xsk-rs', closed when its four queues are dropped and its UMEM with them.
    Xsk(Box<XskQueues>),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            // SAFETY: the descriptor is open as long as the queues live, which `self` owns.
            Self::Xsk(queues) => unsafe { BorrowedFd::borrow_raw(queues.tx.fd().as_raw_fd()) },
        }
    }
}

/// An open queue. Every call takes the pool that it was opened with.
pub struct Queue {
    side: Side,
    rings: Rings,
    socket: Socket,
    mode: Mode,
    pool: u32,
    gathering: Gathering,
    refused_by_kernel: u64,
    /// When the kernel first said that the socket has no interface any more.
    gone_since_ns: Option<u64>,
}

// SAFETY: xsk-rs' queues are handles on a socket behind Arc<Mutex>, used here only for their descriptor and their Drop,
// from whichever one thread owns the queue; the rings are Send.
unsafe impl Send for Queue {}

impl Queue {
    pub(super) fn new(side: Side, rings: Rings, socket: Socket, mode: Mode, pool: &FramePool) -> Self {
        Self {
            side,
            rings,
            socket,
            mode,
            pool: pool.id(),
            gathering: Gathering::default(),
            refused_by_kernel: 0,
            gone_since_ns: None,
        }
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Frames that the kernel took and dropped when it was asked to send them (EBUSY, ENOBUFS).
    pub fn refused_by_kernel(&self) -> u64 {
        self.refused_by_kernel
    }

    pub fn statistics(&self) -> io::Result<XskStatistics> {
        statistics::read(self.socket.as_fd())
    }

    /// A reader of the statistics for another thread.
    pub fn statistics_reader(&self) -> io::Result<StatisticsReader> {
        StatisticsReader::new(self.socket.as_fd())
    }

    /// Entries that wait in the receive ring: as many packets, or more where some have several pieces.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.rings.rx.waiting()
    }

    /// Takes up to `max` packets, appended to `into`; returns how many.
    #[inline]
    pub fn receive(&mut self, pool: &mut FramePool, into: &mut Vec<Frame>, max: usize) -> usize {
        self.assert_own(pool);
        let before = into.len();
        let mut is_at_rest = self.gathering.is_at_rest();
        while into.len() - before < max {
            let Some(desc) = self.rings.rx.pop() else { break };
            if is_at_rest && desc.options & libc::XDP_PKT_CONTD == 0 {
                if let Some(frame) = pool.received(self.side, desc.addr, desc.len) {
                    into.push(frame);
                }
            } else {
                self.gather(pool, desc, into);
                is_at_rest = self.gathering.is_at_rest();
            }
        }
        self.rings.rx.release();
        into.len() - before
    }

    #[cold]
    fn gather(&mut self, pool: &mut FramePool, desc: Desc, into: &mut Vec<Frame>) {
        let piece = pool.received(self.side, desc.addr, desc.len);
        into.extend(self.gathering.add(pool, piece, desc.options & libc::XDP_PKT_CONTD != 0));
    }

    /// Puts a frame into the transmit ring, all of its pieces or none; [`Self::flush`] sends. A ring without room gives it
    /// back.
    #[inline(always)]
    pub fn transmit(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), Frame> {
        self.assert_own(pool);
        if !self.rings.tx.has_room(u32::from(frame.pieces())) {
            return Err(frame);
        }
        let tx = &mut self.rings.tx;
        pool.lend_to_send(self.side, frame, |addr, len, more| {
            // Room for every piece was checked above.
            tx.push(Desc { addr, len, options: if more { libc::XDP_PKT_CONTD } else { 0 } });
        });
        Ok(())
    }

    /// Shows the kernel what was transmitted and wakes it where it asks for that.
    pub fn flush(&mut self) -> Kick {
        self.rings.tx.publish();
        let mut waiting = self.rings.tx.waiting();
        let (mut stalls, mut refused) = (0, 0);
        for _ in 0..WAKE_UPS_MAX {
            if waiting == 0 || !self.rings.tx.needs_wakeup() {
                return Kick::Done;
            }
            let result = self.wake_to_send();
            let left = self.rings.tx.waiting();
            stalls = if left == waiting { stalls + 1 } else { 0 };
            waiting = left;
            match result {
                // With zero-copy the driver works on; what is left is on its way.
                Ok(()) if self.mode == Mode::ZeroCopy => return Kick::Done,
                Ok(()) | Err(libc::EAGAIN) => refused = 0,
                // The frame is completed all the same, sent to nobody: the link has no carrier or its queue is full.
                // Each such call costs a system call for one frame, so a link that takes nothing counts as down.
                Err(error @ (libc::EBUSY | libc::ENOBUFS)) => {
                    self.kick_of(error);
                    refused += 1;
                    if refused >= REFUSALS_MAX {
                        return Kick::Down;
                    }
                }
                Err(error) => return self.kick_of(error),
            }
            if stalls >= STALLS_MAX {
                return Kick::Busy;
            }
        }
        Kick::Busy
    }

    fn kick_of(&mut self, error: i32) -> Kick {
        match error {
            libc::EBUSY | libc::ENOBUFS => {
                self.refused_by_kernel += 1;
                Kick::Busy
            }
            libc::ENETDOWN => Kick::Down,
            libc::ENXIO => {
                self.gone_since_ns.get_or_insert_with(clock::monotonic_ns);
                Kick::Gone
            }
            // EAGAIN, EINTR and whatever else: the frames stay in the ring for the next turn.
            _ => Kick::Busy,
        }
    }

    /// Asks the kernel whether the socket could send, with whatever is in the ring: one system call, always.
    pub fn probe(&mut self) -> Kick {
        match self.wake_to_send() {
            Ok(()) => Kick::Done,
            Err(error) => self.kick_of(error),
        }
    }

    /// Takes back what the kernel has sent; returns how many chunks.
    #[inline]
    pub fn complete(&mut self, pool: &mut FramePool) -> u32 {
        self.assert_own(pool);
        let mut count = 0;
        while let Some(addr) = self.rings.completion.pop() {
            pool.sent(self.side, addr);
            count += 1;
        }
        self.rings.completion.release();
        count
    }

    /// Fills the fill ring as far as there are free chunks; returns how many went in.
    ///
    /// In copy mode the kernel gets no more chunks than the receive ring has entries, those that wait there included.
    /// Then an overrun finds no chunk, and the kernel drops the packet there and then; with chunks left it would first
    /// copy the packet and only then find the receive ring full. A device of zero-copy mode has rings of its own to fill.
    #[inline]
    pub fn refill(&mut self, pool: &mut FramePool) -> u32 {
        self.assert_own(pool);
        let more = match self.mode {
            Mode::Copy => self.rings.rx.capacity().saturating_sub(pool.lent_to_receive(self.side)),
            Mode::ZeroCopy => u32::MAX,
        };
        let mut count = 0;
        while count < more && self.rings.fill.has_room(1) {
            let Some(addr) = pool.lend_to_receive(self.side) else { break };
            if !self.rings.fill.push(addr) {
                pool.take_back_from_receive(self.side, addr);
                break;
            }
            count += 1;
        }
        if count > 0 {
            self.rings.fill.publish();
            if self.rings.fill.needs_wakeup() {
                self.wake_to_receive();
            }
        }
        count
    }

    /// Adds what waits in this queue's rings to `books` (from [`FramePool::books`]).
    pub fn add_to_books(&self, books: &mut FrameBooks) {
        let side = self.side as usize;
        let (rx, completion) = (self.rings.rx.waiting(), self.rings.completion.waiting());
        // The beginning of a packet counts as still in the ring: nobody works on it before its end has come.
        let begun = self.gathering.chunks();
        books.rx[side] += rx + begun;
        books.held = books.held.saturating_sub(begun);
        books.fill[side] = books.fill[side].saturating_sub(rx);
        books.completion[side] += completion;
        books.tx[side] = books.tx[side].saturating_sub(completion);
    }

    /// Takes back every chunk of a queue whose socket lost its interface ([`Kick::Gone`]) a while ago; returns how many.
    /// Does nothing before: the kernel may still write into them. The queue is of no use afterwards.
    pub fn abandon(&mut self, pool: &mut FramePool) -> u32 {
        self.assert_own(pool);
        // The kernel unbinds a socket first and then waits for receives that are running on other cores.
        if self.gone_since_ns.is_none_or(|since| clock::monotonic_ns() - since < GONE_FOR_NS) {
            return 0;
        }
        self.gathering.abandon(pool);
        pool.reclaim(self.side)
    }

    fn wake_to_send(&self) -> Result<(), i32> {
        // SAFETY: a send without data: no pointer is read.
        let result = unsafe {
            libc::sendto(self.socket.as_fd().as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
        };
        if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    }

    fn wake_to_receive(&self) {
        // An error says only that there was nothing to do, or what the next flush will say too.
        // SAFETY: a receive without a buffer: no pointer is written.
        unsafe {
            libc::recvfrom(
                self.socket.as_fd().as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
    }

    #[inline]
    fn assert_own(&self, pool: &FramePool) {
        assert!(self.pool == pool.id(), "the pool of another worker");
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
