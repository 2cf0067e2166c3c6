//! Traffic on every path, and an endpoint replaced under it.

use std::time::Duration;

use atalho_benches::lab::daemon::{Objects, write_config};
use atalho_benches::lab::paths::{self, MOVING, Path, Place};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::Session;
use atalho_benches::lab::{daemon::command, objects};
use atalho_benches::traffic::client::{JobKind, now_ms};

use crate::support::{assert_all_paths_work, assert_even_and_right, finish, ready, skipped, turn};

#[test]
fn every_path_works_in_both_families() {
    if skipped("every_path_works_in_both_families") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-paths"));
    let before = session.daemon().unwrap().status().unwrap();
    let outcomes = assert_all_paths_work(&mut session, 5.0);
    assert_even_and_right(&session);
    // The generator's own count: the node's kernel does not forward, so each of these crossed a worker, there and back.
    let answered: u64 = outcomes.iter().map(|outcome| outcome.requests).sum();
    let after = session.daemon().unwrap().status().unwrap();
    assert!(after.forwarded - before.forwarded >= answered * 2, "{answered} answered, {before:?} -> {after:?}");
}

#[test]
fn bulk_streams_arrive_whole() {
    if skipped("bulk_streams_arrive_whole") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-bulk"));
    for path in Family::BOTH.into_iter().flat_map(paths::paths) {
        let job = atalho_benches::traffic::client::Job { count_max: 8 << 20, ..paths::job(&path, JobKind::Bulk, 5.0) };
        let id = session.ask(path.from, job).unwrap();
        let outcome = finish(&mut session, &[(id, path.clone(), JobKind::Bulk)], 5.0).remove(0);
        assert!(outcome.bytes >= 1 << 20, "{} {}: only {} bytes", path.name, path.family.name(), outcome.bytes);
    }
    assert_even_and_right(&session);
}

#[test]
fn a_replaced_endpoint_moves_udp_at_once_and_leaves_established_tcp() {
    if skipped("a_replaced_endpoint_moves_udp_at_once_and_leaves_established_tcp") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-replace"));
    let mut jobs = Vec::new();
    for path in
        Family::BOTH.into_iter().flat_map(|family| paths::paths(family).into_iter().chain([paths::moving(family)]))
    {
        let held: &[JobKind] = if path.name == MOVING { &[JobKind::HoldTcp, JobKind::HoldUdp] } else { &[] };
        for &kind in [JobKind::Tcp, JobKind::Udp].iter().chain(held) {
            jobs.push((session.ask(path.from, paths::job(&path, kind, 6.0)).unwrap(), path.clone(), kind));
        }
    }
    session.listen(Duration::from_secs(3)).unwrap();
    let changed_ms = now_ms();
    objects::replace_file(&session.plan().manifests(), objects::MOVING, &objects::replacement()).unwrap();
    let outcomes = finish(&mut session, &jobs, 6.0);
    for ((_, path, kind), outcome) in jobs.iter().zip(&outcomes).filter(|((_, path, _), _)| path.name == MOVING) {
        let what = format!("{} {}: {:?}", path.family.name(), paths::kind_name(*kind), outcome.moves);
        if *kind == JobKind::HoldTcp {
            assert_eq!(outcome.backends.keys().collect::<Vec<_>>(), ["pod-1"], "{what}");
            assert!(outcome.backends["pod-1"] > outcome.requests / 2 + 50, "no answers after the change: {outcome:?}");
            continue;
        }
        // A held flow moves once; of new flows, a few may meet the other worker's older snapshot for an instant.
        assert!(*kind != JobKind::HoldUdp || outcome.moves.len() == 2, "{what}");
        let [(_, first), .., (moved_ms, last)] = outcome.moves.as_slice() else { panic!("{what}") };
        assert_eq!((first.as_str(), last.as_str()), ("pod-1", "pod-3"), "{what}");
        assert!(moved_ms - changed_ms < 2000, "moved after {} ms: {what}", moved_ms - changed_ms);
    }
    assert_even_and_right(&session);
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    if skipped("a_service_without_endpoints_refuses_at_once") {
        return;
    }
    let mut session = ready(&Plan::new("at-t-empty"));
    for family in Family::BOTH {
        let target = paths::cluster_ip(60, family);
        let path = Path { tcp: (target, 80).into(), udp: (target, 443).into(), ..paths::moving(family) };
        for from in [Place::Pod(1), Place::Node] {
            for kind in [JobKind::Tcp, JobKind::Udp] {
                let mut job = paths::job(&path, kind, 5.0);
                (job.count_max, job.timeout_ms, job.interval_ms) = (3, 1000, 100);
                let id = session.ask(from, job).unwrap();
                let outcome = session.wait_for(&[id], Duration::from_secs(10)).unwrap().remove(0);
                let refused = outcome.failures.iter().filter(|failure| failure.text.contains("refused")).count();
                assert_eq!((outcome.failed, refused), (3, 3), "{} {kind:?} from {from:?}: {outcome:?}", family.name());
            }
        }
    }
    assert_even_and_right(&session);
}

#[test]
fn a_second_daemon_for_the_node_is_refused_and_the_first_goes_on() {
    if skipped("a_second_daemon_for_the_node_is_refused_and_the_first_goes_on") {
        return;
    }
    let _turn = turn();
    let mut session: Session = ready(&Plan::new("at-t-second"));
    let config = write_config(session.plan(), None, "").unwrap();
    let objects = Objects::Manifests(session.plan().manifests());
    let output = command(&session.programs().atalho, &session.plan().node(), &config, &objects).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("another daemon of this node is running") && said.contains("Stop it first"), "{said}");
    assert_all_paths_work(&mut session, 1.5);
    assert_even_and_right(&session);
}
