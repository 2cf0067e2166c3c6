use super::*;

fn source(line: u32) -> Source {
    Source::File { path: "objects.yaml".into(), line }
}

fn put(model: &mut Model, line: u32, yaml: &str) {
    let object = crate::manifests::parse_one(yaml).unwrap_or_else(|e| panic!("{e}: {yaml}"));
    model.apply(Change::Put(object, source(line)));
}

fn service(name: &str, ip: &str, ports: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: NodePort, clusterIPs: [\"{ip}\"], ports: [{ports}]}}}}"
    )
}

fn refusals(model: &Model) -> Vec<String> {
    model.refusals().iter().map(ToString::to_string).collect()
}

fn delete(model: &mut Model, kind: Kind, name: &str) {
    model.apply(Change::Delete(Key { kind, namespace: "default".into(), name: name.into() }));
}

#[test]
fn every_bad_service_is_refused_with_its_reason() {
    for (ip, ports, reason) in [
        (
            "10.96.0.300",
            "",
            "spec.clusterIPs has \"10.96.0.300\", which is not an IP address; write an IPv4 or IPv6 address",
        ),
        (
            "127.0.0.1",
            "",
            "spec.clusterIPs has 127.0.0.1, which is a loopback address; use an address of the Service CIDR",
        ),
        (
            "10.96.0.1\", \"10.96.0.2",
            "",
            "spec.clusterIPs has two addresses of one family (10.96.0.1, 10.96.0.2); leave at most one IPv4 and one IPv6 address",
        ),
        ("10.96.0.1", "{port: 0}", "spec.ports[0].port is 0; use a port from 1 to 65535"),
        ("10.96.0.1", "{port: 70000}", "spec.ports[0].port is 70000; use a port from 1 to 65535"),
        ("10.96.0.1", "{port: 80, nodePort: -1}", "spec.ports[0].nodePort is -1; use a port from 1 to 65535"),
        ("10.96.0.1", "{port: 80, protocol: QUIC}", "spec.ports[0].protocol is \"QUIC\"; use TCP, UDP or SCTP"),
        (
            "10.96.0.1",
            "{name: a, port: 80}, {name: b, port: 80}",
            "spec.ports[1] has TCP port 80 a second time; leave one of the two",
        ),
        (
            "10.96.0.1",
            "{name: a, port: 80}, {name: a, port: 81}",
            "spec.ports[1] has the name \"a\" a second time; give every port a name of its own",
        ),
        (
            "10.96.0.1",
            "{port: 80}, {port: 81}",
            "spec.ports[1] has a second port without a name; give every port a name of its own",
        ),
        (
            "10.96.0.1",
            "{name: a, port: 80, nodePort: 30000}, {name: b, port: 81, nodePort: 30000}",
            "spec.ports[1] has TCP nodePort 30000 a second time; leave one of the two",
        ),
    ] {
        let mut model = Model::default();
        put(&mut model, 7, &service("web", ip, ports));
        assert_eq!(refusals(&model), [format!("objects.yaml:7: Service default/web: {reason}")]);
        assert_eq!(model.services().count(), 0);
    }
}

#[test]
fn bad_words_in_a_service_are_refused() {
    for (spec, reason) in [
        (
            "{type: Nodeport, clusterIP: 10.96.0.1}",
            "spec.type is \"Nodeport\"; use ClusterIP, NodePort, LoadBalancer or ExternalName",
        ),
        (
            "{clusterIP: 10.96.0.1, internalTrafficPolicy: local}",
            "spec.internalTrafficPolicy is \"local\"; use Cluster or Local",
        ),
        (
            "{type: NodePort, clusterIP: 10.96.0.1, externalTrafficPolicy: local}",
            "spec.externalTrafficPolicy is \"local\"; use Cluster or Local",
        ),
        (
            "{clusterIP: 10.96.0.1, sessionAffinity: clientIP}",
            "spec.sessionAffinity is \"clientIP\"; use None or ClientIP",
        ),
        (
            "{clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds is 86401; use 1 to 86400, or leave it out for 10800",
        ),
        (
            "{ports: [{port: 80}]}",
            "it has no spec.clusterIP; write one, as an API server would have done; or \"None\" for a headless Service",
        ),
    ] {
        let mut model = Model::default();
        put(&mut model, 1, &format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {spec}}}"));
        assert_eq!(refusals(&model), [format!("objects.yaml:1: Service default/web: {reason}")]);
    }
}

#[test]
fn the_last_good_version_stays_in_force_until_a_better_one_comes() {
    let mut model = Model::default();
    put(&mut model, 1, &service("web", "10.96.0.1", "{port: 80}"));
    let revision = model.revision();
    put(&mut model, 2, &service("web", "10.96.0.1", "{port: 0}"));
    assert_eq!(model.service("default/web").unwrap().object.ports[0].port, 80);
    assert_eq!((model.refusals().len(), model.revision()), (1, revision));
    put(&mut model, 3, &service("web", "10.96.0.1", "{port: 81}"));
    assert_eq!(model.service("default/web").unwrap().object.ports[0].port, 81);
    assert_eq!(model.refusals(), []);
}

#[test]
fn of_two_services_with_one_node_port_the_first_stays_and_the_second_takes_over_when_it_goes() {
    let mut model = Model::default();
    put(&mut model, 1, &service("a", "10.96.0.1", "{port: 80, nodePort: 30000}"));
    put(&mut model, 9, &service("b", "10.96.0.2", "{port: 80, nodePort: 30000}"));
    put(&mut model, 12, &service("c", "10.96.0.3", "{port: 80, nodePort: 30000}"));
    put(&mut model, 15, &service("d", "10.96.0.4", "{port: 80, nodePort: 30000, protocol: UDP}"));
    assert_eq!(
        refusals(&model)[0],
        "objects.yaml:9: Service default/b: TCP nodePort 30000 belongs to Service default/a (objects.yaml:1); \
         the first stays in force; give one of the two another nodePort"
    );
    assert_eq!(model.services().count(), 2);
    delete(&mut model, Kind::Service, "a");
    assert!(model.service("default/b").is_some() && model.service("default/c").is_none());
    assert!(
        refusals(&model)[0].contains("Service default/c: TCP nodePort 30000 belongs to Service default/b"),
        "{:?}",
        refusals(&model)
    );
    delete(&mut model, Kind::Service, "b");
    assert!(model.service("default/c").is_some());
    assert_eq!(model.refusals(), []);
}

#[test]
fn a_cluster_ip_has_one_service_and_changing_it_frees_it() {
    let mut model = Model::default();
    put(&mut model, 1, &service("a", "10.96.0.1", "{port: 80}"));
    put(&mut model, 2, &service("b", "10.96.0.1", "{port: 81}"));
    assert!(refusals(&model)[0].contains("Service default/b: clusterIP 10.96.0.1 belongs to Service default/a"));
    put(&mut model, 1, &service("a", "10.96.0.9", "{port: 80}"));
    assert_eq!(model.refusals(), []);
    assert_eq!(model.service("default/b").unwrap().object.ports[0].port, 81);
}

#[test]
fn node_ports_that_were_exchanged_while_nobody_looked_are_exchanged_here() {
    let with = |name: &str, ip: u8, port: u16| {
        service(name, &format!("10.96.0.{ip}"), &format!("{{port: 80, nodePort: {port}}}"))
    };
    let mut model = Model::default();
    for (name, ip) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        put(&mut model, 1, &with(name, ip, 30_000 + u16::from(ip)));
    }
    let node_port = |model: &Model, name: &str| model.service(name).unwrap().object.ports[0].node_port;
    // Round among three; of two that want what comes free the first gets it, and a fourth keeps what it has.
    put(&mut model, 1, &with("a", 1, 30_002));
    put(&mut model, 1, &with("d", 4, 30_002));
    put(&mut model, 1, &with("b", 2, 30_003));
    assert_eq!(refusals(&model).len(), 3);
    put(&mut model, 1, &with("c", 3, 30_001));
    let found = ["a", "b", "c", "d"].map(|name| node_port(&model, &format!("default/{name}")).unwrap());
    assert_eq!(found, [30_002, 30_003, 30_001, 30_004]);
    assert_eq!(refusals(&model).len(), 1);
    assert!(refusals(&model)[0].contains("Service default/d: TCP nodePort 30002 belongs to Service default/a"));
    for (port, holder) in [(30_001, "c"), (30_002, "a"), (30_003, "b"), (30_004, "d")] {
        assert_eq!(model.node_port_holder(Protocol::Tcp, port).unwrap().as_ref(), format!("default/{holder}"));
    }
}

#[test]
fn a_refused_service_that_is_deleted_leaves_nothing_behind() {
    let mut model = Model::default();
    put(&mut model, 1, &service("a", "10.96.0.1", "{port: 80}"));
    put(&mut model, 2, &service("b", "10.96.0.1", "{port: 81}"));
    delete(&mut model, Kind::Service, "b");
    assert_eq!(model.refusals(), []);
    delete(&mut model, Kind::Service, "a");
    assert_eq!(model.services().count(), 0);
}

#[test]
fn headless_external_and_labelled_services_are_not_ours() {
    for (metadata, spec, why) in [
        ("", "clusterIP: None", NotOurs::Headless),
        ("", "clusterIPs: [None]", NotOurs::Headless),
        (", labels: {service.kubernetes.io/headless: ''}", "clusterIP: 10.96.0.1", NotOurs::Headless),
        ("", "type: ExternalName, externalName: example.com", NotOurs::ExternalName),
        (
            ", labels: {service.kubernetes.io/service-proxy-name: other}",
            "clusterIP: 10.96.0.1",
            NotOurs::OtherProxy("other".into()),
        ),
    ] {
        let mut model = Model::default();
        put(
            &mut model,
            1,
            &format!("{{apiVersion: v1, kind: Service, metadata: {{name: web{metadata}}}, spec: {{{spec}}}}}"),
        );
        assert_eq!(model.service("default/web").unwrap().object.not_ours, Some(why));
        assert_eq!((model.service_count(), model.refusals()), (0, vec![]));
    }
}

const SLICE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: ";

#[test]
fn endpoints_that_must_not_be_reached_are_left_out_one_by_one() {
    let mut model = Model::default();
    let endpoints = "[{addresses: [10.244.0.1]}, {addresses: [127.0.0.1]}, {addresses: [169.254.169.254]}, {addresses: [224.0.0.1]}, {addresses: [\"fd00::1\"]}, {addresses: [x]}, {addresses: []}]}";
    put(&mut model, 4, &format!("{SLICE}{endpoints}"));
    let found = refusals(&model);
    let expected = [
        "endpoints[1].addresses[0] is 127.0.0.1, which is a loopback address",
        "endpoints[2].addresses[0] is 169.254.169.254, which is a link-local address",
        "endpoints[3].addresses[0] is 224.0.0.1, which is a multicast address",
        "endpoints[4].addresses[0] is fd00::1 in a slice of addressType IPv4",
        "endpoints[5].addresses[0] is \"x\", which is not an IP address",
        "endpoints[6] has no address",
    ];
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(&format!("objects.yaml:4: EndpointSlice default/web-1: {expected}; it is left out")),
            "{found}"
        );
    }
    assert_eq!(model.endpoint_count(), 1);
    put(&mut model, 4, &format!("{SLICE}[]}}"));
    assert_eq!(model.refusals(), []);
}

#[test]
fn conditions_default_to_ready_serving_and_not_terminating() {
    let mut model = Model::default();
    put(&mut model, 1, &service("web", "10.96.0.1", "{port: 80}"));
    let endpoints = "[{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}, {addresses: [10.0.0.3], conditions: {ready: false, terminating: true}}, {addresses: [10.0.0.4], conditions: {ready: false, serving: false, terminating: true}}]}";
    put(&mut model, 1, &format!("{SLICE}{endpoints}"));
    let state = |ip: &str| model.endpoint_state("default/web:80", ip.parse().unwrap(), 8080);
    assert_eq!(state("10.0.0.1"), EndpointState::Ready);
    assert_eq!(state("10.0.0.2"), EndpointState::NotReady);
    assert_eq!(state("10.0.0.3"), EndpointState::Terminating);
    assert_eq!(state("10.0.0.4"), EndpointState::NotReady);
    assert_eq!(state("10.0.0.5"), EndpointState::Gone);
    assert_eq!(model.endpoint_state("default/web:80", "10.0.0.1".parse().unwrap(), 8081), EndpointState::Gone);
    assert_eq!(model.endpoint_state("default/other:80", "10.0.0.1".parse().unwrap(), 8080), EndpointState::Gone);
}

#[test]
fn the_model_tells_which_services_changed_since() {
    let mut model = Model::default();
    put(&mut model, 1, &service("a", "10.96.0.1", "{port: 80}"));
    put(&mut model, 1, &service("web", "10.96.0.2", "{port: 80}"));
    let revision = model.revision();
    let changed = |model: &Model| model.services_changed_since(revision).map(ToString::to_string).collect::<Vec<_>>();
    put(&mut model, 1, &service("a", "10.96.0.1", "{port: 80}"));
    assert_eq!(changed(&model), Vec::<String>::new());
    put(&mut model, 1, &format!("{SLICE}[]}}"));
    put(&mut model, 1, &format!("{SLICE}[{{addresses: [10.0.0.1]}}]}}"));
    assert_eq!(changed(&model), ["default/web"]);
    delete(&mut model, Kind::Service, "a");
    assert_eq!(changed(&model), ["default/web", "default/a"]);
}

#[test]
fn a_slice_may_move_to_another_service() {
    let mut model = Model::default();
    put(&mut model, 1, &format!("{SLICE}[{{addresses: [10.0.0.1]}}]}}"));
    put(
        &mut model,
        1,
        &format!("{SLICE}[{{addresses: [10.0.0.1]}}]}}").replace("service-name: web", "service-name: other"),
    );
    assert_eq!((model.slices_of("default/web").count(), model.slices_of("default/other").count()), (0, 1));
}

#[test]
fn bad_slices_pods_nodes_and_cidrs_are_refused() {
    for (yaml, reason) in [
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, addressType: IPv5, endpoints: []}",
            "EndpointSlice default/s: addressType is \"IPv5\"; use IPv4, IPv6 or FQDN",
        ),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, addressType: IPv4, endpoints: [], ports: [{port: 0}]}",
            "EndpointSlice default/s: ports[0].port is 0; use a port from 1 to 65535",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: []}, status: {podIPs: [{ip: 10.0.0.256}]}}",
            "Pod default/p: status.podIPs has \"10.0.0.256\", which is not an IP address; write an IPv4 or IPv6 address",
        ),
        (
            "{apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: x}]}}",
            "Node n: status.addresses (InternalIP) has \"x\", which is not an IP address; write an IPv4 or IPv6 address",
        ),
        (
            "{apiVersion: v1, kind: Node, metadata: {name: n}, spec: {podCIDRs: [10.0.0.0]}}",
            "Node n: spec.podCIDRs has \"10.0.0.0\", which is not a CIDR; write one such as \"10.244.0.0/24\"",
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: c}, spec: {cidrs: [x]}}",
            "ServiceCIDR c: spec.cidrs has \"x\", which is not a CIDR; write one such as \"10.244.0.0/24\"",
        ),
    ] {
        let mut model = Model::default();
        put(&mut model, 3, yaml);
        assert_eq!(refusals(&model), [format!("objects.yaml:3: {reason}")]);
    }
}

#[test]
fn an_ended_pod_has_no_address_any_more() {
    let mut model = Model::default();
    put(
        &mut model,
        1,
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n, containers: []}, status: {phase: Succeeded, podIPs: [{ip: 10.0.0.2}]}}",
    );
    assert_eq!(model.pods().next().unwrap().object.addresses, Vec::<IpAddr>::new());
}

#[test]
fn the_api_servers_service_keeps_its_last_endpoints_when_its_slice_goes_empty() {
    for (name, left) in [("kubernetes", 1), ("web", 0)] {
        let mut model = Model::default();
        let slice = SLICE.replace("service-name: web", &format!("service-name: {name}"));
        put(&mut model, 1, &format!("{slice}[{{addresses: [10.0.0.1]}}]}}"));
        put(&mut model, 1, &format!("{slice}[]}}"));
        assert_eq!(model.endpoint_count(), left, "{name}");
        put(&mut model, 1, &format!("{slice}[{{addresses: [10.0.0.2]}}, {{addresses: [10.0.0.3]}}]}}"));
        assert_eq!(model.endpoint_count(), 2, "{name}");
    }
}

#[test]
fn the_api_servers_service_keeps_its_last_endpoints_when_its_slice_is_deleted() {
    for (name, left) in [("kubernetes", 1), ("web", 0)] {
        let mut model = Model::default();
        let slice = SLICE.replace("service-name: web", &format!("service-name: {name}"));
        let [first, second] = ["web-1", "web-2"].map(|own| slice.replace("web-1", own));
        put(&mut model, 1, &format!("{first}[{{addresses: [10.0.0.1]}}]}}"));
        delete(&mut model, Kind::EndpointSlice, "web-1");
        delete(&mut model, Kind::EndpointSlice, "web-1");
        assert_eq!(model.endpoint_count(), left, "{name}");
        // Another one takes its place, and is the last one then.
        put(&mut model, 1, &format!("{second}[{{addresses: [10.0.0.2]}}, {{addresses: [10.0.0.3]}}]}}"));
        assert_eq!(model.endpoint_count(), 2, "{name}");
        delete(&mut model, Kind::EndpointSlice, "web-2");
        assert_eq!(model.endpoint_count(), 2 * left, "{name}");
        // The same comes back, and goes while there is another.
        put(&mut model, 1, &format!("{second}[{{addresses: [10.0.0.4]}}]}}"));
        put(&mut model, 1, &format!("{first}[{{addresses: [10.0.0.5]}}]}}"));
        assert_eq!(model.endpoint_count(), 2, "{name}");
        delete(&mut model, Kind::EndpointSlice, "web-1");
        assert_eq!(model.endpoint_count(), 1, "{name}");
    }
}

#[test]
fn an_address_is_inherited_where_another_object_has_it_and_only_there() {
    let endpoint =
        |address: &str, uid: &str| format!("{{addresses: [{address}], targetRef: {{kind: Pod, name: a, uid: {uid}}}}}");
    let [first, second] = ["web-1", "web-2"].map(|own| SLICE.replace("web-1", own));
    let one = |slice: &str, endpoints: &[&str]| format!("{slice}[{}]}}", endpoints.join(", "));
    let [a, b, heir] =
        [("10.0.0.1", "u1"), ("10.0.0.2", "u2"), ("10.0.0.1", "u3")].map(|(address, uid)| endpoint(address, uid));
    let (a, b, heir) = (&*a, &*b, &*heir);
    let inherited = |change: &dyn Fn(&mut Model)| {
        let mut model = Model::default();
        put(&mut model, 1, &one(&first, &[a, b]));
        // What was there at first nobody inherits.
        assert!(model.take_inherited().is_empty());
        change(&mut model);
        let inherited: Vec<String> =
            model.take_inherited().into_values().flatten().map(|address| address.to_string()).collect();
        assert!(!model.has_new_hands() && model.take_inherited().is_empty());
        inherited
    };
    let none: [&str; 0] = [];
    // In place; by way of nobody; after the slice itself was gone, as in a new list; before the old slice changes.
    assert_eq!(inherited(&|model| put(model, 1, &one(&first, &[heir, b]))), ["10.0.0.1"]);
    assert_eq!(
        inherited(&|model| {
            put(model, 1, &one(&first, &[b]));
            put(model, 1, &one(&first, &[b, heir]));
        }),
        ["10.0.0.1"]
    );
    assert_eq!(
        inherited(&|model| {
            delete(model, Kind::EndpointSlice, "web-1");
            put(model, 1, &one(&second, &[b, heir]));
        }),
        ["10.0.0.1"]
    );
    assert_eq!(
        inherited(&|model| {
            put(model, 1, &one(&second, &[heir]));
            put(model, 1, &one(&first, &[b]));
        }),
        ["10.0.0.1"]
    );
    // Also while an older slice still names the one before.
    assert_eq!(inherited(&|model| put(model, 1, &one(&second, &[heir]))), ["10.0.0.1"]);
    // Gone, come back, moved to another slice, changed in readiness, or seen to already: nobody's heir.
    assert_eq!(inherited(&|model| put(model, 1, &one(&first, &[b]))), none);
    assert_eq!(
        inherited(&|model| {
            put(model, 1, &one(&first, &[b]));
            put(model, 1, &one(&first, &[a]));
        }),
        none
    );
    assert_eq!(
        inherited(&|model| {
            put(model, 1, &one(&second, &[a, b]));
            delete(model, Kind::EndpointSlice, "web-1");
        }),
        none
    );
    let unready = &*a.replace("targetRef", "conditions: {ready: false}, targetRef");
    assert_eq!(inherited(&|model| put(model, 1, &one(&first, &[unready, b]))), none);
    assert_eq!(
        inherited(&|model| {
            put(model, 1, &one(&first, &[b]));
            model.take_inherited();
            put(model, 1, &one(&first, &[heir]));
            assert_eq!(model.take_inherited(), Inherited::new());
        }),
        none
    );
}
