//! The daemon dies under traffic and comes back: nothing leaks past it, nothing is reset, everything goes on.

use std::net::SocketAddr;
use std::time::Duration;

use atalho_benches::lab::capture::Capture;
use atalho_benches::lab::daemon::{Objects, write_config};
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, OUTSIDE_PORT, Plan, node_address, outside_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;

use crate::support::{assert_all_paths_work, assert_even_and_right, last_words, ready, skipped, turn};

/// How long nobody is there.
const DEAD: Duration = Duration::from_secs(3);

#[test]
fn connections_survive_sigterm() {
    if !skipped("connections_survive_sigterm") {
        survive("at-t-term", |session| {
            let (status, took) = session.daemon_mut().unwrap().terminate().unwrap();
            assert!(status.success(), "{status}\n{}", last_words(session));
            assert!(took < Duration::from_secs(1), "it took {took:?} to end");
        });
    }
}

#[test]
fn connections_survive_sigkill() {
    if !skipped("connections_survive_sigkill") {
        survive("at-t-kill", |session| session.daemon_mut().unwrap().kill().unwrap());
    }
}

fn survive(prefix: &str, end_daemon: impl Fn(&mut Session)) {
    let _turn = turn();
    // The node's kernel forwards: whatever gets past the dead daemon's hooks would go somewhere, and be seen.
    let mut session = ready(&Plan { forwarding: true, ..Plan::new(prefix) });
    let held: Vec<(u32, Path)> =
        Family::BOTH.into_iter().flat_map(paths::paths).map(|path| (hold(&mut session, &path), path)).collect();
    let own: Vec<u32> = Family::BOTH.map(|family| node_to_outside(&mut session, family)).to_vec();
    session.listen(Duration::from_secs(2)).unwrap();

    assert_seen_where_they_are(&mut session);
    let (uplink, pods) = captures(&session);
    end_daemon(&mut session);
    session.listen(DEAD).unwrap();
    let config = write_config(session.plan(), None, "").unwrap();
    let objects = Objects::Manifests(session.plan().manifests());
    session.start_daemon(&config, &objects).unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(20)).unwrap();
    session.listen(Duration::from_secs(4)).unwrap();
    session.stop_jobs().unwrap();

    assert_eq!(uplink.finish().unwrap(), Vec::<String>::new(), "leaked on the uplink");
    for (number, pod) in (1..).zip(pods) {
        assert_eq!(pod.finish().unwrap(), Vec::<String>::new(), "leaked to pod {number}");
    }
    let ids: Vec<u32> = held.iter().map(|job| job.0).collect();
    let outcomes = session.wait_for(&ids, Duration::from_secs(30)).unwrap();
    for ((_, path), outcome) in held.iter().zip(&outcomes) {
        let what = format!("{} {}: {outcome:?}\n{}", path.name, path.family.name(), last_words(&session));
        assert_eq!((outcome.failed, outcome.wrong), (0, 0), "{what}");
        assert_eq!(outcome.moves.len(), 1, "another backend: {what}");
        assert!(outcome.gap_ms_max >= 2500, "it went on while nobody was there: {what}");
        assert!(outcome.gap_ms_max < 15_000, "{what}");
    }
    for outcome in session.wait_for(&own, Duration::from_secs(10)).unwrap() {
        assert_eq!(outcome.failed, 0, "the node's own traffic: {outcome:?}");
        assert!(outcome.gap_ms_max < 1000, "the node's own traffic stood still for {} ms", outcome.gap_ms_max);
    }
    session.restart_agents().unwrap();
    // New connections are as welcome as the old ones.
    assert_all_paths_work(&mut session, 1.5);
    assert_even_and_right(&session);
}

/// One TCP connection that waits out the death of the daemon.
fn hold(session: &mut Session, path: &Path) -> u32 {
    let mut job = paths::job(path, JobKind::HoldTcp, 60.0);
    (job.interval_ms, job.timeout_ms) = (50, 20_000);
    session.ask(path.from, job).unwrap()
}

/// The node's own connection to a host outside: no business of the daemon's.
fn node_to_outside(session: &mut Session, family: Family) -> u32 {
    let outside = (outside_address(family), OUTSIDE_PORT).into();
    let path = Path { from: Place::Node, tcp: outside, udp: outside, ..paths::moving(family) };
    let mut job = paths::job(&path, JobKind::HoldTcp, 60.0);
    (job.interval_ms, job.timeout_ms) = (20, 20_000);
    session.ask(path.from, job).unwrap()
}

/// Everything that must not be seen, on the uplink and at every pod.
fn captures(session: &Session) -> (Capture, Vec<Capture>) {
    let plan = session.plan();
    let at_pod = |number| Capture::start_inbound(&plan.pod(number), "eth0", LEAKS_TO_A_POD).unwrap();
    (Capture::start(&plan.far(), "eth0", &leaks_on_the_uplink()).unwrap(), (1..=4).map(at_pod).collect())
}

/// The captures see what they look for, by whichever way it comes: refusals that somebody did ask for. A worker refuses
/// pods what no endpoint serves, and the node's stack the far host what nobody listens to.
fn assert_seen_where_they_are(session: &mut Session) {
    let (uplink, pods) = captures(session);
    let mut jobs = Vec::new();
    for family in Family::BOTH {
        let at = |address, port| SocketAddr::new(address, port);
        let nobody = paths::cluster_ip(60, family);
        let asked = (1..=4).map(|number| (Place::Pod(number), at(nobody, 80), at(nobody, 443)));
        let node = node_address(family);
        for (from, tcp, udp) in asked.chain([(Place::Far, at(node, 9), at(node, 9))]) {
            let path = Path { from, tcp, udp, ..paths::moving(family) };
            for kind in [JobKind::Tcp, JobKind::Udp] {
                let mut job = paths::job(&path, kind, 20.0);
                (job.count_max, job.timeout_ms) = (1, 5000);
                jobs.push(session.ask(from, job).unwrap());
            }
        }
    }
    for outcome in session.wait_for(&jobs, Duration::from_secs(30)).unwrap() {
        assert!(outcome.failures[0].text.contains("refused"), "{outcome:?}");
    }
    for capture in [uplink].into_iter().chain(pods) {
        let lines = capture.finish().unwrap();
        // tcpdump's words for resets and for unreachables of either family.
        for (word, at_least) in [("Flags [R", 2), ("ICMP", 2), (" IP ", 2), (" IP6 ", 2)] {
            let found = lines.iter().filter(|line| line.contains(word)).count();
            assert!(found >= at_least, "{found} lines with {word:?} in {lines:#?}");
        }
    }
}

/// What must not be seen behind the uplink: pods' packets to the outside with their own addresses, resets and
/// unreachables of the node's stack.
fn leaks_on_the_uplink() -> String {
    let [node4, node6] = Family::BOTH.map(node_address);
    let [outside4, outside6] = Family::BOTH.map(outside_address);
    format!(
        "(src net 10.244.1.0/24 and dst host {outside4}) or (src net fd00:244:0:1::/64 and dst host {outside6}) or \
         (src host {node4} and (tcp[tcpflags] & tcp-rst != 0 or icmp[icmptype] == icmp-unreach)) or \
         (src host {node6} and ((ip6[6] == 6 and ip6[53] & 4 != 0) or (ip6[6] == 58 and ip6[40] == 1)))"
    )
}

/// What must not reach a pod: resets and unreachables that nobody asked for.
const LEAKS_TO_A_POD: &str = "tcp[tcpflags] & tcp-rst != 0 or icmp[icmptype] == icmp-unreach or \
                              (ip6[6] == 6 and ip6[53] & 4 != 0) or (ip6[6] == 58 and ip6[40] == 1)";
