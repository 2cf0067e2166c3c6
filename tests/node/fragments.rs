//! Datagrams that are longer than every link: each crosses the node in fragments, made by ordinary stacks.

use std::time::Duration;

use atalho_benches::lab::command::{ip, run_in};
use atalho_benches::lab::daemon::Status;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{Job, JobKind, Outcome};

use crate::support::{assert_even_and_right, last_words, ready, skipped, turn};

/// Payload of the long datagrams: seven fragments each.
const LONG_BYTES: u32 = 9000;

fn datagrams(session: &mut Session, path: &Path, kind: JobKind, bytes: u32, count: u64) -> Outcome {
    let job = Job {
        request_bytes: bytes,
        reply_bytes: bytes,
        count_max: count,
        interval_ms: 2,
        ..paths::job(path, kind, 20.0)
    };
    let id = session.ask(path.from, job).unwrap();
    session.wait_for(&[id], Duration::from_secs(60)).unwrap().remove(0)
}

fn status(session: &Session) -> Status {
    session.daemon().unwrap().settled_status().unwrap()
}

#[test]
fn datagrams_in_fragments_pass_on_every_path() {
    if skipped("datagrams_in_fragments_pass_on_every_path") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-frag"));
    let before = status(&session);
    let mut answered = 0;
    for path in Family::BOTH.into_iter().flat_map(paths::paths) {
        // A socket for each request: every flow begins with a fragment.
        for kind in [JobKind::Udp, JobKind::HoldUdp] {
            let outcome = datagrams(&mut session, &path, kind, LONG_BYTES, 40);
            let what = format!("{} {} {}", path.name, path.family.name(), paths::kind_name(kind));
            assert_eq!(
                (outcome.requests, outcome.failed, outcome.wrong),
                (40, 0, 0),
                "{what}: {outcome:?}\n{:?}\n{}",
                status(&session),
                last_words(&session)
            );
            answered += outcome.requests;
        }
    }
    let after = status(&session);
    // Seven there and seven back, each forwarded by itself: nothing was joined.
    let forwarded = after.forwarded - before.forwarded;
    assert!((answered * 14..answered * 14 + 100).contains(&forwarded), "{answered} answered, {forwarded} packets");
    assert!(after.slow_path.resumed - before.slow_path.resumed >= answered * 14, "{after:?}");
    let dropped: Vec<_> = after.drops.keys().filter(|name| name.starts_with("fragment")).collect();
    assert!(dropped.is_empty() && after.slow_path.dropped.is_empty(), "{after:?}");
    assert_even_and_right(&session);
}

/// Fragments that are themselves longer than a chunk of a worker's memory.
#[test]
fn datagrams_in_fragments_of_9000_bytes_pass() {
    if skipped("datagrams_in_fragments_of_9000_bytes_pass") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan { mtu: 9000, ..Plan::new("at-t-jfrag") });
    for path in Family::BOTH.into_iter().flat_map(paths::paths) {
        let outcome = datagrams(&mut session, &path, JobKind::Udp, 40_000, 20);
        let what = format!("{} {}", path.name, path.family.name());
        assert_eq!((outcome.requests, outcome.failed, outcome.wrong), (20, 0, 0), "{what}: {outcome:?}");
    }
    let status = status(&session);
    assert!(status.slow_path.resumed >= 12 * 20 * 2 * 5, "{status:?}");
    assert_even_and_right(&session);
}

#[test]
fn a_ping_in_fragments_passes() {
    if skipped("a_ping_in_fragments_passes") {
        return;
    }
    let session = ready(&Plan::new("at-t-fping"));
    let node = session.plan().clone();
    for family in Family::BOTH {
        let pod_to_far = paths::paths(family).into_iter().find(|path| path.name == "pod to far host").unwrap();
        let to = pod_to_far.udp.ip().to_string();
        let said = run_in(&node.pod(2), "ping", &["-c", "5", "-i", "0.02", "-W", "2", "-s", "4000", &to]).unwrap();
        assert!(said.contains("5 received"), "{said}\n{:?}", status(&session));
    }
    assert_even_and_right(&session);
}

/// A link that is shorter than the packets that may be cut: IPv4 without "don't fragment".
#[test]
fn what_may_be_cut_is_cut_to_a_shorter_link() {
    if skipped("what_may_be_cut_is_cut_to_a_shorter_link") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-cut");
    let mut session = ready(&plan);
    // The least that IPv6 lives on; the pod's own end still takes 1500.
    ip(&plan.node(), "link set pod2 mtu 1280\n").unwrap();
    // The senders leave "don't fragment" out, as old stacks do and as tunnels ask for.
    run_in(&plan.pod(1), "sysctl", &["-q", "-w", "net.ipv4.ip_no_pmtu_disc=1"]).unwrap();
    let path = paths::paths(Family::V4).into_iter().find(|path| path.name == "pod to pod").unwrap();
    session
        .daemon_mut()
        .unwrap()
        .wait_for(Duration::from_secs(10), "to follow the link", |status| status.state == "ready")
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    for bytes in [1300, LONG_BYTES] {
        // Short answers: what the pod sends must fit its host end, for no router stands between.
        let job = Job {
            request_bytes: bytes,
            reply_bytes: 100,
            count_max: 30,
            interval_ms: 2,
            ..paths::job(&path, JobKind::Udp, 20.0)
        };
        let id = session.ask(path.from, job).unwrap();
        let outcome = session.wait_for(&[id], Duration::from_secs(60)).unwrap().remove(0);
        assert_eq!((outcome.requests, outcome.failed, outcome.wrong), (30, 0, 0), "{bytes}: {outcome:?}");
    }
    let job = Job { count_max: 1 << 20, ..paths::job(&path, JobKind::Bulk, 10.0) };
    let id = session.ask(path.from, job).unwrap();
    let outcome = session.wait_for(&[id], Duration::from_secs(60)).unwrap().remove(0);
    assert_eq!((outcome.bytes, outcome.failed, outcome.wrong), (1 << 20, 0, 0), "{outcome:?}");
    let status = status(&session);
    let cut = status.slow_path.answered.get("to_cut").copied().unwrap_or_default();
    // One for each short request, six of seven fragments of a long one, and TCP's segments.
    assert!(cut >= 30 + 30 * 6 + 500, "{status:?}");
    assert_even_and_right(&session);
    assert_eq!(path.from, Place::Pod(1));
}
