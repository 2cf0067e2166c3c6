//! What a change costs: all that it does not concern is shared with the tables before.

use super::*;

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
