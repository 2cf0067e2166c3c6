//! The lab itself, with the node's kernel as the router: what fails here is the lab's fault, not the daemon's.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use atalho_benches::apiserver::{self, ApiServer, Who};
use atalho_benches::lab::network::Network;
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::{Programs, Session};
use atalho_benches::lab::{objects, paths};
use atalho_benches::traffic::client::JobKind;

fn lab() -> PathBuf {
    env!("CARGO_BIN_EXE_atalho-lab").into()
}

/// Skips only when told to; without root the tests below fail.
fn skipped(test: &str) -> bool {
    let skip = std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some();
    if skip {
        println!("SKIPPED: {test}: needs root");
    }
    skip
}

#[test]
fn the_kernel_carries_what_needs_no_service_and_nothing_else() {
    if skipped("the_kernel_carries_what_needs_no_service_and_nothing_else") {
        return;
    }
    let plan = Plan { forwarding: true, ..Plan::new("at-lab-kernel") };
    let mut session = Session::build(&plan, &Programs { atalho: lab(), lab: lab() }).unwrap();
    let mut jobs = Vec::new();
    for path in Family::BOTH.into_iter().flat_map(paths::without_services) {
        for kind in [JobKind::Tcp, JobKind::Udp] {
            jobs.push((session.ask(path.from, paths::job(&path, kind, 2.0)).unwrap(), path.clone(), kind));
        }
    }
    let ids: Vec<u32> = jobs.iter().map(|job| job.0).collect();
    let outcomes = session.wait_for(&ids, Duration::from_secs(20)).unwrap();
    for ((_, path, kind), outcome) in jobs.iter().zip(&outcomes) {
        let complaints = paths::complaints(path, *kind, outcome);
        assert!(complaints.is_empty(), "{complaints:?}");
    }
    // No Service without a daemon: the generator must notice that nobody answers.
    let path = paths::moving(Family::V4);
    let mut job = paths::job(&path, JobKind::Udp, 1.0);
    (job.timeout_ms, job.count_max) = (100, 3);
    let id = session.ask(path.from, job).unwrap();
    let outcome = session.wait_for(&[id], Duration::from_secs(10)).unwrap().remove(0);
    assert_eq!((outcome.requests, outcome.failed), (3, 3), "{outcome:?}");
}

#[test]
fn a_second_lab_of_the_prefix_is_refused_and_nothing_is_left_behind() {
    if skipped("a_second_lab_of_the_prefix_is_refused_and_nothing_is_left_behind") {
        return;
    }
    let plan = Plan::new("at-lab-twice");
    let programs = Programs { atalho: lab(), lab: lab() };
    let first = Session::build(&plan, &programs).unwrap();
    let refused = Session::build(&plan, &programs).err().unwrap().to_string();
    assert!(refused.contains("another lab is running"), "{refused}");
    assert!(plan.folder().exists());
    drop(first);
    assert!(!plan.folder().exists(), "the lab's folder is still there");
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&left.stdout).contains("at-lab-twice"), "{left:?}");
}

#[test]
fn a_real_api_server_takes_the_examples_and_refuses_strangers() {
    if skipped("a_real_api_server_takes_the_examples_and_refuses_strangers") {
        return;
    }
    let plan = Plan::new("at-lab-api");
    let binaries = apiserver::binaries().unwrap();
    let _network = Network::build(&plan).unwrap();
    let mut server = ApiServer::start(&binaries, &plan, &lab()).unwrap();
    let files = objects::files(&objects::write(&plan).unwrap()).unwrap();
    server.apply(&files).unwrap();
    server.apply(&[objects::replacement()]).unwrap();
    for (who, status) in [(Who::Stranger, "Forbidden"), (Who::Nobody, "Unauthorized")] {
        let kubeconfig = server.kubeconfig_of(who).unwrap();
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", plan.far()))
            .arg(lab())
            .args(["apply", "--kubeconfig"])
            .arg(kubeconfig)
            .args(&files)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(status), "{who:?}: {said}");
    }
    // What it knew survives it.
    server.stop_server();
    assert!(server.apply(&[]).is_err());
    server.start_server().unwrap();
    server.apply(&files).unwrap();
}
