//! Two nodes on one link, with a client and a router beside them, each a network namespace.
//!
//! ```text
//!  pods, container        node-a                                      node-b         pods
//!  eth0 ------- host ends   uplink -------- lan (bridge, router) -------- uplink   host ends ------- eth0
//!                           192.168.0.2     192.168.0.1, API server     192.168.0.3
//!                                           outside: 192.168.0.10
//! ```
//!
//! The nodes' kernels forward, as on any node: what goes past a dataplane is seen to arrive.

use anyhow::Result;
use atalho_benches::lab::command::{ip, run, run_in};
use atalho_benches::lab::network;
use atalho_benches::lab::plan::{Family, Plan};

use crate::hosts::{GATEWAYS, HOSTS, Host};
use crate::objects;

/// Namespaces, links, addresses, routes.
pub struct Network {
    /// Of node-a and of node-b.
    pub plans: [Plan; 2],
}

impl Network {
    pub fn build(prefix: &str) -> Result<Self> {
        let plans = ["a", "b"].map(|node| Plan { forwarding: true, ..Plan::new(&format!("{prefix}-{node}")) });
        for plan in &plans {
            network::remove(&plan.prefix);
        }
        let network = Self { plans };
        for plan in &network.plans {
            network::mount_bpffs(plan)?;
        }
        for host in HOSTS {
            let namespace = network.namespace(host);
            run("ip", ["netns", "add", &namespace])?;
            network::set_sysctls(&namespace, matches!(host, Host::Node | Host::NodeB | Host::Router))?;
            run_in(&namespace, "sysctl", &[&["-q", "-w"], &SYSCTLS[..]].concat())?;
            ip(&namespace, "link set lo up\n")?;
        }
        network.connect_link()?;
        for (node, pod, link) in [
            (Host::Node, Host::Pod, "pod1"),
            (Host::Node, Host::Endpoint, "pod2"),
            (Host::NodeB, Host::PodB, "pod1"),
            (Host::NodeB, Host::EndpointB, "pod2"),
        ] {
            network.connect_pod(node, pod, link)?;
        }
        network.connect_other()?;
        network.connect_container()?;
        Ok(network)
    }

    pub fn namespace(&self, host: Host) -> String {
        let [a, b] = &self.plans;
        match host {
            Host::Node => a.node(),
            Host::Pod => a.pod(1),
            Host::Endpoint => a.pod(2),
            Host::Other => a.pod(3),
            Host::Container => a.pod(4),
            Host::NodeB => b.node(),
            Host::PodB => b.pod(1),
            Host::EndpointB => b.pod(2),
            Host::Outside => b.far(),
            Host::Router => a.far(),
        }
    }

    /// The link of nodes, router and client, and who goes by whom from there.
    fn connect_link(&self) -> Result<()> {
        let [a, b, outside, router] =
            [Host::Node, Host::NodeB, Host::Outside, Host::Router].map(|host| self.namespace(host));
        let at = |host: Host| Family::BOTH.map(|family| host.address(family));
        let [a4, a6] = at(Host::Node);
        let [b4, b6] = at(Host::NodeB);
        let [router4, router6] = at(Host::Router);
        let [proxied4, proxied6] = Family::BOTH.map(|family| objects::PROXIED.address(family));
        ip(
            &router,
            &format!(
                "link add lan type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
                 addr add {router4}/24 dev lan\naddr add {router6}/64 dev lan nodad\nlink set lan up\n\
                 addr add {proxied4}/32 dev lo\naddr add {proxied6}/128 dev lo nodad\n"
            ),
        )?;
        for (host, namespace, link) in
            [(Host::Node, &a, "uplink"), (Host::NodeB, &b, "uplink"), (Host::Outside, &outside, "eth0")]
        {
            let ([v4, v6], name) = (at(host), host.name());
            ip(
                namespace,
                &format!(
                    "link add {link} numrxqueues 2 numtxqueues 2 type veth \
                     peer name {name} numrxqueues 2 numtxqueues 2 netns {router}\n\
                     addr add {v4}/24 dev {link}\naddr add {v6}/64 dev {link} nodad\nlink set {link} up\n"
                ),
            )?;
            ip(&router, &format!("link set {name} master lan\nlink set {name} up\n"))?;
            // A wire carries finished checksums; a veth would hand over the promise of one.
            run_in(&router, "ethtool", &["-K", name, "tx", "off"])?;
        }
        let pods_a = format!("route add 10.244.1.0/24 via {a4}\nroute add fd00:244:0:1::/64 via {a6}\n");
        let pods_b = format!("route add 10.244.2.0/24 via {b4}\nroute add fd00:244:0:2::/64 via {b6}\n");
        let containers = format!("route add 172.17.0.0/24 via {a4}\nroute add fd00:172::/64 via {a6}\n");
        let default = format!("route add default via {router4}\nroute add ::/0 via {router6}\n");
        ip(&a, &format!("{default}{pods_b}"))?;
        ip(&b, &format!("{default}{pods_a}{containers}"))?;
        // Nobody but the nodes knows Services: a packet to one that a node lets go on is lost.
        let nowhere: String = objects::RANGES.map(|range| format!("route add blackhole {range}\n")).concat();
        ip(&router, &format!("{pods_a}{pods_b}{containers}{nowhere}"))?;
        // A neighbour that means ill has a route to the node's loopback, too.
        let services: String = objects::RANGES
            .map(|range| format!("route add {range} via {}\n", if range.contains(':') { a6 } else { a4 }))
            .concat();
        ip(
            &outside,
            &format!(
                "{pods_a}{pods_b}{containers}{services}addr del 127.0.0.1/8 dev lo\naddr del ::1/128 dev lo\n\
                 route add 127.0.0.1/32 via {a4}\nroute add ::1/128 via {a6}\n"
            ),
        )
    }

    /// As most plugins do that route: a veth, the gateway's address on its host end.
    fn connect_pod(&self, node: Host, pod: Host, link: &str) -> Result<()> {
        let [pod4, pod6] = Family::BOTH.map(|family| pod.address(family));
        let (gateway4, gateway6) = (GATEWAYS[usize::from(node == Host::NodeB)], "fe80::1");
        ip(
            &self.namespace(node),
            &format!(
                "link add {link} type veth peer name eth0 netns {}\n\
                 addr add {gateway4}/32 dev {link}\naddr add {gateway6}/64 dev {link} nodad\nlink set {link} up\n\
                 route add {pod4}/32 dev {link} scope link\nroute add {pod6}/128 dev {link}\n",
                self.namespace(pod)
            ),
        )?;
        ip(
            &self.namespace(pod),
            &format!(
                "addr add {pod4}/32 dev eth0\naddr add {pod6}/128 dev eth0 nodad\nlink set eth0 up\n\
                 route add {gateway4} dev eth0 scope link\nroute add default via {gateway4} dev eth0\n\
                 route add ::/0 via {gateway6} dev eth0\n"
            ),
        )
    }

    /// As Calico does it: no address on the host end, which answers for a gateway that nobody has; one MAC for all host ends.
    fn connect_other(&self) -> Result<()> {
        let [pod4, pod6] = Family::BOTH.map(|family| Host::Other.address(family));
        let (node, pod) = (self.namespace(Host::Node), self.namespace(Host::Other));
        ip(
            &node,
            &format!(
                "link add cali3 address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {pod}\nlink set cali3 up\n\
                 route add {pod4}/32 dev cali3 scope link\nroute add {pod6}/128 dev cali3\n"
            ),
        )?;
        run_in(
            &node,
            "sysctl",
            &["-q", "-w", "net.ipv4.conf.cali3.proxy_arp=1", "net.ipv4.neigh.cali3.proxy_delay=0"],
        )?;
        ip(
            &pod,
            &format!(
                "addr add {pod4}/32 dev eth0\naddr add {pod6}/128 dev eth0 nodad\nlink set eth0 up\n\
                 route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n\
                 route add ::/0 via fe80::ecee:eeff:feee:eeee dev eth0\n"
            ),
        )
    }

    /// As another runtime beside Kubernetes does it: a network of its own behind the node.
    fn connect_container(&self) -> Result<()> {
        let [own4, own6] = Family::BOTH.map(|family| Host::Container.address(family));
        let [_, _, gateway4, gateway6] = GATEWAYS;
        let (node, container) = (self.namespace(Host::Node), self.namespace(Host::Container));
        ip(
            &node,
            &format!(
                "link add guest0 type veth peer name eth0 netns {container}\naddr add {gateway4}/24 dev guest0\n\
                 addr add {gateway6}/64 dev guest0 nodad\nlink set guest0 up\n"
            ),
        )?;
        ip(
            &container,
            &format!(
                "addr add {own4}/24 dev eth0\naddr add {own6}/64 dev eth0 nodad\nlink set eth0 up\n\
                 route add default via {gateway4}\nroute add ::/0 via {gateway6}\n"
            ),
        )
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for plan in &self.plans {
            network::remove(&plan.prefix);
        }
    }
}

/// No kernel limits its refusals, and nobody is shown a shorter way: every question is to meet the same network.
const SYSCTLS: [&str; 8] = [
    "net.ipv4.icmp_ratemask=0",
    "net.ipv6.icmp.ratelimit=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.conf.all.accept_redirects=0",
    "net.ipv4.conf.default.accept_redirects=0",
    "net.ipv6.conf.all.accept_redirects=0",
    "net.ipv6.conf.default.accept_redirects=0",
];
