//! An idle node costs nothing: under 1 % of a core for the whole process.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use atalho_benches::lab::daemon::{Objects, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{Job, JobKind};

use crate::support::{programs, skipped, turn};

const SERVICES: usize = 10_000;
const FLOWS: u64 = 100_000;
const SECONDS: u64 = 60;

#[test]
fn ten_thousand_services_cost_under_one_percent_of_a_core() {
    if skipped("ten_thousand_services_cost_under_one_percent_of_a_core") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-idle");
    let mut session = Session::build(&plan, &programs()).unwrap();
    let manifests = objects::write(&plan).unwrap();
    fs::write(manifests.join("many.yaml"), many_services()).unwrap();
    let config = write_config(&plan, None, "").unwrap();
    session.start_daemon(&config, &Objects::Manifests(manifests)).unwrap();
    let status = session.daemon_mut().unwrap().wait_ready(Duration::from_secs(120)).unwrap();
    assert!(status.services as usize >= SERVICES, "{status:?}");
    open_flows(&mut session);
    let status = session.daemon().unwrap().status().unwrap();
    assert!(status.flows >= FLOWS, "only {} flows", status.flows);
    // What starting and opening left to do, neighbours to resolve and pages to fault, is not idleness.
    std::thread::sleep(Duration::from_secs(3));
    let (start, before) = (Instant::now(), session.daemon().unwrap().cpu_seconds().unwrap());
    std::thread::sleep(Duration::from_secs(SECONDS));
    let used = session.daemon().unwrap().cpu_seconds().unwrap() - before;
    let percent = used / start.elapsed().as_secs_f64() * 100.0;
    println!("idle with {SERVICES} Services and {FLOWS} flows: {percent:.2} % of a core");
    assert!(percent < 1.0, "{percent:.2} % of a core ({used:.2} s of CPU)");
}

/// Opens UDP flows, answered ones, which live for two minutes: every request is one, unless the kernel chose a port that
/// has been used before, as it does for some.
fn open_flows(session: &mut Session) {
    let mut jobs = Vec::new();
    for family in Family::BOTH {
        for number in 1..=4 {
            for (service, port) in [(10, 443), (20, 53)] {
                let target = (paths::cluster_ip(service, family), port).into();
                let path = Path { from: Place::Pod(number), udp: target, ..paths::moving(family) };
                let job = paths::job(&path, JobKind::Udp, 90.0);
                let job = Job { interval_ms: 0, count_max: 7_700, request_bytes: 20, reply_bytes: 20, ..job };
                jobs.push(session.ask(path.from, job).unwrap());
            }
        }
    }
    session.wait_for(&jobs, Duration::from_secs(100)).unwrap();
}

fn many_services() -> String {
    let mut text = String::new();
    for number in 0..SERVICES {
        let ip = format!("10.96.{}.{}", 1 + number / 250, 1 + number % 250);
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: many-{number}, namespace: many}}\n\
             spec: {{type: ClusterIP, clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{name: http, port: 80, protocol: TCP}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: many-{number}-1, namespace: many, labels: {{kubernetes.io/service-name: many-{number}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\n\
             endpoints: [{{addresses: [10.244.1.11]}}, {{addresses: [10.244.2.11]}}]\n"
        )
        .unwrap();
    }
    text
}
