//! The cluster as Kubernetes objects, for our side.

use std::fmt::Write;
use std::path::Path;

use super::cluster::{Family, Host, SERVICES, Service, node_address};

/// Writes them into `folder`.
pub fn write(folder: &Path) {
    let mut text = nodes();
    text.extend(Host::PODS.map(pod));
    text.extend(SERVICES.iter().map(service));
    std::fs::write(folder.join("cluster.yaml"), text).expect("a file of manifests");
}

fn nodes() -> String {
    let node = |name: &str, third: u8, addresses: [std::net::IpAddr; 2]| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             spec: {{podCIDRs: [10.244.{third}.0/24, \"fd00:244:0:{third}::/64\"]}}\n\
             status:\n  addresses:\n  - {{type: InternalIP, address: {}}}\n  - {{type: InternalIP, address: \"{}\"}}\n---\n",
            addresses[0], addresses[1]
        )
    };
    node("node-a", 1, Family::BOTH.map(node_address))
        + &node("node-b", 2, Family::BOTH.map(|family| Host::OtherNode.address(family)))
}

fn pod(host: Host) -> String {
    let [v4, v6] = Family::BOTH.map(|family| host.address(family));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: default}}\n\
         spec: {{nodeName: node-a, containers: [{{name: main, image: none}}]}}\n\
         status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]}}\n---\n",
        host.name()
    )
}

fn service(service: &Service) -> String {
    let policy = |is_local| if is_local { "Local" } else { "Cluster" };
    let [v4, v6] = Family::BOTH.map(|family| service.address(family));
    let has_node_ports = service.ports.iter().any(|port| port.node_port.is_some());
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {}, namespace: default}}\nspec:\n  type: {}\n  \
         internalTrafficPolicy: {}\n  externalTrafficPolicy: {}\n  ipFamilyPolicy: RequireDualStack\n  \
         ipFamilies: [IPv4, IPv6]\n  clusterIP: {v4}\n  clusterIPs: [{v4}, \"{v6}\"]\n  ports:\n",
        service.name,
        if has_node_ports { "NodePort" } else { "ClusterIP" },
        policy(service.internal_local),
        policy(service.external_local)
    );
    let mut slice_ports = String::new();
    for port in service.ports {
        let name = port.protocol.to_lowercase();
        let node_port = port.node_port.map(|number| format!(", nodePort: {number}")).unwrap_or_default();
        let (protocol, number, target) = (port.protocol, port.port, port.target);
        let _ = writeln!(text, "  - {{name: {name}, protocol: {protocol}, port: {number}{node_port}}}");
        let _ = writeln!(slice_ports, "- {{name: {name}, protocol: {protocol}, port: {target}}}");
    }
    for family in Family::BOTH {
        let kind = family.pick("IPv4", "IPv6");
        let endpoints = match service.endpoint {
            None => " []\n".to_owned(),
            Some(host) => format!(
                "\n- {{addresses: [\"{}\"], nodeName: {}, conditions: {{ready: true}}}}\n",
                host.address(family),
                if Host::PODS.contains(&host) { "node-a" } else { "node-b" }
            ),
        };
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {0}-{1}\n  \
             namespace: default\n  labels: {{kubernetes.io/service-name: {0}}}\naddressType: {kind}\n\
             ports:\n{slice_ports}endpoints:{endpoints}",
            service.name,
            kind.to_lowercase()
        );
    }
    text + "---\n"
}
