//! SCTP through a live node. The machine's kernel may have none, so both ends are played with raw packets, and what the
//! namespaces see of them is captured: who is asked, whom the server sees, the way back, and what is said when the endpoint is gone.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use atalho_benches::lab::capture::Capture;
use atalho_benches::lab::network::mac;
use atalho_benches::lab::objects::replace_file;
use atalho_benches::lab::paths::{Place, cluster_ip};
use atalho_benches::lab::plan::{Family, Plan, node_address, outside_address, pod_address};
use atalho_benches::lab::session::Session;
use atalho_engine::wire::sctp::{chunk, set_ports};
use etherparse::IpNumber;

use crate::frames::{Macs, between};
use crate::support::{assert_even_and_right, parse_mac, ready, skipped, turn};

/// Last number of the Service's cluster IP; its port, its node port, and the endpoints'.
const SERVICE: u8 = 76;
const PORT: u16 = 38412;
const NODE_PORT: u16 = 30090;
const TARGET: u16 = 3868;
/// What either side shows the other.
const TAG: [u8; 4] = [0, 0, 0x12, 0x34];

/// The Service, with an endpoint on this node.
fn objects(pod: usize) -> String {
    let [v4, v6] = Family::BOTH.map(|family| cluster_ip(SERVICE, family));
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: diameter}}\n\
         spec: {{type: NodePort, clusterIPs: [{v4}, \"{v6}\"], \
         ports: [{{name: s6a, port: {PORT}, protocol: SCTP, nodePort: {NODE_PORT}}}]}}\n"
    );
    for family in Family::BOTH {
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: diameter-{name}, labels: {{kubernetes.io/service-name: diameter}}}}\naddressType: {name}\n\
             ports: [{{name: s6a, port: {TARGET}, protocol: SCTP}}]\n\
             endpoints: [{{addresses: [\"{address}\"], nodeName: node-a}}]\n",
            name = family.name(),
            address = pod_address(pod, family),
        );
    }
    text
}

/// A packet with one chunk in a frame to the gateway.
fn frame(macs: Macs, src: SocketAddr, dst: SocketAddr, kind: u8) -> Vec<u8> {
    // Initiate tag, window, streams and first TSN, or the fields of a chunk of DATA and four bytes of it.
    let fields = [&TAG[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]].concat();
    let tag = if kind == chunk::INIT { [0; 4] } else { TAG };
    let mut packet = [&[0; 4][..], &tag, &[0; 4], &[kind, 3, 0, 4 + fields.len() as u8], &fields].concat();
    set_ports(&mut packet, src.port(), dst.port());
    let mut frame = Vec::new();
    between(macs, src.ip(), dst.ip()).write(&mut frame, IpNumber::SCTP, &packet).unwrap();
    frame
}

#[test]
fn associations_are_led_both_ways_and_aborted_when_their_endpoint_is_gone() {
    if skipped("associations_are_led_both_ways_and_aborted_when_their_endpoint_is_gone") {
        return;
    }
    assert!(
        !fs::exists("/proc/net/sctp").unwrap(),
        "the pods' kernel has SCTP and would answer for itself what is played here: unload the module sctp"
    );
    let _turn = turn();
    let plan = Plan::new("at-t-sctp");
    let mut session = ready(&plan);
    let services = session.daemon().unwrap().status().unwrap().services + 1;
    put(&plan, 2);
    let daemon = session.daemon_mut().unwrap();
    daemon.wait_for(Duration::from_secs(10), "the Service", |status| status.services == services).unwrap();
    let at = SocketAddr::new;
    for family in Family::BOTH {
        let server = at(pod_address(2, family), TARGET);
        let node = node_address(family);
        let outside = (Place::Far, at(outside_address(family), 50_000), at(node, NODE_PORT));
        let pod = (Place::Pod(3), at(pod_address(3, family), 50_001), at(cluster_ip(SERVICE, family), PORT));
        for (from, client, asked) in [outside, pod] {
            let [seen, served] = one(&session, from, (client, asked), chunk::INIT, Place::Pod(2), "[INIT]");
            assert_eq!(served, server);
            // From outside the node shows itself, a pod is seen as it is.
            assert!(if from == Place::Far { seen.ip() == node } else { seen == client }, "{from:?} was seen as {seen}");
            let back = one(&session, Place::Pod(2), (served, seen), chunk::INIT_ACK, from, "[INIT ACK]");
            assert_eq!(back, [asked, client]);
        }
    }
    put(&plan, 4);
    for family in Family::BOTH {
        let client = at(pod_address(3, family), 50_001);
        let vip = at(cluster_ip(SERVICE, family), PORT);
        let deadline = Instant::now() + Duration::from_secs(20);
        let aborted = loop {
            let told = said(&session, Place::Pod(3), (client, vip), chunk::DATA, Place::Pod(3));
            if let Some(line) = told.iter().find(|line| line.contains("[ABORT]")) {
                break ends(line);
            }
            assert!(Instant::now() < deadline, "the association goes on: {told:?}");
        };
        assert_eq!(aborted, [vip, client]);
        // It begins anew, with who is there.
        let [seen, served] = one(&session, Place::Pod(3), (client, vip), chunk::INIT, Place::Pod(4), "[INIT]");
        assert_eq!((seen, served), (client, at(pod_address(4, family), TARGET)));
    }
    assert_even_and_right(&session);
}

/// Writes the Service with this pod behind it.
fn put(plan: &Plan, pod: usize) {
    let beside = plan.folder().join("next.yaml");
    fs::write(&beside, objects(pod)).unwrap();
    replace_file(&plan.manifests(), "diameter.yaml", &beside).unwrap();
}

/// Sends a packet from source to destination, and returns what SCTP passes at a place then, as tcpdump tells it.
fn said(session: &Session, from: Place, (src, dst): (SocketAddr, SocketAddr), kind: u8, at: Place) -> Vec<String> {
    let capture = Capture::start(&session.namespace(at), "eth0", "sctp").unwrap();
    let sent = frame(macs(session.plan(), from), src, dst, kind);
    assert_eq!(session.send_frames(from, "eth0", &[sent], 1).unwrap(), 1);
    thread::sleep(Duration::from_millis(300));
    capture.finish().unwrap()
}

/// The ends of the one packet with such a chunk that passes.
#[track_caller]
fn one(
    session: &Session,
    from: Place,
    ends_of: (SocketAddr, SocketAddr),
    kind: u8,
    at: Place,
    chunk: &str,
) -> [SocketAddr; 2] {
    let lines = said(session, from, ends_of, kind, at);
    let found: Vec<_> = lines.iter().filter(|line| line.contains(chunk)).collect();
    let drops = session.daemon().unwrap().status().unwrap().drops;
    let [line] = &found[..] else { panic!("{ends_of:?}: not one {chunk} at {at:?}: {lines:?}, {drops:?}") };
    ends(line)
}

/// Source and destination in a line of tcpdump's, each as ADDRESS.PORT.
fn ends(line: &str) -> [SocketAddr; 2] {
    let words: Vec<&str> = line.split_whitespace().collect();
    let arrow = words.iter().position(|word| *word == ">").expect("an arrow");
    [words[arrow - 1], words[arrow + 1].trim_end_matches(':')].map(|word| {
        let (address, port) = word.rsplit_once('.').expect("a port");
        SocketAddr::new(address.parse().expect("an address"), port.parse().expect("a number"))
    })
}

/// Link addresses of a place and of its gateway.
fn macs(plan: &Plan, place: Place) -> ([u8; 6], [u8; 6]) {
    let of = |namespace: &str, interface: &str| parse_mac(&mac(namespace, interface).unwrap());
    match place {
        Place::Pod(number) => (of(&plan.pod(number), "eth0"), of(&plan.node(), &format!("pod{number}"))),
        Place::Far | Place::Node => (of(&plan.far(), "eth0"), of(&plan.node(), "uplink")),
    }
}
