//! Which endpoints a node chooses from: readiness, hints of node and zone, policy Local.

use super::*;

/// An endpoint: where it is, its conditions, whom it is for.
struct At(&'static str, &'static str, &'static str);

const HERE: &str = "node-a";
const THERE: &str = "node-b";

const NOBODY: &str = "";
const FOR_HERE: &str = "hints: {forNodes: [{name: node-a}]}";
const FOR_THERE: &str = "hints: {forNodes: [{name: node-b}]}";
const EAST: &str = "hints: {forZones: [{name: east}]}";
const WEST: &str = "hints: {forZones: [{name: west}]}";
const BOTH_ZONES: &str = "hints: {forZones: [{name: west}, {name: east}]}";
const HERE_AND_EAST: &str = "hints: {forNodes: [{name: node-a}], forZones: [{name: east}]}";
const THERE_AND_EAST: &str = "hints: {forNodes: [{name: node-b}], forZones: [{name: east}]}";
const THERE_AND_WEST: &str = "hints: {forNodes: [{name: node-b}], forZones: [{name: west}]}";
const EMPTY: &str = "hints: {forNodes: [], forZones: []}";

/// Endpoints by number: those of policy Cluster and those of policy Local.
fn chosen(zone: Option<&str>, endpoints: &[At]) -> (Vec<u8>, Vec<u8>) {
    let mut world = World::new("");
    let labels = zone.map_or(String::new(), |zone| format!(", labels: {{topology.kubernetes.io/zone: {zone}}}"));
    world.put(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: node-a{labels}}}}}"));
    world.put(&service(
        "web",
        "type: NodePort, clusterIP: 10.96.0.1, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]",
    ));
    let written: Vec<String> = endpoints
        .iter()
        .enumerate()
        .map(|(n, At(node, conditions, hints))| {
            let parts: Vec<&str> = [*conditions, *hints].into_iter().filter(|part| !part.is_empty()).collect();
            on(&format!("10.0.0.{n}"), node, &parts.join(", "))
        })
        .collect();
    world.put(&slice("a", "web", "IPv4", "{port: 1}", &written.join(",")));
    world.compile();
    let numbers = |route: &Route| {
        let last = |address: IpAddr| if let IpAddr::V4(v4) = address { v4.octets()[3] } else { 255 };
        route.backends.endpoints.iter().map(|endpoint| last(endpoint.address)).collect()
    };
    let (cluster, local) = (world.vip("tcp 10.96.0.1:80").unwrap(), world.vip("tcp 192.168.0.2:30080").unwrap());
    assert_eq!(numbers(&local.inside), numbers(&cluster.inside), "from inside, Local is Cluster");
    (numbers(&cluster.inside), numbers(&local.outside))
}

#[test]
fn hints_count_where_every_ready_endpoint_has_one_and_one_is_for_this_node() {
    for (what, zone, endpoints, cluster, local) in [
        ("no hints", Some("east"), vec![At(HERE, READY, NOBODY), At(THERE, READY, NOBODY)], vec![0, 1], vec![0]),
        ("zone", Some("east"), vec![At(HERE, READY, EAST), At(THERE, READY, WEST)], vec![0], vec![0]),
        ("zone, of two", Some("east"), vec![At(HERE, READY, WEST), At(THERE, READY, BOTH_ZONES)], vec![1], vec![0]),
        ("one without", Some("east"), vec![At(HERE, READY, EAST), At(THERE, READY, NOBODY)], vec![0, 1], vec![0]),
        ("an empty one", Some("east"), vec![At(HERE, READY, EAST), At(THERE, READY, EMPTY)], vec![0, 1], vec![0]),
        ("none for this zone", Some("north"), vec![At(HERE, READY, EAST), At(THERE, READY, WEST)], vec![0, 1], vec![0]),
        ("a node without a zone", None, vec![At(HERE, READY, EAST), At(THERE, READY, WEST)], vec![0, 1], vec![0]),
        (
            "who is not ready needs none",
            Some("east"),
            vec![At(THERE, READY, EAST), At(HERE, GOING, NOBODY)],
            vec![0],
            vec![1],
        ),
        ("nor who is down", Some("east"), vec![At(THERE, READY, EAST), At(HERE, DOWN, NOBODY)], vec![0], vec![]),
        (
            "only one who is not ready is near",
            Some("east"),
            vec![At(THERE, READY, WEST), At(HERE, GOING, EAST)],
            vec![0],
            vec![1],
        ),
        (
            "none ready, hints nothing",
            Some("east"),
            vec![At(THERE, GOING, WEST), At(HERE, GOING, EAST)],
            vec![0, 1],
            vec![1],
        ),
        ("node", None, vec![At(HERE, READY, FOR_HERE), At(THERE, READY, FOR_THERE)], vec![0], vec![0]),
        (
            "node, wherever it stands",
            None,
            vec![At(HERE, READY, FOR_THERE), At(THERE, READY, FOR_HERE)],
            vec![1],
            vec![0],
        ),
        (
            "none for this node",
            None,
            vec![At(THERE, READY, FOR_THERE), At(THERE, READY, FOR_THERE)],
            vec![0, 1],
            vec![],
        ),
        ("one without node", None, vec![At(HERE, READY, FOR_HERE), At(THERE, READY, NOBODY)], vec![0, 1], vec![0]),
        (
            "node before zone",
            Some("east"),
            vec![At(HERE, READY, HERE_AND_EAST), At(THERE, READY, THERE_AND_EAST)],
            vec![0],
            vec![0],
        ),
        (
            "zone where none is for the node",
            Some("east"),
            vec![At(THERE, READY, THERE_AND_WEST), At(THERE, READY, THERE_AND_EAST)],
            vec![1],
            vec![],
        ),
        (
            "zone where one has no hint of node",
            Some("east"),
            vec![At(HERE, READY, HERE_AND_EAST), At(THERE, READY, WEST)],
            vec![0],
            vec![0],
        ),
        (
            "all where neither is for it",
            Some("north"),
            vec![At(THERE, READY, THERE_AND_WEST), At(THERE, READY, THERE_AND_EAST)],
            vec![0, 1],
            vec![],
        ),
        (
            "absent conditions are ready",
            Some("east"),
            vec![At(HERE, NOBODY, EAST), At(THERE, NOBODY, WEST)],
            vec![0],
            vec![0],
        ),
        ("nobody", Some("east"), vec![], vec![], vec![]),
    ] {
        assert_eq!(chosen(zone, &endpoints), (cluster, local), "{what}");
    }
}

#[test]
fn endpoints_that_hints_chose_are_this_nodes_own_choice() {
    let near = |hints: [&str; 2]| {
        let mut world = World::new("");
        world
            .put("{apiVersion: v1, kind: Node, metadata: {name: node-a, labels: {topology.kubernetes.io/zone: east}}}");
        world.put(&service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"));
        let endpoints = [on("10.0.0.1", "node-a", hints[0]), on("10.0.0.2", "node-b", hints[1])].join(",");
        world.put(&slice("a", "web", "IPv4", "{port: 1}", &endpoints));
        world.compile();
        world.vip("tcp 10.96.0.1:80").unwrap().inside.backends.is_nearby
    };
    assert!(near([EAST, WEST]));
    assert!(!near([EAST, "conditions: {}"]));
}

#[test]
fn a_changed_zone_of_this_node_compiles_every_service_again() {
    let mut world = World::new("");
    let node = |zone: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: node-a, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}"
        )
    };
    world.put(&service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"));
    let spread = [on("10.0.0.1", "node-a", EAST), on("10.0.0.2", "node-b", WEST)].join(",");
    world.put(&slice("a", "web", "IPv4", "{port: 1}", &spread));
    for (zone, endpoint) in [("east", "10.0.0.1:1"), ("west", "10.0.0.2:1")] {
        world.put(&node(zone));
        world.compile();
        assert_eq!(endpoints(&world.vip("tcp 10.96.0.1:80").unwrap().inside), [endpoint]);
    }
}

#[test]
fn of_two_slices_with_one_endpoint_the_better_conditions_bring_their_hints() {
    for order in [["a", "b"], ["b", "a"]] {
        let mut world = World::new("");
        world
            .put("{apiVersion: v1, kind: Node, metadata: {name: node-a, labels: {topology.kubernetes.io/zone: east}}}");
        world.put(&service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"));
        let (ready, going) = (
            on("10.0.0.1", "node-b", &format!("{READY}, {WEST}")),
            on("10.0.0.1", "node-b", &format!("{GOING}, {EAST}")),
        );
        world.put(&slice(order[0], "web", "IPv4", "{port: 1}", &ready));
        world.put(&slice(order[1], "web", "IPv4", "{port: 1}", &going));
        world.put(&slice("c", "web", "IPv4", "{port: 1}", &on("10.0.0.2", "node-b", EAST)));
        world.compile();
        assert_eq!(endpoints(&world.vip("tcp 10.96.0.1:80").unwrap().inside), ["10.0.0.2:1"], "{order:?}");
    }
}
