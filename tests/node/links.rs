//! Links that go under traffic.

use std::time::Duration;

use atalho_benches::lab::command::ip;
use atalho_benches::lab::paths::{self, Place};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::traffic::client::{Job, JobKind};

use crate::support::{assert_all_paths_work, finish, last_words, ready, skipped, turn};

#[test]
fn a_pod_that_goes_and_comes_takes_nobody_along() {
    if skipped("a_pod_that_goes_and_comes_takes_nobody_along") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-pod");
    let mut session = ready(&plan);
    // Pod 4 is nobody's backend but its own.
    let jobs: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(paths::paths)
        .filter(|path| path.from != Place::Pod(4))
        .flat_map(|path| [JobKind::Tcp, JobKind::Udp].map(|kind| (path.clone(), kind)))
        .map(|(path, kind)| (session.ask(path.from, paths::job(&path, kind, 8.0)).unwrap(), path, kind))
        .collect();
    let pod4 = Family::BOTH.map(|family| {
        let own = paths::paths(family).into_iter().find(|path| path.from == Place::Pod(4)).unwrap();
        // A flood at the pod that goes: packets are on their way to its link whenever it does.
        let at_it = paths::Path { from: Place::Pod(3), ..own };
        session
            .ask(Place::Pod(3), Job { interval_ms: 1, timeout_ms: 50, ..paths::job(&at_it, JobKind::Udp, 8.0) })
            .unwrap()
    });
    session.listen(Duration::from_millis(1500)).unwrap();
    for _ in 0..2 {
        session.end_agent(Place::Pod(4));
        ip(&plan.node(), "link delete pod4\n").unwrap();
        session.listen(Duration::from_millis(1000)).unwrap();
        session.network().connect_pod(4).unwrap();
        session.start_pod_agent(4).unwrap();
        session.listen(Duration::from_millis(1000)).unwrap();
    }
    finish(&mut session, &jobs, 8.0);
    session.wait_for(&pod4, Duration::from_secs(20)).unwrap();
    assert_all_paths_work(&mut session, 1.5);
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert!(status.is_even(), "{status:?}");
}

#[test]
fn the_uplink_goes_down_and_comes_up() {
    if skipped("the_uplink_goes_down_and_comes_up") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-uplink");
    let mut session = ready(&plan);
    let local: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(paths::paths)
        .filter(|path| path.name == "pod to pod" || path.from == Place::Pod(4))
        .map(|path| (session.ask(path.from, paths::job(&path, JobKind::Tcp, 5.0)).unwrap(), path, JobKind::Tcp))
        .collect();
    session.listen(Duration::from_secs(1)).unwrap();
    ip(&plan.far(), "link set eth0 down\n").unwrap();
    session.listen(Duration::from_millis(1500)).unwrap();
    ip(&plan.far(), "link set eth0 up\n").unwrap();
    session.network().restore_far_routes().unwrap();
    // What needs no uplink has not noticed.
    finish(&mut session, &local, 5.0);
    // The uplink works again; a router's first words after such a pause may take a second.
    session.listen(Duration::from_secs(2)).unwrap();
    assert_all_paths_work(&mut session, 1.5);
    ip(&plan.node(), "link set uplink down\n").unwrap();
    session.listen(Duration::from_millis(1000)).unwrap();
    ip(&plan.node(), "link set uplink up\n").unwrap();
    session.network().restore_node_routes().unwrap();
    session.listen(Duration::from_secs(3)).unwrap();
    assert_all_paths_work(&mut session, 1.5);
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert!(status.is_even(), "{status:?}\n{}", last_words(&session));
}
