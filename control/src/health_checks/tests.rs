use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tokio::sync::watch as latest;

use super::*;
use crate::config::Config;
use crate::model::{Change, Object, Source, api};
use crate::shared::{Part, Shared};

fn put(model: &mut Model, object: impl Into<Object>) {
    model.apply(Change::Put(object.into(), Source::Api));
}

fn service(name: &str, port: Option<u16>, policy: &str) -> api::Service {
    let number = name.bytes().map(u32::from).sum::<u32>() % 250;
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": [format!("10.96.0.{number}"), format!("fd96::{number}")],
            "externalTrafficPolicy": policy,
            "healthCheckNodePort": port,
            "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
        }
    }))
    .unwrap()
}

fn slice(name: &str, service: &str, endpoints: &[(&str, &str, bool)]) -> api::EndpointSlice {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(address, node, ready)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready}}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "https", "port": 8443}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn counts(answers: &Answers) -> Vec<(String, usize)> {
    answers.iter().map(|(address, answer)| (address.to_string(), answer.local_endpoints)).collect()
}

#[test]
fn a_service_is_answered_for_with_its_ready_endpoints_on_this_node() {
    let mut model = Model::new(&Config::load(None).unwrap());
    let mut checks = HealthChecks::default();
    let addresses = addresses(&["192.168.0.2", "fd00::2"]);
    put(&mut model, service("web", Some(32_000), "Local"));
    put(&mut model, service("wide", Some(32_001), "Cluster"));
    put(&mut model, service("plain", None, "Local"));
    let told = checks.update(&model, "node-a", &addresses).unwrap();
    assert_eq!(counts(&told), [("192.168.0.2:32000".into(), 0), ("[fd00::2]:32000".into(), 0)], "policy Local only");
    let endpoints = [("10.244.0.7", "node-a", true), ("10.244.0.8", "node-a", false), ("10.244.1.7", "node-b", true)];
    put(&mut model, slice("web-1", "web", &endpoints));
    put(&mut model, slice("web-2", "web", &endpoints[..1]));
    let told = checks.update(&model, "node-a", &addresses).unwrap();
    assert_eq!(counts(&told), [("192.168.0.2:32000".into(), 1), ("[fd00::2]:32000".into(), 0)]);
    put(&mut model, slice("plain-1", "plain", &endpoints));
    assert_eq!(checks.update(&model, "node-a", &addresses), None, "no answer changed");
    model.apply(Change::Delete(Object::from(service("web", None, "Local")).key()));
    assert!(checks.update(&model, "node-a", &addresses).unwrap().is_empty());
}

#[test]
fn other_addresses_of_the_node_are_listened_on_instead() {
    let mut model = Model::new(&Config::load(None).unwrap());
    let mut checks = HealthChecks::default();
    put(&mut model, service("web", Some(32_000), "Local"));
    checks.update(&model, "node-a", &addresses(&["192.168.0.2"])).unwrap();
    let told = checks.update(&model, "node-a", &addresses(&["192.168.0.3"])).unwrap();
    assert_eq!(counts(&told), [("192.168.0.3:32000".into(), 0)]);
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /anything HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_opened_answered_and_closed() {
    let shared = Arc::new(Shared::default());
    shared.lock().ready = true;
    let free = |n: u16| std::net::TcpListener::bind(("127.0.0.1", n)).unwrap();
    let (taken, spare) = (free(0), free(0));
    let (taken_address, address) = (taken.local_addr().unwrap(), spare.local_addr().unwrap());
    drop(spare);
    let answer = |local_endpoints| Answer { service: "shop/web".into(), local_endpoints };
    let (tell, wanted) = latest::channel(Arc::new(Answers::from([(address, answer(2)), (taken_address, answer(1))])));
    let serving = tokio::spawn(serve(wanted, shared.clone()));
    let asked = |what: fn(&std::io::Result<String>) -> bool| async move {
        for _ in 0..500 {
            let answer = tokio::task::spawn_blocking(move || ask(address)).await.unwrap();
            if what(&answer) {
                return answer.ok();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the answer that is waited for did not come");
    };
    let text = asked(Result::is_ok).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    let headers = text.to_lowercase();
    for header in [
        "content-type: application/json\r\n",
        "x-content-type-options: nosniff\r\n",
        "x-load-balancing-endpoint-weight: 2\r\n",
    ] {
        assert!(headers.contains(header), "{header} is missing in {text}");
    }
    let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    let expected =
        json!({"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
    assert_eq!(body, expected);
    let faults = shared.lock().faults[&Part::HealthChecks].clone();
    assert!(faults.len() == 1 && faults[0].contains(&taken_address.to_string()), "{faults:?}");

    tell.send(Arc::new(Answers::from([(address, answer(0))]))).unwrap();
    let text = asked(|answer| answer.as_ref().is_ok_and(|text| text.contains("503"))).await.unwrap();
    assert!(text.to_lowercase().contains("endpoint-weight: 0\r\n"), "{text}");
    tell.send(Arc::default()).unwrap();
    asked(Result::is_err).await;
    assert!(!shared.lock().faults.contains_key(&Part::HealthChecks), "nobody wants the taken port any more");
    drop(tell);
    serving.await.unwrap();
}
