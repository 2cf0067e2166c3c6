//! The books against what a worker, and a kernel that errs, do with frames.

use super::*;

fn pool() -> FramePool {
    FramePool::in_memory(2048, 8).unwrap()
}

#[test]
fn the_books_follow_a_frame_round_both_ports() {
    let mut pool = pool();
    let addr = pool.lend_to_receive(Side::Uplink).unwrap();
    assert_eq!(pool.books().fill, [1, 0]);
    let frame = pool.received(Side::Uplink, addr + 256, 60).unwrap();
    assert_eq!((pool.books().held, frame.len()), (1, 60));
    let mut sent = Vec::new();
    pool.lend_to_send(Side::Funnel, frame, |addr, len, more| sent.push((addr, len, more)));
    assert_eq!(sent, [(addr + 256, 60, false)]);
    assert_eq!(pool.books().tx, [0, 1]);
    pool.sent(Side::Funnel, addr + 256);
    assert_eq!(pool.books(), FrameBooks { total: 8, free: 8, ..FrameBooks::default() });
    pool.books().check().unwrap();
}

#[test]
fn a_frame_lost_on_purpose_is_noticed() {
    let mut pool = pool();
    let frame = pool.take().unwrap();
    let frame_two = pool.take().unwrap();
    pool.give_back(frame_two);
    drop(frame);
    assert_eq!(pool.books().check(), Err(BooksError::Held { held: 1 }));
    assert_eq!(pool.books().counted(), 8);
}

#[test]
fn a_frame_that_comes_back_twice_or_from_elsewhere_is_refused() {
    let mut pool = pool();
    let addr = pool.lend_to_receive(Side::Uplink).unwrap();
    assert!(pool.received(Side::Funnel, addr, 60).is_none(), "the wrong side");
    let frame = pool.received(Side::Uplink, addr, 60).unwrap();
    assert!(pool.received(Side::Uplink, addr, 60).is_none(), "twice");
    pool.sent(Side::Uplink, addr);
    assert!(pool.received(Side::Uplink, 1 << 40, 60).is_none(), "outside the region");
    pool.give_back(frame);
    assert_eq!(pool.books().check(), Err(BooksError::Refused { refused: 4 }));
    assert_eq!(pool.free_count(), 8, "none was lost by it");
}

#[test]
fn a_length_beyond_the_chunk_is_refused_and_the_chunk_kept() {
    let mut pool = pool();
    let addr = pool.lend_to_receive(Side::Uplink).unwrap();
    assert!(pool.received(Side::Uplink, addr + 256, 2048 - 255).is_none());
    assert_eq!((pool.free_count(), pool.books().refused), (8, 1));
}

#[test]
fn pieces_stay_together() {
    let mut pool = pool();
    let addrs: Vec<u64> = (0..3).map(|_| pool.lend_to_receive(Side::Uplink).unwrap()).collect();
    let mut frame = pool.received(Side::Uplink, addrs[0], 1000).unwrap();
    for addr in &addrs[1..] {
        let rest = pool.received(Side::Uplink, *addr, 500).unwrap();
        pool.append(&mut frame, rest);
    }
    assert_eq!(frame.pieces(), 3);
    let mut sent = Vec::new();
    pool.lend_to_send(Side::Uplink, frame, |addr, len, more| sent.push((addr, len, more)));
    assert_eq!(sent, [(addrs[0], 1000, true), (addrs[1], 500, true), (addrs[2], 500, false)]);
    assert_eq!(pool.reclaim(Side::Uplink), 3);
    pool.books().check().unwrap();
}

#[test]
fn bytes_are_the_frames_own() {
    let mut pool = pool();
    let mut one = pool.copy_from(&[1; 100]).unwrap();
    let mut two = pool.copy_from(&[2; 100]).unwrap();
    let (first, second) = (pool.bytes_mut(&mut one), pool.bytes_mut(&mut two));
    first[0] = 3;
    assert_eq!((first[0], first[99], second[0]), (3, 1, 2));
    assert!(pool.copy_from(&[0; 1793]).is_none());
    assert!(!pool.set_len(&mut one, 1793) && pool.set_len(&mut one, 1792));
    pool.give_back(one);
    pool.give_back(two);
    pool.books().check().unwrap();
}

#[test]
#[should_panic(expected = "a frame of another pool")]
fn a_frame_of_another_pool_is_refused() {
    let (mut one, two) = (pool(), pool());
    let frame = one.take().unwrap();
    let _ = two.bytes(&frame);
}

/// A pool whose chunks hold 1792 bytes each, and bytes that tell where they belong.
fn pool_of_pieces() -> FramePool {
    pool().with_pieces()
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8).collect()
}

fn whole(pool: &FramePool, frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; 16_384];
    let len = pool.copy_to(frame, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

#[test]
fn a_long_packet_is_copied_in_and_out_whole() {
    let mut pool = pool_of_pieces();
    for (len, pieces) in [(0, 1), (1792, 1), (1793, 2), (3584, 2), (3585, 3), (9000, 6)] {
        let bytes = numbered(len);
        let frame = pool.copy_from(&bytes).unwrap();
        assert_eq!((frame.len(), frame.pieces()), (len, pieces));
        assert_eq!(pool.books().held, u32::from(pieces));
        assert!(whole(&pool, &frame) == bytes, "{len} bytes");
        assert_eq!(pool.copy_to(&frame, &mut vec![0; len.saturating_sub(1)]), (len == 0).then_some(0));
        pool.give_back(frame);
        pool.books().check().unwrap();
    }
    assert!(pool.copy_from(&numbered(8 * 1792 + 1)).is_none(), "more than there is");
    assert_eq!(pool.free_count(), 8, "what was taken for it is back");
}

#[test]
fn a_packet_is_cut_anywhere_and_the_rest_becomes_free() {
    let bytes = numbered(5000);
    for len in [0, 1, 1791, 1792, 1793, 3583, 3584, 3585, 4999, 5000, 6000] {
        let mut pool = pool_of_pieces();
        let frame = pool.copy_from(&bytes).unwrap();
        let mut frame = pool.shortened(frame, len);
        let left = len.min(5000);
        assert_eq!(frame.len(), left);
        assert_eq!(usize::from(frame.pieces()), left.div_ceil(1792).max(1), "cut to {len}");
        assert!(whole(&pool, &frame) == bytes[..left]);
        // It can still grow by a piece, and is sent as what it is.
        let more = pool.copy_from(&[9; 10]).unwrap();
        pool.append(&mut frame, more);
        assert_eq!(whole(&pool, &frame)[left..], [9; 10]);
        let mut sent = Vec::new();
        pool.lend_to_send(Side::Funnel, frame, |_, len, more| sent.push((len, more)));
        assert_eq!(sent.iter().map(|(len, _)| *len as usize).sum::<usize>(), left + 10);
        assert!(sent.iter().rev().enumerate().all(|(at, (_, more))| *more == (at > 0)));
        pool.reclaim(Side::Funnel);
        pool.books().check().unwrap();
    }
}
