//! A running node's packets, captured and replayed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use atalho_benches::lab::daemon::{Objects, command, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::plan::Plan;
use atalho_benches::lab::session::Session;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::support::{assert_all_paths_work, atalho, programs, skipped, turn};

/// Of the default range for masqueraded connections.
const FIRST_SOURCE_PORT: u16 = 61_000;

/// Ends the daemon whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already reaped is no error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn replay(plan: &Plan, config: &Path, capture: &Path, out: &Path) -> (Vec<u8>, Vec<u8>) {
    let mut command = Command::new(atalho());
    command.args(["replay", "-o", "json", "--config"]).arg(config).arg("--manifests").arg(plan.manifests());
    let output = command.arg("--in").arg(capture).arg("--out").arg(out).output().expect("a replay");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    (std::fs::read(out).expect("a capture"), output.stdout)
}

/// Source, destination and whether it is TCP, of every packet.
fn tuples(capture: &[u8]) -> Vec<(SocketAddr, SocketAddr, bool)> {
    let mut reader = PcapNgReader::new(capture).expect("a capture");
    let mut tuples = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a whole block") {
            tuples.push(tuple(&packet.data));
        }
    }
    tuples
}

fn tuple(frame: &[u8]) -> (SocketAddr, SocketAddr, bool) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let (src, dst): (IpAddr, IpAddr) = match packet.net.expect("IP") {
        NetSlice::Ipv4(v4) => (v4.header().source_addr().into(), v4.header().destination_addr().into()),
        NetSlice::Ipv6(v6) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        NetSlice::Arp(_) => panic!("ARP is not a worker's"),
    };
    let (src_port, dst_port, is_tcp) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port(), true),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port(), false),
        _ => (0, 0, false),
    };
    (SocketAddr::new(src, src_port), SocketAddr::new(dst, dst_port), is_tcp)
}

#[test]
fn a_nodes_traffic_is_captured_and_replays_the_same_twice() {
    if skipped("a_nodes_traffic_is_captured_and_replays_the_same_twice") {
        return;
    }
    let _turn = turn();
    let mut session = Session::build(&Plan::new("at-t-capture"), &programs()).expect("a lab");
    let plan = session.plan().clone();
    let config = write_config(&plan, None, "").expect("a configuration");
    let manifests = objects::write(&plan).expect("objects");
    let capture = plan.folder().join("seen.pcapng");
    let log = std::fs::File::create(plan.folder().join("daemon.log")).expect("a log");
    let mut daemon = Running(
        command(&atalho(), &plan.node(), &config, &Objects::Manifests(manifests))
            .arg("--capture")
            .arg(&capture)
            .stderr(log)
            .spawn()
            .expect("a daemon"),
    );
    let status = || {
        let output =
            Command::new(atalho()).args(["status", "-o", "json", "--config"]).arg(&config).output().expect("it runs");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while status()["state"] != "ready" {
        assert!(Instant::now() < deadline, "{}", status());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_all_paths_work(&mut session, 2.0);
    std::thread::sleep(Duration::from_millis(300));
    let status = status();
    let (received, lost) =
        (status["received"].as_u64().expect("a count"), status["capture_lost"].as_u64().expect("a count"));
    let asked = Instant::now();
    Command::new("kill").args(["-TERM", &daemon.0.id().to_string()]).status().expect("kill");
    assert!(daemon.0.wait().expect("an end").success());
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());

    let first = replay(&plan, &config, &capture, &plan.folder().join("first.pcapng"));
    let second = replay(&plan, &config, &capture, &plan.folder().join("second.pcapng"));
    assert!(first == second, "the same capture gave two results");
    let lines: Vec<serde_json::Value> = first
        .1
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect();
    let (books, lines) = lines.split_last().expect("books");
    let seen = books["received"].as_u64().expect("a count");
    assert_eq!(lines.len() as u64, seen);
    assert!(seen + lost >= received && seen > 1000, "{seen} captured, {lost} lost of at least {received}");

    let of = |verdict: &str| lines.iter().filter(|line| line["verdict"] == verdict).count();
    println!("{seen} packets: {} forwarded, {} passed, {} dropped; {lost} lost", of("forward"), of("pass"), of("drop"));
    assert!(of("forward") * 5 > lines.len() * 2, "{books}");
    // Source ports are drawn anew, so of a masqueraded connection only one side is seen: the answers are nobody's, and what
    // follows them has no place in it. All else goes its way.
    let (came, went) = (tuples(&std::fs::read(&capture).expect("a capture")), tuples(&first.0));
    let mut masqueraded = BTreeSet::new();
    for (line, came) in lines.iter().zip(&came) {
        let number = line["out"][0].as_u64();
        if line["verdict"] == "forward" && number.is_some_and(|number| went[number as usize - 1].0 != came.0) {
            masqueraded.insert(came);
        }
        // An answer may meet another connection's new port by chance.
        let is_answer = came.1.port() >= FIRST_SOURCE_PORT;
        let is_well =
            line["verdict"] == "forward" || line["verdict"] == "pass" || masqueraded.contains(came) || is_answer;
        assert!(is_well, "{line}: {came:?}");
    }
    assert!(masqueraded.len() > 10, "the lab masquerades some");
    for port in ["uplink", "node", "pod:default/pod-1"] {
        assert!(
            lines.iter().any(|line| line["in"] == port && line["verdict"] == "forward"),
            "nothing came in by {port}"
        );
    }
}

#[test]
fn a_bad_filter_is_refused_with_its_place() {
    let output = Command::new(atalho())
        .args(["run", "--capture", "/tmp/x.pcapng", "--capture-filter", "udp and prot 53"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("column 9: \"prot\" is no term") && said.contains("net CIDR"), "{said}");
}
