//! A queue whose other end is the test instead of the kernel.

use super::super::memory_queue::KernelEnd;
use super::*;

const RING: u32 = 8;
const CONTD: u32 = libc::XDP_PKT_CONTD;

/// The kernel's end of the rings.
struct Other(KernelEnd);

fn queue() -> (Queue, Other, FramePool) {
    let pool = FramePool::in_memory(2048, 32).unwrap().with_pieces();
    let (queue, kernel) = Queue::in_memory(Side::Uplink, RING, u32::MAX - 5, &pool).unwrap();
    (queue, Other(kernel), pool)
}

impl Other {
    /// Receives a piece of `len` bytes into the next chunk of the fill ring.
    fn arrive(&mut self, len: u32, options: u32) {
        let addr = self.0.fill.pop().expect("a chunk to receive into") + 256;
        self.0.fill.release();
        assert!(self.0.rx.push(Desc { addr, len, options }));
        self.0.rx.publish();
    }

    /// Sends everything that is in the transmit ring; returns lengths and whether more follow.
    fn send(&mut self) -> Vec<(u32, bool)> {
        let mut sent = Vec::new();
        while let Some(desc) = self.0.tx.pop() {
            sent.push((desc.len, desc.options == CONTD));
            assert!(self.0.completion.push(desc.addr));
        }
        self.0.tx.release();
        self.0.completion.publish();
        sent
    }
}

fn books(queue: &Queue, pool: &FramePool) -> FrameBooks {
    let mut books = pool.books();
    queue.add_to_books(&mut books);
    books
}

#[test]
fn a_packet_of_pieces_comes_in_and_goes_out_whole() {
    let (mut queue, mut other, mut pool) = queue();
    queue.refill(&mut pool);
    for (len, options) in [(60, 0), (1792, CONTD), (1792, CONTD), (500, 0), (61, 0)] {
        other.arrive(len, options);
    }
    let mut got = Vec::new();
    assert_eq!(queue.receive(&mut pool, &mut got, 64), 3);
    let shape: Vec<_> = got.iter().map(|frame| (frame.len(), frame.pieces())).collect();
    assert_eq!(shape, [(60, 1), (4084, 3), (61, 1)]);
    for frame in got {
        queue.transmit(&mut pool, frame).unwrap();
    }
    queue.flush();
    assert_eq!(other.send(), [(60, false), (1792, true), (1792, true), (500, false), (61, false)]);
    assert_eq!((books(&queue, &pool).completion[0], queue.complete(&mut pool)), (5, 5));
    books(&queue, &pool).check().unwrap();
}

#[test]
fn in_copy_mode_chunks_to_receive_into_never_outnumber_the_receive_ring() {
    for (mode, more) in [(Mode::Copy, 0), (Mode::ZeroCopy, 5)] {
        let (mut queue, mut other, mut pool) = queue();
        queue.set_mode(mode);
        assert_eq!(queue.refill(&mut pool), RING);
        (0..5).for_each(|_| other.arrive(60, 0));
        assert_eq!(queue.refill(&mut pool), more, "{mode:?}: five wait in the ring");
        let mut got = Vec::new();
        queue.receive(&mut pool, &mut got, 3);
        assert_eq!(queue.refill(&mut pool), 3 - more.min(3), "{mode:?}: three were taken out");
        got.drain(..).for_each(|frame| pool.give_back(frame));
        books(&queue, &pool).check().unwrap();
    }
}

#[test]
fn the_beginning_of_a_packet_stands_in_the_books_as_received() {
    let (mut queue, mut other, mut pool) = queue();
    queue.refill(&mut pool);
    other.arrive(1792, CONTD);
    other.arrive(1792, CONTD);
    let mut got = Vec::new();
    assert_eq!(queue.receive(&mut pool, &mut got, 64), 0);
    let half = books(&queue, &pool);
    half.check().unwrap();
    assert_eq!((half.rx[0], half.fill[0], half.held), (2, 6, 0));
    other.arrive(7, 0);
    assert_eq!(queue.receive(&mut pool, &mut got, 64), 1);
    assert_eq!((got[0].len(), books(&queue, &pool).held), (3591, 3));
    pool.give_back(got.remove(0));
    books(&queue, &pool).check().unwrap();
}

#[test]
fn a_packet_with_a_piece_that_was_never_lent_is_no_packet() {
    for hole in 0..3 {
        let (mut queue, mut other, mut pool) = queue();
        queue.refill(&mut pool);
        for piece in 0..3 {
            let options = if piece < 2 { CONTD } else { 0 };
            if piece == hole {
                assert!(other.0.rx.push(Desc { addr: 1 << 40, len: 100, options }));
            } else {
                other.arrive(100, options);
            }
        }
        other.arrive(60, 0);
        let mut got = Vec::new();
        // In one go, and piece by piece.
        while queue.receive(&mut pool, &mut got, 1) > 0 {}
        let lengths: Vec<_> = got.iter().map(Frame::len).collect();
        assert_eq!(lengths, [60], "hole {hole}: only the packet behind it is one");
        got.drain(..).for_each(|frame| pool.give_back(frame));
        let books = books(&queue, &pool);
        assert_eq!((books.refused, books.held, books.counted()), (1, 0, books.total), "hole {hole}");
    }
}

#[test]
fn all_pieces_find_room_or_none() {
    let (mut queue, mut other, mut pool) = queue();
    let long = [1; 5000];
    for _ in 0..2 {
        let frame = pool.copy_from(&long).unwrap();
        queue.transmit(&mut pool, frame).unwrap();
    }
    let frame = pool.copy_from(&long).unwrap();
    let Err(frame) = queue.transmit(&mut pool, frame) else { panic!("9 pieces in a ring of 8") };
    assert_eq!(books(&queue, &pool).tx[0], 6, "nothing of it was sent");
    queue.flush();
    assert_eq!((other.send().len(), queue.complete(&mut pool)), (6, 6));
    // Two slots were free by the last look: the next one must look again.
    queue.transmit(&mut pool, frame).unwrap();
    queue.flush();
    assert_eq!(other.send(), [(1792, true), (1792, true), (1416, false)]);
    assert_eq!(queue.complete(&mut pool), 3);
    books(&queue, &pool).check().unwrap();
}

/// A small generator (xorshift) is enough to choose among a few steps; the seed names the run.
struct Choice(u64);

impl Choice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What the test put into the receive ring and expects to come out of it.
#[derive(Default)]
struct Expected {
    packets: std::collections::VecDeque<usize>,
    begun: Option<usize>,
    is_spoilt: bool,
    refused: u64,
}

impl Expected {
    fn piece(&mut self, len: Option<usize>, more: bool) {
        match len {
            Some(len) => self.begun = Some(self.begun.unwrap_or(0) + len),
            None => {
                self.is_spoilt = true;
                self.refused += 1;
            }
        }
        if !more {
            let packet = self.begun.take();
            if !std::mem::take(&mut self.is_spoilt) {
                self.packets.extend(packet);
            }
        }
    }
}

#[test]
fn random_pieces_holes_and_rests_lose_nothing_and_pass_no_broken_packet() {
    // Miri interprets each step.
    let (seeds, steps) = if cfg!(miri) { (2u64, 150) } else { (40, 3000) };
    for seed in 1..=seeds {
        let (mut queue, mut other, mut pool) = queue();
        let mut choice = Choice(seed * 0x9e37_79b9);
        let (mut expected, mut hands, mut sent_to_kernel) = (Expected::default(), Vec::new(), 0);
        for step in 0..steps {
            match choice.below(7) {
                0 | 1 if other.0.rx.has_room(1) => {
                    let more = choice.below(2) == 0;
                    let options = if more { CONTD } else { 0 };
                    if choice.below(12) == 0 {
                        other.0.rx.push(Desc { addr: 1 << 40, len: 60, options });
                        other.0.rx.publish();
                        expected.piece(None, more);
                    } else if other.0.fill.waiting() > 0 {
                        let len = 1 + choice.below(1792) as u32;
                        other.arrive(len, options);
                        expected.piece(Some(len as usize), more);
                    }
                }
                2 => {
                    let before = hands.len();
                    queue.receive(&mut pool, &mut hands, 1 + choice.below(4) as usize);
                    for frame in &hands[before..] {
                        assert_eq!(Some(frame.len()), expected.packets.pop_front(), "seed {seed} step {step}");
                    }
                }
                3 if !hands.is_empty() => {
                    let frame = hands.swap_remove(choice.below(hands.len() as u64) as usize);
                    if let Err(frame) = queue.transmit(&mut pool, frame) {
                        pool.give_back(frame);
                    }
                    queue.flush();
                }
                4 => {
                    queue.complete(&mut pool);
                    sent_to_kernel += other.send().len();
                    queue.complete(&mut pool);
                }
                5 => {
                    queue.refill(&mut pool);
                }
                6 if !hands.is_empty() => {
                    let at = choice.below(hands.len() as u64) as usize;
                    let frame: Frame = hands.swap_remove(at);
                    let len = choice.below(frame.len() as u64 + 1) as usize;
                    let frame = pool.shortened(frame, len);
                    assert_eq!(frame.len(), len);
                    hands.push(frame);
                }
                _ => {}
            }
            // A hole that waits in the ring is no chunk, so the pool's own places are what has to add up.
            let (places, books) = (pool.books(), books(&queue, &pool));
            let in_hand: u32 = hands.iter().map(|frame| u32::from(frame.pieces())).sum();
            assert_eq!((places.counted(), books.held), (32, in_hand), "seed {seed} step {step}: {books:?}");
            assert!(books.refused <= expected.refused);
        }
        assert!(sent_to_kernel > steps / 30, "seed {seed}: only {sent_to_kernel} pieces were sent");
        hands.drain(..).for_each(|frame| pool.give_back(frame));
        assert_eq!(books(&queue, &pool).held, 0);
    }
}
