//! An object that the API server takes and this node refuses: an Event of each node tells its owner, and the status who,
//! why and what next.

use std::time::{Duration, Instant};

use atalho_benches::lab::daemon::{Objects, write_config};
use serde_json::{Value, json};

use crate::https::{Https, kubeconfig};
use crate::node::inside;
use crate::support::{skipped, with_server};

#[test]
fn each_node_writes_an_event_about_what_it_refuses() {
    if skipped("each_node_writes_an_event_about_what_it_refuses") {
        return;
    }
    let (mut session, server) = with_server("at-f-events");
    let plan = session.plan().clone();
    let admin = Https::new(&plan);
    let config = write_config(&plan, None, "").unwrap();
    session.start_daemon(&config, &Objects::ApiServer { kubeconfig: server.kubeconfig() }).unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(60)).unwrap();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "crooked"},
        "spec": {"externalIPs": ["198.51.100.7"], "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
    });
    let made = admin.ask("POST", "/api/v1/namespaces/default/services", Some(&service));
    let degraded = session.daemon_mut().unwrap().wait_for(Duration::from_secs(20), "to refuse it", |status| {
        status.state == "degraded" && status.refused.iter().any(|refusal| refusal.to_string().contains("crooked"))
    });
    let refusal = degraded.unwrap().refused.remove(0);

    // Another node refuses the same.
    let (kubeconfig_b, far) = (plan.folder().join("node-b.kubeconfig"), plan.far());
    let authority = plan.folder().join("api/certificates/apiserver.crt");
    kubeconfig(&kubeconfig_b, atalho_benches::apiserver::PORT, &authority, "token: admin-token");
    let told = serde_json::from_value(refusal.clone()).expect("a refusal");
    inside(&far, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shared = std::sync::Arc::new(atalho_control::shared::Shared::default());
        shared.lock().refusals.push(told);
        runtime.block_on(async move {
            let server = atalho_control::watch::server(Some(&kubeconfig_b)).await.unwrap();
            let telling = atalho_control::events::tell(server.client, "node-b".into(), shared);
            let _ = tokio::time::timeout(Duration::from_secs(12), telling).await;
        });
    });
    let end = Instant::now() + Duration::from_secs(20);
    let events = loop {
        let list = admin.ask("GET", "/apis/events.k8s.io/v1/namespaces/default/events", None);
        let events: Vec<Value> =
            list["items"].as_array().unwrap().iter().filter(|event| event["reason"] == "Refused").cloned().collect();
        if events.len() >= 2 {
            break events;
        }
        assert!(Instant::now() < end, "{list}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut nodes: Vec<&str> = events.iter().filter_map(|event| event["reportingInstance"].as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-a", "node-b"], "{events:#?}");
    assert_eq!(refusal["object"], "Service default/crooked");
    for event in &events {
        // `kubectl describe` looks for them by the object's uid.
        assert_eq!(event["regarding"]["uid"], made["metadata"]["uid"], "{event}");
        let note = event["note"].as_str().unwrap();
        assert!(
            note.contains(refusal["reason"].as_str().unwrap()) && note.contains(refusal["next_step"].as_str().unwrap()),
            "{note}"
        );
    }
}
