//! Objects that are wrong: refused by name with file and line, kept out, and the rest works.

use std::fs;
use std::time::{Duration, Instant};

use atalho_benches::lab::plan::Plan;
use atalho_benches::lab::session::Session;

use crate::support::{assert_all_paths_work, assert_even_and_right, ready, skipped, turn};

const BAD: &str = "\
apiVersion: v1
kind: Gadget
metadata: {name: thing}
---
apiVersion: v1
kind: Service
metadata: {name: crooked, namespace: default}
spec:
  clusterIP: 10.96.0.999
  clusterIPs: [10.96.0.999]
  ports: [{name: http, port: 80, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: late, namespace: default}
spec:
  type: NodePort
  clusterIP: 10.96.0.70
  clusterIPs: [10.96.0.70]
  ports: [{name: http, port: 80, protocol: TCP, nodePort: 30080}]
";

#[test]
fn bad_objects_are_refused_by_name_and_the_rest_works() {
    if skipped("bad_objects_are_refused_by_name_and_the_rest_works") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-objects");
    let mut session = ready(&plan);
    fs::write(plan.manifests().join("bad.yaml"), BAD).unwrap();
    fs::write(plan.manifests().join("broken.yaml"), "apiVersion: v1\nkind: [Service\n").unwrap();
    let refused = wait_for_refusals(&session, 4);
    for words in [
        ["bad.yaml:1", "Gadget"],
        ["bad.yaml:5", "10.96.0.999"],
        ["bad.yaml:13", "30080"],
        ["broken.yaml:", "broken.yaml"],
    ] {
        let found = refused.iter().any(|refusal| words.iter().all(|word| refusal.contains(word)));
        assert!(found, "no refusal with {words:?} in {refused:#?}");
    }
    assert_eq!(session.daemon().unwrap().status().unwrap().state, "degraded");
    assert_all_paths_work(&mut session, 1.5);
    // Put right, they are forgotten.
    fs::remove_file(plan.manifests().join("bad.yaml")).unwrap();
    fs::remove_file(plan.manifests().join("broken.yaml")).unwrap();
    wait_for_refusals(&session, 0);
    let status = session
        .daemon_mut()
        .unwrap()
        .wait_for(Duration::from_secs(3), "to be ready again", |status| status.state == "ready");
    status.unwrap();
    assert_even_and_right(&session);
}

/// A change is picked up within a second; this waits three.
fn wait_for_refusals(session: &Session, count: usize) -> Vec<String> {
    let start = Instant::now();
    loop {
        let status = session.daemon().unwrap().status().unwrap();
        let refused: Vec<String> = status.refused.iter().map(ToString::to_string).collect();
        if refused.len() == count {
            return refused;
        }
        assert!(start.elapsed() < Duration::from_secs(3), "{count} refusals expected: {refused:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
