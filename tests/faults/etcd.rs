//! etcd's own interface, for what an API server does not offer: throwing away what is older than now.

use std::io::{Read, Write};
use std::net::TcpStream;

use atalho_benches::lab::plan::Plan;
use serde_json::{Value, json};

use crate::node::inside;

/// Compacts everything up to now (etcd's gRPC gateway, v3/kv): a watch from before that cannot go on.
pub fn compact(plan: &Plan) {
    let at_start = json!({ "key": "AA==", "keys_only": true, "limit": 1 });
    let revision = ask(plan, "range", &at_start)["header"]["revision"].clone();
    assert!(revision.is_string(), "{revision}");
    let answer = ask(plan, "compaction", &json!({ "revision": revision, "physical": true }));
    assert!(answer["header"].is_object(), "{answer}");
}

fn ask(plan: &Plan, method: &str, body: &Value) -> Value {
    let body = body.to_string();
    let request = format!(
        "POST /v3/kv/{method} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = inside(&plan.far(), move || {
        let mut stream = TcpStream::connect("127.0.0.1:2379")?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = answer.unwrap();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("etcd {method}: {error} in {answer}"))
}
