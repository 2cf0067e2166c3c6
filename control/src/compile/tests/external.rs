//! Load-balancer and external addresses: what is claimed for them, and who of two that want the same one has it.

use super::*;

const EXTERNAL: &str = "[service]\nexternal_ip_cidrs = [\"0.0.0.0/0\", \"::/0\"]";

fn balanced(name: &str, cluster_ip: &str, ingress: &str, ports: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, clusterIP: {cluster_ip}, ports: [{ports}]}}, \
         status: {{loadBalancer: {{ingress: [{{ip: \"{ingress}\"}}]}}}}}}"
    )
}

/// Whose it is, and what kind.
fn holder(world: &World, vip: &str) -> Option<(String, VipKind)> {
    world.vip(vip).map(|vip| (vip.service.to_string(), vip.kind))
}

fn of(service: &str, kind: VipKind) -> Option<(String, VipKind)> {
    Some((format!("default/{service}"), kind))
}

#[test]
fn a_vip_of_its_own_is_claimed_whole_and_one_on_a_node_address_by_its_port() {
    let mut world = World::new(EXTERNAL);
    world.put(&balanced("lb", "10.96.0.1", "203.0.113.80", "{port: 80}"));
    world.put(&balanced("on-node", "10.96.0.2", "192.168.0.2", "{port: 443}"));
    let compiled = world.compile();
    let claim = |address: &str, port| compiled.claim_of(address.parse().unwrap(), Protocol::Tcp, port);
    assert_eq!((claim("203.0.113.80", 80), claim("203.0.113.80", 81)), (Some(ClaimKind::Vip), Some(ClaimKind::Vip)));
    assert_eq!(
        (claim("192.168.0.2", 443), claim("192.168.0.2", 22)),
        (Some(ClaimKind::NodePort), Some(ClaimKind::Node))
    );
    assert!(!compiled.tables.services.has_address("192.168.0.2".parse().unwrap()));
    assert_eq!(holder(&world, "tcp 192.168.0.2:443"), of("on-node:443", VipKind::LoadBalancer));
    // The node gets the other address as its own, and loses it.
    for is_own in [true, false] {
        let mut facts = facts();
        if is_own {
            facts.addresses.insert((2, "203.0.113.80/32".parse().unwrap()));
        }
        world.facts = Arc::new(facts);
        let compiled = world.compile();
        let (whole, claim) =
            if is_own { (ClaimKind::Node, ClaimKind::NodePort) } else { (ClaimKind::Vip, ClaimKind::Vip) };
        let address: IpAddr = "203.0.113.80".parse().unwrap();
        assert_eq!(compiled.claim_of(address, Protocol::Tcp, 80), Some(claim), "{is_own}");
        assert_eq!(compiled.claim_of(address, Protocol::Tcp, 81), Some(whole), "{is_own}");
        assert_eq!(compiled.tables.services.has_address(address), !is_own);
    }
}

#[test]
fn of_two_that_want_one_address_and_port_the_first_has_it_and_others_share_the_address() {
    let mut world = World::new("");
    world.put(&balanced("a", "10.96.0.1", "203.0.113.80", "{port: 80}"));
    world.put(&balanced("b", "10.96.0.2", "203.0.113.80", "{name: x, port: 80}, {name: y, port: 81}"));
    world.put(&balanced("c", "10.96.0.3", "203.0.113.80", "{port: 80}"));
    let compiled = world.compile();
    assert_eq!(
        compiled.refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["b", "c"].map(|name| format!(
            "API server: Service default/{name}: LoadBalancer 203.0.113.80, TCP port 80, belongs to Service default/a; \
             the other stays in force; give one of the two another address or port"
        ))
    );
    assert_eq!(holder(&world, "tcp 203.0.113.80:80"), of("a:80", VipKind::LoadBalancer));
    assert_eq!(holder(&world, "tcp 203.0.113.80:81"), of("b:y", VipKind::LoadBalancer));
    assert_eq!(holder(&world, "tcp 10.96.0.3:80"), of("c:80", VipKind::ClusterIP), "the rest of it works");
    world.delete(Kind::Service, "a");
    world.compile();
    assert_eq!(holder(&world, "tcp 203.0.113.80:80"), of("b:x", VipKind::LoadBalancer));
    world.put(&balanced("b", "10.96.0.2", "203.0.113.81", "{port: 80}"));
    assert_eq!(world.compile().refusals, []);
    assert_eq!(holder(&world, "tcp 203.0.113.80:80"), of("c:80", VipKind::LoadBalancer));
}

#[test]
fn nobody_takes_anothers_cluster_ip_or_node_port_by_an_external_address() {
    let thief = |ip: &str, port: u16| {
        service("thief", &format!("clusterIP: 10.96.0.9, externalIPs: [\"{ip}\"], ports: [{{port: {port}}}]"))
    };
    let victim = service("victim", "type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]");
    for (ip, port) in [("10.96.0.1", 80), ("10.96.0.1", 81), ("192.168.0.2", 30080)] {
        for thief_first in [true, false] {
            let mut world = World::new(EXTERNAL);
            let mut both = [thief(ip, port), victim.clone()];
            if !thief_first {
                both.reverse();
            }
            for object in &both {
                world.put(object);
                world.compile();
            }
            let compiled = world.compiled.as_ref().unwrap();
            assert_eq!(compiled.refusals.len(), 1, "{ip}:{port} {thief_first}");
            assert!(
                compiled.refusals[0].to_string().contains("Service default/thief: ExternalIP"),
                "{:?}",
                compiled.refusals
            );
            let vip = format!("tcp {ip}:{port}");
            assert!(
                holder(&world, &vip).is_none_or(|(service, _)| service == "default/victim:80"),
                "{vip} {thief_first}"
            );
            world.delete(Kind::Service, "victim");
            world.compile();
            assert_eq!(holder(&world, &vip), of(&format!("thief:{port}"), VipKind::ExternalIP), "free again");
        }
    }
}

#[test]
fn a_services_own_addresses_that_are_the_same_are_one() {
    let mut world = World::new(EXTERNAL);
    let object = balanced("web", "10.96.0.1", "203.0.113.80", "{port: 80}").replace(
        "spec: {",
        "spec: {loadBalancerSourceRanges: [192.0.2.0/24], externalIPs: [203.0.113.80, 10.96.0.1], ",
    );
    world.put(&object);
    assert_eq!(world.compile().refusals, []);
    let vip = world.vip("tcp 203.0.113.80:80").unwrap();
    assert_eq!((vip.kind, vip.sources.map(|ranges| ranges.len())), (VipKind::LoadBalancer, Some(1)));
    assert_eq!(holder(&world, "tcp 10.96.0.1:80"), of("web:80", VipKind::ClusterIP));
}

#[test]
fn bad_external_addresses_are_left_out_one_by_one() {
    let mut world = World::new("[service]\nexternal_ip_cidrs = [\"198.51.100.0/24\"]");
    let object = balanced("web", "10.96.0.1", "127.0.0.1", "{port: 80}")
        .replace("ip: \"127.0.0.1\"", "ip: 127.0.0.1}, {ip: x}, {ip: \"2001:db8::1\"}, {ip: 203.0.113.080")
        .replace("spec: {", "spec: {externalIPs: [198.51.100.7, 192.0.2.1, 169.254.169.254], ");
    world.put(&object);
    world.compile();
    let found: Vec<String> = world.model.refusals().iter().map(|refusal| refusal.reason.clone()).collect();
    let expected = [
        "status.loadBalancer.ingress[0].ip is 127.0.0.1, which is a loopback address",
        "status.loadBalancer.ingress[1].ip is \"x\", which is not an IP address",
        "status.loadBalancer.ingress[2].ip is 2001:db8::1, of a family that the Service has no clusterIP of",
        "spec.externalIPs[1] is 192.0.2.1, and no range of service.external_ip_cidrs has it",
        "spec.externalIPs[2] is 169.254.169.254, which is a link-local address",
    ];
    assert_eq!(found, expected);
    assert_eq!(holder(&world, "tcp 203.0.113.80:80"), of("web:80", VipKind::LoadBalancer));
    assert_eq!(holder(&world, "tcp 198.51.100.7:80"), of("web:80", VipKind::ExternalIP));
    assert!(world.vip("tcp 192.0.2.1:80").is_none());
    world.put(&balanced("web", "10.96.0.1", "203.0.113.80", "{port: 80}"));
    assert_eq!(world.model.refusals(), []);
}

#[test]
fn what_was_claimed_for_a_load_balancer_goes_with_its_address() {
    let mut world = World::new("");
    world.put(&balanced("web", "10.96.0.1", "203.0.113.80", "{port: 80}"));
    world.compile();
    world.put(&service("web", "type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]"));
    let compiled = world.compile();
    assert_eq!(compiled.claim_of("203.0.113.80".parse().unwrap(), Protocol::Tcp, 80), None);
    assert_eq!((compiled.delta.vips_removed.len(), compiled.delta.claims_removed.len()), (1, 1));
}
