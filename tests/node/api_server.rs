//! The same node fed by a real API server: at work, gone, back, and saying no.

use std::time::Duration;

use atalho_benches::apiserver::{ApiServer, Who};
use atalho_benches::lab::daemon::{Objects, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, OUTSIDE_PORT, outside_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{Job, JobKind};

use crate::support::{assert_all_paths_work, assert_even_and_right, skipped, turn, with_server};

fn start(session: &mut Session, server: &ApiServer, who: Who) {
    let config = write_config(session.plan(), None, "").unwrap();
    let kubeconfig = server.kubeconfig_of(who).unwrap();
    session.start_daemon(&config, &Objects::ApiServer { kubeconfig }).unwrap();
}

/// The node's own traffic to the outside, which must not depend on anything here.
fn assert_own_traffic_lives(session: &mut Session) {
    for family in Family::BOTH {
        let outside = (outside_address(family), OUTSIDE_PORT).into();
        let path = Path { from: Place::Node, tcp: outside, udp: outside, ..paths::moving(family) };
        let id = session.ask(path.from, paths::job(&path, JobKind::Tcp, 0.5)).unwrap();
        let outcome = session.wait_for(&[id], Duration::from_secs(10)).unwrap().remove(0);
        assert_eq!(outcome.failed, 0, "{outcome:?}");
    }
}

#[test]
fn objects_of_an_api_server_move_traffic_and_outlive_it() {
    if skipped("objects_of_an_api_server_move_traffic_and_outlive_it") {
        return;
    }
    let _turn = turn();
    let (mut session, mut server) = with_server("at-t-api");
    start(&mut session, &server, Who::Admin);
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(20)).unwrap();
    assert_all_paths_work(&mut session, 2.0);
    let held = hold_all(&mut session);

    // It goes: the last tables stay, and the status says so.
    server.stop_server();
    let gone = session
        .daemon_mut()
        .unwrap()
        .wait_for(Duration::from_secs(60), "to notice", |status| status.state == "degraded");
    assert!(gone.unwrap().api.is_some_and(|said| said.to_string().contains("6443")));
    assert_all_paths_work(&mut session, 1.5);

    // It comes back: changes count again.
    server.start_server().unwrap();
    server.apply(&[objects::replacement()]).unwrap();
    session
        .daemon_mut()
        .unwrap()
        .wait_for(Duration::from_secs(60), "to recover", |status| status.state == "ready")
        .unwrap();
    for family in Family::BOTH {
        let path = paths::moving(family);
        // A watch may go on some seconds after its server is back.
        let arrived = (0..30).any(|_| {
            let id = session.ask(path.from, paths::job(&path, JobKind::Udp, 0.5)).unwrap();
            let outcome = session.wait_for(&[id], Duration::from_secs(10)).unwrap().remove(0);
            assert_eq!(outcome.failed, 0, "{outcome:?}");
            outcome.backends.keys().eq(["pod-3"])
        });
        assert!(arrived, "{family:?}: the new endpoint answers nobody");
    }
    // Not a flow of the other Services has moved, for all that was listed again.
    session.stop_jobs().unwrap();
    for outcome in session.wait_for(&held, Duration::from_secs(10)).unwrap() {
        assert_eq!((outcome.failed, outcome.wrong, outcome.moves.len()), (0, 0, 1), "{outcome:?}");
    }
    assert_even_and_right(&session);
}

/// Flows on every path, none of which leads to an endpoint that is replaced.
fn hold_all(session: &mut Session) -> Vec<u32> {
    let kinds = [JobKind::HoldTcp, JobKind::HoldUdp];
    let jobs = Family::BOTH.into_iter().flat_map(paths::paths).flat_map(|path| kinds.map(|kind| (path.clone(), kind)));
    jobs.map(|(path, kind)| {
        let job = Job { interval_ms: 200, timeout_ms: 5000, ..paths::job(&path, kind, 300.0) };
        session.ask(path.from, job).unwrap()
    })
    .collect()
}

#[test]
fn an_api_server_that_is_not_there_is_waited_for() {
    if skipped("an_api_server_that_is_not_there_is_waited_for") {
        return;
    }
    let _turn = turn();
    let (mut session, mut server) = with_server("at-t-later");
    server.stop_server();
    start(&mut session, &server, Who::Admin);
    let waiting =
        session.daemon_mut().unwrap().wait_for(Duration::from_secs(10), "to say what it waits for", |status| {
            status.state == "starting" && status.api.as_ref().is_some_and(|said| said.to_string().contains("6443"))
        });
    assert_eq!(waiting.unwrap().services, 0, "nothing is published before every first list is complete");
    assert_own_traffic_lives(&mut session);
    server.start_server().unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(60)).unwrap();
    assert_all_paths_work(&mut session, 1.5);
}

#[test]
fn an_api_server_that_says_no_is_quoted() {
    if skipped("an_api_server_that_says_no_is_quoted") {
        return;
    }
    let _turn = turn();
    let (mut session, server) = with_server("at-t-no");
    for (who, code) in [(Who::Nobody, "401"), (Who::Stranger, "403")] {
        start(&mut session, &server, who);
        let status =
            session.daemon_mut().unwrap().wait_for(Duration::from_secs(10), "to say that it may not", |status| {
                status.api.as_ref().is_some_and(|said| said.to_string().contains(code))
            });
        assert_eq!(status.unwrap().state, "starting", "{who:?}");
        assert_own_traffic_lives(&mut session);
        session.daemon_mut().unwrap().terminate().unwrap();
    }
}
