//! Two nodes on one machine: two daemons that share the folders of their pins and sockets and nothing else.

use std::fs;
use std::path::Path as FilePath;
use std::time::Duration;

use atalho_benches::lab::daemon::{Objects, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;

use crate::support::{assert_all_paths_work, assert_even_and_right, finish, programs, ready, skipped, turn};
use crate::uninstall::uninstall;

#[test]
fn two_nodes_on_one_machine_leave_each_other_alone() {
    if skipped("two_nodes_on_one_machine_leave_each_other_alone") {
        return;
    }
    let _turn = turn();
    // The second goes first when the test ends: its pins lie in the first one's file system.
    let mut first = ready(&Plan::new("at-t-one"));
    let mut second = node_b(&first);
    assert_eq!(nodes_in(&first.plan().bpffs()), ["node-a", "node-b"]);

    let held = hold_all(&mut first);
    assert_all_paths_work(&mut second, 3.0);
    assert_even_and_right(&second);

    // Gone while the first one works: with its traffic, its links and its pins, but with nobody else's.
    second.daemon_mut().unwrap().terminate().unwrap();
    uninstall(&second);
    assert_eq!(nodes_in(&first.plan().bpffs()), ["node-a"]);
    assert!(second.daemon().unwrap().status().is_err(), "the status is another daemon's");
    first.listen(Duration::from_secs(2)).unwrap();
    first.stop_jobs().unwrap();
    for outcome in finish(&mut first, &held, 5.0) {
        assert_eq!(outcome.moves.len(), 1, "another backend: {outcome:?}");
    }
    first.restart_agents().unwrap();
    assert_all_paths_work(&mut first, 1.5);
    assert_even_and_right(&first);

    // And back: as if it had never been there.
    start_node_b(&mut second, &first);
    assert_all_paths_work(&mut second, 1.5);
    assert_even_and_right(&second);
    assert_even_and_right(&first);
}

/// A lab of its own whose node is node-b of the same objects, with the daemon ready.
fn node_b(first: &Session) -> Session {
    let mut second = Session::build(&Plan::new("at-t-two"), &programs()).expect("a second lab");
    let manifests = objects::write(second.plan()).unwrap();
    // Who is node-a to the first is node-b to the second.
    for file in objects::files(&manifests).unwrap() {
        let text = fs::read_to_string(&file).unwrap();
        let swapped = text.replace("node-a", "node-?").replace("node-b", "node-a").replace("node-?", "node-b");
        fs::write(&file, swapped).unwrap();
    }
    start_node_b(&mut second, first);
    second
}

fn start_node_b(second: &mut Session, first: &Session) {
    let config = write_config(second.plan(), None, "").unwrap();
    let text = fs::read_to_string(&config).unwrap();
    let [own, shared] = [second.plan().folder(), first.plan().folder()].map(|folder| folder.display().to_string());
    let text = text.replace("name = \"node-a\"", "name = \"node-b\"").replace(&own, &shared);
    assert!(text.contains("node-b") && text.contains(&shared), "{text}");
    fs::write(&config, text).unwrap();
    let objects = Objects::Manifests(second.plan().manifests());
    second.start_daemon(&config, &objects).unwrap();
    let status = second.daemon_mut().unwrap().wait_ready(Duration::from_secs(30)).unwrap();
    assert_eq!(status.refused, Vec::<serde_json::Value>::new());
}

/// One held TCP connection on every path.
fn hold_all(session: &mut Session) -> Vec<(u32, Path, JobKind)> {
    Family::BOTH
        .into_iter()
        .flat_map(paths::paths)
        .map(|path| {
            let mut job = paths::job(&path, JobKind::HoldTcp, 120.0);
            (job.interval_ms, job.timeout_ms) = (50, 20_000);
            (session.ask(path.from, job).unwrap(), path, JobKind::HoldTcp)
        })
        .collect()
}

/// The nodes that have pins, by name.
fn nodes_in(bpffs: &FilePath) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(bpffs.join("atalho"))
        .unwrap()
        .map_while(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
