//! 50,000 junk frames at every port: no panic, even books, and traffic goes on.

use atalho_benches::lab::network::mac;
use atalho_benches::lab::paths::{self, Place};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::traffic::client::JobKind;

use crate::support::{assert_all_paths_work, finish, last_words, ready, skipped, turn};

const FRAMES: u64 = 50_000;

#[test]
fn junk_on_every_port_changes_nothing_for_others() {
    if skipped("junk_on_every_port_changes_nothing_for_others") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-junk");
    let mut session = ready(&plan);
    let node = plan.node();
    let ports = [
        ("the uplink", Place::Far, "eth0", mac(&node, "uplink").unwrap()),
        ("a pod's port", Place::Pod(1), "eth0", mac(&node, "pod1").unwrap()),
        ("the node's own port", Place::Node, "atl-f1", tag_of_the_node(&node)),
    ];
    for (seed, (name, from, interface, to)) in (1..).zip(ports) {
        let before = session.daemon().unwrap().status().unwrap();
        // Others talk all the while, slowly: what the flood itself does to a queue is not the question here.
        let jobs: Vec<_> = Family::BOTH
            .into_iter()
            .flat_map(paths::paths)
            .filter(|path| path.from != from)
            .map(|path| {
                let mut job = paths::job(&path, JobKind::HoldTcp, 60.0);
                (job.interval_ms, job.timeout_ms) = (100, 10_000);
                (session.ask(path.from, job).unwrap(), path, JobKind::HoldTcp)
            })
            .collect();
        let sent = session.send_junk(from, interface, &to, FRAMES, seed).unwrap();
        assert!(sent > FRAMES * 9 / 10, "{name}: the kernel took only {sent}");
        session.stop_jobs().unwrap();
        finish(&mut session, &jobs, 20.0);
        session.restart_agents().unwrap();
        let after = session.daemon().unwrap().settled_status().unwrap();
        assert!(after.is_even(), "{name}: {after:?}");
        assert!(after.received > before.received, "{name}: nothing arrived: {before:?} {after:?}");
        assert!(after.dropped > before.dropped, "{name}: no junk was dropped: {before:?} {after:?}");
        let words = last_words(&session);
        assert!(!words.contains("panicked"), "{name}: {words}");
    }
    assert_all_paths_work(&mut session, 2.0);
}

/// The MAC address by which the node's own packets enter the funnel: that of its permanent neighbour there.
fn tag_of_the_node(namespace: &str) -> String {
    let shown =
        atalho_benches::lab::command::run("ip", ["-n", namespace, "-json", "neigh", "show", "dev", "atl-f1"]).unwrap();
    let neighbours: serde_json::Value = serde_json::from_str(&shown).unwrap();
    neighbours[0]["lladdr"].as_str().expect("a permanent neighbour on atl-f1").to_owned()
}
