//! Rows of `docs/services.md` with traffic: which endpoints answer a pod, by what a Service and its EndpointSlices say, in
//! both families, over TCP and UDP.

mod objects;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{JobKind, Outcome};

use self::objects::{Answers, ROWS, Row, Slice, of, write};
use crate::support::{assert_even_and_right, finish, ready, skipped, turn};

/// Who asks: nobody's endpoint.
const FROM: usize = 3;

#[test]
fn each_row_is_answered_by_those_it_names() {
    if skipped("each_row_is_answered_by_those_it_names") {
        return;
    }
    let _turn = turn();
    let mut session = with_rows("at-t-rows");
    let asked: Vec<(&Row, Family, JobKind)> = ROWS
        .iter()
        .flat_map(|row| Family::BOTH.map(|family| (row, family)))
        .flat_map(|(row, family)| [JobKind::Tcp, JobKind::Udp].map(|kind| (row, family, kind)))
        .collect();
    let jobs: Vec<u32> = asked.iter().map(|(row, family, kind)| ask(&mut session, row, *family, *kind)).collect();
    let outcomes = session.wait_for(&jobs, Duration::from_secs(60)).unwrap();
    let mut bound = BTreeSet::new();
    for ((row, family, kind), outcome) in asked.iter().zip(&outcomes) {
        let what = format!("{} by {kind:?}, {}\n{outcome:?}", row.name, family.name());
        let failed_as = |text: &str| outcome.failures.iter().filter(|failure| failure.text.contains(text)).count();
        match row.answers {
            Answers::Refused => assert_eq!((failed_as("refused") as u64, outcome.requests), (2, 2), "{what}"),
            Answers::Nobody => assert_eq!((failed_as("no answer in time") as u64, outcome.requests), (2, 2), "{what}"),
            Answers::Each(names) => {
                assert_answered(outcome, *family, &what);
                assert_eq!(answering(outcome), names.iter().copied().collect(), "{what}");
            }
            Answers::OneOf(names) => {
                assert_answered(outcome, *family, &what);
                let one = answering(outcome);
                assert!(one.len() == 1 && one.is_subset(&names.iter().copied().collect()), "{what}");
                bound.insert((family.name(), one));
            }
        }
    }
    // A client is bound to one endpoint for all ports of a Service.
    assert_eq!(bound.len(), 2, "{bound:?}");

    let refused: Vec<String> =
        session.daemon().unwrap().status().unwrap().refused.iter().map(ToString::to_string).collect();
    for address in ["127.0.0.1", "::1", "169.254.0.9", "fe80::9"] {
        assert!(refused.iter().any(|refusal| refusal.contains(address)), "{address} is not in {refused:#?}");
    }
    assert_even_and_right(&session);
}

#[test]
fn endpoints_that_change_their_slice_keep_their_flows() {
    if skipped("endpoints_that_change_their_slice_keep_their_flows") {
        return;
    }
    let _turn = turn();
    let mut session = with_rows("at-t-slices");
    let row = of("merged");
    let mut held = Vec::new();
    for family in Family::BOTH {
        for kind in [JobKind::HoldTcp, JobKind::HoldUdp] {
            for _ in 0..4 {
                let path = path(row, family);
                held.push((session.ask(path.from, paths::job(&path, kind, 11.0)).unwrap(), path, kind));
            }
        }
    }
    // The one loses what the other gains, in this order: between the two events nobody has it.
    for _ in 0..4 {
        session.listen(Duration::from_millis(1200)).unwrap();
        let [first, second] = row.slices else { panic!("two slices") };
        let without = Slice { endpoints: &[], ..*first };
        let whole = Slice { endpoints: &[("pod-1", ""), ("remote-1", "")], ..*second };
        write(session.plan(), row, &[without, whole]);
        // Files are read once they have been left alone.
        session.listen(Duration::from_millis(1200)).unwrap();
        write(session.plan(), row, row.slices);
    }
    for ((_, path, kind), outcome) in held.iter().zip(finish(&mut session, &held, 11.0)) {
        assert!(outcome.moves.len() == 1 && outcome.failed == 0, "{} {kind:?}: {outcome:?}", path.family.name());
    }
    assert_even_and_right(&session);
}

#[test]
fn a_bound_client_goes_elsewhere_when_its_endpoint_goes_and_the_api_server_stays() {
    if skipped("a_bound_client_goes_elsewhere_when_its_endpoint_goes_and_the_api_server_stays") {
        return;
    }
    let _turn = turn();
    let mut session = with_rows("at-t-leaves");
    let (bound, api) = (of("affinity"), of("kubernetes"));
    let one = |session: &mut Session, row, family| {
        let job = ask(session, row, family, JobKind::Tcp);
        let outcome = session.wait_for(&[job], Duration::from_secs(30)).unwrap().remove(0);
        assert_answered(&outcome, family, row.name);
        outcome.backends.keys().cloned().collect::<Vec<_>>()
    };
    let before = Family::BOTH.map(|family| one(&mut session, bound, family).remove(0));
    let [slice] = bound.slices else { panic!("one slice") };
    let left: Vec<_> =
        slice.endpoints.iter().copied().filter(|(who, _)| before.iter().all(|gone| gone != who)).collect();
    write(session.plan(), bound, &[Slice { endpoints: &left, ..*slice }]);
    write(session.plan(), api, &[Slice { endpoints: &[], ..api.slices[0] }]);
    let generation = session.daemon().unwrap().status().unwrap().generation;
    let newer = session
        .daemon_mut()
        .unwrap()
        .wait_for(Duration::from_secs(10), "the changes", |status| status.generation > generation);
    newer.unwrap();
    session.listen(Duration::from_millis(500)).unwrap();
    for family in Family::BOTH {
        let now = one(&mut session, bound, family);
        assert!(now.len() == 1 && left.iter().any(|(who, _)| *who == now[0]), "{before:?}, then {now:?}");
        assert_eq!(one(&mut session, api, family), ["remote-1"]);
    }
    assert_even_and_right(&session);
}

fn with_rows(prefix: &str) -> Session {
    let plan = Plan::new(prefix);
    let mut session = ready(&plan);
    let before = session.daemon().unwrap().status().unwrap().services;
    fs::write(plan.manifests().join("nodes.yaml"), objects::NODES).unwrap();
    for row in ROWS {
        write(&plan, row, row.slices);
    }
    let ours = ROWS.iter().filter(|row| row.labels.is_empty()).count() as u64;
    let daemon = session.daemon_mut().unwrap();
    // The last file that is written is the one with addresses to be refused.
    daemon
        .wait_for(Duration::from_secs(20), "the Services", |status| {
            status.services >= before + ours && status.refused.len() >= 4
        })
        .unwrap();
    session
}

fn path(row: &Row, family: Family) -> Path {
    let at = |port| SocketAddr::new(paths::cluster_ip(row.number, family), port);
    let names = match row.answers {
        Answers::Each(names) | Answers::OneOf(names) => names,
        Answers::Refused | Answers::Nobody => &[],
    };
    Path {
        name: row.name,
        family,
        from: Place::Pod(FROM),
        tcp: at(80),
        udp: at(53),
        tcp_backends: names,
        udp_backends: names,
        source: pod_address(FROM, family),
    }
}

fn ask(session: &mut Session, row: &Row, family: Family, kind: JobKind) -> u32 {
    let path = path(row, family);
    let mut job = paths::job(&path, kind, 30.0);
    (job.interval_ms, job.count_max, job.timeout_ms) =
        if path.tcp_backends.is_empty() { (0, 2, 1000) } else { (10, 60, 10_000) };
    session.ask(path.from, job).unwrap()
}

/// All of it, and by servers that saw the pod itself.
fn assert_answered(outcome: &Outcome, family: Family, what: &str) {
    assert_eq!((outcome.requests, outcome.failed, outcome.wrong), (60, 0, 0), "{what}");
    assert_eq!(outcome.sources.keys().collect::<Vec<_>>(), [&pod_address(FROM, family).to_string()], "{what}");
}

fn answering(outcome: &Outcome) -> BTreeSet<&str> {
    outcome.backends.keys().map(String::as_str).collect()
}
