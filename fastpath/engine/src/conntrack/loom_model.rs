//! A model of the table that visits the interleavings of its steps, and the stale values that memory may show, on a
//! table of two buckets with four slots: insert, publish, read, end, expire and reuse.
//!
//! Run it with
//! `RUSTFLAGS="--cfg loom" cargo test -p atalho-engine --release --lib loom_`
//!
//! Readers run in the spawned thread, writers in the first one: loom remembers the last access of a word only, and
//! misses the race of a read with a write whose own thread has read the word in between.
//!
//! Preemptions are bounded (`LOOM_MAX_PREEMPTIONS` raises the bound): most mistakes show with two.
//! `loom` cannot give memory back to a table that lives for ever, so each run of a model leaks a few kilobytes.

use std::net::{IpAddr, Ipv4Addr};

use atalho_layout::{SECRET_WORDS, flow4};
use loom::thread;

use super::epochs::Epochs;
use super::family::{CTL, Family, SLOTS, TICK, V4};
use super::half::Half;
use super::repair::TableCheck;
use super::side::Side;
use super::{Direction, FlowRef, InsertError, Inserted, NewConnection, Rewrite, Segment};
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::flow::{FlowKey, Protocol};
use crate::tables::Timeouts;

const SECRET: [u64; SECRET_WORDS] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0,
    0,
    0,
    0,
    0,
    0,
];
const BUCKETS: u32 = 2;

type Table = Half<V4>;

fn table() -> Table {
    let slots = BUCKETS as usize * SLOTS;
    let tags: Vec<AtomicU64> = (0..slots / 4).map(|_| AtomicU64::new(0)).collect();
    let entries: Vec<AtomicU32> = (0..slots * flow4::WORDS).map(|_| AtomicU32::new(0)).collect();
    Half::new(Vec::leak(tags), Vec::leak(entries), BUCKETS)
}

fn epochs() -> &'static Epochs {
    Box::leak(Box::new(Epochs::new()))
}

/// A connection of client `n`; those with the same `reply` meet on one reply tuple.
fn connection(n: u8, reply: u8) -> NewConnection {
    let address = |n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
    let key =
        |src, dst| FlowKey { src: address(src), dst: address(dst), src_port: 1, dst_port: 2, protocol: Protocol::Udp };
    let direction = |key: FlowKey, to: FlowKey| Direction {
        key,
        rewrite: Rewrite { src: to.src, dst: to.dst, src_port: to.src_port, dst_port: to.dst_port },
        next_hop: u32::from(n),
        ingress: u32::from(n),
    };
    let (request, answer) = (key(n, 100), key(200, reply));
    NewConnection {
        original: direction(request, answer.reversed()),
        reply: direction(answer, request.reversed()),
        is_service: true,
        first: Segment::Other,
    }
}

/// A connection that takes the slots of connection 1 if they are free: both of its keys prefer the same buckets.
fn successor(table: Table) -> NewConnection {
    let preferred = |key: &FlowKey| V4::key(key).map(|words| table.pair(V4::hash(&SECRET, &words))[0]);
    let first = connection(1, 1);
    (2..=u8::MAX)
        .map(|n| connection(n, n))
        .find(|new| {
            preferred(&new.original.key) == preferred(&first.original.key)
                && preferred(&new.reply.key) == preferred(&first.reply.key)
        })
        .expect("one of 254 pairs of keys prefers the same two of two buckets")
}

fn insert(table: Table, epochs: &Epochs, new: &NewConnection) -> Result<Inserted, InsertError> {
    // The tick says whose it is.
    let sides = Side::both(&SECRET, new, new.original.next_hop)?;
    let placed = table.insert(epochs, &sides, [None; 2], new.original.next_hop)?;
    Ok(Inserted::new(new, &sides, &placed))
}

fn find(table: Table, key: &FlowKey) -> Option<super::Flow> {
    let words = V4::key(key)?;
    table.find(V4::hash(&SECRET, &words), &words)?.flow()
}

fn check(table: Table) -> TableCheck {
    let mut check = TableCheck::default();
    table.check(&SECRET, &mut check);
    check
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.max_branches = 20_000;
    builder.check(body);
}

/// `Ok`, `Exists` or `Contention`; anything else is a mistake of the model.
fn won(result: &Result<Inserted, InsertError>) -> bool {
    match result {
        Ok(_) => true,
        Err(InsertError::Exists { .. } | InsertError::Contention) => false,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn loom_of_two_inserters_of_one_connection_at_most_one_wins() {
    model(|| {
        let (table, epochs) = (table(), epochs());
        let other = thread::spawn(move || insert(table, epochs, &connection(1, 1)));
        let mine = insert(table, epochs, &connection(1, 1));
        let its = other.join().unwrap();
        let wins = u64::from(won(&mine)) + u64::from(won(&its));
        assert!(wins <= 1, "both won");
        let exists = |result| matches!(result, Err(InsertError::Exists { .. }));
        assert!(wins == 1 || !exists(mine) && !exists(its), "refused for a connection that does not exist");
        assert_eq!(find(table, &connection(1, 1).original.key).is_some(), wins == 1);
        let check = check(table);
        assert!(check.is_clean() && check.connections == wins, "{check}");
    });
}

#[test]
fn loom_of_two_connections_that_meet_on_one_reply_at_most_one_wins() {
    model(|| {
        let (table, epochs) = (table(), epochs());
        let other = thread::spawn(move || insert(table, epochs, &connection(1, 7)));
        let mine = insert(table, epochs, &connection(2, 7));
        let wins = u64::from(won(&mine)) + u64::from(won(&other.join().unwrap()));
        assert!(wins <= 1, "both won");
        let check = check(table);
        assert!(check.is_clean() && check.connections == wins, "{check}");
    });
}

#[test]
fn loom_a_reader_sees_all_of_a_new_connection_or_nothing() {
    model(|| {
        let (table, epochs) = (table(), epochs());
        let reader = thread::spawn(move || {
            let new = connection(1, 1);
            if let Some(flow) = find(table, &new.original.key) {
                assert_eq!((flow.rewrite, flow.next_hop, flow.ingress), (new.original.rewrite, 1, 1));
                assert!(find(table, &new.reply.key).is_some(), "an original without its reply");
            }
        });
        insert(table, epochs, &connection(1, 1)).unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn loom_a_reader_never_sees_two_connections_in_one() {
    model(|| {
        let (table, epochs) = (table(), epochs());
        let inserted = insert(table, epochs, &connection(1, 1)).unwrap();
        let reader = thread::spawn(move || {
            let old = connection(1, 1);
            if let Some(flow) = find(table, &old.original.key) {
                assert_eq!((flow.rewrite, flow.next_hop, flow.ingress), (old.original.rewrite, 1, 1));
            }
        });
        assert!(table.end(epochs, inserted.flow.at));
        // Nobody else is a worker here: readers that write nothing need no epoch.
        let target = epochs.advance();
        epochs.mark_safe(target);
        let again = insert(table, epochs, &successor(table)).unwrap();
        assert_eq!(again.flow.at.slot, inserted.flow.at.slot, "the model is about reuse");
        reader.join().unwrap();
    });
}

#[test]
fn loom_a_late_packet_never_writes_into_the_next_connection_of_a_slot() {
    model(|| {
        let (table, epochs) = (table(), epochs());
        let word: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(u64::MAX)));
        let inserted = insert(table, epochs, &connection(1, 1)).unwrap();
        let worker = thread::spawn(move || {
            epochs.enter(word);
            if let Some(flow) = find(table, &connection(1, 1).original.key) {
                table.touch(flow.at.slot, 999);
            }
            epochs.leave(word);
        });
        let control = thread::spawn(move || {
            let target = epochs.advance();
            if epochs.passed(target, [word]) {
                epochs.mark_safe(target);
            }
        });
        assert!(table.end(epochs, inserted.flow.at));
        let new = successor(table);
        let next = insert(table, epochs, &new).unwrap();
        worker.join().unwrap();
        control.join().unwrap();
        assert_eq!(table.entry(next.flow.at.slot)[TICK].load(Ordering::Relaxed), new.original.next_hop);
    });
}

#[test]
fn loom_a_connection_ends_once_whoever_ends_it() {
    model(|| {
        let (table, epochs) = (table(), epochs());
        let inserted = insert(table, epochs, &connection(1, 1)).unwrap();
        let other = thread::spawn(move || table.end(epochs, inserted.reply));
        // Expiry finds it idle at the same time.
        let mine =
            (0..BUCKETS).map(|bucket| table.expire_bucket(bucket, 1000, &Timeouts::default(), epochs)).sum::<u32>();
        assert_eq!(mine + u32::from(other.join().unwrap()), 1);
        let check = check(table);
        assert!(check.is_clean() && check.dying == 2, "{check}");
    });
}

#[test]
fn loom_an_end_and_an_insert_of_the_same_key_leave_one_or_none() {
    model(|| {
        let (table, epochs) = (table(), epochs());
        let inserted = insert(table, epochs, &connection(1, 1)).unwrap();
        let other = thread::spawn(move || insert(table, epochs, &connection(1, 1)));
        assert!(table.end(epochs, inserted.flow.at));
        let again = other.join().unwrap();
        let check = check(table);
        assert!(check.is_clean() && check.connections == u64::from(won(&again)), "{check}");
        let at = FlowRef { ..inserted.flow.at };
        assert_ne!(table.entry(at.slot)[CTL].load(Ordering::Relaxed) >> 8, at.sequence, "the ended entry still stands");
    });
}
