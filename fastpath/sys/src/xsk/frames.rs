//! Who holds which chunk of memory: the frame books.
//!
//! Every chunk is in exactly one [`Place`]: free, held by the worker, or given to the kernel for receiving or sending
//! on one side. Each move names where the chunk comes from; one that does not stand there is refused and counted,
//! never performed. So a frame that the kernel returned twice cannot become two owners of one memory, and a frame that
//! a worker lost stays visible as held.
//!
//! A [`Frame`] is the only right to touch a chunk's bytes. It cannot be copied; dropping it without giving it back
//! loses the chunk, and the books say so.

mod pieces;

use thiserror::Error;

use super::region::{HEADROOM_BYTES, Region};

pub(super) use pieces::Gathering;

/// The two ports of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    Uplink = 0,
    Funnel = 1,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Uplink, Self::Funnel];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Funnel => "funnel",
        }
    }
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Place {
    Free = 0,
    Held = 1,
    UplinkReceive = 2,
    FunnelReceive = 3,
    UplinkSend = 4,
    FunnelSend = 5,
}

const PLACES: usize = 6;

const fn receive(side: Side) -> Place {
    match side {
        Side::Uplink => Place::UplinkReceive,
        Side::Funnel => Place::FunnelReceive,
    }
}

const fn send(side: Side) -> Place {
    match side {
        Side::Uplink => Place::UplinkSend,
        Side::Funnel => Place::FunnelSend,
    }
}

/// A packet's memory, in one piece or several (XDP_USE_SG).
#[must_use = "a frame that is not given back is lost"]
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    first: Piece,
    /// Bytes of the pieces behind the first.
    rest_bytes: u32,
    /// The last piece's chunk, to append; the first one's own while there is one piece.
    last_chunk: u32,
    pieces: u16,
    pool: u32,
}

/// A run of bytes in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    chunk: u32,
    /// From the chunk's start.
    offset: u32,
    len: u32,
}

impl Frame {
    /// Bytes of the whole packet.
    pub fn len(&self) -> usize {
        self.first.len as usize + self.rest_bytes as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many pieces the packet has; one, unless the port was opened for several.
    pub fn pieces(&self) -> u16 {
        self.pieces
    }
}

/// How many chunks are where. All counts are chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameBooks {
    pub total: u32,
    pub free: u32,
    /// In the worker's hands; 0 between two turns of its loop.
    pub held: u32,
    /// In the fill ring, or with the kernel to receive into.
    pub fill: [u32; 2],
    /// Received, waiting in the receive ring.
    pub rx: [u32; 2],
    /// In the transmit ring, or with the kernel to send from.
    pub tx: [u32; 2],
    /// Sent, waiting in the completion ring.
    pub completion: [u32; 2],
    /// Moves that were refused because the chunk was not where it should have been.
    pub refused: u64,
}

/// What is wrong with the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BooksError {
    #[error("{held} frames are held although no packet is being worked on: lost")]
    Held { held: u32 },
    #[error("{refused} frames came from where they were not: the kernel or the worker gave one twice")]
    Refused { refused: u64 },
    #[error("{counted} frames are accounted for, {total} exist")]
    Total { counted: u32, total: u32 },
}

impl FrameBooks {
    /// The sum over all places.
    pub fn counted(&self) -> u32 {
        let sides = |counts: &[u32; 2]| counts[0] + counts[1];
        self.free + self.held + sides(&self.fill) + sides(&self.rx) + sides(&self.tx) + sides(&self.completion)
    }

    /// Whether everything adds up between two turns of the loop, when no packet is being worked on.
    pub fn check(&self) -> Result<(), BooksError> {
        if self.refused > 0 {
            return Err(BooksError::Refused { refused: self.refused });
        }
        if self.counted() != self.total {
            return Err(BooksError::Total { counted: self.counted(), total: self.total });
        }
        if self.held > 0 {
            return Err(BooksError::Held { held: self.held });
        }
        Ok(())
    }
}

/// Every chunk of one worker's region.
#[derive(Debug)]
pub struct FramePool {
    region: Region,
    places: Box<[Place]>,
    counts: [u32; PLACES],
    free: Vec<u32>,
    /// The piece after a chunk's own, for frames of several pieces.
    next_piece: Box<[Piece]>,
    refused: u64,
    /// Whether a frame may have several pieces.
    has_pieces: bool,
    /// Tells the frames of two pools apart.
    id: u32,
    /// Binary logarithm of a chunk's bytes: a division by a number that only the run knows takes longer than a look-up.
    chunk_shift: u32,
}

const NO_PIECE: Piece = Piece { chunk: u32::MAX, offset: 0, len: 0 };

static NEXT_POOL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

impl FramePool {
    pub(super) fn new(region: Region) -> Self {
        let chunks = region.chunks;
        assert!(region.chunk_bytes.is_power_of_two(), "chunks of {} bytes: no power of two", region.chunk_bytes);
        let mut counts = [0; PLACES];
        counts[Place::Free as usize] = chunks;
        Self {
            places: vec![Place::Free; chunks as usize].into_boxed_slice(),
            counts,
            // Lowest last, so that the first frames taken are the first in memory.
            free: (0..chunks).rev().collect(),
            next_piece: vec![NO_PIECE; chunks as usize].into_boxed_slice(),
            refused: 0,
            has_pieces: false,
            id: NEXT_POOL.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            chunk_shift: region.chunk_bytes.trailing_zeros(),
            region,
        }
    }

    /// A pool in plain memory, for ports without a socket. `chunk_bytes` a power of two, more than 256.
    pub fn in_memory(chunk_bytes: u32, chunks: u32) -> std::io::Result<Self> {
        assert!(chunk_bytes.is_power_of_two() && chunk_bytes > HEADROOM_BYTES && chunks > 0, "a real chunk");
        Ok(Self::new(Region::plain(chunk_bytes, chunks)?))
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// Bytes that a packet may have in one piece.
    pub fn frame_bytes_max(&self) -> usize {
        (self.region.chunk_bytes - HEADROOM_BYTES) as usize
    }

    /// Chunks that nobody uses.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// A free chunk as an empty frame.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        // A chunk on the free list stands as free; the move is the check that it does.
        if !self.move_chunk(chunk, Place::Free, Place::Held) {
            return None;
        }
        Some(self.frame(Piece { chunk, offset: HEADROOM_BYTES, len: 0 }))
    }

    /// Gives a frame back, every piece of it.
    #[inline]
    pub fn give_back(&mut self, frame: Frame) {
        self.assert_own(&frame);
        if frame.pieces == 1 {
            self.release(frame.first.chunk, Place::Held);
        } else {
            self.give_back_pieces(frame.first.chunk, frame.pieces);
        }
    }

    /// Parts of a frame, not the frame: one whose address is taken for the rare case would lie in memory in every other.
    #[cold]
    fn give_back_pieces(&mut self, first: u32, pieces: u16) {
        let mut chunk = first;
        for _ in 0..pieces {
            let next = std::mem::replace(&mut self.next_piece[chunk as usize], NO_PIECE);
            self.release(chunk, Place::Held);
            chunk = next.chunk;
        }
    }

    /// The bytes of the frame's first piece.
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.assert_own(frame);
        let Piece { chunk, offset, len } = frame.first;
        // SAFETY: the piece lies inside the region (checked when it was made), which lives as long as `self`. The
        // frame's chunk is held (only held chunks have frames, and each has one), so neither the kernel nor another
        // frame uses it; writes need `&mut` of this frame.
        unsafe { std::slice::from_raw_parts(self.at(chunk, offset), len as usize) }
    }

    /// As [`Self::bytes`], to write. The pool is only borrowed shared, so that a batch of frames can be open at once.
    #[inline]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.assert_own(frame);
        let Piece { chunk, offset, len } = frame.first;
        // SAFETY: as in `bytes`; `&mut Frame` is the only right to this chunk, and it is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.at(chunk, offset), len as usize) }
    }

    /// Sets the length of a frame in one piece, from the packet's start. `false`: it does not fit.
    #[inline]
    pub fn set_len(&self, frame: &mut Frame, len: usize) -> bool {
        self.assert_own(frame);
        let fits = frame.pieces == 1 && len <= (self.region.chunk_bytes - frame.first.offset) as usize;
        if fits {
            frame.first.len = len as u32;
        }
        fits
    }

    /// A free chunk for the kernel to receive into on `side`: its address.
    #[inline]
    pub(super) fn lend_to_receive(&mut self, side: Side) -> Option<u64> {
        let chunk = self.free.pop()?;
        self.move_chunk(chunk, Place::Free, receive(side)).then(|| self.address(chunk))
    }

    /// Chunks that the kernel has to receive into on `side`, and those received that wait in its ring.
    #[inline]
    pub(super) fn lent_to_receive(&self, side: Side) -> u32 {
        self.counts[receive(side) as usize]
    }

    /// Undoes [`Self::lend_to_receive`] for a chunk that did not get into the ring.
    pub(super) fn take_back_from_receive(&mut self, side: Side, addr: u64) {
        if let Some(chunk) = self.chunk_of(addr) {
            self.release(chunk, receive(side));
        }
    }

    /// A packet that the kernel received on `side`. `None`: refused and counted.
    #[inline(always)]
    pub(super) fn received(&mut self, side: Side, addr: u64, len: u32) -> Option<Frame> {
        let Some(chunk) = self.chunk_of(addr) else {
            self.refused += 1;
            return None;
        };
        // The address carries the headroom (and what an XDP program moved): the chunk is what it points into.
        let offset = (addr - self.address(chunk)) as u32;
        if !self.move_chunk(chunk, receive(side), Place::Held) {
            return None;
        }
        if len > self.region.chunk_bytes - offset {
            self.refused += 1;
            self.release(chunk, Place::Held);
            return None;
        }
        Some(self.frame(Piece { chunk, offset, len }))
    }

    /// Gives the frame's pieces to the kernel to send on `side`, in order: address, bytes, whether more follow.
    #[inline(always)]
    pub(super) fn lend_to_send(&mut self, side: Side, frame: Frame, mut each: impl FnMut(u64, u32, bool)) {
        self.assert_own(&frame);
        let Piece { chunk, offset, len } = frame.first;
        if frame.pieces > 1 {
            return self.lend_pieces_to_send(side, chunk, offset, len, frame.pieces, each);
        }
        if self.move_chunk(chunk, Place::Held, send(side)) {
            each(self.address(chunk) + u64::from(offset), len, false);
        }
    }

    #[cold]
    fn lend_pieces_to_send(
        &mut self,
        side: Side,
        chunk: u32,
        offset: u32,
        len: u32,
        pieces: u16,
        mut each: impl FnMut(u64, u32, bool),
    ) {
        let mut piece = Piece { chunk, offset, len };
        for left in (0..pieces).rev() {
            let next = std::mem::replace(&mut self.next_piece[piece.chunk as usize], NO_PIECE);
            if self.move_chunk(piece.chunk, Place::Held, send(side)) {
                each(self.address(piece.chunk) + u64::from(piece.offset), piece.len, left > 0);
            }
            piece = next;
        }
    }

    /// A chunk that the kernel has sent on `side`.
    #[inline]
    pub(super) fn sent(&mut self, side: Side, addr: u64) {
        match self.chunk_of(addr) {
            Some(chunk) => self.release(chunk, send(side)),
            None => self.refused += 1,
        }
    }

    /// Takes every chunk back that the kernel had on `side`. Only for a socket that the kernel has let go of.
    pub(super) fn reclaim(&mut self, side: Side) -> u32 {
        let before = self.free.len();
        for chunk in 0..self.region.chunks {
            let place = self.places[chunk as usize];
            if place == receive(side) || place == send(side) {
                self.release(chunk, place);
            }
        }
        (self.free.len() - before) as u32
    }

    /// The books, with what waits in the rings still counted as with the kernel.
    pub fn books(&self) -> FrameBooks {
        let count = |place: Place| self.counts[place as usize];
        FrameBooks {
            total: self.region.chunks,
            free: self.free.len() as u32,
            held: count(Place::Held),
            fill: [count(Place::UplinkReceive), count(Place::FunnelReceive)],
            tx: [count(Place::UplinkSend), count(Place::FunnelSend)],
            rx: [0; 2],
            completion: [0; 2],
            refused: self.refused,
        }
    }

    fn frame(&self, piece: Piece) -> Frame {
        Frame { first: piece, rest_bytes: 0, last_chunk: piece.chunk, pieces: 1, pool: self.id }
    }

    #[inline]
    fn assert_own(&self, frame: &Frame) {
        assert!(frame.pool == self.id, "a frame of another pool");
    }

    fn address(&self, chunk: u32) -> u64 {
        u64::from(chunk) << self.chunk_shift
    }

    fn at(&self, chunk: u32, offset: u32) -> *mut u8 {
        let from_base = ((chunk as usize) << self.chunk_shift) + offset as usize;
        // SAFETY: pieces lie inside the region (checked in `received`, `take` and `set_len`; `shortened` only shortens them),
        // so the sum stays in it.
        unsafe { self.region.base().as_ptr().add(from_base) }
    }

    fn chunk_of(&self, addr: u64) -> Option<u32> {
        let chunk = addr >> self.chunk_shift;
        (chunk < u64::from(self.region.chunks)).then_some(chunk as u32)
    }

    #[inline]
    fn move_chunk(&mut self, chunk: u32, from: Place, to: Place) -> bool {
        let place = &mut self.places[chunk as usize];
        if *place != from {
            self.refused += 1;
            return false;
        }
        *place = to;
        self.counts[from as usize] -= 1;
        self.counts[to as usize] += 1;
        true
    }

    #[inline]
    fn release(&mut self, chunk: u32, from: Place) {
        if self.move_chunk(chunk, from, Place::Free) {
            // The vector was made with room for every chunk, and a chunk enters it once.
            self.free.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests;
