//! What the node answers by itself: time exceeded, echo, port unreachable. Asked by the other kernels, in both families.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, node_address, outside_address, pod_address, remote_pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;

use crate::support::{assert_even_and_right, ready, skipped, turn};

#[test]
fn a_spent_hop_count_is_told_by_the_node() {
    if skipped("a_spent_hop_count_is_told_by_the_node") {
        return;
    }
    let _turn = turn();
    let session = ready(&Plan::new("at-t-hops"));
    for family in Family::BOTH {
        let (node, outside) = (node_address(family), outside_address(family));
        for (from, to) in [
            (Place::Pod(1), outside),
            (Place::Pod(1), remote_pod_address(1, family)),
            (Place::Pod(1), pod_address(2, family)),
            (Place::Far, pod_address(1, family)),
        ] {
            let said = ping(&session, from, to, &["-c", "3", "-t", "1"]);
            let what = format!("{from:?} to {to}: {said}");
            // ping takes only an error that quotes its own packet.
            let told =
                said.lines().filter(|line| is_time_exceeded(line) && line.contains(&format!("From {node} "))).count();
            assert_eq!(told, 3, "{what}");
            assert!(said.contains(" 0 received"), "{what}");
            // One hop more is enough where the target is the next one.
            let said = ping(&session, from, to, &["-c", "3", "-t", "2"]);
            assert!(said.contains(" 3 received"), "{what}\n{said}");
        }
    }
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert!(status.slow_path.answered["ttl_exceeded"] >= 24, "{status:?}");
    assert_even_and_right(&session);
}

/// "Time to live exceeded" or "Time exceeded: Hop limit".
fn is_time_exceeded(line: &str) -> bool {
    line.contains("Time to live exceeded") || line.contains("Hop limit")
}

#[test]
fn a_service_address_answers_echo_requests() {
    if skipped("a_service_address_answers_echo_requests") {
        return;
    }
    let _turn = turn();
    let session = ready(&Plan::new("at-t-echo"));
    for family in Family::BOTH {
        // A Service with endpoints, and one without.
        for last in [10, 60] {
            let vip = paths::cluster_ip(last, family);
            for from in [Place::Pod(1), Place::Node] {
                // Small, and as large as an MTU of 1500 takes.
                let largest = if family == Family::V4 { "1472" } else { "1452" };
                for bytes in ["0", "56", largest] {
                    let said = ping(&session, from, vip, &["-c", "5", "-s", bytes]);
                    let what = format!("{from:?} to {vip}, {bytes} bytes: {said}");
                    assert!(said.contains(" 5 received") && !said.contains("errors"), "{what}");
                    // ping says so where a byte comes back wrong.
                    assert!(!said.contains("wrong data byte") && !said.contains("BAD CHECKSUM"), "{what}");
                    assert!(bytes == "0" || said.contains(&format!("from {vip}: ")), "{what}");
                }
            }
        }
        // An address that no Service has says nothing.
        let said = ping(&session, Place::Pod(1), paths::cluster_ip(99, family), &["-c", "2", "-W", "1"]);
        assert!(said.contains(" 0 received") && !said.contains("From "), "{said}");
    }
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert!(status.slow_path.is_even(), "{status:?}");
    assert!(status.slow_path.answered["echo_to_vip"] >= 2 * 2 * 2 * 3 * 5, "{status:?}");
    assert_even_and_right(&session);
}

#[test]
fn an_unknown_port_of_a_service_refuses_at_once() {
    if skipped("an_unknown_port_of_a_service_refuses_at_once") {
        return;
    }
    let mut session = ready(&Plan::new("at-t-port"));
    for family in Family::BOTH {
        let target = SocketAddr::new(paths::cluster_ip(10, family), 81);
        let path = Path { tcp: target, udp: target, ..paths::moving(family) };
        for from in [Place::Pod(1), Place::Node] {
            for kind in [JobKind::Tcp, JobKind::Udp] {
                let mut job = paths::job(&path, kind, 60.0);
                (job.count_max, job.timeout_ms, job.interval_ms) = (3, 10_000, 100);
                let id = session.ask(from, job).unwrap();
                let outcome = session.wait_for(&[id], Duration::from_secs(60)).unwrap().remove(0);
                let refused = outcome.failures.iter().filter(|failure| failure.text.contains("refused")).count();
                assert_eq!((outcome.failed, refused), (3, 3), "{} {kind:?} from {from:?}: {outcome:?}", family.name());
            }
        }
    }
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert_eq!(status.slow_path.answered["unknown_service_port"], 2 * 2 * 2 * 3, "{status:?}");
    assert_even_and_right(&session);
}

/// What `ping` says: no answer is an answer too.
fn ping(session: &Session, from: Place, to: IpAddr, options: &[&str]) -> String {
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", session.namespace(from)))
        .args(["ping", "-n", "-i", "0.2", "-W", "5"])
        .args(options)
        .arg(to.to_string())
        .output()
        .expect("ping: is it installed (./scripts/setup)?");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}
