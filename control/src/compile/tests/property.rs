//! Whatever comes in whatever order: compiling step by step gives what compiling everything anew gives, and the
//! differences told are the differences there are.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Service { name: u8, ip: u8, second_ip: bool, node_port: u8, external: u8, local: bool, bad: bool },
    Slice { name: u8, service: u8, ipv6: bool, port: u8, endpoints: Vec<(u8, u8, u8)> },
    Pod { name: u8, address: u8, here: bool },
    Node { name: u8, cidr: u8 },
    Zone { east: bool },
    Delete { kind: Kind, name: u8 },
    Neighbour { address: u8, present: bool },
    PodRoute { address: u8, interface: u8 },
    Compile,
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node];
    prop_oneof![
        4 => (0..4_u8, 0..5_u8, any::<bool>(), 0..4_u8, 0..9_u8, any::<bool>(), proptest::bool::weighted(0.1)).prop_map(
            |(name, ip, second_ip, node_port, external, local, bad)| Step::Service { name, ip, second_ip, node_port, external, local, bad }
        ),
        1 => any::<bool>().prop_map(|east| Step::Zone { east }),
        4 => (0..5_u8, 0..4_u8, any::<bool>(), 0..2_u8, proptest::collection::vec((0..6_u8, 0..3_u8, 0..3_u8), 0..4))
            .prop_map(|(name, service, ipv6, port, endpoints)| Step::Slice { name, service, ipv6, port, endpoints }),
        2 => (0..3_u8, 10..15_u8, any::<bool>()).prop_map(|(name, address, here)| Step::Pod { name, address, here }),
        1 => (0..2_u8, 0..3_u8).prop_map(|(name, cidr)| Step::Node { name, cidr }),
        2 => (proptest::sample::select(kinds.to_vec()), 0..5_u8).prop_map(|(kind, name)| Step::Delete { kind, name }),
        1 => (1..5_u8, any::<bool>()).prop_map(|(address, present)| Step::Neighbour { address, present }),
        1 => (10..15_u8, 11..14_u8).prop_map(|(address, interface)| Step::PodRoute { address, interface }),
        3 => Just(Step::Compile),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Service { name, ip, second_ip, node_port, external, local, bad } => {
            let policy = if *local { "Local" } else { "Cluster" };
            let second = if *second_ip { format!(", \"fd96::{}\"", ip + 1) } else { String::new() };
            // Address 0 is the node's own: accepted by the model and refused in compilation.
            let ip = if *ip == 0 { "192.168.0.2".to_owned() } else { format!("10.96.0.{ip}") };
            // Shared ones, another's cluster IP, the node's own address, and there a port that may be a node port.
            let (external, number) = match external {
                0 | 1 => ("203.0.113.1", 80),
                2 => ("203.0.113.2", 80),
                3 => ("10.96.0.1", 80),
                4 => ("192.168.0.2", 80),
                5 => ("192.168.0.2", 30_001),
                _ => ("", 80),
            };
            let ingress = if external.is_empty() { String::new() } else { format!("{{ip: {external}}}") };
            let port = if *bad { 0 } else { number };
            let object = service(
                &format!("n{name}"),
                &format!(
                    "type: LoadBalancer, clusterIPs: [{ip}{second}], internalTrafficPolicy: {policy}, externalTrafficPolicy: {policy}, \
                     ports: [{{name: p0, port: {port}, nodePort: {}}}, {{name: p1, port: 53, protocol: UDP}}]",
                    if *node_port == 0 { 0 } else { 30_000 + u32::from(*node_port) }
                ),
            );
            let status = format!(", status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}");
            world.put(&format!("{}{status}", &object[..object.len() - 1]));
        }
        Step::Slice { name, service, ipv6, port, endpoints } => {
            let endpoint = |(address, node, condition): &(u8, u8, u8)| {
                let address = if *ipv6 { format!("fd44::{}", address + 1) } else { format!("10.0.0.{}", address + 1) };
                let hints =
                    ["", ", hints: {forZones: [{name: east}]}", ", hints: {forZones: [{name: west}]}"][*node as usize];
                let condition = format!("{}{hints}", [READY, GOING, DOWN][*condition as usize]);
                on(&address, ["node-a", "node-b", "node-c"][*node as usize], &condition)
            };
            let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
            let ports = format!("{{name: p{port}, port: 8080, protocol: {}}}", if *port == 0 { "TCP" } else { "UDP" });
            let family = if *ipv6 { "IPv6" } else { "IPv4" };
            world.put(&slice(&format!("n{name}"), &format!("n{service}"), family, &ports, &endpoints.join(",")));
        }
        Step::Pod { name, address, here } => {
            let node = if *here { "node-a" } else { "node-b" };
            world.put(&pod(&format!("n{name}"), &[&format!("10.244.0.{address}")]).replace("node-a", node));
        }
        Step::Node { name, cidr } => world.put(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: n{name}}}, spec: {{podCIDRs: [{}]}}}}",
            if *cidr == 0 { String::new() } else { format!("10.244.{cidr}.0/24") }
        )),
        Step::Zone { east } => world.put(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: node-a, labels: {{topology.kubernetes.io/zone: {}}}}}}}",
            if *east { "east" } else { "west" }
        )),
        Step::Delete { kind, name } => world.delete(*kind, &format!("n{name}")),
        Step::Neighbour { address, present } => {
            let key = (2, IpAddr::from([192, 168, 0, *address]));
            let facts = Arc::make_mut(&mut world.facts);
            if *present {
                facts.neighbours.insert(key, [*address; 6]);
            } else {
                facts.neighbours.remove(&key);
            }
        }
        Step::PodRoute { address, interface } => {
            let destination: IpNet = IpAddr::from([10, 244, 0, *address]).into();
            let facts = Arc::make_mut(&mut world.facts);
            facts.routes.retain(|route| route.destination != destination);
            let (interface, kind) = (Some(u32::from(*interface)), KernelRouteKind::Unicast);
            facts.routes.push(KernelRoute { destination, gateway: None, interface, kind, metric: 0 });
        }
        Step::Compile => {}
    }
}

/// All that can be compared of a compilation.
fn shown(compiled: &Compiled) -> impl PartialEq + std::fmt::Debug + use<> {
    let tables = &compiled.tables;
    let vips: BTreeMap<VipKey, Vip> = tables.services.iter().map(|(key, vip)| (*key, Vip::clone(vip))).collect();
    let addresses: Vec<bool> = vips.keys().map(|key| tables.services.has_address(key.address)).collect();
    (
        (vips, addresses, tables.services.len(), tables.node.clone(), tables.cluster.clone(), tables.ports.clone()),
        (tables.local_pods.clone(), compiled.state.part.routes.clone(), compiled.state.part.neighbours.clone()),
        (compiled.claims.clone(), compiled.ranges.clone(), compiled.pod_ports.clone(), compiled.next_hops.clone()),
        (compiled.wanted_neighbours.clone(), compiled.refusals.clone()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_as_good_as_anew(steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::new("");
        let mut claims = BTreeMap::new();
        let mut vips: BTreeSet<VipKey> = BTreeSet::new();
        for step in steps.iter().chain([&Step::Compile]) {
            take(&mut world, step);
            if !matches!(step, Step::Compile) {
                continue;
            }
            world.compile();
            let compiled = world.compiled.as_ref().unwrap();
            let anew = compile(&world.model, &world.facts, &world.config, None, &mut world.indexes.clone());
            prop_assert_eq!(shown(compiled), shown(&anew));

            for key in &compiled.delta.claims_removed {
                prop_assert!(claims.remove(key).is_some());
            }
            claims.extend(compiled.delta.claims_added.iter().copied());
            prop_assert_eq!(&claims, &compiled.claims);
            for key in &compiled.delta.vips_removed {
                prop_assert!(vips.remove(key));
            }
            vips.extend(&compiled.delta.vips_changed);
            let now: BTreeSet<VipKey> = compiled.tables.services.iter().map(|(key, _)| *key).collect();
            prop_assert_eq!(&vips, &now);
        }
    }
}
