//! The node's network against the real kernel, each test in a network namespace of its own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use atalho_control::facts::KernelRouteKind;
use atalho_control::node::follow::{Picture, follow};
use atalho_control::node::neighbours::Neighbours;
use atalho_control::node::routes::{Routes, Wanted};
use atalho_control::node::{FUNNEL_ADDRESS_V4, FUNNEL_GATEWAY_V4, PrepareOptions, Prepared, prepare, teardown};
use tokio::sync::watch;

use crate::namespace::{in_namespace, ip};

fn sysctl(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap().trim().to_owned()
}

fn set_up(queues: u32) -> Prepared {
    let offloads = |name: &str| {
        assert_eq!(name, "at-f1");
        Ok(())
    };
    prepare(&PrepareOptions { uplink: "", f0: "at-f0", f1: "at-f1", queues, offloads: &offloads }).unwrap()
}

/// Runs `body` beside a follower of the namespace.
fn with_picture<F>(prepared: Prepared, body: impl FnOnce(watch::Receiver<Picture>) -> F)
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (show, picture) = watch::channel(Picture::default());
        tokio::spawn(async move { follow(prepared, show).await.unwrap() });
        body(picture).await;
    });
}

/// The first picture that satisfies `wish`, or a failure after 5 s that shows the last one.
async fn until(picture: &mut watch::Receiver<Picture>, what: &str, wish: impl Fn(&Picture) -> bool) -> Picture {
    let found = tokio::time::timeout(Duration::from_secs(5), picture.wait_for(|p| wish(p))).await;
    let found = found.ok().map(|found| found.unwrap().clone());
    found.unwrap_or_else(|| panic!("no picture with {what} within 5 s; the last one: {:#?}", *picture.borrow()))
}

#[test]
fn the_funnel_is_made_adopted_made_anew_and_taken_away() {
    in_namespace(|| {
        let first = set_up(2);
        assert_eq!(first.uplink.name, "up0");
        assert_eq!((first.f0.mtu, first.f1.mtu), (1500, 1500));
        let detail = ip("-d link show at-f1");
        assert!(detail.contains("numtxqueues 2") && detail.contains("numrxqueues 2"), "{detail}");
        assert!(ip("addr show at-f1").contains(&format!("inet {FUNNEL_ADDRESS_V4}/32 scope link")));
        assert_eq!(sysctl("ipv4/conf/at-f1/accept_local"), "1");
        assert_eq!(sysctl("ipv4/conf/at-f1/rp_filter"), "2");
        assert_eq!(sysctl("ipv6/conf/at-f0/disable_ipv6"), "1");
        // No link-local address of the kernel's own making, so nothing is said into the funnel.
        assert!(!ip("-6 addr show at-f1").contains("fe80"), "{}", ip("-6 addr show at-f1"));
        let neighbour = ip(&format!("neigh show {FUNNEL_GATEWAY_V4} dev at-f1"));
        assert!(neighbour.contains("PERMANENT") && neighbour.contains("02:fe:"), "{neighbour}");
        assert!(ip("-6 neigh show dev at-f1").contains("fe80::97:2 lladdr 02:fe:"));

        assert_eq!(set_up(2), first, "what is right is adopted");
        let other = set_up(1);
        assert_ne!(other.f1.ifindex, first.f1.ifindex, "other queues, another funnel");

        teardown("at-f0", "at-f1").unwrap();
        teardown("at-f0", "at-f1").unwrap();
        assert!(!ip("link show").contains("at-f"));
    });
}

#[test]
fn an_uplink_or_name_that_cannot_be_is_refused_by_name() {
    in_namespace(|| {
        let none = |_: &str| Ok(());
        let options = PrepareOptions { uplink: "up9", f0: "at-f0", f1: "at-f1", queues: 1, offloads: &none };
        let error = prepare(&options).unwrap_err().to_string();
        assert!(error.contains("up9") && error.contains("no such interface"), "{error}");

        ip("link add at-f1 type bridge");
        let error = prepare(&PrepareOptions { uplink: "up0", ..options }).unwrap_err().to_string();
        assert!(error.contains("at-f1") && error.contains("no veth"), "{error}");
        ip("link del at-f1");

        ip("route del default");
        let error = prepare(&PrepareOptions { uplink: "", ..options }).unwrap_err().to_string();
        assert!(error.contains("no default route") && error.contains("[uplink] interface"), "{error}");
    });
}

#[test]
fn links_addresses_and_routes_are_followed() {
    in_namespace(|| {
        let prepared = set_up(1);
        let uplink = prepared.uplink.ifindex;
        with_picture(prepared, |mut picture| async move {
            let first = until(&mut picture, "links", |p| !p.facts.links.is_empty()).await;
            assert_eq!(first.facts.uplink, uplink);
            assert!(first.facts.addresses.contains(&(uplink, "192.0.2.2/24".parse().unwrap())));
            assert!(first.facts.addresses.contains(&(uplink, "2001:db8::2/64".parse().unwrap())));
            let gateway: IpAddr = "192.0.2.1".parse().unwrap();
            assert!(first.facts.routes.iter().any(|r| r.destination.prefix_len() == 0 && r.gateway == Some(gateway)));
            let local = "192.0.2.2/32".parse().unwrap();
            let is_local =
                |r: &atalho_control::facts::KernelRoute| r.destination == local && r.kind == KernelRouteKind::Local;
            assert!(first.facts.routes.iter().any(is_local));

            // A pod comes, with the route to it, and goes: its route goes without an event of its own.
            ip("link add pod1 type veth peer name pod1-in");
            ip("link set pod1 up");
            ip("link set pod1-in up");
            ip("route add 10.244.1.10/32 dev pod1");
            let pod = "10.244.1.10/32".parse().unwrap();
            let with = until(&mut picture, "the pod's route", |p| {
                p.facts.routes.iter().any(|r| r.destination == pod)
                    && p.facts.links.values().any(|l| l.name == "pod1" && l.up)
            })
            .await;
            let index = with.facts.routes.iter().find(|r| r.destination == pod).unwrap().interface.unwrap();
            assert_eq!(with.facts.links[&index].name, "pod1");
            ip("link set pod1 mtu 1400");
            until(&mut picture, "the MTU", |p| p.facts.links[&index].mtu == 1400).await;
            ip("link del pod1");
            until(&mut picture, "no pod", |p| {
                !p.facts.links.contains_key(&index) && !p.facts.routes.iter().any(|r| r.destination == pod)
            })
            .await;

            // The uplink down and up: its routes go and stay away, its addresses stay.
            ip("link set up0 down");
            until(&mut picture, "the uplink down", |p| {
                !p.facts.links[&uplink].up && !p.facts.routes.iter().any(|r| r.gateway == Some(gateway))
            })
            .await;
            ip("link set up0 up");
            ip("route add default via 192.0.2.1");
            until(&mut picture, "the uplink up", |p| {
                p.facts.links[&uplink].up && p.facts.routes.iter().any(|r| r.gateway == Some(gateway))
            })
            .await;
        });
    });
}

#[test]
fn routes_into_the_funnel_are_kept_as_wanted() {
    in_namespace(|| {
        let prepared = set_up(1);
        let f1 = prepared.f1.ifindex;
        with_picture(prepared, |mut picture| async move {
            let source = |route: &ipnet::IpNet| -> Option<IpAddr> {
                Some(if route.addr().is_ipv4() { "192.0.2.2" } else { "2001:db8::2" }.parse().unwrap())
            };
            let ranges = ["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
            let wanted = Wanted::new(&ranges, ["198.51.100.7".parse().unwrap()], source);
            let mut routes = Routes::new(f1).unwrap();
            let first = until(&mut picture, "links", |p| !p.facts.links.is_empty()).await;
            assert_eq!(routes.sync(&wanted, &first.facts).await, []);
            let shown = ip("route get 10.96.0.10");
            assert!(shown.contains("dev at-f1") && shown.contains("src 192.0.2.2"), "{shown}");
            let shown = ip("-6 route get fd00:96::10");
            assert!(shown.contains("dev at-f1") && shown.contains("src 2001:db8::2"), "{shown}");
            assert!(ip("route get 198.51.100.7").contains("dev at-f1"));
            // What the node sends there leaves with the tag of f1 as its destination: the neighbour needs no answer.
            let _ = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "10.96.0.10:53").unwrap();

            let ours =
                |p: &Picture| p.facts.routes.iter().filter(|r| r.gateway.is_some() && r.interface == Some(f1)).count();
            let second = until(&mut picture, "three routes", |p| ours(p) == 3).await;
            let fewer = Wanted::new(&ranges[..1], [], source);
            assert_eq!(routes.sync(&fewer, &second.facts).await, []);
            let third = until(&mut picture, "one route", |p| ours(p) == 1).await;
            assert!(ip("route get 198.51.100.7").contains("dev up0"));

            // The funnel goes down and up: routes and permanent neighbours come back.
            ip("link set at-f1 down");
            let down = until(&mut picture, "the funnel down", |p| !p.facts.links[&f1].up).await;
            assert_eq!(routes.sync(&fewer, &down.facts).await, []);
            ip("link set at-f1 up");
            let up = until(&mut picture, "the funnel up", |p| p.facts.links[&f1].up).await;
            assert_eq!(routes.sync(&fewer, &up.facts).await, []);
            until(&mut picture, "one route again", |p| ours(p) == 1).await;
            assert!(ip(&format!("neigh show {FUNNEL_GATEWAY_V4} dev at-f1")).contains("PERMANENT"));

            // Another source address is put right in place.
            ip("addr add 192.0.2.3/24 dev up0");
            let moved = Wanted::new(&ranges[..1], [], |_| Some("192.0.2.3".parse().unwrap()));
            assert_eq!(routes.sync(&moved, &third.facts).await, []);
            assert!(ip("route get 10.96.0.10").contains("src 192.0.2.3"));
        });
    });
}

#[test]
fn the_kernel_resolves_and_keeps_the_neighbours_that_we_name() {
    in_namespace(|| {
        let prepared = set_up(1);
        let uplink = prepared.uplink.ifindex;
        with_picture(prepared, |mut picture| async move {
            until(&mut picture, "links", |p| !p.facts.links.is_empty()).await;
            let keys: BTreeSet<(u32, IpAddr)> =
                ["192.0.2.1", "2001:db8::1", "192.0.2.99"].map(|a| (uplink, a.parse().unwrap())).into();
            let neighbours = Neighbours::new().unwrap();
            assert_eq!(neighbours.sync(&keys, &BTreeSet::new()).await, []);
            let resolved = until(&mut picture, "both families resolved", |p| {
                ["192.0.2.1", "2001:db8::1"]
                    .iter()
                    .all(|a| p.facts.neighbours.contains_key(&(uplink, a.parse().unwrap())))
            })
            .await;
            // One that nobody answers for is kept trying, and is no fact.
            assert!(!resolved.facts.neighbours.contains_key(&(uplink, "192.0.2.99".parse().unwrap())));
            let all = until(&mut picture, "three managed entries", |p| *p.managed == keys).await;
            assert!(ip("neigh show 192.0.2.1 dev up0").contains("managed"));

            let fewer: BTreeSet<(u32, IpAddr)> = [(uplink, "192.0.2.1".parse().unwrap())].into();
            assert_eq!(neighbours.sync(&fewer, &all.managed).await, []);
            until(&mut picture, "one managed entry", |p| *p.managed == fewer).await;

            // The link goes down: the kernel forgets, and the picture says so.
            ip("link set up0 down");
            until(&mut picture, "no managed entry", |p| p.managed.is_empty()).await;
        });
        teardown("at-f0", "at-f1").unwrap();
        assert!(!ip("neigh show").contains("managed"));
    });
}
