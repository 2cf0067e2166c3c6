//! The oracle: a router made of a network namespace, the kernel's forwarding, conntrack and nftables.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use atalho_benches::lab::command::{ip, run, run_in, run_with_input};

use super::cluster::{Family, Host, Link, Mac, node_address};
use super::packet::{Layer4, Packet};
use super::ruleset::{barrier_address, ruleset};
use super::wires::Wire;
use super::{Out, frame};

/// Starts every namespace's name; then the process follows that made it.
const PREFIX: &str = "atalho-oracle";
/// A softirq that does not get a core is no lost packet.
const BARRIER_WAIT: Duration = Duration::from_secs(10);

/// The router. It goes when this is dropped.
pub struct Netfilter {
    router: String,
    far: String,
    wires: Vec<Wire>,
    barriers: u64,
}

impl Netfilter {
    /// Builds it. `name` tells routers of one process apart.
    pub fn build(name: &str) -> Self {
        remove_of_dead_processes();
        let process = std::process::id();
        let router = format!("{PREFIX}-{process}-{name}-router");
        let far = format!("{PREFIX}-{process}-{name}-far");
        for namespace in [&router, &far] {
            run("ip", ["netns", "add", namespace]).expect("root, to make a namespace");
        }
        // From here on dropped, also if the rest fails.
        let mut built = Self { router, far, wires: Vec::new(), barriers: 0 };
        built.set_up();
        // The barrier is awaited at the uplink; what came before it is at the other ends by then.
        let wait = |link| if link == Link::Uplink { BARRIER_WAIT } else { Duration::ZERO };
        built.wires = Wire::open(&built.far, &Link::ALL.map(|link| (link.name(), wait(link))));
        built
    }

    fn set_up(&self) {
        let (router, far) = (self.router.as_str(), self.far.as_str());
        for (namespace, forwarding) in [(router, 1), (far, 0)] {
            set_sysctls(namespace, forwarding);
        }
        for family in Family::BOTH {
            let nft = [&format!("--net=/run/netns/{router}"), "nft", "-f", "-"];
            run_with_input("nsenter", nft, &ruleset(family)).expect("rules that nft takes");
        }
        let mut lines = String::new();
        for link in Link::ALL {
            let (name, mtu, mac) = (link.name(), link.mtu(), text(link.mac()));
            // The far end is wider, so that packets can come that are too long for another link.
            let _ = writeln!(lines, "link add {name} address {mac} type veth peer name {name} netns {far}");
            let _ = writeln!(lines, "link set {name} mtu {mtu} up");
        }
        for family in Family::BOTH {
            let length = family.pick(24, 64);
            let _ =
                writeln!(lines, "addr add {}/{length} dev uplink{}", node_address(family), family.pick("", " nodad"));
            for host in Host::PODS {
                let (address, link) = (host.address(family), host.link().name());
                let _ = writeln!(lines, "route add {address}/{} dev {link}", family.pick(32, 128));
                let _ = writeln!(lines, "neigh add {address} lladdr {} dev {link} nud permanent", text(host.mac()));
            }
            for host in [Host::Gateway, Host::OtherNode] {
                let (address, mac) = (host.address(family), text(host.mac()));
                let _ = writeln!(lines, "neigh add {address} lladdr {mac} dev uplink nud permanent");
            }
            let remote = family.pick("10.244.2.0/24", "fd00:244:0:2::/64");
            let _ = writeln!(lines, "route add {remote} via {} dev uplink", Host::OtherNode.address(family));
            let _ =
                writeln!(lines, "route add {} via {}", family.pick("default", "::/0"), Host::Gateway.address(family));
        }
        let mut far_lines = String::new();
        for link in Link::ALL {
            let _ = writeln!(far_lines, "link set {} arp off up", link.name());
        }
        ip(router, &lines).expect("links, addresses, routes and neighbours");
        ip(far, &far_lines).expect("far ends");
        for namespace in [router, far] {
            wait_for_links(namespace);
        }
        for link in Link::ALL {
            // Checksums are computed where they stand, as on a wire.
            for namespace in [router, far] {
                let off = ["-K", link.name(), "tx", "off", "gro", "off", "gso", "off", "tso", "off"];
                run_in(namespace, "ethtool", &off).expect("ethtool");
            }
        }
    }

    /// Forgets every connection.
    pub fn forget(&mut self) {
        run_in(&self.router, "conntrack", &["-F"]).expect("conntrack");
    }

    /// What comes out when `frame` goes in by `link`.
    pub fn exchange(&mut self, link: Link, bytes: &[u8]) -> Vec<Out> {
        self.wires[link as usize].send(bytes);
        self.barriers += 1;
        let barrier = barrier(self.barriers);
        self.wires[Link::Uplink as usize].send(&barrier);
        let started = Instant::now();
        let mut out = Vec::new();
        loop {
            let Some(frame) = self.wires[Link::Uplink as usize].receive() else {
                panic!("the kernel's router forwards nothing any more");
            };
            if frame.ends_with(&self.barriers.to_be_bytes())
                && frame::destination(&frame) == frame::destination(&barrier)
            {
                break;
            }
            out.push(Out { link: Link::Uplink, frame });
            assert!(started.elapsed() < BARRIER_WAIT, "a flood out of the kernel's router");
        }
        for link in Link::PODS {
            while let Some(frame) = self.wires[link as usize].receive() {
                out.push(Out { link, frame });
            }
        }
        // Group addresses: what the kernel says of itself.
        out.retain(|out| out.frame[0] & 1 == 0);
        out
    }
}

impl Drop for Netfilter {
    fn drop(&mut self) {
        for namespace in [&self.router, &self.far] {
            let _ = run("ip", ["netns", "delete", namespace]);
        }
    }
}

/// A packet that the router sends back to the uplink untracked.
fn barrier(number: u64) -> Vec<u8> {
    let to = barrier_address(Family::V4).parse().expect("an address");
    let layer4 = Layer4::udp(9, 9, number.to_be_bytes().to_vec());
    Packet::new(Host::Gateway.address(Family::V4), to, layer4).build(Link::Uplink.mac(), Host::Gateway.mac())
}

/// Links carry nothing until the kernel has noticed that both ends are up.
fn wait_for_links(namespace: &str) {
    let started = Instant::now();
    loop {
        let shown = run("ip", ["-n", namespace, "-brief", "link", "show", "up"]).expect("ip");
        if Link::ALL.iter().all(|link| shown.lines().any(|l| l.starts_with(link.name()) && l.contains(" UP "))) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "links of {namespace} stay down:\n{shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Takes away what a killed test has left.
fn remove_of_dead_processes() {
    let listed = run("ip", ["netns", "list"]).expect("ip");
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = run("ip", ["netns", "delete", name]);
        }
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// No rate limit on answers, no redirects, no reverse path filter, and timeouts that no test outlives: time is the
/// subject of other tests.
fn set_sysctls(namespace: &str, forwarding: u8) {
    let mut settings = vec![
        format!("net.ipv4.ip_forward={forwarding}"),
        format!("net.ipv6.conf.all.forwarding={forwarding}"),
        "net.ipv4.icmp_ratemask=0".to_owned(),
        "net.ipv6.icmp.ratemask=".to_owned(),
        // Answers carry no flow label that only chance knows.
        "net.ipv6.auto_flowlabels=0".to_owned(),
    ];
    for scope in ["all", "default"] {
        settings.push(format!("net.ipv4.conf.{scope}.rp_filter=0"));
        settings.push(format!("net.ipv4.conf.{scope}.send_redirects=0"));
        settings.push(format!("net.ipv6.conf.{scope}.accept_ra=0"));
        settings.push(format!("net.ipv6.conf.{scope}.accept_dad=0"));
        settings.push(format!("net.ipv6.conf.{scope}.disable_ipv6={}", 1 - forwarding));
    }
    if forwarding == 1 {
        // A datagram that is never whole is not in the way of one that comes much later.
        settings.push("net.ipv4.ipfrag_time=1".to_owned());
        settings.push("net.netfilter.nf_conntrack_frag6_timeout=1".to_owned());
        for timeout in [
            "generic_timeout",
            "icmp_timeout",
            "icmpv6_timeout",
            "tcp_timeout_close",
            "tcp_timeout_close_wait",
            "tcp_timeout_established",
            "tcp_timeout_fin_wait",
            "tcp_timeout_last_ack",
            "tcp_timeout_max_retrans",
            "tcp_timeout_syn_recv",
            "tcp_timeout_syn_sent",
            "tcp_timeout_time_wait",
            "tcp_timeout_unacknowledged",
            "udp_timeout",
            "udp_timeout_stream",
        ] {
            settings.push(format!("net.netfilter.nf_conntrack_{timeout}=86400"));
        }
        settings.push("net.netfilter.nf_conntrack_tcp_be_liberal=0".to_owned());
        settings.push("net.netfilter.nf_conntrack_tcp_loose=1".to_owned());
        settings.push("net.netfilter.nf_conntrack_tcp_ignore_invalid_rst=0".to_owned());
    }
    let arguments: Vec<&str> = ["-q", "-w"].into_iter().chain(settings.iter().map(String::as_str)).collect();
    run_in(namespace, "sysctl", &arguments).expect("sysctl");
}
