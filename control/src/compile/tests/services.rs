//! Services, their ports and slices into VIPs: where they stand, whom they lead to, who is masqueraded.

use super::*;

#[test]
fn ports_are_matched_by_name_and_protocol_and_slices_are_merged() {
    let mut world = World::new("");
    world.put(&service("web", "clusterIPs: [10.96.0.1], ports: [{name: http, port: 80, targetPort: 9999}, {name: dns, port: 53, protocol: UDP}]"));
    world.put(&slice(
        "a",
        "web",
        "IPv4",
        "{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}",
        "{addresses: [10.0.0.1, 10.0.0.9]}",
    ));
    world.put(&slice(
        "b",
        "web",
        "IPv4",
        "{name: http, port: 8081}, {name: dns, port: 5353}",
        "{addresses: [10.0.0.2]}, {addresses: [10.0.0.1]}",
    ));
    world.put(&slice("c", "other", "IPv4", "{name: http, port: 1}", "{addresses: [10.0.0.3]}"));
    world.compile();
    assert_eq!(
        endpoints(&world.vip("tcp 10.96.0.1:80").unwrap().inside),
        ["10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.2:8081"]
    );
    assert_eq!(endpoints(&world.vip("udp 10.96.0.1:53").unwrap().inside), ["10.0.0.1:5353"]);
    assert_eq!(&*world.vip("tcp 10.96.0.1:80").unwrap().service, "default/web:http");
    assert_eq!(world.vip("tcp 10.96.0.1:53"), None);
}

#[test]
fn families_have_tables_of_their_own() {
    let mut world = World::new("");
    world.put(&service(
        "web",
        "type: NodePort, clusterIPs: [10.96.0.1, \"fd96::1\"], ports: [{port: 80, nodePort: 30080}]",
    ));
    world.put(&slice("a", "web", "IPv4", "{port: 8080}", "{addresses: [10.0.0.1]}"));
    world.put(&slice("b", "web", "IPv6", "{port: 8080}", "{addresses: [\"fd44::1\"]}"));
    world.put(&slice("c", "web", "FQDN", "{port: 8080}", "{addresses: [example.com]}"));
    world.compile();
    assert_eq!(endpoints(&world.vip("tcp 10.96.0.1:80").unwrap().inside), ["10.0.0.1:8080"]);
    assert_eq!(endpoints(&world.vip("tcp [fd96::1]:80").unwrap().inside), ["fd44::1:8080"]);
    assert_eq!(endpoints(&world.vip("tcp 192.168.0.2:30080").unwrap().outside), ["10.0.0.1:8080"]);
    assert_eq!(endpoints(&world.vip("tcp [fd00::2]:30080").unwrap().outside), ["fd44::1:8080"]);
    assert_eq!(&*world.vip("tcp 10.96.0.1:80").unwrap().service, "default/web:80");
    assert_eq!(world.model.refusals(), []);
}

#[test]
fn ready_endpoints_come_first_and_serving_terminating_ones_only_without_them() {
    for (given, cluster, local) in [
        (
            vec![on("10.0.0.1", "node-a", READY), on("10.0.0.2", "node-b", READY)],
            vec!["10.0.0.1:1", "10.0.0.2:1"],
            vec!["10.0.0.1:1"],
        ),
        (
            vec![on("10.0.0.1", "node-a", GOING), on("10.0.0.2", "node-b", READY)],
            vec!["10.0.0.2:1"],
            vec!["10.0.0.1:1"],
        ),
        (
            vec![on("10.0.0.1", "node-a", GOING), on("10.0.0.2", "node-b", GOING)],
            vec!["10.0.0.1:1", "10.0.0.2:1"],
            vec!["10.0.0.1:1"],
        ),
        (vec![on("10.0.0.1", "node-a", DOWN), on("10.0.0.2", "node-b", READY)], vec!["10.0.0.2:1"], vec![]),
        (vec![on("10.0.0.1", "node-a", DOWN), on("10.0.0.2", "node-b", DOWN)], vec![], vec![]),
        (vec!["{addresses: [10.0.0.1], nodeName: node-a}".to_owned()], vec!["10.0.0.1:1"], vec!["10.0.0.1:1"]),
    ] {
        let mut world = World::new("");
        world.put(&service("web", "type: NodePort, clusterIP: 10.96.0.1, internalTrafficPolicy: Local, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]"));
        world.put(&slice("a", "web", "IPv4", "{port: 1}", &given.join(",")));
        world.compile();
        let cluster_ip = world.vip("tcp 10.96.0.1:80").unwrap();
        let node_port = world.vip("tcp 192.168.0.2:30080").unwrap();
        for route in [&cluster_ip.inside, &cluster_ip.outside, &node_port.outside] {
            assert_eq!(endpoints(route), local, "{given:?}");
            // Silence where another node could serve, else a rejection.
            assert_eq!(route.drop_without_backend, !cluster.is_empty(), "{given:?}");
        }
        assert_eq!(endpoints(&node_port.inside), cluster, "{given:?}");
        assert!(!node_port.inside.drop_without_backend);
    }
}

#[test]
fn every_vip_of_a_service_binds_a_client_to_the_same_endpoint() {
    let mut world = World::new("");
    let spec = |affinity: &str| {
        format!(
            "type: NodePort, clusterIP: 10.96.0.1, {affinity}, ports: [{{name: a, port: 80, nodePort: 30080}}, {{name: b, port: 81}}]"
        )
    };
    let affinity_of = |world: &World, vip: &str| world.vip(vip).unwrap().affinity;
    let vips = ["tcp 10.96.0.1:80", "tcp 192.168.0.2:30080", "tcp 10.96.0.1:81"];
    for (written, timeout_s) in [
        ("sessionAffinity: None", None),
        ("sessionAffinity: ClientIP", Some(10_800)),
        ("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}", Some(1)),
    ] {
        world.put(&service("web", &spec(written)));
        world.compile();
        let first = affinity_of(&world, vips[0]);
        assert_eq!(first.map(|affinity| affinity.timeout_s), timeout_s, "{written}");
        for vip in vips {
            assert_eq!(affinity_of(&world, vip), first, "{vip}, {written}");
        }
    }
    world.put(&service("other", "clusterIP: 10.96.0.9, sessionAffinity: ClientIP, ports: [{port: 80}]"));
    world.compile();
    let other = affinity_of(&world, "tcp 10.96.0.9:80").unwrap();
    assert_ne!(Some(other.service), affinity_of(&world, vips[0]).map(|affinity| affinity.service));
}

#[test]
fn masquerading_follows_policy_and_settings() {
    let spec = |policy: &str| {
        format!(
            "type: NodePort, clusterIP: 10.96.0.1, externalTrafficPolicy: {policy}, ports: [{{port: 80, nodePort: 30080}}]"
        )
    };
    // configuration, policy, ClusterIP inside and outside, node port inside and outside
    for (config, policy, expected) in [
        ("", "Cluster", [false, false, true, true]),
        ("", "Local", [false, false, false, false]),
        ("[cluster]\npod_cidrs = [\"10.244.0.0/16\"]", "Cluster", [false, true, true, true]),
        ("[cluster]\npod_cidrs = [\"10.244.0.0/16\"]", "Local", [false, true, false, false]),
        ("[service]\nmasquerade_all = true", "Cluster", [true, true, true, true]),
    ] {
        let mut world = World::new(config);
        world.put(&service("web", &spec(policy)));
        world.compile();
        let (cluster_ip, node_port) =
            (world.vip("tcp 10.96.0.1:80").unwrap(), world.vip("tcp 192.168.0.2:30080").unwrap());
        let found = [&cluster_ip.inside, &cluster_ip.outside, &node_port.inside, &node_port.outside]
            .map(|route| route.masquerade);
        assert_eq!(found, expected, "{config} {policy}");
    }
}

#[test]
fn node_ports_stand_on_the_chosen_addresses() {
    let spec = "type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]";
    for (config, expected) in [
        ("", vec!["192.168.0.2"]),
        ("[service]\nnode_port_addresses = [\"0.0.0.0/0\"]", vec!["192.168.0.2"]),
        ("[service]\nnode_port_addresses = [\"127.0.0.0/8\", \"10.244.0.0/16\"]", vec![]),
        ("[service]\nnode_port_addresses = [\"192.168.0.0/24\"]", vec!["192.168.0.2"]),
    ] {
        let mut world = World::new(config);
        for (name, ip) in [("p1", "10.244.0.11"), ("p2", "10.244.0.12")] {
            world.put(&pod(name, &[ip]));
        }
        world.put(&service("web", spec));
        let compiled = world.compile();
        let vips = compiled.tables.services.iter().filter(|(_, vip)| vip.kind == VipKind::NodePort);
        assert_eq!(vips.map(|(key, _)| key.address.to_string()).collect::<Vec<_>>(), expected, "{config}");
    }
}

#[test]
fn a_service_on_a_node_address_is_refused_and_the_node_stays_reachable() {
    let mut world = World::new("");
    world.put(&service("bad", "clusterIP: 192.168.0.2, ports: [{port: 22}]"));
    let compiled = world.compile();
    assert!(compiled.tables.services.is_empty());
    assert_eq!(compiled.claim_of("192.168.0.2".parse().unwrap(), Protocol::Tcp, 22), Some(ClaimKind::Node));
    let texts: Vec<String> = compiled.refusals.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "API server: Service default/bad: clusterIP 192.168.0.2 is an address of this node; it is not served, or the node would be cut off; give it one of the Service CIDR"
        ]
    );
}

#[test]
fn a_refused_service_that_goes_while_its_surroundings_change_is_forgotten() {
    let mut world = World::new("");
    world.put(&service("bad", "clusterIP: 192.168.0.2, ports: [{port: 22}]"));
    assert_eq!(world.compile().refusals.len(), 1);
    world.put("{apiVersion: v1, kind: Node, metadata: {name: node-b}, spec: {podCIDRs: [10.244.1.0/24]}}");
    world.delete(Kind::Service, "bad");
    assert_eq!(world.compile().refusals, []);
}

#[test]
fn ports_that_a_policy_leaves_without_an_endpoint_here_are_counted() {
    // kube-proxy's own cases (pkg/proxy/nftables/proxier_test.go, TestNoEndpointsMetric).
    let counts = |internal: &str, external: &str, nodes: &[&str]| {
        let mut world = World::new("");
        let policies = format!("internalTrafficPolicy: {internal}, externalTrafficPolicy: {external}");
        world.put(&service(
            "web",
            &format!("type: NodePort, clusterIPs: [10.96.0.1], {policies}, ports: [{{port: 80, nodePort: 30080}}]"),
        ));
        let of_node = |(n, node): (usize, &&str)| on(&format!("10.0.1.{}", n + 1), node, READY);
        let endpoints: Vec<String> = nodes.iter().enumerate().map(of_node).collect();
        world.put(&slice("web-1", "web", "IPv4", "{port: 8080}", &endpoints.join(",")));
        let NoLocal { internal, external } = world.compile().no_local_endpoints();
        (internal, external)
    };
    let elsewhere = ["node-b", "node-c"];
    assert_eq!(counts("Local", "Local", &["node-a", "node-b"]), (0, 0));
    assert_eq!(counts("Local", "Cluster", &elsewhere), (1, 0));
    assert_eq!(counts("Cluster", "Local", &elsewhere), (0, 1));
    assert_eq!(counts("Local", "Local", &elsewhere), (1, 1));
    assert_eq!(counts("Local", "Local", &[]), (0, 0), "no endpoint anywhere is refused, not silent");
}
