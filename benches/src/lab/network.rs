//! The lab's namespaces, links, addresses and routes. Made by `ip`, so that every line can be tried by hand.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::beyond;
use super::command::{ip, run, run_in};
use super::plan::{Family, Plan, node_address, pod_address, router_address};

/// Gateway of every pod, carried by every host end.
pub const GATEWAY_V4: &str = "10.244.1.1";
pub const GATEWAY_V6: &str = "fe80::1";

/// A lab's network. It goes when this is dropped.
pub struct Network {
    plan: Plan,
}

impl Network {
    /// Builds it anew; what an earlier lab of the same prefix left behind goes first.
    pub fn build(plan: &Plan) -> Result<Self> {
        plan.check()?;
        remove(&plan.prefix);
        let network = Self { plan: plan.clone() };
        fs::create_dir_all(plan.folder()).with_context(|| format!("cannot create {}", plan.folder().display()))?;
        mount_bpffs(plan)?;
        for namespace in plan.namespaces() {
            run("ip", ["netns", "add", &namespace])?;
            set_sysctls(&namespace, namespace == plan.far() || namespace == plan.node() && plan.forwarding)?;
            ip(&namespace, "link set lo up\n")?;
        }
        network.connect_uplink()?;
        for number in 1..=plan.pods {
            network.connect_pod(number)?;
        }
        Ok(network)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn connect_uplink(&self) -> Result<()> {
        let Plan { queues, mtu, .. } = self.plan;
        let (node, far) = (self.plan.node(), self.plan.far());
        let [node4, node6] = Family::BOTH.map(node_address);
        let [router4, router6] = Family::BOTH.map(router_address);
        ip(
            &node,
            &format!(
                "link add uplink mtu {mtu} numrxqueues {queues} numtxqueues {queues} type veth \
                 peer name eth0 mtu {mtu} numrxqueues {queues} numtxqueues {queues} netns {far}\n\
                 addr add {node4}/24 dev uplink\naddr add {node6}/64 dev uplink nodad\nlink set uplink up\n"
            ),
        )?;
        ip(&far, &format!("addr add {router4}/24 dev eth0\naddr add {router6}/64 dev eth0 nodad\nlink set eth0 up\n"))?;
        // A wire carries finished checksums; a veth would hand over the promise of one.
        run_in(&far, "ethtool", &["-K", "eth0", "tx", "off"])?;
        beyond::connect(&self.plan)?;
        self.restore_far_routes()?;
        self.restore_node_routes()
    }

    /// The far side's routes to the node and its pods: lost with the link, as a router's daemon would restore them.
    pub fn restore_far_routes(&self) -> Result<()> {
        let [node4, node6] = Family::BOTH.map(node_address);
        let router6 = router_address(Family::V6);
        let [source4, source6] = Family::BOTH.map(|family| beyond::source(&self.plan, family));
        let limit = beyond::limit(&self.plan);
        ip(
            &self.plan.far(),
            &format!(
                "addr replace {router6}/64 dev eth0 nodad\n\
                 route replace {node4}/32 dev eth0 {source4} {limit}\nroute replace {node6}/128 dev eth0 {source6} {limit}\n\
                 route replace 10.244.1.0/24 via {node4} {limit}\nroute replace fd00:244:0:1::/64 via {node6} {limit}\n"
            ),
        )
    }

    /// The node's routes behind the uplink: lost with the link.
    pub fn restore_node_routes(&self) -> Result<()> {
        let [router4, router6] = Family::BOTH.map(router_address);
        let node6 = node_address(Family::V6);
        ip(
            &self.plan.node(),
            &format!(
                "addr replace {node6}/64 dev uplink nodad\n\
                 route replace default via {router4}\nroute replace ::/0 via {router6}\n\
                 route replace 10.244.2.0/24 via {router4}\nroute replace fd00:244:0:2::/64 via {router6}\n"
            ),
        )
    }

    /// As a CNI plugin that routes does it: a veth, an address of its own length, the gateway on the host end.
    pub fn connect_pod(&self, number: usize) -> Result<()> {
        self.connect_pod_as(number, number)
    }

    /// The same with the link and the addresses of another pod, which has gone.
    pub fn connect_pod_as(&self, inside: usize, number: usize) -> Result<()> {
        let [pod4, pod6] = Family::BOTH.map(|family| pod_address(number, family));
        let mtu = self.plan.mtu;
        ip(
            &self.plan.node(),
            &format!(
                "link add pod{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
                 addr add {GATEWAY_V4}/32 dev pod{number}\naddr add {GATEWAY_V6}/64 dev pod{number} nodad\n\
                 link set pod{number} up\n\
                 route add {pod4}/32 dev pod{number} scope link\nroute add {pod6}/128 dev pod{number}\n",
                self.plan.pod(inside)
            ),
        )?;
        ip(
            &self.plan.pod(inside),
            &format!(
                "addr add {pod4}/32 dev eth0\naddr add {pod6}/128 dev eth0 nodad\nlink set eth0 up\n\
                 route add {GATEWAY_V4} dev eth0 scope link\nroute add default via {GATEWAY_V4} dev eth0\n\
                 route add ::/0 via {GATEWAY_V6} dev eth0\n"
            ),
        )
    }
}

/// A BPF file system of the lab's own, outside /sys: `ip netns exec` hides what is mounted below that.
pub fn mount_bpffs(plan: &Plan) -> Result<()> {
    let at = plan.bpffs();
    fs::create_dir_all(&at).with_context(|| format!("cannot create {}", at.display()))?;
    run("mount", ["-t", "bpf", "bpf", &at.to_string_lossy()]).map(drop)
}

/// MAC address of an interface.
pub fn mac(namespace: &str, interface: &str) -> Result<String> {
    let shown = run("ip", ["-n", namespace, "-json", "link", "show", "dev", interface])?;
    let links: serde_json::Value = serde_json::from_str(&shown)?;
    links[0]["address"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("{interface} in {namespace} has no MAC address"))
}

/// Packets that an interface has received and sent, by the kernel's own count.
pub fn link_packets(namespace: &str, interface: &str) -> Result<(u64, u64)> {
    let shown = run("ip", ["-n", namespace, "-json", "-statistics", "link", "show", "dev", interface])?;
    let links: serde_json::Value = serde_json::from_str(&shown)?;
    let count = |side: &str| {
        links[0]["stats64"][side]["packets"].as_u64().with_context(|| format!("no {side} count of {interface}"))
    };
    Ok((count("rx")?, count("tx")?))
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.plan.prefix);
    }
}

/// Takes away everything that a lab of this prefix made, also one that was killed; what is not there is no error.
pub fn remove(prefix: &str) {
    let Ok(listed) = run("ip", ["netns", "list"]) else { return };
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| belongs_to(name, prefix))
    {
        if let Ok(inside) = run("ip", ["netns", "pids", name]) {
            // They run in a namespace of the lab's own, so they are the lab's own.
            let _ = run("kill", ["-KILL"].into_iter().chain(inside.split_whitespace()));
        }
        let _ = run("ip", ["netns", "delete", name]);
    }
    let plan = Plan::new(prefix);
    unmount(&plan.bpffs());
    let _ = fs::remove_dir_all(plan.folder());
}

/// Takes a file system away, with the pins in it; not mounted is no error. A process that was just killed holds it a
/// moment longer.
fn unmount(at: &Path) {
    for _ in 0..40 {
        if !at.exists() || run("mountpoint", ["-q", &at.to_string_lossy()]).is_err() {
            return;
        }
        if run("umount", [at]).is_err() {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn belongs_to(namespace: &str, prefix: &str) -> bool {
    let Some(rest) = namespace.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let number = rest.strip_prefix("pod");
    matches!(rest, "node" | "far" | "beyond")
        || number.is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

/// No router advertisements, no waiting for duplicate addresses, no reverse path filter inherited from the machine.
pub fn set_sysctls(namespace: &str, forwarding: bool) -> Result<()> {
    let forwarding = u8::from(forwarding);
    let mut settings =
        vec![format!("net.ipv4.ip_forward={forwarding}"), format!("net.ipv6.conf.all.forwarding={forwarding}")];
    for scope in ["all", "default"] {
        settings.push(format!("net.ipv4.conf.{scope}.rp_filter=0"));
        settings.push(format!("net.ipv6.conf.{scope}.accept_ra=0"));
        settings.push(format!("net.ipv6.conf.{scope}.accept_dad=0"));
        settings.push(format!("net.ipv6.conf.{scope}.disable_ipv6=0"));
    }
    let arguments: Vec<&str> = ["-q", "-w"].into_iter().chain(settings.iter().map(String::as_str)).collect();
    run_in(namespace, "sysctl", &arguments).map(drop)
}

#[cfg(test)]
mod tests {
    use super::belongs_to;

    #[test]
    fn only_own_namespaces_are_ever_removed() {
        assert!(
            belongs_to("at-node", "at")
                && belongs_to("at-far", "at")
                && belongs_to("at-beyond", "at")
                && belongs_to("at-pod12", "at")
        );
        for other in ["at-h-node", "at-", "at-pod", "at-podx", "atnode", "node", "at-node2"] {
            assert!(!belongs_to(other, "at"), "{other}");
        }
    }
}
