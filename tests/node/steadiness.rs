//! What goes on around a Service to which nothing happens moves none of its flows: other Services that change all the time,
//! files that are written anew, and daemons that end and come back. Counted, under both schedulers.

use std::fmt::Write;
use std::fs;
use std::thread;
use std::time::Duration;

use atalho_benches::lab::daemon::{Daemon, Objects, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, pod_address, remote_pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;

use crate::support::{assert_even_and_right, last_words, programs, skipped, turn};

/// Changes of other Services, before and after each restart.
const CHANGES: usize = 80;
/// Services that change, one after the other: each file is left alone for long enough to be read before it changes again.
const SERVICES: usize = 8;
/// Flows of one client to one port beside those on every path: enough for a random choice to differ.
const MORE: usize = 6;

#[test]
fn no_flow_of_an_unchanged_service_is_re_picked_by_maglev() {
    if !skipped("no_flow_of_an_unchanged_service_is_re_picked_by_maglev") {
        count("at-t-maglev", "maglev");
    }
}

#[test]
fn no_flow_of_an_unchanged_service_is_re_picked_by_random() {
    if !skipped("no_flow_of_an_unchanged_service_is_re_picked_by_random") {
        count("at-t-random", "random");
    }
}

fn count(prefix: &str, scheduler: &str) {
    let _turn = turn();
    let plan = Plan::new(prefix);
    let mut session = Session::build(&plan, &programs()).expect("a lab");
    objects::write(&plan).unwrap();
    let start = |session: &mut Session| {
        let more = format!("[service]\nscheduler = \"{scheduler}\"\n");
        let config = write_config(&plan, None, &more).unwrap();
        session.start_daemon(&config, &Objects::Manifests(plan.manifests())).unwrap();
        session.daemon_mut().unwrap().wait_ready(Duration::from_secs(20)).unwrap();
    };
    start(&mut session);
    let held = hold(&mut session);
    session.listen(Duration::from_secs(1)).unwrap();

    let published = |session: &Session| session.daemon().unwrap().status().unwrap().published;
    let mut publications = 0;
    let ends: [fn(&mut Daemon); 2] =
        [|daemon| assert!(daemon.terminate().unwrap().0.success()), |daemon| daemon.kill().unwrap()];
    for end in ends.map(Some).into_iter().chain([None]) {
        let before = published(&session);
        churn(&plan);
        publications += published(&session) - before;
        let Some(end) = end else { break };
        end(session.daemon_mut().unwrap());
        start(&mut session);
        session.listen(Duration::from_secs(2)).unwrap();
    }
    session.listen(Duration::from_secs(2)).unwrap();
    session.stop_jobs().unwrap();

    let jobs: Vec<u32> = held.iter().map(|(job, ..)| *job).collect();
    let outcomes = session.wait_for(&jobs, Duration::from_secs(30)).unwrap();
    let mut re_picked = 0;
    for ((_, path, kind), outcome) in held.iter().zip(&outcomes) {
        let what = format!("{} {}: {outcome:?}\n{}", path.name, paths::kind_name(*kind), last_words(&session));
        // What is asked while nobody is there is not answered in time, if it is a datagram.
        let failed_max = if *kind == JobKind::HoldTcp { 0 } else { 12 };
        assert!(outcome.wrong == 0 && outcome.failed <= failed_max, "{what}");
        assert!(outcome.requests - outcome.failed > 60, "it did not go on: {what}");
        re_picked += outcome.moves.len() - 1;
    }
    println!("{scheduler}: {} flows, {publications} publications, 2 restarts: {re_picked} re-picked", held.len());
    assert_eq!(re_picked, 0, "{scheduler}: flows that were given another endpoint");
    assert!(publications >= 20, "only {publications} publications");
    assert_even_and_right(&session);
}

/// TCP and UDP on every path, and more of both to a Service with several endpoints.
fn hold(session: &mut Session) -> Vec<(u32, Path, JobKind)> {
    let more = |path: &Path| if path.from == Place::Pod(3) { MORE } else { 1 };
    let mut held = Vec::new();
    for path in Family::BOTH.into_iter().flat_map(paths::paths) {
        for kind in [JobKind::HoldTcp, JobKind::HoldUdp] {
            for _ in 0..more(&path) {
                let mut job = paths::job(&path, kind, 120.0);
                job.interval_ms = 100;
                if kind == JobKind::HoldTcp {
                    job.timeout_ms = 20_000;
                }
                held.push((session.ask(path.from, job).unwrap(), path.clone(), kind));
            }
        }
    }
    held
}

/// Other Services change in their endpoints, come and go; and every file is written anew as it is.
fn churn(plan: &Plan) {
    for number in 0..CHANGES {
        let file = plan.manifests().join(format!("churn-{}.yaml", number % SERVICES));
        if number % 7 == 6 {
            // It may have gone before.
            let _ = fs::remove_file(file);
        } else {
            fs::write(file, other(number)).unwrap();
        }
        if number % 10 == 0 {
            for file in objects::files(&plan.manifests()).unwrap() {
                let name = file.file_name().unwrap().to_str().unwrap();
                objects::replace_file(&plan.manifests(), name, &file).unwrap();
            }
        }
        thread::sleep(Duration::from_millis(60));
    }
}

/// A Service with some of the endpoints that the held flows have too.
fn other(number: usize) -> String {
    let own = number % SERVICES;
    let [v4, v6] = Family::BOTH.map(|family| paths::cluster_ip(80 + own as u8, family));
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: churn-{own}}}\n\
         spec: {{clusterIPs: [{v4}, \"{v6}\"], ports: [{{name: http, port: 80}}, {{name: dns, port: 443, protocol: UDP}}]}}\n"
    );
    for family in Family::BOTH {
        let all =
            [pod_address(1, family), pod_address(2, family), pod_address(3, family), remote_pod_address(1, family)];
        let some = all.iter().enumerate().filter(|(at, _)| (number >> at) & 1 == 1);
        let endpoints: Vec<String> = some.map(|(_, address)| format!("{{addresses: [\"{address}\"]}}")).collect();
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: churn-{own}-{name}, labels: {{kubernetes.io/service-name: churn-{own}}}}}\naddressType: {name}\n\
             ports: [{{name: http, port: 8080}}, {{name: dns, port: 8080, protocol: UDP}}]\nendpoints: [{list}]\n",
            name = family.name(),
            list = endpoints.join(", "),
        );
    }
    text
}
