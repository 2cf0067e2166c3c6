//! What a daemon leaves is taken away on request, also after a crash; and another layout is refused until then.

use std::fs;
use std::process::Command;

use atalho_benches::lab::command::run_in;
use atalho_benches::lab::daemon::{Objects, command, write_config};
use atalho_benches::lab::plan::Plan;
use atalho_benches::lab::session::Session;

use crate::support::{atalho, ready, skipped, turn};

pub fn uninstall(session: &Session) {
    let config = session.plan().folder().join("atalho.toml");
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", session.plan().node()))
        .arg(atalho())
        .args(["uninstall", "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nothing_is_left_after_a_crash() {
    if skipped("nothing_is_left_after_a_crash") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-away"));
    session.daemon_mut().unwrap().kill().unwrap();
    uninstall(&session);
    let node = session.plan().node();
    let pins: Vec<_> = walk(&session.plan().bpffs());
    assert!(pins.is_empty(), "{pins:?}");
    let links = run_in(&node, "ip", &["link", "show"]).unwrap();
    assert!(!links.contains("atl-f") && !links.contains("xdp"), "{links}");
    for path in [["route", "show"], ["-6", "route"]] {
        let routes = run_in(&node, "ip", &path).unwrap();
        assert!(!routes.contains("atl-f1"), "{routes}");
    }
    let programs = run_in(&node, "bpftool", &["net", "show"]).unwrap();
    for name in ["steer", "funnel", "deliver"] {
        assert!(!programs.contains(name), "{programs}");
    }
    // Twice is no error.
    uninstall(&session);
}

#[test]
fn a_pinned_table_of_another_layout_is_refused_by_name() {
    if skipped("a_pinned_table_of_another_layout_is_refused_by_name") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-layout"));
    session.daemon_mut().unwrap().terminate().unwrap();
    let config = write_config(session.plan(), None, "[conntrack]\nmax_flows = 4096\n").unwrap();
    let objects = Objects::Manifests(session.plan().manifests());
    let output = command(&atalho(), &session.plan().node(), &config, &objects).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for word in ["tags4", "atalho uninstall"] {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    // After that, the new size is welcome.
    uninstall(&session);
    session.start_daemon(&config, &objects).unwrap();
    let status = session.daemon_mut().unwrap().wait_ready(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(status.state, "ready");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map_while(Result::ok) {
        let path = entry.path();
        // The kernel's own two files are on every BPF file system.
        if path.extension().is_some_and(|extension| extension == "debug") {
            continue;
        }
        found.extend(if path.is_dir() { walk(&path) } else { vec![path.clone()] });
        found.push(path);
    }
    found
}
