//! Rings against an oracle: a plain queue that says what every call must answer. Fewer steps under Miri, which proves
//! the memory accesses: `cargo +nightly miri test -p atalho-sys --test rings`.

use std::collections::VecDeque;

use atalho_sys::xsk::ring::{Desc, in_memory};

/// A small generator (xorshift) is enough to choose among four calls; the seed names the run.
struct Choice(u64);

impl Choice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[derive(Default)]
struct Oracle {
    /// Pushed, not published.
    hidden: VecDeque<u64>,
    /// Published, not popped.
    visible: VecDeque<u64>,
    /// Popped, not released: their slots are not free yet.
    unreleased: usize,
}

impl Oracle {
    fn used(&self) -> usize {
        self.hidden.len() + self.visible.len() + self.unreleased
    }
}

fn steps() -> u64 {
    if cfg!(miri) { 500 } else { 20_000 }
}

#[test]
fn random_calls_answer_as_the_oracle_says() {
    for seed in 1..=20u64 {
        let slots = 1u32 << (seed % 6);
        // Shortly before the wrap of the 32-bit indices.
        let (mut producer, mut consumer) = in_memory::<u64>(slots, u32::MAX - 7);
        let mut oracle = Oracle::default();
        let mut choice = Choice(seed * 0x9e37_79b9);
        let mut value = 0;
        for step in 0..steps() {
            match choice.below(8) {
                0..3 => {
                    let fits = oracle.used() < slots as usize;
                    assert_eq!(producer.push(value), fits, "seed {seed} step {step}: push");
                    if fits {
                        oracle.hidden.push_back(value);
                    }
                    value += 1;
                }
                3 => {
                    producer.publish();
                    oracle.visible.append(&mut oracle.hidden);
                }
                4..7 => {
                    let expected = oracle.visible.pop_front();
                    assert_eq!(consumer.pop(), expected, "seed {seed} step {step}: pop");
                    oracle.unreleased += usize::from(expected.is_some());
                }
                _ => {
                    consumer.release();
                    oracle.unreleased = 0;
                }
            }
            assert_eq!(consumer.waiting() as usize, oracle.visible.len(), "seed {seed} step {step}");
            assert_eq!(producer.waiting() as usize, oracle.used(), "seed {seed} step {step}");
        }
    }
}

#[test]
fn every_entry_crosses_threads_once_and_in_order() {
    let entries = if cfg!(miri) { 200u64 } else { 300_000 };
    let (mut producer, mut consumer) = in_memory::<Desc>(64, u32::MAX - 100);
    let sender = std::thread::spawn(move || {
        for value in 0..entries {
            let entry = Desc { addr: value, len: value as u32, options: !(value as u32) };
            while !producer.push(entry) {
                producer.publish();
                std::thread::yield_now();
            }
            if value % 7 == 0 {
                producer.publish();
            }
        }
        producer.publish();
    });
    let mut expected = 0;
    while expected < entries {
        match consumer.pop() {
            Some(entry) => {
                assert_eq!(entry, Desc { addr: expected, len: expected as u32, options: !(expected as u32) });
                expected += 1;
            }
            None => {
                consumer.release();
                std::thread::yield_now();
            }
        }
        if expected % 5 == 0 {
            consumer.release();
        }
    }
    sender.join().unwrap();
    assert_eq!(consumer.pop(), None);
}

#[test]
#[should_panic(expected = "no power of two")]
fn a_ring_of_another_size_is_refused() {
    let _ = in_memory::<u64>(48, 0);
}
