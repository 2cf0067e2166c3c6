//! The node itself: its pods' ports, routes, neighbours, addresses and ranges, and the other nodes.

use super::*;

#[test]
fn other_nodes_have_one_address_of_each_family() {
    let mut world = World::new("");
    let node = |name: &str, addresses: &str| {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{addresses}]}}\n")
    };
    world.put(&node("node-a", "{type: InternalIP, address: 192.168.0.2}"));
    world.put(&node("node-b", "{type: ExternalIP, address: 203.0.113.3}, {type: InternalIP, address: 192.168.0.3}"));
    world.put(&node("node-c", "{type: InternalIP, address: 192.168.0.4}, {type: InternalIP, address: \"fd00::4\"}"));
    // An object that claims this node's address, and one that says nothing.
    world.put(&node("node-d", "{type: InternalIP, address: 192.168.0.2}"));
    world.put(&node("node-e", "{type: Hostname, address: node-e}"));
    let tables = world.compile().tables.clone();
    let addresses: Vec<String> = tables.other_nodes.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.168.0.3", "192.168.0.4", "fd00::4"]);
    world.delete(Kind::Node, "node-c");
    let after = world.compile().tables.clone();
    assert_eq!(after.other_nodes.len(), 1);
    world.put(&node("node-b", "{type: InternalIP, address: 192.168.0.3}"));
    assert!(Arc::ptr_eq(&world.compile().tables.other_nodes, &after.other_nodes), "the same, so the same Arc");
}

#[test]
fn a_pods_port_is_where_the_route_to_its_address_points() {
    let mut world = World::new("");
    world.put(&pod("p1", &["10.244.0.11", "fd44::11"]));
    world.put(&pod("p2", &["10.244.0.12"]));
    world.put(&pod("lost", &["10.244.0.99"]));
    world.put(&pod("elsewhere", &["10.244.0.13"]).replace("node-a", "node-b"));
    world.put(&pod("host", &["192.168.0.2"]).replace("containers", "hostNetwork: true, containers"));
    let compiled = world.compile();
    assert_eq!(compiled.pod_ports.keys().copied().collect::<Vec<_>>(), [11, 12]);
    let p1 = compiled.pod_ports[&11];
    assert_eq!((p1.pod_mac, p1.host_mac), ([0xb; 6], [2, 0, 0, 0, 0, 11]));
    assert_eq!((p1.addr4, IpAddr::from(p1.addr6)), ([10, 244, 0, 11], "fd44::11".parse().unwrap()));
    assert_eq!(compiled.pod_ports[&12].pod_mac, [0; 6]);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let index = compiled.tables.local_pods[&address("10.244.0.11")];
    assert_eq!(compiled.tables.local_pods[&address("fd44::11")], index);
    let hop = compiled.next_hops[&index];
    assert_eq!(
        (hop.kind, hop.ifindex, hop.destination, hop.source),
        (NextHopKind::Pod, 11, Some([0xb; 6]), [2, 0, 0, 0, 0, 11])
    );
    assert_eq!(compiled.next_hops[&compiled.tables.local_pods[&address("10.244.0.12")]].destination, None);
    assert!(compiled.wanted_neighbours.contains(&(12, address("10.244.0.12"))));
    assert_eq!(compiled.claim_of(address("10.244.0.12"), Protocol::Udp, 9), Some(ClaimKind::Pod));
    assert_eq!(compiled.claim_of(address("10.244.0.13"), Protocol::Udp, 9), None);
    let texts: Vec<String> = compiled.refusals.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "API server: Pod default/lost: no interface of this node leads to 10.244.0.99; its packets are left to the node's stack until its plugin sets its route up"
        ]
    );
}

use atalho_layout::NextHopKind;

#[test]
fn pods_behind_one_interface_have_no_port() {
    let mut world = World::new("");
    let mut facts = facts();
    facts.routes.push(KernelRoute {
        destination: "10.244.0.64/26".parse().unwrap(),
        gateway: None,
        interface: Some(13),
        kind: KernelRouteKind::Unicast,
        metric: 0,
    });
    world.facts = Arc::new(facts);
    for (name, ip) in [("b1", "10.244.0.65"), ("b2", "10.244.0.66"), ("p1", "10.244.0.11")] {
        world.put(&pod(name, &[ip]));
    }
    let compiled = world.compile();
    assert_eq!(compiled.pod_ports.keys().copied().collect::<Vec<_>>(), [11]);
    let texts: Vec<String> = compiled.refusals.iter().map(|r| format!("{}: {}", r.object, r.reason)).collect();
    assert_eq!(
        texts,
        [
            "Pod default/b2: the route to 10.244.0.66 points to v3, as that of Pod default/b1 does",
            "Pod default/b1: v3 leads to several pods"
        ]
    );
}

#[test]
fn routes_are_those_of_the_node_that_admission_needs() {
    let mut world = World::new("");
    world.put(&pod("p1", &["10.244.0.11"]));
    let routes = world.compile().tables.routes.clone();
    let look_up = |address: &str| routes.look_up(address.parse().unwrap());
    assert!(matches!(look_up("198.51.100.1"), Routed::NextHop(_)));
    assert_eq!(look_up("192.168.0.77"), Routed::Unresolved("192.168.0.77".parse().unwrap()));
    assert_eq!(look_up("192.168.0.2"), Routed::Local);
    assert_eq!(look_up("172.31.0.1"), Routed::Elsewhere);
    assert_eq!(look_up("10.66.0.1"), Routed::Unreachable);
    assert_eq!(look_up("10.67.0.1"), Routed::Blackhole);
    assert_eq!(routes.neighbour_to("10.244.1.7".parse().unwrap()), Some("192.168.0.3".parse().unwrap()));
    let compiled = world.compiled.as_ref().unwrap();
    // The better of the two default routes, by its metric; the other one's gateway is not wanted.
    assert!(compiled.wanted_neighbours.contains(&(2, "192.168.0.1".parse().unwrap())));
    assert!(!compiled.wanted_neighbours.contains(&(2, "192.168.0.9".parse().unwrap())));
    // A gateway that has not answered yet has its place, and no MAC.
    let index = compiled.state.part.neighbours[&"192.168.0.3".parse::<IpAddr>().unwrap()];
    assert_eq!(compiled.next_hops[&index].destination, None);
}

#[test]
fn a_neighbour_that_appears_or_changes_is_one_next_hop_and_keeps_its_index() {
    let mut world = World::new("");
    world.compile();
    let asked: IpAddr = "192.168.0.77".parse().unwrap();
    let mut with = facts();
    with.neighbours.insert((2, asked), [7; 6]);
    world.facts = Arc::new(with.clone());
    let index = world.compile().state.part.neighbours[&asked];
    assert_eq!(world.compiled.as_ref().unwrap().next_hops[&index].destination, Some([7; 6]));
    let tables = world.compiled.as_ref().unwrap().tables.clone();
    with.neighbours.insert((2, asked), [8; 6]);
    world.facts = Arc::new(with);
    let compiled = world.compile();
    assert_eq!(compiled.next_hops[&index].destination, Some([8; 6]));
    assert!(Arc::ptr_eq(&compiled.tables, &tables), "a changed MAC is no new table");
    world.facts = Arc::new(facts());
    let compiled = world.compile();
    assert_eq!((compiled.next_hops[&index].destination, compiled.state.part.neighbours[&asked]), (None, index));
}

#[test]
fn primary_addresses_come_from_the_configuration_the_node_object_or_the_uplink() {
    let node = "{apiVersion: v1, kind: Node, metadata: {name: node-a}, status: {addresses: [{type: InternalIP, address: 203.0.113.1}, {type: InternalIP, address: 192.168.0.7}]}}";
    let primary = |config: &str, with_node: bool| {
        let mut world = World::new(config);
        let mut facts = facts();
        facts.addresses.insert((2, "192.168.0.7/24".parse().unwrap()));
        world.facts = Arc::new(facts);
        if with_node {
            world.put(node);
        }
        let node = world.compile().tables.node.clone();
        (node.primary_v4.map(|v4| v4.to_string()), node.primary_v6.map(|v6| v6.to_string()))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(primary("", false), (some("192.168.0.2"), some("fd00::2")));
    assert_eq!(primary("", true), (some("192.168.0.7"), some("fd00::2")));
    assert_eq!(primary("addresses = [\"198.51.100.9\"]", true), (some("198.51.100.9"), some("fd00::2")));
}

#[test]
fn cidrs_come_from_the_configuration_or_the_objects() {
    let objects = [
        "{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDRs: [10.244.0.0/24]}}",
        "{apiVersion: v1, kind: Node, metadata: {name: node-b}, spec: {podCIDRs: [10.244.1.0/24]}}",
        "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/12, \"fd96::/112\"]}}",
    ];
    let mut world = World::new("");
    objects.iter().for_each(|object| world.put(object));
    let compiled = world.compile();
    let shown = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&compiled.tables.cluster.pod_cidrs), ["10.244.0.0/24", "10.244.1.0/24"]);
    assert_eq!(shown(&compiled.tables.cluster.service_cidrs), ["10.96.0.0/12", "fd96::/112"]);
    assert_eq!(compiled.ranges.iter().map(|key| key.prefix_len).collect::<Vec<_>>(), [108, 112]);
    let mut world = World::new("[cluster]\npod_cidrs = []\nservice_cidrs = []");
    objects.iter().for_each(|object| world.put(object));
    let compiled = world.compile();
    assert_eq!((compiled.tables.cluster.pod_cidrs.len(), compiled.ranges.len()), (0, 0));
}
