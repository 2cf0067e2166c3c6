//! Real threads on one table. The loom model visits every interleaving of a tiny table; this visits many of a large one.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

use super::*;

/// Inserts, again as long as another inserter is in the way.
fn insert_until_clear(
    table: &ConnTable,
    worker: u8,
    epochs: &Epochs,
    new: &NewConnection,
) -> Result<Inserted, InsertError> {
    loop {
        match table.insert(worker, epochs, new, 1) {
            Err(InsertError::Contention) => thread::yield_now(),
            result => return result,
        }
    }
}

#[test]
fn of_many_inserters_of_one_connection_exactly_one_wins() {
    const THREADS: u32 = 4;
    const ROUNDS: u16 = 2000;
    for is_ipv6 in [false, true] {
        let (table, epochs) = (ConnTable::in_memory(4000, &SECRET), Epochs::new());
        let (barrier, wins) = (Barrier::new(THREADS as usize), AtomicU32::new(0));
        thread::scope(|scope| {
            for worker in 0..THREADS {
                let (epochs, barrier, wins) = (&epochs, &barrier, &wins);
                scope.spawn(move || {
                    for port in 0..ROUNDS {
                        barrier.wait();
                        let new = to_service(is_ipv6, Protocol::Udp, (1, port), 7);
                        match insert_until_clear(&table, worker as u8, epochs, &new) {
                            Ok(_) => _ = wins.fetch_add(1, Ordering::Relaxed),
                            Err(InsertError::Exists { flow, .. }) => {
                                assert_eq!(flow.next_hop, if flow.is_reply { 4 } else { 3 })
                            }
                            Err(other) => panic!("{other:?}"),
                        }
                        assert!(table.find(&new.original.key).is_some() && table.find(&new.reply.key).is_some());
                    }
                });
            }
        });
        assert_eq!(wins.load(Ordering::Relaxed), u32::from(ROUNDS));
        assert_eq!(table.count(), u64::from(ROUNDS));
        let check = table.check();
        assert!(check.is_clean() && check.connections == u64::from(ROUNDS), "{check}");
    }
}

#[test]
fn two_clients_that_meet_on_one_translated_tuple_share_nothing() {
    const ROUNDS: u16 = 3000;
    let (table, epochs, barrier) = (ConnTable::in_memory(8000, &SECRET), Epochs::new(), Barrier::new(2));
    let wins = AtomicU32::new(0);
    thread::scope(|scope| {
        for client in [1u8, 2] {
            let (epochs, barrier, wins) = (&epochs, &barrier, &wins);
            scope.spawn(move || {
                for port in 0..ROUNDS {
                    barrier.wait();
                    let mut new = to_service(false, Protocol::Udp, (client, port), 7);
                    // Both are masqueraded to address 100 and the same port.
                    new.reply.key = key(false, Protocol::Udp, (7, 8080), (100, port));
                    match insert_until_clear(&table, client, epochs, &new) {
                        Ok(_) => _ = wins.fetch_add(1, Ordering::Relaxed),
                        Err(InsertError::Exists { is_reply: true, .. }) => {
                            assert!(table.find(&new.original.key).is_none(), "half of a refused connection");
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(wins.load(Ordering::Relaxed), u32::from(ROUNDS));
    assert!(table.check().is_clean());
}

/// Workers insert, find, touch and end a few colliding connections while control moves the epochs. A found flow must
/// always be the one that was asked for, whole, and no packet's store may reach a slot's next connection.
#[test]
fn reuse_under_load_never_mixes_two_connections() {
    const WORKERS: usize = 3;
    let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
    let words: [AtomicU64; WORKERS] = [const { AtomicU64::new(u64::MAX) }; WORKERS];
    let (stop, reused) = (AtomicBool::new(false), AtomicU64::new(0));
    // The next hop of each connection is made from its port, so a mixture shows.
    let connection = |port: u16| {
        let mut new = to_service(port % 2 == 1, Protocol::Udp, ((port % 50) as u8, port), 7);
        new.original.next_hop = u32::from(port);
        new.reply.next_hop = u32::from(port) << 16;
        new
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (words, epochs, reused) = (&words, &epochs, &reused);
                scope.spawn(move || {
                    let mut random = worker as u64 + 1;
                    for _ in 0..20_000 {
                        epochs.enter(&words[worker]);
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let port = (random >> 33) as u16 % 64;
                        let new = connection(port);
                        let found = table.find(&new.original.key);
                        if let Some(flow) = found {
                            assert_eq!((flow.next_hop, flow.rewrite), (u32::from(port), new.original.rewrite));
                            pass(&table, &flow, port.into());
                        }
                        if let Some(answer) = table.find(&new.reply.key) {
                            assert_eq!((answer.next_hop, answer.rewrite), (u32::from(port) << 16, new.reply.rewrite));
                            pass(&table, &answer, port.into());
                        }
                        match found {
                            Some(flow) if random >> 20 & 1 == 0 => _ = table.end(epochs, flow.at),
                            Some(_) => {}
                            None => match table.insert(worker as u8, epochs, &new, port.into()) {
                                Ok(inserted) if inserted.flow.at.sequence > 1 => {
                                    _ = reused.fetch_add(1, Ordering::Relaxed)
                                }
                                Ok(_) | Err(InsertError::Exists { .. } | InsertError::Contention) => {}
                                Err(InsertError::TableFull) => thread::yield_now(),
                                Err(other) => panic!("{other:?}"),
                            },
                        }
                    }
                    epochs.leave(&words[worker]);
                })
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if epochs.waits() {
                    let target = epochs.advance();
                    while !epochs.passed(target, &words) {
                        thread::yield_now();
                    }
                    epochs.mark_safe(target);
                }
                // What control reads meanwhile is whole, too.
                for connection in table.connections() {
                    assert_eq!(connection.reply.next_hop, connection.original.next_hop << 16);
                    let (a, b) = (connection.original_seen_s, connection.reply_seen_s);
                    assert!([a, b].iter().all(|tick| *tick == connection.original.next_hop), "{connection:?}");
                }
                thread::yield_now();
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reused.load(Ordering::Relaxed) > 100, "slots were reused {} times", reused.load(Ordering::Relaxed));
    let check = table.check();
    assert!(check.is_clean(), "{check}");
    assert_eq!(check.connections, table.count());
}
