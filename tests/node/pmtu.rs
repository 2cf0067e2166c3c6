//! A link behind the uplink that is shorter than all others: path MTU discovery through Services, both ways.

use std::time::Duration;

use atalho_benches::lab::command::run_in;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{Job, JobKind, Outcome};

use crate::support::{assert_even_and_right, finish, last_words, ready, skipped, turn};

const BEYOND_MTU: u32 = 1400;

fn lab(prefix: &str) -> Session {
    ready(&Plan { beyond_mtu: Some(BEYOND_MTU), ..Plan::new(prefix) })
}

fn run(session: &mut Session, path: &Path, job: Job) -> Outcome {
    let id = session.ask(path.from, job).unwrap();
    session.wait_for(&[id], Duration::from_secs(60)).unwrap().remove(0)
}

/// Who sends long packets over the short link knows it of the address that it sends them to: a client of the Service's, an
/// endpoint of the one that it sees asking.
fn assert_is_known(session: &Session, path: &Path) {
    let plan = session.plan();
    let (namespace, to) = match path.from {
        Place::Far => (plan.pod(2), path.source),
        from => (session.namespace(from), path.udp.ip()),
    };
    let route = run_in(&namespace, "ip", &["route", "get", &to.to_string()]).unwrap();
    assert!(route.contains(&format!("mtu {BEYOND_MTU}")), "{}: {namespace}: {route}", path.name);
}

/// Paths that lead over the short link, always or for some endpoints.
fn paths_beyond(family: Family) -> Vec<Path> {
    let mut paths = paths::paths(family);
    paths.retain(|path| {
        path.from == Place::Far
            || [path.tcp_backends, path.udp_backends]
                .iter()
                .any(|backends| backends.iter().any(|name| name.starts_with("remote") || *name == "outside"))
    });
    paths
}

#[test]
fn tcp_finds_the_path_mtu_through_services_both_ways() {
    if skipped("tcp_finds_the_path_mtu_through_services_both_ways") {
        return;
    }
    let _turn = turn();
    let mut session = lab("at-t-pmtu");
    let mut tested = 0;
    for path in Family::BOTH.into_iter().flat_map(paths_beyond) {
        // Several, so that every endpoint is met: a stream to the server each.
        for _ in 0..4 {
            let job = Job { count_max: 1 << 20, ..paths::job(&path, JobKind::Bulk, 10.0) };
            let id = session.ask(path.from, job).unwrap();
            let outcome = finish(&mut session, &[(id, path.clone(), JobKind::Bulk)], 10.0).remove(0);
            assert_eq!((outcome.bytes, outcome.wrong), (1 << 20, 0), "{} {outcome:?}", path.name);
        }
        // And answers to the client that are as long.
        let job = Job { count_max: 60, interval_ms: 1, reply_bytes: 50_000, ..paths::job(&path, JobKind::Tcp, 20.0) };
        let id = session.ask(path.from, job).unwrap();
        finish(&mut session, &[(id, path.clone(), JobKind::Tcp)], 20.0);
        tested += 1;
    }
    assert_eq!(tested, 8, "both families of four paths");
    assert_even_and_right(&session);
}

#[test]
fn datagrams_find_the_path_mtu_through_services_both_ways() {
    if skipped("datagrams_find_the_path_mtu_through_services_both_ways") {
        return;
    }
    let _turn = turn();
    let mut session = lab("at-t-pmtu-udp");
    for path in Family::BOTH.into_iter().flat_map(paths_beyond) {
        // One packet of the first links, and several of them.
        for bytes in [1400, 9000] {
            let job = Job {
                count_max: 40,
                interval_ms: 2,
                timeout_ms: 500,
                request_bytes: bytes,
                reply_bytes: bytes,
                ..paths::job(&path, JobKind::Udp, 30.0)
            };
            let outcome = run(&mut session, &path, job);
            let what = format!("{} {} {bytes}", path.name, path.family.name());
            // What the router refused is lost, once toward each endpoint and once from it.
            let lost_max = 2 * path.udp_backends.len() as u64;
            assert!(
                outcome.requests == 40 && outcome.failed <= lost_max && outcome.wrong == 0,
                "{what}: {outcome:?}\n{}",
                last_words(&session)
            );
            assert!(outcome.failures.iter().all(|failure| failure.number < 20), "{what}: {outcome:?}");
        }
        assert_is_known(&session, &path);
    }
    assert_even_and_right(&session);
}
