//! What happens where room ends: every packet too many is dropped by name, and what has room goes on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use atalho_benches::lab::command::ip;
use atalho_benches::lab::daemon::{Objects, Status, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, outside_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{Job, JobKind};

use crate::support::{assert_all_paths_work, assert_even_and_right, finish, programs, ready, skipped, turn};

/// The smallest table there is, in which nothing grows old while the test runs.
const SMALL: &str = "\n[conntrack]\nmax_flows = 1024\nudp_s = 600\nudp_stream_s = 600\nicmp_s = 600\n";
const MAX_FLOWS: u64 = 1024;
/// Connections for which there are slots at the very most, both families together: the table has a slot in hand for
/// every 88 in a hundred, and whole buckets.
const FLOWS_MAX: u64 = 2 * (MAX_FLOWS * 100 / 88 + 16);

#[test]
fn a_full_table_makes_room_or_drops_by_name_and_keeps_what_is_established() {
    if skipped("a_full_table_makes_room_or_drops_by_name_and_keeps_what_is_established") {
        return;
    }
    let _turn = turn();
    let mut session = Session::build(&Plan::new("at-t-full"), &programs()).unwrap();
    let config = write_config(session.plan(), None, SMALL).unwrap();
    let manifests = objects::write(session.plan()).unwrap();
    session.start_daemon(&config, &Objects::Manifests(manifests)).unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(30)).unwrap();
    let held: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(paths::paths)
        .flat_map(|path| [JobKind::HoldTcp, JobKind::HoldUdp].map(|kind| (path.clone(), kind)))
        .map(|(path, kind)| {
            let mut job = paths::job(&path, kind, 300.0);
            (job.interval_ms, job.timeout_ms) = (100, 20_000);
            (session.ask(path.from, job).unwrap(), path, kind)
        })
        .collect();
    session.listen(Duration::from_secs(2)).unwrap();

    // Flows that nobody answers: each one too many takes the place of another.
    let nobody = |family| SocketAddr::new(outside_address(family), 9);
    flood(&mut session, nobody, 3 * MAX_FLOWS, 1);
    let evicting = session.daemon().unwrap().settled_status().unwrap();
    assert!(evicting.flows_evicted > MAX_FLOWS / 2, "{evicting:?}");
    assert!(evicting.flows >= MAX_FLOWS && evicting.flows <= FLOWS_MAX, "{evicting:?}");
    // A new connection gets in: its first packets make the room, their repetitions find it.
    for family in Family::BOTH {
        let path = paths::paths(family).into_iter().find(|path| path.name == "pod to ClusterIP").unwrap();
        let mut job = paths::job(&path, JobKind::Tcp, 120.0);
        (job.count_max, job.timeout_ms, job.interval_ms) = (3, 30_000, 0);
        let id = session.ask(path.from, job).unwrap();
        finish(&mut session, &[(id, path, JobKind::Tcp)], 120.0);
    }

    // Flows that are answered stay, so there comes a time when nothing can go.
    let before = session.daemon().unwrap().settled_status().unwrap();
    let somebody = |family| SocketAddr::new(paths::cluster_ip(10, family), 443);
    flood(&mut session, somebody, 3 * MAX_FLOWS, 20);
    let full = session.daemon().unwrap().settled_status().unwrap();
    assert!(table_full(&full) > table_full(&before), "{before:?}\n{full:?}");
    assert!(full.flows >= MAX_FLOWS && full.flows <= FLOWS_MAX, "{full:?}");

    session.listen(Duration::from_secs(1)).unwrap();
    session.stop_jobs().unwrap();
    for outcome in finish(&mut session, &held, 25.0) {
        assert!(outcome.requests > 20 && outcome.moves.len() == 1, "{outcome:?}");
    }
    assert_even_and_right(&session);
}

/// Flows of every pod at once: `count` of each family in all, each a socket of its own, asked once.
fn flood(session: &mut Session, target: impl Fn(Family) -> SocketAddr, count: u64, timeout_ms: u64) {
    let mut jobs = Vec::new();
    for family in Family::BOTH {
        for number in 1..=4 {
            let path = Path { udp: target(family), ..paths::moving(family) };
            let job = Job {
                interval_ms: 0,
                count_max: count / 4,
                timeout_ms,
                request_bytes: 20,
                reply_bytes: 20,
                ..paths::job(&path, JobKind::Udp, 100.0)
            };
            jobs.push(session.ask(Place::Pod(number), job).unwrap());
        }
    }
    session.wait_for(&jobs, Duration::from_secs(150)).unwrap();
}

fn table_full(status: &Status) -> u64 {
    status.drops.get("table_full").copied().unwrap_or_default()
}

#[test]
fn packets_to_a_silent_neighbour_wait_and_their_senders_are_told() {
    if skipped("packets_to_a_silent_neighbour_wait_and_their_senders_are_told") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-silent"));
    let others: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(paths::paths)
        .flat_map(|path| [JobKind::Tcp, JobKind::Udp].map(|kind| (path.clone(), kind)))
        .map(|(path, kind)| {
            let mut job = paths::job(&path, kind, 8.0);
            (job.interval_ms, job.timeout_ms) = (30, 10_000);
            (session.ask(path.from, job).unwrap(), path, kind)
        })
        .collect();
    // More at once than may wait for one neighbour.
    let jobs: Vec<u32> = Family::BOTH
        .map(|family| {
            let path = Path { udp: SocketAddr::new(silent(family), 9), ..paths::moving(family) };
            let job = Job { interval_ms: 0, count_max: 1500, timeout_ms: 1, ..paths::job(&path, JobKind::Udp, 60.0) };
            session.ask(Place::Pod(1), job).unwrap()
        })
        .to_vec();
    for outcome in session.wait_for(&jobs, Duration::from_secs(90)).unwrap() {
        assert_eq!(outcome.failed, outcome.requests, "somebody answered: {outcome:?}");
    }
    // What waits is given up after a while; nobody else has noticed anything.
    let status = session
        .daemon_mut()
        .unwrap()
        .wait_for(Duration::from_secs(30), "to give up", |status| {
            status.slow_path.waiting == 0 && status.slow_path.answered.contains_key("neighbour_unresolved")
        })
        .unwrap();
    assert!(status.slow_path.dropped.contains_key("neighbour_queue_full"), "{status:?}");
    finish(&mut session, &others, 60.0);
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert!(status.slow_path.is_even(), "{status:?}");

    // It comes to life: what asks for it now is answered, by its refusal.
    let far = session.plan().far();
    for (family, length) in Family::BOTH.into_iter().zip([24, 64]) {
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        ip(&far, &format!("addr add {}/{length} dev eth0{nodad}\n", silent(family))).unwrap();
    }
    for family in Family::BOTH {
        let path = Path { tcp: SocketAddr::new(silent(family), 9), ..paths::moving(family) };
        let job = Job { interval_ms: 0, count_max: 3, timeout_ms: 20_000, ..paths::job(&path, JobKind::Tcp, 60.0) };
        let id = session.ask(Place::Pod(1), job).unwrap();
        let outcome = session.wait_for(&[id], Duration::from_secs(90)).unwrap().remove(0);
        let refused = outcome.failures.iter().filter(|failure| failure.text.contains("refused")).count();
        assert_eq!((outcome.requests, refused), (3, 3), "{outcome:?}");
    }
    assert_all_paths_work(&mut session, 1.5);
    assert_even_and_right(&session);
}

/// An address on the uplink's network that nobody has.
fn silent(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 0, 77]),
        Family::V6 => IpAddr::from([0xfd00, 0x168, 0, 0, 0, 0, 0, 0x77]),
    }
}
