//! What happens to a small cluster and its node, one step a number: steps are drawn by the hundred thousand, and a number is
//! drawn, and made smaller when a test fails, for next to nothing.

use std::cell::RefCell;

use super::*;
use crate::model::Object;

/// Digits of a number, each below a bound of its own.
pub struct Digits(pub u64);

impl Digits {
    pub fn below(&mut self, bound: u64) -> u64 {
        let digit = self.0 % bound;
        self.0 /= bound;
        digit
    }

    pub fn is_one_of(&mut self, bound: u64) -> bool {
        self.below(bound) == 1
    }
}

#[derive(Debug, Clone)]
pub enum Step {
    Put(Box<Object>),
    Delete(Kind, String),
    Neighbour { address: u8, present: bool },
    PodRoute { address: u8, interface: u32 },
    Compile,
}

impl Step {
    /// Services want each other's addresses and ports.
    pub fn drawn(number: u64) -> Self {
        let mut digits = Digits(number);
        match digits.below(19) {
            0..4 => Self::put(&contested_service(&mut digits)),
            4..8 => Self::put(&slice_of_any(&mut digits)),
            8 | 9 => Self::put(&pod_of_any(&mut digits)),
            10 => Self::put(&other_node(&mut digits)),
            11 => Self::put(&own_node(&mut digits)),
            12 | 13 => {
                let kind = [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node][digits.below(4) as usize];
                let name = digits.below(6);
                // This node's own object may go as well.
                Self::Delete(kind, if name == 5 { "node-a".into() } else { format!("n{name}") })
            }
            14 => Self::Neighbour { address: digits.below(4) as u8 + 1, present: digits.is_one_of(2) },
            15 => Self::PodRoute { address: digits.below(5) as u8 + 10, interface: digits.below(3) as u32 + 11 },
            _ => Self::Compile,
        }
    }

    fn put(yaml: &str) -> Self {
        Self::Put(Box::new(object(yaml)))
    }

    pub fn take(&self, world: &mut World) {
        match self {
            Self::Put(object) => world.model.apply(Change::Put(Object::clone(object), Source::Api)),
            Self::Delete(kind, name) => world.delete(*kind, name),
            Self::Neighbour { address, present } => {
                let key = (2, IpAddr::from([192, 168, 0, *address]));
                let facts = Arc::make_mut(&mut world.facts);
                if *present {
                    facts.neighbours.insert(key, [*address; 6]);
                } else {
                    facts.neighbours.remove(&key);
                }
            }
            Self::PodRoute { address, interface } => {
                let destination: IpNet = IpAddr::from([10, 244, 0, *address]).into();
                let facts = Arc::make_mut(&mut world.facts);
                facts.routes.retain(|route| route.destination != destination);
                let (interface, kind) = (Some(*interface), KernelRouteKind::Unicast);
                facts.routes.push(KernelRoute { destination, gateway: None, interface, kind, metric: 0 });
            }
            Self::Compile => {}
        }
    }
}

/// Reads an object; each text once, for the same ones come again and again.
pub fn object(yaml: &str) -> Object {
    thread_local! {
        static READ: RefCell<HashMap<String, Object>> = RefCell::default();
    }
    READ.with_borrow_mut(|read| match read.get(yaml) {
        Some(object) => object.clone(),
        None => {
            let object = crate::manifests::parse_one(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
            read.insert(yaml.to_owned(), object.clone());
            object
        }
    })
}

fn contested_service(digits: &mut Digits) -> String {
    let name = digits.below(4);
    // Address 0 is the node's own: accepted by the model and refused in compilation.
    let ip = match digits.below(5) {
        0 => "192.168.0.2".to_owned(),
        ip => format!("10.96.0.{ip}"),
    };
    let second = if digits.is_one_of(2) { format!(", \"fd96::{}\"", digits.below(4) + 1) } else { String::new() };
    let node_port = match digits.below(4) {
        0 => 0,
        node_port => 30_000 + node_port,
    };
    // Shared ones, another's cluster IP, the node's own address, and there a port that may be a node port.
    let (external, number) = match digits.below(9) {
        0 | 1 => ("203.0.113.1", 80),
        2 => ("203.0.113.2", 80),
        3 => ("10.96.0.1", 80),
        4 => ("192.168.0.2", 80),
        5 => ("192.168.0.2", 30_001),
        _ => ("", 80),
    };
    let policy = policy(digits);
    let number = if digits.is_one_of(10) { 0 } else { number };
    load_balancer(&format!("n{name}"), &format!("{ip}{second}"), external, number, node_port, policy)
}

pub fn policy(digits: &mut Digits) -> &'static str {
    if digits.is_one_of(2) { "Local" } else { "Cluster" }
}

/// Two ports; `ip` and `external` may be several or none.
pub fn load_balancer(name: &str, ip: &str, external: &str, port: u64, node_port: u64, policy: &str) -> String {
    let object = service(
        name,
        &format!(
            "type: LoadBalancer, clusterIPs: [{ip}], internalTrafficPolicy: {policy}, externalTrafficPolicy: {policy}, \
             ports: [{{name: p0, port: {port}, nodePort: {node_port}}}, {{name: p1, port: 53, protocol: UDP}}]"
        ),
    );
    let ingress = if external.is_empty() { String::new() } else { format!("{{ip: {external}}}") };
    let status = format!(", status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}");
    format!("{}{status}", &object[..object.len() - 1])
}

/// Up to three endpoints on three nodes, ready or not, with hints or without.
pub fn slice_of_any(digits: &mut Digits) -> String {
    let (name, service, ipv6) = (digits.below(5), digits.below(4), digits.is_one_of(2));
    let (port, protocol) = if digits.is_one_of(2) { ("p1", "UDP") } else { ("p0", "TCP") };
    // A few hundred lists of endpoints, not every one there is: each text is read once.
    let mut list = Digits(digits.below(256).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
    let endpoints: Vec<String> = (0..list.below(4)).map(|_| endpoint(&mut list, ipv6)).collect();
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let ports = format!("{{name: {port}, port: 8080, protocol: {protocol}}}");
    slice(&format!("n{name}"), &format!("n{service}"), family, &ports, &endpoints.join(","))
}

fn endpoint(list: &mut Digits, ipv6: bool) -> String {
    let last = list.below(6) + 1;
    let address = if ipv6 { format!("fd44::{last}") } else { format!("10.0.0.{last}") };
    let hints = match list.below(6) {
        0 => ", hints: {forZones: [{name: east}]}",
        1 => ", hints: {forZones: [{name: west}]}",
        2 => ", hints: {forNodes: [{name: node-a}], forZones: [{name: east}]}",
        3 => ", hints: {forNodes: [{name: node-b}], forZones: [{name: west}]}",
        _ => "",
    };
    let node = ["node-a", "node-b", "node-c"][list.below(3) as usize];
    on(&address, node, &format!("{}{hints}", [READY, READY, GOING, DOWN][list.below(4) as usize]))
}

pub fn pod_of_any(digits: &mut Digits) -> String {
    let (name, address) = (digits.below(3), digits.below(5) + 10);
    let node = if digits.is_one_of(2) { "node-a" } else { "node-b" };
    pod(&format!("n{name}"), &[&format!("10.244.0.{address}")]).replace("node-a", node)
}

pub fn other_node(digits: &mut Digits) -> String {
    let (name, cidr) = (digits.below(2), digits.below(3));
    let cidrs = if cidr == 0 { String::new() } else { format!("10.244.{cidr}.0/24") };
    let address = format!("{{type: InternalIP, address: 192.168.0.{}}}", digits.below(4) + 3);
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: n{name}}}, spec: {{podCIDRs: [{cidrs}]}}, status: {{addresses: [{address}]}}}}"
    )
}

/// This node, in one zone or the other.
pub fn own_node(digits: &mut Digits) -> String {
    let zone = if digits.is_one_of(2) { "east" } else { "west" };
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: node-a, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}"
    )
}
