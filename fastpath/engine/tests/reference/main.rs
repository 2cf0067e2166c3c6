//! The engine against a naive reference of connection tracking and translation (`world.rs`, `tcp.rs`), driven by random
//! events: segments right and wrong in both directions, datagrams, echoes, time, expiry, Services that change, ports and
//! tables that run out. After each batch both must say the same of every packet, and now and then of every connection.
//!
//! What the reference cannot know it is told and holds against the rules: which endpoint was chosen, which source port,
//! and who had to go from full buckets.

#[path = "../lab/mod.rs"]
mod lab;

mod driver;
mod frames;
mod tcp;
mod world;

use driver::{Driver, Event};

/// Events in all, in runs of so many.
const EVENTS: usize = 1_000_000;
const RUN: usize = 20_000;
/// Runs that a failure may take to be made shorter.
const SHORTENINGS: usize = 150;

/// Few clients, whose tuples meet; and many, for which the table has no room.
const CLIENTS: [u16; 3] = [1, 10, 500];

fn failure(clients: u16, events: &[Event]) -> Option<(usize, String)> {
    let mut driver = Driver::new(clients);
    for (at, event) in events.iter().enumerate() {
        if let Err(why) = driver.run(event) {
            return Some((at, why));
        }
    }
    None
}

/// The failure with events left out as long as it still fails.
fn shortest(clients: u16, mut events: Vec<Event>) -> (Vec<Event>, String) {
    let Some((at, mut why)) = failure(clients, &events) else { panic!("it fails only sometimes") };
    events.truncate(at + 1);
    let mut left = SHORTENINGS;
    let mut chunk = events.len() / 2;
    while chunk > 0 {
        let mut start = 0;
        while start < events.len() && left > 0 {
            let mut fewer = events.clone();
            fewer.drain(start..(start + chunk).min(events.len()));
            left -= 1;
            match failure(clients, &fewer) {
                Some((at, other)) => {
                    fewer.truncate(at + 1);
                    (events, why) = (fewer, other);
                }
                None => start += chunk,
            }
        }
        chunk /= 2;
    }
    (events, why)
}

#[test]
fn a_million_random_events_go_as_the_reference_says() {
    let mut counts = driver::Counts::default();
    for run in 0..EVENTS / RUN {
        let clients = CLIENTS[run % CLIENTS.len()];
        let mut random = driver::Random::new(run as u64);
        let events: Vec<Event> = (0..RUN).map(|_| Event::draw(&mut random)).collect();
        let mut driver = Driver::new(clients);
        if let Some(at) = events.iter().position(|event| driver.run(event).is_err()) {
            let (events, why) = shortest(clients, events[..=at].to_vec());
            let list: Vec<String> = events.iter().map(|event| format!("  {event:?}")).collect();
            panic!("run {run}, {clients} clients: {why}\nafter {} events:\n{}", events.len(), list.join("\n"));
        }
        counts.add(&driver.counts);
    }
    println!("{counts:?}");
    assert!(counts.are_all_there(), "some case never came: {counts:?}");
}
