//! Which flows end, whatever told of the change, or nothing did: the table is compared with what is known now.

use std::net::IpAddr;
use std::time::Duration;

use atalho_control::server;
use atalho_engine::flow::Protocol;
use serde_json::{Value, json};

use crate::bench::{Bench, until, until_within};
use crate::namespace::in_namespace;
use crate::objects::{SERVICE, slice};

fn connect(bench: &Bench) {
    bench.connect(Protocol::Udp, 53, 5353);
    bench.connect(Protocol::Tcp, 80, 8080);
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_flow_that_a_worker_makes_by_the_tables_before_ends_too() {
    in_namespace(|| {
        let (bench, control) = Bench::serving();
        // A worker begins a batch and is held up in it.
        bench.epochs.enter(&bench.queues[0].epoch);
        bench.write("slice.yaml", &slice(&["10.244.2.8"]));
        until("the change", || bench.endpoints(Protocol::Tcp, 80) == [address("10.244.2.8")]);
        std::thread::sleep(Duration::from_millis(300));
        connect(&bench);
        bench.epochs.leave(&bench.queues[0].epoch);
        bench.work_until(0);
        control.shutdown();
    });
}

#[test]
fn what_went_while_nobody_looked_is_found_after_the_first_lists() {
    in_namespace(|| {
        let bench = Bench::new();
        bench.write("service.yaml", SERVICE);
        for (endpoints, left) in [(vec!["10.244.2.7", "10.244.2.8"], 2), (vec!["10.244.2.8"], 0)] {
            bench.write("slice.yaml", &slice(&endpoints));
            if left > 0 {
                connect(&bench);
                // Of a port that nobody knows: when it has ended, the others have been looked at.
                bench.connect(Protocol::Tcp, 443, 8443);
            }
            let control = bench.start().unwrap();
            assert!(control.wait_ready(Duration::from_secs(5)), "{}", bench.status());
            bench.work_until(left);
            control.shutdown();
        }
        // Nor is there anybody to vouch for the endpoint of a Service that went.
        connect(&bench);
        std::fs::remove_file(bench.folder.path().join("objects/service.yaml")).unwrap();
        bench.write("slice.yaml", &slice(&["10.244.2.7"]));
        let control = bench.start().unwrap();
        assert!(control.wait_ready(Duration::from_secs(5)), "{}", bench.status());
        bench.work_until(0);
        control.shutdown();
    });
}

#[test]
fn what_went_while_control_was_dead_is_known_to_the_one_that_is_begun_anew() {
    in_namespace(|| {
        let (bench, control) = Bench::serving();
        let panic = || assert!(server::ask(&bench.run_dir(), "node-a", &json!({"ask": "panic"})).is_err());
        let until_begun_anew = |times: u64| {
            let is_back = |status: Value| status["restarts"]["programming"] == times && status["state"] == "ready";
            until_within(Duration::from_secs(20), "control", || is_back(bench.status()));
        };
        // The Service is given another address: connections run on, for the endpoint is still its.
        connect(&bench);
        panic();
        bench.write("service.yaml", &SERVICE.replace("10.96.0.10", "10.96.0.11"));
        until_begun_anew(1);
        bench.work_until(1);
        std::thread::sleep(Duration::from_millis(300));
        bench.work_until(1);
        // It is deleted, and its slice with it.
        panic();
        for file in ["service.yaml", "slice.yaml"] {
            std::fs::remove_file(bench.folder.path().join("objects").join(file)).unwrap();
        }
        until_begun_anew(2);
        bench.work_until(0);
        control.shutdown();
    });
}

#[test]
fn a_pod_that_gets_the_address_of_an_endpoint_gets_no_flow_of_it() {
    in_namespace(|| {
        let bench = Bench::new();
        bench.write("service.yaml", SERVICE);
        let of = |uid: &str| {
            let target = format!("targetRef: {{kind: Pod, name: web-0, uid: {uid}}}, conditions");
            slice(&["10.244.2.7", "10.244.2.8"]).replacen("conditions", &target, 1)
        };
        bench.write("slice.yaml", &of("first"));
        let control = bench.start().unwrap();
        assert!(control.wait_ready(Duration::from_secs(5)), "{}", bench.status());
        connect(&bench);
        bench.write("slice.yaml", &of("second"));
        bench.work_until(0);
        assert_eq!(bench.endpoints(Protocol::Udp, 53).len(), 2, "it is an endpoint as well");
        // What comes now is his.
        connect(&bench);
        bench.write("slice.yaml", &of("second").replace("10.244.2.8", "10.244.2.9"));
        until("the change", || bench.endpoints(Protocol::Udp, 53).contains(&address("10.244.2.9")));
        std::thread::sleep(Duration::from_millis(300));
        bench.work_until(2);
        control.shutdown();
    });
}
