//! A router's "too long" about a Service's answer comes to a node that does not track the flow: it goes to the node that does,
//! and there to the endpoint, whose kernel learns the path MTU. The lab's node is either of the two in turn.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use atalho_benches::lab::command::run_in;
use atalho_benches::lab::daemon::Status;
use atalho_benches::lab::network::mac;
use atalho_benches::lab::paths::{Place, cluster_ip};
use atalho_benches::lab::plan::{Family, Plan, node_address, outside_address};
use atalho_benches::lab::session::Session;
use atalho_benches::lab::stack::counters;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

use crate::frames::{Macs, between};
use crate::support::{assert_even_and_right, parse_mac, ready, skipped, turn};

/// The only endpoint of its Service, at port 443 over UDP.
const ENDPOINT: usize = 4;
const SERVICE: u8 = 30;
/// Behind the router.
const MTU: u16 = 1300;
const COPIES: u64 = 10;

/// Link addresses of the far side and of the node's uplink.

#[test]
fn a_router_that_asks_the_wrong_node_is_heard_by_the_endpoint() {
    if skipped("a_router_that_asks_the_wrong_node_is_heard_by_the_endpoint") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-astray");
    let session = ready(&plan);
    let macs = (parse_mac(&mac(&plan.far(), "eth0").unwrap()), parse_mac(&mac(&plan.node(), "uplink").unwrap()));
    let mut asked = 0;
    for family in Family::BOTH {
        let client = SocketAddr::new(outside_address(family), 50_000);
        let service = SocketAddr::new(cluster_ip(SERVICE, family), 443);
        let answer = udp(macs, service, client, &[0; 400]);
        let told_to = |addressee: IpAddr| too_long(macs, router(family), addressee, &answer[14..]);

        // The flow is node-b's, which the far side plays.
        let nobody = told(&session, family);
        eventually("a copy", || {
            // One that finds the other node's link address unknown is missed, and the address asked for.
            send(&session, &told_to(service.ip()), 1);
            asked += 1;
            told(&session, family) > nobody
        });
        let before = settled(|| told(&session, family));
        send(&session, &told_to(service.ip()), COPIES);
        asked += COPIES;
        eventually("as many copies as errors", || told(&session, family) - before == COPIES);
        assert_eq!(known_mtu(&session, family), None);

        // The flow is node-a's, and node-b hands the error on.
        let flows = status(&session).flows;
        send(&session, &udp(macs, client, service, b"a request that no answer comes to"), 1);
        eventually("a flow", || status(&session).flows > flows);
        send(&session, &told_to(node_address(family)), 1);
        eventually("the endpoint knows", || known_mtu(&session, family) == Some(MTU));
    }
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert_eq!(status.slow_path.answered["tracked_elsewhere"], asked, "{status:?}");
    assert!((2 * COPIES + 2..=asked).contains(&status.originated), "one other node: {status:?}");
    assert_even_and_right(&session);
}

/// Waits for what is on its way on a machine that may be busy.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A count that nothing more is on its way to.
fn settled(count: impl Fn() -> u64) -> u64 {
    let mut last = count();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = count();
        if now == last {
            return now;
        }
        last = now;
    }
}

fn status(session: &Session) -> Status {
    session.daemon().unwrap().status().unwrap()
}

fn send(session: &Session, frame: &[u8], copies: u64) {
    let taken = session.send_frames(Place::Far, "eth0", &[frame.to_vec()], copies).unwrap();
    assert_eq!(taken, copies);
}

/// On the uplink's net, like a router between the node and everybody else.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, 0, 77).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x168, 0, 0, 0, 0, 0, 0x77).into(),
    }
}

/// Errors of this kind that the far side's stack has got.
fn told(session: &Session, family: Family) -> u64 {
    let name = match family {
        Family::V4 => "IcmpInDestUnreachs",
        Family::V6 => "Icmp6InPktTooBigs",
    };
    counters(&session.plan().far()).unwrap().get(name).copied().unwrap_or(0)
}

/// What the endpoint knows of the way to the node, by which its answers go.
fn known_mtu(session: &Session, family: Family) -> Option<u16> {
    let to = node_address(family).to_string();
    let route = run_in(&session.plan().pod(ENDPOINT), "ip", &["route", "get", &to]).unwrap();
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).map(|mtu| mtu.parse().unwrap())
}

fn udp(macs: Macs, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    between(macs, src.ip(), dst.ip()).udp(src.port(), dst.port()).write(&mut frame, payload).unwrap();
    frame
}

/// Fragmentation needed, or packet too big.
fn too_long((from, to): Macs, src: IpAddr, dst: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(from, to);
    let mut frame = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: MTU };
            let builder = ethernet.ipv4(src.octets(), dst.octets(), 64);
            builder.icmpv4(Icmpv4Type::DestinationUnreachable(needed)).write(&mut frame, quoted).unwrap();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let builder = ethernet.ipv6(src.octets(), dst.octets(), 64);
            builder.icmpv6(Icmpv6Type::PacketTooBig { mtu: MTU.into() }).write(&mut frame, quoted).unwrap();
        }
        _ => panic!("two families"),
    }
    frame
}
