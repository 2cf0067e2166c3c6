//! Links that carry packets of 9000 bytes: longer than a chunk of a worker's memory, so they come in several pieces.

use atalho_benches::lab::command::{ip, run_in};
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{Job, JobKind, Outcome};

use crate::support::{assert_all_paths_work, assert_even_and_right, finish, ready, skipped, turn};

const MTU: u32 = 9000;
/// Payload of a datagram that just fits: headers of IP and UDP, and of the request itself, take the rest.
const LONG_BYTES: u32 = 8900;

fn jumbo(prefix: &str) -> Session {
    ready(&Plan { mtu: MTU, ..Plan::new(prefix) })
}

/// Requests and answers of `bytes` each on a path, by datagrams without fragmentation.
fn long_datagrams(session: &mut Session, path: &Path, bytes: u32, count: u64) -> Outcome {
    let job = Job {
        request_bytes: bytes,
        reply_bytes: bytes,
        count_max: count,
        interval_ms: 2,
        ..paths::job(path, JobKind::HoldUdp, 20.0)
    };
    let id = session.ask(path.from, job).unwrap();
    session.wait_for(&[id], std::time::Duration::from_secs(40)).unwrap().remove(0)
}

#[test]
fn packets_of_9000_bytes_pass_on_every_path() {
    if skipped("packets_of_9000_bytes_pass_on_every_path") {
        return;
    }
    let _turn = turn();
    let mut session = jumbo("at-t-jumbo");
    assert_all_paths_work(&mut session, 2.0);
    let before = session.daemon().unwrap().settled_status().unwrap();
    let mut datagrams = 0;
    for path in Family::BOTH.into_iter().flat_map(paths::paths) {
        let outcome = long_datagrams(&mut session, &path, LONG_BYTES, 50);
        assert_eq!((outcome.requests, outcome.failed, outcome.wrong), (50, 0, 0), "{} {outcome:?}", path.name);
        datagrams += 2 * outcome.requests;
    }
    let after = session.daemon().unwrap().settled_status().unwrap();
    // Not a fragment among them: each datagram was one packet of the workers, there and back.
    let forwarded = after.forwarded - before.forwarded;
    assert!((datagrams..datagrams + 100).contains(&forwarded), "{datagrams} datagrams, {forwarded} packets");
    for path in Family::BOTH.into_iter().flat_map(paths::paths) {
        let job = Job { count_max: 16 << 20, ..paths::job(&path, JobKind::Bulk, 5.0) };
        let id = session.ask(path.from, job).unwrap();
        let outcome = finish(&mut session, &[(id, path.clone(), JobKind::Bulk)], 5.0).remove(0);
        assert!(outcome.bytes >= 1 << 20, "{} {}: only {} bytes", path.name, path.family.name(), outcome.bytes);
        println!("{:<30} {} {:>6} MB in {:.2} s", path.name, path.family.name(), outcome.bytes >> 20, outcome.seconds);
    }
    // The slow path answers for a Service, and takes and gives all pieces.
    for (family, last) in Family::BOTH.into_iter().zip(["-4", "-6"]) {
        let to = paths::cluster_ip(10, family).to_string();
        let options = [last, "-c", "5", "-i", "0.2", "-W", "2", "-s", "8900", "-M", "do"];
        let said = run_in(&session.plan().pod(1), "ping", &[&options[..], &[&to]].concat()).unwrap();
        assert!(said.contains(" 5 received") && !said.contains("wrong data"), "{said}");
    }
    let status = session.daemon().unwrap().settled_status().unwrap();
    for reason in ["rx_multi_piece", "super_packet"] {
        assert_eq!(status.drops.get(reason), None, "{status:?}");
    }
    assert_even_and_right(&session);
}

/// A pod whose link takes 1500 bytes among links of 9000: whoever sends it more is told so, and TCP finds the way.
#[test]
fn a_pod_of_a_smaller_mtu_is_told_of() {
    if skipped("a_pod_of_a_smaller_mtu_is_told_of") {
        return;
    }
    let _turn = turn();
    let mut session = jumbo("at-t-mixed");
    let plan = session.plan().clone();
    // Its own end still says 9000 to its stack, so neither side's MSS gives it away.
    ip(&plan.node(), "link set pod2 mtu 1500\n").unwrap();
    for family in Family::BOTH {
        let path = paths::paths(family).into_iter().find(|path| path.name == "pod to pod").unwrap();
        assert_eq!(path.tcp.ip(), pod_address(2, family));
        let job = Job { count_max: 1 << 20, ..paths::job(&path, JobKind::Bulk, 10.0) };
        let id = session.ask(Place::Pod(1), job).unwrap();
        let outcome = finish(&mut session, &[(id, path, JobKind::Bulk)], 10.0).remove(0);
        assert_eq!((outcome.bytes, outcome.wrong), (1 << 20, 0), "{outcome:?}");
    }
    let status = session.daemon().unwrap().settled_status().unwrap();
    let told = status.slow_path.answered.get("needs_fragmentation").copied().unwrap_or_default();
    assert!(told >= 2, "{status:?}");
    assert_even_and_right(&session);
}

/// A port that takes more than the daemon has made room for is told of, and its long packets are dropped by name.
#[test]
fn an_mtu_above_the_funnels_is_refused_by_name() {
    if skipped("an_mtu_above_the_funnels_is_refused_by_name") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-above"));
    let plan = session.plan().clone();
    ip(&plan.node(), "link set pod1 mtu 9000\n").unwrap();
    ip(&plan.pod(1), "link set eth0 mtu 9000\n").unwrap();
    let status = session
        .daemon_mut()
        .unwrap()
        .wait_for(std::time::Duration::from_secs(10), "to refuse the MTU", |status| status.state == "degraded")
        .unwrap();
    let refused = serde_json::to_string(&status.refused).unwrap();
    assert!(refused.contains("Pod default/pod-1") && refused.contains("MTU of 9000"), "{refused}");
    ip(&plan.node(), "link set uplink mtu 9000\n").unwrap();
    session
        .daemon_mut()
        .unwrap()
        .wait_for(std::time::Duration::from_secs(10), "to refuse the uplink's too", |status| status.refused.len() == 2)
        .unwrap();
    ip(&plan.node(), "link set uplink mtu 1500\n").unwrap();
    let path = paths::paths(Family::V4).into_iter().find(|path| path.name == "pod to pod").unwrap();
    let outcome = long_datagrams(&mut session, &Path { from: Place::Pod(1), ..path }, LONG_BYTES, 2);
    assert_eq!(outcome.failed, 2, "{outcome:?}");
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert!(status.kernel["pod_too_big"] >= 2, "{status:?}");
    ip(&plan.pod(1), "link set eth0 mtu 1500\n").unwrap();
    ip(&plan.node(), "link set pod1 mtu 1500\n").unwrap();
    session.daemon_mut().unwrap().wait_ready(std::time::Duration::from_secs(10)).unwrap();
    assert_all_paths_work(&mut session, 1.5);
    assert_even_and_right(&session);
}
