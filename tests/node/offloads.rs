//! Offloads that change under traffic: a pod's own, which are its affair, and the funnel's, which are not.

use std::process::Command;
use std::time::Duration;

use atalho_benches::lab::command::run_in;
use atalho_benches::lab::daemon::Objects;
use atalho_benches::lab::paths;
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::traffic::client::{Job, JobKind};

use crate::support::{assert_all_paths_work, assert_even_and_right, atalho, finish, last_words, ready, skipped, turn};

/// Paths that carry a stream all the while, with segments of 64 KiB where the offloads allow them.
const STREAMED: [&str; 2] = ["pod to pod", "pod to far host"];
/// Of a path's datagrams: streams that fill the rings lose some, and so does the kernel when a veth's `gro` goes off with
/// packets still in its queue. Nobody sends them again.
const LOST_MAX: u64 = 2;

#[test]
fn pods_turn_their_offloads_off_and_on_under_traffic() {
    if skipped("pods_turn_their_offloads_off_and_on_under_traffic") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-offload");
    let mut session = ready(&plan);
    let changes: [&[&str]; 6] = [
        &["tx", "off"],
        &["tso", "off", "gso", "off", "gro", "off"],
        &["tx", "on"],
        &["gro", "on", "gso", "on"],
        &["tso", "on"],
        &["tx", "off", "gso", "off"],
    ];
    let seconds = changes.len() as f64 + 1.0;
    let jobs: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(paths::paths)
        .flat_map(|path| [JobKind::Tcp, JobKind::Udp, JobKind::HoldTcp, JobKind::Bulk].map(|kind| (path.clone(), kind)))
        .filter(|(path, kind)| *kind != JobKind::Bulk || STREAMED.contains(&path.name))
        .map(|(path, kind)| {
            // Patient: what so many streams do to two cores is not the question here.
            let timeout_ms = if kind == JobKind::Udp { 3_000 } else { 10_000 };
            let job = Job { timeout_ms, ..paths::job(&path, kind, seconds) };
            (session.ask(path.from, job).unwrap(), path, kind)
        })
        .collect();
    for change in changes {
        session.listen(Duration::from_secs(1)).unwrap();
        for number in 1..=plan.pods {
            run_in(&plan.pod(number), "ethtool", &[&["-K", "eth0"], change].concat()).unwrap();
        }
    }
    // Every byte is compared by its receiver; every kernel has counted wrong checksums.
    let (datagrams, connections): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.2 == JobKind::Udp);
    finish(&mut session, &connections, seconds);
    let ids: Vec<u32> = datagrams.iter().map(|job| job.0).collect();
    let outcomes = session.wait_for(&ids, Duration::from_secs_f64(seconds + 20.0)).unwrap();
    for ((_, path, _), outcome) in datagrams.iter().zip(outcomes) {
        let name = format!("{} {}", path.name, path.family.name());
        assert!(outcome.wrong == 0 && outcome.failed <= LOST_MAX, "{name}: {outcome:?}\n{}", last_words(&session));
        assert!(outcome.requests > 10 * LOST_MAX, "{name}: {outcome:?}");
    }
    // What the last change has left is not lost now and then, it works.
    assert_all_paths_work(&mut session, 1.5);
    assert_even_and_right(&session);
}

#[test]
fn an_offload_of_the_funnel_that_somebody_turns_on_is_turned_off_again() {
    if skipped("an_offload_of_the_funnel_that_somebody_turns_on_is_turned_off_again") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-funnel");
    let mut session = ready(&plan);
    let node = plan.node();
    let set = |offload: &str, to: &str| run_in(&node, "ethtool", &["-K", "atl-f1", offload, to]).unwrap();
    let is_on = |name: &str| {
        let shown = run_in(&node, "ethtool", &["-k", "atl-f1"]).unwrap();
        shown.lines().any(|line| line.starts_with(&format!("{name}: on")))
    };
    for (offload, name, count) in [("tx", "tx-checksumming", 1), ("gso", "generic-segmentation-offload", 2)] {
        assert!(!is_on(name));
        set(offload, "on");
        session
            .daemon_mut()
            .unwrap()
            .wait_for(Duration::from_secs(5), "to turn it off again", |status| status.offloads_turned_off >= count)
            .unwrap();
        assert!(!is_on(name), "{name}");
    }
    assert_all_paths_work(&mut session, 1.5);
    assert_even_and_right(&session);

    // Without a daemon nobody does, and `check` says so.
    let config = plan.folder().join("atalho.toml");
    let check = || {
        let net = format!("--net=/run/netns/{node}");
        let output = Command::new("nsenter").arg(net).arg(atalho()).args(["check", "--config"]).arg(&config).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(check().0, Some(0), "{}", check().1);
    session.daemon_mut().unwrap().terminate().unwrap();
    set("tx", "on");
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("atl-f1: tx-checksumming is on") && said.contains("ethtool -K"), "{said}");
    session.start_daemon(&config, &Objects::Manifests(plan.manifests())).unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(20)).unwrap();
    assert!(!is_on("tx-checksumming"));
    assert_all_paths_work(&mut session, 1.5);
}
