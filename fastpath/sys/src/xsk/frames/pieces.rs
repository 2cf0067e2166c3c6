//! Frames of several pieces (XDP_USE_SG): packets longer than a chunk. A frame's pieces are a chain through
//! `FramePool::next_piece`; whatever moves a frame moves all of them.

use super::{Frame, FramePool, NO_PIECE, Piece, Place};

impl FramePool {
    /// Lets frames have several pieces.
    #[must_use]
    pub fn with_pieces(mut self) -> Self {
        self.has_pieces = true;
        self
    }

    /// A new frame with these bytes, in as many pieces as they need. `None`: no chunk is free, or they do not fit.
    pub fn copy_from(&mut self, bytes: &[u8]) -> Option<Frame> {
        let piece_bytes = self.frame_bytes_max();
        if bytes.len() <= piece_bytes {
            return self.copy_piece(bytes);
        }
        if !self.has_pieces {
            return None;
        }
        let (first, rest) = bytes.split_at(piece_bytes);
        let mut frame = self.copy_piece(first)?;
        for bytes in rest.chunks(piece_bytes) {
            match self.copy_piece(bytes) {
                Some(piece) => self.append(&mut frame, piece),
                None => {
                    self.give_back(frame);
                    return None;
                }
            }
        }
        Some(frame)
    }

    fn copy_piece(&mut self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.take()?;
        self.set_len(&mut frame, bytes.len());
        self.bytes_mut(&mut frame).copy_from_slice(bytes);
        Some(frame)
    }

    /// Writes the whole packet to the start of `into`; returns its length. `None`: it does not fit.
    pub fn copy_to(&self, frame: &Frame, into: &mut [u8]) -> Option<usize> {
        self.assert_own(frame);
        let into = into.get_mut(..frame.len())?;
        let (mut piece, mut rest) = (frame.first, into);
        for _ in 0..frame.pieces {
            let (now, later) = rest.split_at_mut(piece.len as usize);
            // SAFETY: as in `bytes`: the piece lies inside the region, and its chunk is held by this frame, which is borrowed.
            now.copy_from_slice(unsafe { std::slice::from_raw_parts(self.at(piece.chunk, piece.offset), now.len()) });
            (piece, rest) = (self.next_piece[piece.chunk as usize], later);
        }
        Some(frame.len())
    }

    /// The packet's first `len` bytes; pieces that are not needed any more become free. One that is not longer stays as
    /// it is. By value, like all that a frame meets on its way out, so that it can stay in registers.
    #[inline(always)]
    pub fn shortened(&mut self, frame: Frame, len: usize) -> Frame {
        if frame.pieces > 1 && len < frame.len() {
            return self.shortened_pieces(frame, len as u32);
        }
        let Frame { first: Piece { chunk, offset, len: was }, rest_bytes, last_chunk, pieces, pool } = frame;
        let first = Piece { chunk, offset, len: was.min(len.min(u32::MAX as usize) as u32) };
        Frame { first, rest_bytes, last_chunk, pieces, pool }
    }

    #[cold]
    fn shortened_pieces(&mut self, mut frame: Frame, len: u32) -> Frame {
        self.assert_own(&frame);
        let mut left = len;
        let mut kept = 0;
        let mut piece = frame.first;
        for _ in 0..frame.pieces {
            let next = self.next_piece[piece.chunk as usize];
            // The first piece stays, whatever is left of it: a frame has one.
            if left == 0 && kept > 0 {
                self.next_piece[piece.chunk as usize] = NO_PIECE;
                self.release(piece.chunk, Place::Held);
            } else {
                let bytes = piece.len.min(left);
                self.set_piece_len(&mut frame, kept, bytes);
                frame.last_chunk = piece.chunk;
                left -= bytes;
                kept += 1;
            }
            piece = next;
        }
        self.next_piece[frame.last_chunk as usize] = NO_PIECE;
        frame.pieces = kept;
        frame.rest_bytes = len - frame.first.len;
        frame
    }

    /// Shortens the piece at `index`; all before it have been visited, so `last_chunk` is the one that points to it.
    fn set_piece_len(&mut self, frame: &mut Frame, index: u16, len: u32) {
        if index == 0 {
            frame.first.len = len;
        } else {
            self.next_piece[frame.last_chunk as usize].len = len;
        }
    }

    /// Appends `rest` to `frame`, which then has one piece more. `rest` must have one piece.
    pub(super) fn append(&mut self, frame: &mut Frame, rest: Frame) {
        self.assert_own(frame);
        self.assert_own(&rest);
        debug_assert_eq!(rest.pieces, 1);
        let piece: Piece = rest.first;
        self.next_piece[frame.last_chunk as usize] = piece;
        frame.last_chunk = piece.chunk;
        frame.rest_bytes += piece.len;
        frame.pieces += 1;
    }
}

/// Puts the pieces of a packet together as they come in. A packet of which a piece was refused is none: what came of it
/// goes back, and so does what follows of it.
#[derive(Debug, Default)]
pub(in crate::xsk) struct Gathering {
    unfinished: Option<Frame>,
    is_spoilt: bool,
}

impl Gathering {
    /// Whether no packet is begun: then a piece that no other follows is a packet, and has no need of [`Self::add`].
    #[inline]
    pub(in crate::xsk) fn is_at_rest(&self) -> bool {
        self.unfinished.is_none() && !self.is_spoilt
    }

    /// Takes the next piece, `None` where it was refused; returns the packet that it completes.
    #[cold]
    pub(in crate::xsk) fn add(&mut self, pool: &mut FramePool, piece: Option<Frame>, more: bool) -> Option<Frame> {
        self.is_spoilt |= piece.is_none();
        let frame = match (self.unfinished.take(), piece) {
            (Some(mut frame), Some(piece)) => {
                pool.append(&mut frame, piece);
                Some(frame)
            }
            (frame, piece) => frame.or(piece),
        };
        if more && !self.is_spoilt {
            self.unfinished = frame;
            return None;
        }
        let is_spoilt = self.is_spoilt;
        self.is_spoilt &= more;
        match frame {
            Some(frame) if is_spoilt => {
                pool.give_back(frame);
                None
            }
            frame => frame,
        }
    }

    /// Chunks of the packet whose last piece has not come.
    pub(in crate::xsk) fn chunks(&self) -> u32 {
        self.unfinished.as_ref().map_or(0, |frame| u32::from(frame.pieces()))
    }

    /// Gives up what has come of an unfinished packet.
    pub(in crate::xsk) fn abandon(&mut self, pool: &mut FramePool) {
        if let Some(frame) = self.unfinished.take() {
            pool.give_back(frame);
        }
        self.is_spoilt = false;
    }
}
