//! Control panics under traffic, and is begun anew: workers never stop, and what changes afterwards arrives.

use std::time::Duration;

use atalho_benches::lab::command::run_in;
use atalho_control::server::ask;
use serde_json::json;

use crate::node::Node;
use crate::support::{skipped, turn};

#[test]
fn control_that_panics_is_begun_anew_and_workers_never_stop() {
    if skipped("control_that_panics_is_begun_anew_and_workers_never_stop") {
        return;
    }
    let _turn = turn();
    let mut node = Node::start("at-f-panic");
    let received = node.status().received;
    let run_dir = node.session.plan().folder().join("run");
    for time in 1..=2_u64 {
        let refused = ask(&run_dir, "node-a", &json!({ "ask": "panic" })).unwrap_err().to_string();
        assert!(refused.contains("begin anew"), "{refused}");
        node.wait(20, "to say that it panicked", |status| {
            status.state == "degraded"
                && status.faults.iter().any(|fault| fault.contains("programming: it panicked: somebody asked"))
        });
        // While it is gone and while it begins anew.
        node.assert_traffic_goes_on();
        let status = node.wait(20, "to have begun anew", |status| status.restarts.get("programming") == Some(&time));
        assert!(status.received > received && status.failing_since.is_some(), "{status:?}");
        node.change();
        node.recovers();
        if time == 1 {
            // To print a backtrace, the runtime reads in all debugging information.
            node.weigh();
        }
    }
    let address = "http://127.0.0.1:10249/metrics";
    let metrics = run_in(&node.session.plan().node(), "curl", &["-s", "--max-time", "10", address]).unwrap();
    assert!(metrics.contains("atalho_control_restarts_total{part=\"programming\"} 2"), "{metrics}");
    node.session.listen(Duration::from_millis(200)).unwrap();
    node.end();
}
