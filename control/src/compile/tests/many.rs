use std::collections::BTreeMap;

use super::*;

/// So many, and another one whose addresses some of them have too: of two Services the later one by name has them.
const SERVICES: u32 = 300;

fn services() -> impl Iterator<Item = [String; 2]> {
    (0..SERVICES).map(|n| {
        let (name, own) = (format!("s{n:03}"), n % 200);
        let endpoints: Vec<_> =
            (0..n % 4).map(|i| on(&format!("10.244.{}.{}", n % 250, i + 1), "node-b", READY)).collect();
        let ports = "ports: [{name: http, port: 80}]";
        [
            service(&name, &format!("clusterIPs: [\"10.96.1.{own}\"], {ports}")),
            slice(&format!("{name}-x"), &name, "IPv4", "{name: http, port: 8080}", &endpoints.join(", ")),
        ]
    })
}

#[test]
fn many_at_once_come_out_as_one_after_the_other() {
    let [mut at_once, mut one_by_one] = [World::new(""), World::new("")];
    services().flatten().for_each(|object| at_once.put(&object));
    at_once.compile();
    for objects in services() {
        objects.iter().for_each(|object| one_by_one.put(object));
        one_by_one.compile();
    }
    let vips = |world: &World| -> BTreeMap<VipKey, Vip> {
        let services = &world.compiled.as_ref().unwrap().tables.services;
        services.iter().map(|(key, vip)| (*key, Vip::clone(vip))).collect()
    };
    assert_eq!(vips(&at_once).len(), 200);
    assert!(vips(&at_once) == vips(&one_by_one));
}
