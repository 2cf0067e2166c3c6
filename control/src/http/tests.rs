use std::time::Instant;

use axum::body::to_bytes;
use serde_json::Value;

use super::*;
use crate::status::tests::collector;

async fn ask(collector: &Arc<Collector>, of: &str) -> (u16, Value) {
    let state = State(collector.clone());
    let response = if of == "/healthz" { healthz(state).await } else { livez(state).await };
    let header = |name: HeaderName| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header(header::CONTENT_TYPE), "application/json");
    assert_eq!(header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 4096).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn both_answer_as_kube_proxy_does() {
    let collector = Arc::new(collector());
    let (status, body) = ask(&collector, "/livez").await;
    assert_eq!((status, &body["healthy"]), (200, &Value::Bool(true)), "a restart would not help who waits for lists");
    let (status, body) = ask(&collector, "/healthz").await;
    assert_eq!((status, &body["nodeEligible"]), (503, &Value::Bool(false)), "no tables, no clients");

    {
        let mut shared = collector.shared.lock();
        (shared.ready, shared.last_publication) = (true, Some(std::time::SystemTime::now()));
    }
    let (status, body) = ask(&collector, "/healthz").await;
    assert_eq!((status, &body["nodeEligible"], &body["healthy"]), (200, &Value::Bool(true), &Value::Bool(true)));
    assert_eq!(body["lastUpdated"], body["currentTime"], "when all is well they are the same");
    for family in ["IPv4", "IPv6"] {
        assert_eq!(body["status"][family]["healthy"], true);
    }

    collector.shared.lock().node_leaves = true;
    let (status, body) = ask(&collector, "/healthz").await;
    assert_eq!((status, &body["nodeEligible"], &body["healthy"]), (503, &Value::Bool(false), &Value::Bool(true)));
    let (status, body) = ask(&collector, "/livez").await;
    assert_eq!((status, body.get("nodeEligible")), (200, None), "whether the node stays is not asked here");

    // On a machine that has run for less than the time there is nothing to show.
    if let Some(since) = Instant::now().checked_sub(HUNG) {
        collector.shared.lock().waiting_since = Some(since);
        let (status, body) = ask(&collector, "/livez").await;
        assert_eq!((status, &body["healthy"], &body["status"]["IPv4"]["healthy"]), (503, &false.into(), &false.into()));
    }
    let shared = collector.shared.lock();
    assert_eq!((shared.probes.healthz.well, shared.probes.healthz.unwell), (1, 2));
}

#[test]
fn a_change_that_waits_for_long_means_that_the_loop_hangs() {
    let mut published = Published { ready: true, ..Published::default() };
    assert!(is_alive(&published));
    published.waiting_since = Some(Instant::now());
    assert!(is_alive(&published));
    published.waiting_since = Instant::now().checked_sub(HUNG);
    assert!(published.waiting_since.is_none() || !is_alive(&published));
    published.ready = false;
    assert!(is_alive(&published), "it waits for its first lists");
}
