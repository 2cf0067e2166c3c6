use super::*;
use crate::compile::{NextHopIndexes, compile, offline_facts};
use crate::config::Config;
use crate::manifests::Manifests;
use crate::model::Model;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 172.30.0.41
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: crooked}
spec: {clusterIP: 172.30.0.999, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.0.7], nodeName: node-a}
- {addresses: [10.244.1.7], nodeName: node-b}
- {addresses: [10.244.1.9], nodeName: node-b, conditions: {ready: false}}
- {addresses: [127.0.0.1], nodeName: node-b}
"#;

/// Asks `objects` on node-a.
fn ask(objects: &str, asked: &Asked) -> Result<Part, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("objects.yaml"), objects).unwrap();
    let mut config = Config::load(None).unwrap();
    config.node.name = "node-a".into();
    let mut model = Model::new(&config);
    for change in Manifests::new(folder.path()).reload(std::time::Instant::now()).unwrap().changes {
        model.apply(change);
    }
    let facts = std::sync::Arc::new(offline_facts(&model, &config));
    let compiled = compile(&model, &facts, &config, None, &mut NextHopIndexes::new(u32::MAX));
    part(&View { model: &model, compiled: &compiled, config: &config, facts: &facts }, asked)
}

#[test]
fn a_service_is_told_with_its_vips_its_endpoints_and_those_left_out() {
    let asked = Asked { service: Some("default/web".into()), ..Asked::default() };
    let row = ask(OBJECTS, &asked).unwrap().services.remove(0);
    let vips: Vec<_> = row.vips.iter().map(|vip| (vip.vip.as_str(), vip.address.as_str())).collect();
    assert_eq!(vips, [("ClusterIP", "172.30.0.41:80"), ("NodePort", "192.168.0.2:30080")]);
    let addresses = |side: &Side| side.endpoints.iter().map(|e| e.address.clone()).collect::<Vec<_>>();
    let (cluster_ip, node_port) = (&row.vips[0], &row.vips[1]);
    assert_eq!((cluster_ip.port.as_str(), cluster_ip.session_affinity_s), ("default/web:http", Some(10_800)));
    assert_eq!(addresses(&cluster_ip.inside), ["10.244.0.7:8080", "10.244.1.7:8080"]);
    assert_eq!(addresses(&node_port.outside), ["10.244.0.7:8080"]);
    let because: Vec<&str> = node_port.outside.left_out.iter().map(|e| e.because.as_str()).collect();
    assert!(because[0].contains("externalTrafficPolicy") && because[1].contains("conditions.ready"), "{because:?}");
    assert!(row.refused.len() == 1 && row.refused[0].contains("127.0.0.1"), "{:?}", row.refused);
    let text = text::whole(&row);
    for line in
        ["NodePort TCP 192.168.0.2:30080", "a client stays for 10800 s", "-> 10.244.0.7:8080 on node-a, this one"]
    {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

#[test]
fn all_are_listed_those_of_others_and_the_refused_among_them() {
    let part = ask(OBJECTS, &Asked::default()).unwrap();
    let names: Vec<&str> = part.services.iter().map(|row| row.service.as_str()).collect();
    assert_eq!((names, part.next), (vec!["default/crooked", "default/web", "shop/db"], None));
    let text: String = part.services.iter().map(text::lines).collect();
    for part in ["172.30.0.999", "2 of 3; from outside 1 of 3", "headless"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let of_shop = ask(OBJECTS, &Asked { namespace: Some("shop".into()), ..Asked::default() }).unwrap();
    assert_eq!(of_shop.services.len(), 1);
    let error = ask(OBJECTS, &Asked { service: Some("default/wbe".into()), ..Asked::default() }).unwrap_err();
    assert!(error.contains("default/wbe"), "{error}");
}

#[test]
fn many_are_told_in_parts_each_once() {
    let objects: String = (0..SERVICES * 2 + 1)
        .map(|n| {
            let (net, host) = (n / 250, n % 250 + 1);
            format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{clusterIP: 172.30.{net}.{host}, ports: [{{port: 80}}]}}\n")
        })
        .collect();
    let (mut asked, mut names, mut parts) = (Asked::default(), Vec::new(), 0);
    loop {
        let part = ask(&objects, &asked).unwrap();
        parts += 1;
        names.extend(part.services.into_iter().map(|row| row.service));
        match part.next {
            Some(next) => asked.after = Some(next),
            None => break,
        }
    }
    assert_eq!((parts, names.len()), (3, SERVICES * 2 + 1));
    assert!(names.is_sorted_by(|a, b| a < b));
}
