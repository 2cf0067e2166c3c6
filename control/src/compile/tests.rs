mod external;
mod nearness;
mod property;

use atalho_engine::route::Routed;
use atalho_engine::service::{Route, VipKind};

use super::*;
use crate::facts::{KernelRoute, KernelRouteKind, Link};
use crate::model::{Change, Key, Kind, Source};

/// A cluster under test, compiled after every step as a daemon would.
pub(super) struct World {
    pub model: Model,
    pub config: Config,
    pub facts: Arc<NodeFacts>,
    pub indexes: NextHopIndexes,
    pub compiled: Option<Compiled>,
}

impl World {
    pub fn new(config: &str) -> Self {
        let text = format!("[node]\nname = \"node-a\"\n{config}");
        let config = Config::parse(std::path::Path::new("test.toml"), &text).unwrap();
        let model = Model::new(&config);
        Self { model, config, facts: Arc::new(facts()), indexes: NextHopIndexes::new(1 << 16), compiled: None }
    }

    pub fn put(&mut self, yaml: &str) {
        let object = crate::manifests::parse_one(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
        self.model.apply(Change::Put(object, Source::Api));
    }

    pub fn delete(&mut self, kind: Kind, name: &str) {
        let namespace = if kind.is_namespaced() { "default" } else { "" };
        self.model.apply(Change::Delete(Key { kind, namespace: namespace.into(), name: name.into() }));
    }

    pub fn compile(&mut self) -> &Compiled {
        let previous = self.compiled.take();
        self.compiled.insert(compile(&self.model, &self.facts, &self.config, previous, &mut self.indexes))
    }

    fn vip(&self, text: &str) -> Option<Vip> {
        let (protocol, address) = text.split_once(' ').unwrap();
        let address: std::net::SocketAddr = address.parse().unwrap();
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Sctp,
        };
        let key = VipKey { address: address.ip(), protocol, port: address.port() };
        self.compiled.as_ref().unwrap().tables.services.look_up(&key).cloned()
    }
}

/// node-a: uplink eth0 with 192.168.0.2 and fd00::2, a funnel, pods p1 and p2 behind v1 and v2, a gateway.
pub(super) fn facts() -> NodeFacts {
    let mut facts = NodeFacts { uplink: 2, funnel: 4, ..NodeFacts::default() };
    for (ifindex, name) in [(1, "lo"), (2, "eth0"), (4, "atl-f1"), (11, "v1"), (12, "v2"), (13, "v3")] {
        let link = Link { name: name.into(), mac: [2, 0, 0, 0, 0, ifindex as u8], mtu: 1500, up: true };
        facts.links.insert(ifindex, link);
    }
    for (ifindex, net) in [
        (1, "127.0.0.1/8"),
        (1, "::1/128"),
        (2, "192.168.0.2/24"),
        (2, "fd00::2/64"),
        (2, "fe80::2/64"),
        (4, "169.254.97.1/32"),
        (11, "10.244.0.1/32"),
        (12, "10.244.0.1/32"),
    ] {
        facts.addresses.insert((ifindex, net.parse().unwrap()));
    }
    let mut route = |destination: &str, gateway: Option<&str>, interface: u32, kind: KernelRouteKind, metric: u32| {
        facts.routes.push(KernelRoute {
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            interface: Some(interface),
            kind,
            metric,
        });
    };
    use KernelRouteKind::{Blackhole, Local, Other, Refused, Unicast};
    route("0.0.0.0/0", Some("192.168.0.1"), 2, Unicast, 100);
    route("0.0.0.0/0", Some("192.168.0.9"), 2, Unicast, 200);
    route("192.168.0.0/24", None, 2, Unicast, 0);
    route("192.168.0.2/32", None, 2, Local, 0);
    route("192.168.0.255/32", None, 2, Other, 0);
    route("10.244.1.0/24", Some("192.168.0.3"), 2, Unicast, 0);
    route("172.31.0.0/16", None, 77, Unicast, 0);
    route("10.66.0.0/16", None, 2, Refused, 0);
    route("10.67.0.0/16", None, 2, Blackhole, 0);
    route("10.96.0.0/12", Some("169.254.97.2"), 4, Unicast, 0);
    route("10.244.0.11/32", None, 11, Unicast, 0);
    route("10.244.0.12/32", None, 12, Unicast, 0);
    route("fd00::/64", None, 2, Unicast, 0);
    route("fd44::11/128", None, 11, Unicast, 0);
    facts.neighbours.insert((2, "192.168.0.1".parse().unwrap()), [0xa; 6]);
    facts.neighbours.insert((11, "10.244.0.11".parse().unwrap()), [0xb; 6]);
    facts
}

pub(super) fn service(name: &str, rest: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{rest}}}}}")
}

pub(super) fn slice(name: &str, service: &str, family: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}, \
         addressType: {family}, ports: [{ports}], endpoints: [{endpoints}]}}"
    )
}

pub(super) fn pod(name: &str, ips: &[&str]) -> String {
    let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node-a, containers: []}}, status: {{phase: Running, podIPs: [{}]}}}}",
        ips.join(", ")
    )
}

fn endpoints(route: &Route) -> Vec<String> {
    route.backends.endpoints.iter().map(|e| format!("{}:{}", e.address, e.port)).collect()
}

const READY: &str = "conditions: {ready: true}";
const GOING: &str = "conditions: {ready: false, serving: true, terminating: true}";
const DOWN: &str = "conditions: {ready: false, serving: false}";

fn on(address: &str, node: &str, conditions: &str) -> String {
    format!("{{addresses: [\"{address}\"], nodeName: {node}, {conditions}}}")
}

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

#[test]
fn an_unchanged_service_is_shared_and_a_changed_one_is_all_that_is_new() {
    let mut world = World::new("");
    for n in 1..=50 {
        world.put(&service(
            &format!("s{n}"),
            &format!("type: NodePort, clusterIP: 10.96.0.{n}, ports: [{{port: 80, nodePort: {}}}]", 30_000 + n),
        ));
        world.put(&slice(
            &format!("e{n}"),
            &format!("s{n}"),
            "IPv4",
            "{port: 8080}",
            &format!("{{addresses: [10.0.0.{n}]}}"),
        ));
    }
    let first = world.compile();
    assert!(first.delta.everything);
    assert_eq!((first.tables.generation, first.tables.services.len(), first.delta.vips_changed.len()), (1, 100, 100));
    let before: HashMap<VipKey, Arc<Vip>> =
        first.tables.services.iter().map(|(key, vip)| (*key, vip.clone())).collect();

    world.put(&slice("e7", "s7", "IPv4", "{port: 8080}", "{addresses: [10.0.0.77]}"));
    let second = world.compile();
    assert_eq!((second.tables.generation, second.delta.vips_changed.len()), (2, 2));
    assert_eq!((second.delta.claims_added.len(), second.delta.claims_removed.len()), (0, 0));
    let new = second.tables.services.iter().filter(|(key, vip)| !Arc::ptr_eq(vip, &before[key])).count();
    assert_eq!(new, 2);

    let tables = second.tables.clone();
    let third = world.compile();
    assert!(Arc::ptr_eq(&third.tables, &tables));
    assert_eq!(third.delta, Delta::default());

    world.delete(Kind::Service, "s7");
    let fourth = world.compile();
    assert_eq!(
        (fourth.tables.generation, fourth.delta.vips_removed.len(), fourth.delta.claims_removed.len()),
        (3, 2, 2)
    );
    assert!(fourth.claim_of("10.96.0.7".parse().unwrap(), Protocol::Tcp, 80).is_none());
}

#[test]
fn a_vip_that_goes_from_one_service_to_another_is_changed_and_not_removed() {
    let mut world = World::new("");
    world.put(&service("a", "clusterIP: 10.96.0.1, ports: [{port: 80}]"));
    world.compile();
    world.delete(Kind::Service, "a");
    world.put(&service("b", "clusterIP: 10.96.0.1, ports: [{port: 80}]"));
    let delta = world.compile().delta.clone();
    assert_eq!((delta.vips_changed.len(), delta.vips_removed.len()), (1, 0));
    assert_eq!((delta.claims_added.len(), delta.claims_removed.len()), (0, 0));
    assert_eq!(&*world.vip("tcp 10.96.0.1:80").unwrap().service, "default/b:80");
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
