//! Services as the API describes them, asked for by packets: from pods, from the node, from outside.

use super::*;

const NODES: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.0.5}, {ip: "fd44::5"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.0.7}, {ip: "fd44::7"}]}
"#;

const CONFIG: &str = r#"
[cluster]
pod_cidrs = ["10.244.0.0/16", "fd44::/48"]
service_cidrs = ["172.30.0.0/16", "fd96::/112"]
[service]
external_ip_cidrs = ["198.51.100.0/24", "192.168.0.0/24"]
"#;

/// Service `web` of both families with this spec and status, and an endpoint here and one on node-b.
fn web(spec: &str, status: &str) -> String {
    format!(
        r#"{NODES}---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIPs: [172.30.0.41, "fd96::41"], {spec}}}
{status}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-4, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [10.244.0.7], nodeName: node-a}}, {{addresses: [10.244.1.7], nodeName: node-b}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-6, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv6
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: ["fd44::7"], nodeName: node-a}}, {{addresses: ["fd44:0:0:1::7"], nodeName: node-b}}]
"#
    )
}

const PORT: &str = "ports: [{name: http, port: 80, nodePort: 30080}]";
const INGRESS: &str = "status: {loadBalancer: {ingress: [{ip: 203.0.113.80}, {ip: \"2001:db8::80\"}]}}";

/// Where a client stands: its IPv4 and its IPv6 address.
const CLIENTS: [(&str, [&str; 2]); 4] = [
    ("pod here", ["10.244.0.5", "fd44::5"]),
    ("pod elsewhere", ["10.244.1.9", "fd44:0:0:1::9"]),
    ("node", ["192.168.0.2", "fd00::2"]),
    ("outside", ["192.0.2.9", "2001:db8:9::9"]),
];

/// A Service's address and port of each kind.
const ADDRESSES: [([&str; 2], u16); 4] = [
    (["172.30.0.41", "fd96::41"], 80),
    (["192.168.0.2", "fd00::2"], 30080),
    (["203.0.113.80", "2001:db8::80"], 80),
    (["198.51.100.80", ""], 80),
];

impl Asked {
    /// `verdict`, then `reason` if there is one; endpoints here and there, and whether the source is rewritten.
    fn outcome(&self, protocol: &str, src: &str, dst: &str, port: u16) -> String {
        let (_, lines) = self.batch(&line(protocol, src, dst, port, ""));
        let answer: Answer = serde_json::from_str(&lines[0]).unwrap();
        let places: String = answer.backends.iter().map(|b| if b.local { 'H' } else { 'T' }).collect();
        match (answer.verdict, answer.reason) {
            (Verdict::Forward, _) if answer.service.is_none() => "forward".to_owned(),
            (Verdict::Forward, _) => format!("{places}{}", if answer.snat { "s" } else { "" }),
            (verdict, None) => format!("{verdict:?}").to_lowercase(),
            (_, Some(reason)) => reason,
        }
    }
}

#[test]
fn policies_and_masquerading_from_everywhere_to_every_address() {
    // A row per client, a column per address: ClusterIP, node port, load balancer, external IP. H: here, T: there, s: SNAT.
    let cluster = ["HT HTs HTs HTs", "HT HTs HTs HTs", "HTs HTs HTs HTs", "HTs HTs HTs HTs"];
    let external = ["HT HT HT HT", "HT HT HT HT", "HTs HTs HTs HTs", "HTs H H H"];
    let internal = ["H HTs HTs HTs", "H HTs HTs HTs", "Hs HTs HTs HTs", "Hs HTs HTs HTs"];
    let ranges = CONFIG.to_owned();
    let no_ranges = CONFIG.replace("[\"10.244.0.0/16\", \"fd44::/48\"]", "[]");
    let masquerade_all = format!("{CONFIG}masquerade_all = true\n");
    let (external_local, internal_local) = ("externalTrafficPolicy: Local,", "internalTrafficPolicy: Local,");
    for (config, policy, expected) in [
        (&ranges, "", cluster),
        (&ranges, external_local, external),
        (&ranges, internal_local, internal),
        // Where pods cannot be told by address, who comes by the uplink is outside, and a ClusterIP is nobody's business.
        (&no_ranges, "", ["HT HTs HTs HTs"; 4]),
        (&no_ranges, external_local, ["HT HT HT HT", "HT H H H", "HT HTs HTs HTs", "HT H H H"]),
        (&no_ranges, internal_local, ["H HTs HTs HTs"; 4]),
        (&masquerade_all, "", ["HTs HTs HTs HTs"; 4]),
        (&masquerade_all, external_local, ["HTs HT HT HT", "HTs HT HT HT", "HTs HTs HTs HTs", "HTs H H H"]),
        (&masquerade_all, internal_local, ["Hs HTs HTs HTs"; 4]),
    ] {
        let spec = format!("type: LoadBalancer, {policy} externalIPs: [198.51.100.80], {PORT}");
        let asked = Asked::with(&web(&spec, INGRESS), config);
        for ((who, from), expected) in CLIENTS.into_iter().zip(expected) {
            for family in [0, 1] {
                let addresses = ADDRESSES.iter().filter(|(address, _)| !address[family].is_empty());
                let found: Vec<_> =
                    addresses.map(|(to, port)| asked.outcome("TCP", from[family], to[family], *port)).collect();
                let expected: Vec<_> = expected.split(' ').take(found.len()).collect();
                assert_eq!(found, expected, "{config}{policy} {who}, family {family}");
            }
        }
    }
}

#[test]
fn without_an_endpoint_here_policy_local_is_silent_and_without_any_everybody_is_refused() {
    let elsewhere = "{addresses: [10.244.1.7], nodeName: node-b}";
    for (policy, endpoints, expected) in [
        ("externalTrafficPolicy: Local,", elsewhere, ["T", "Ts", "no_local_endpoint", "no_local_endpoint"]),
        ("internalTrafficPolicy: Local,", elsewhere, ["no_local_endpoint", "no_local_endpoint", "Ts", "Ts"]),
        ("", "", ["no_endpoint"; 4]),
        ("externalTrafficPolicy: Local,", "", ["no_endpoint"; 4]),
        ("internalTrafficPolicy: Local,", "", ["no_endpoint"; 4]),
    ] {
        let all = "{addresses: [10.244.0.7], nodeName: node-a}, {addresses: [10.244.1.7], nodeName: node-b}";
        let objects = web(&format!("type: LoadBalancer, {policy} {PORT}"), INGRESS).replace(all, endpoints);
        let asked = Asked::with(&objects, CONFIG);
        let found = [
            asked.outcome("TCP", "10.244.0.5", "172.30.0.41", 80),
            asked.outcome("TCP", "192.0.2.9", "172.30.0.41", 80),
            asked.outcome("TCP", "192.0.2.9", "192.168.0.2", 30080),
            asked.outcome("TCP", "192.0.2.9", "203.0.113.80", 80),
        ];
        assert_eq!(found, expected, "{policy}, endpoints {endpoints:?}");
    }
}

#[test]
fn source_ranges_guard_load_balancer_addresses_alone_and_before_all_else() {
    let spec = |ranges: &str| {
        format!("type: LoadBalancer, externalIPs: [198.51.100.80], {PORT}, loadBalancerSourceRanges: [{ranges}]")
    };
    let annotated = |ranges: &str| {
        let annotations =
            format!("annotations: {{service.beta.kubernetes.io/load-balancer-source-ranges: \"{ranges}\"}}");
        web(&format!("type: LoadBalancer, externalIPs: [198.51.100.80], {PORT}"), INGRESS)
            .replace("metadata: {name: web}", &format!("metadata: {{name: web, {annotations}}}"))
    };
    let with_range = [
        web(&spec("192.0.2.0/25"), INGRESS),
        web(&spec("\" 192.0.2.0/25\""), INGRESS),
        web(&spec("\"192.000.002.000/25\", 2001:db8:7::/48"), INGRESS),
        annotated("192.0.2.0/25"),
        annotated(" 192.0.2.0/25 , 2001:db8:7::/48"),
    ];
    for objects in &with_range {
        let asked = Asked::with(objects, CONFIG);
        let to = |src: &str, dst: &str, port| asked.outcome("TCP", src, dst, port);
        assert_eq!(to("192.0.2.9", "203.0.113.80", 80), "HTs");
        for src in ["192.0.2.200", "10.244.0.5", "10.244.1.9", "192.168.0.2"] {
            assert_eq!(to(src, "203.0.113.80", 80), "source_range", "{src}");
        }
        // The other family has an address and no range that lets anybody in.
        assert_eq!(to("2001:db8:9::9", "2001:db8::80", 80), "source_range");
        // Other ways to the Service are open.
        assert_eq!(to("192.0.2.200", "192.168.0.2", 30080), "HTs");
        assert_eq!(to("192.0.2.200", "198.51.100.80", 80), "HTs");
        assert_eq!(to("10.244.0.5", "172.30.0.41", 80), "HT");
    }
    // No range and no annotation, or an empty one, means everybody; the spec's ranges hide the annotation.
    let open = [annotated(""), annotated("  "), web(&spec(""), INGRESS)];
    assert!(
        open.iter()
            .all(|objects| Asked::with(objects, CONFIG).outcome("TCP", "192.0.2.200", "203.0.113.80", 80) == "HTs")
    );
    let both = annotated("0.0.0.0/0")
        .replace("type: LoadBalancer,", "type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/25],");
    assert_eq!(Asked::with(&both, CONFIG).outcome("TCP", "192.0.2.200", "203.0.113.80", 80), "source_range");
    // What is refused for its source is not told that there is nobody.
    let empty = with_range[0].replace("{name: http, port: 8080}", "{name: other, port: 8080}");
    assert_eq!(Asked::with(&empty, CONFIG).outcome("TCP", "192.0.2.200", "203.0.113.80", 80), "source_range");
    assert_eq!(Asked::with(&empty, CONFIG).outcome("TCP", "192.0.2.9", "203.0.113.80", 80), "no_endpoint");
}

#[test]
fn a_node_that_is_let_in_may_come_with_the_load_balancers_own_address() {
    for (ranges, expected) in [("192.168.0.0/24", "HTs"), ("192.0.2.0/24", "source_range")] {
        let spec = format!("type: LoadBalancer, {PORT}, loadBalancerSourceRanges: [{ranges}]");
        let asked = Asked::with(
            &web(&spec, INGRESS.replace("203.0.113.80}", "203.0.113.80}, {ip: 203.0.113.81}").as_str()),
            CONFIG,
        );
        assert_eq!(asked.outcome("TCP", "203.0.113.81", "203.0.113.80", 80), expected, "{ranges}");
        assert_eq!(asked.outcome("TCP", "192.168.0.2", "203.0.113.80", 80), expected, "{ranges}");
    }
}

#[test]
fn a_range_that_cannot_be_read_lets_nobody_in_and_is_reported() {
    let spec = format!("type: LoadBalancer, {PORT}, loadBalancerSourceRanges: [everybody]");
    let asked = Asked::with(&web(&spec, INGRESS), CONFIG);
    assert_eq!(asked.batch(&line("TCP", "192.0.2.9", "203.0.113.80", 80, "")).0, 1);
    assert_eq!(asked.outcome("TCP", "192.0.2.9", "203.0.113.80", 80), "source_range");
}

#[test]
fn an_address_that_is_not_served_here_is_left_alone() {
    let proxied = INGRESS.replace("203.0.113.80", "203.0.113.80, ipMode: Proxy");
    for (spec, status, dst) in [
        (format!("type: LoadBalancer, {PORT}"), proxied.as_str(), "203.0.113.80"),
        (
            format!("type: LoadBalancer, {PORT}"),
            "status: {loadBalancer: {ingress: [{hostname: lb.example}]}}",
            "203.0.113.80",
        ),
        (format!("externalIPs: [203.0.113.80], {PORT}"), "", "203.0.113.80"),
    ] {
        let asked = Asked::with(&web(&spec, status), CONFIG);
        let found = ["10.244.0.5", "192.168.0.2", "192.0.2.9"].map(|src| asked.outcome("TCP", src, dst, 80));
        assert_eq!(found, ["forward", "pass", "pass"], "{spec} {status}");
    }
    // ipMode VIP says what is the default.
    let asked =
        Asked::with(&web(&format!("type: LoadBalancer, {PORT}"), &INGRESS.replace("80}", "80, ipMode: VIP}")), CONFIG);
    assert_eq!(asked.outcome("TCP", "10.244.0.5", "203.0.113.80", 80), "HTs");
}

#[test]
fn a_load_balancer_works_without_node_ports_and_whatever_its_class() {
    let spec = "type: LoadBalancer, allocateLoadBalancerNodePorts: false, loadBalancerClass: example.com/lb, ports: [{name: http, port: 80}]";
    let asked = Asked::with(&web(spec, INGRESS), CONFIG);
    assert_eq!(asked.outcome("TCP", "192.0.2.9", "203.0.113.80", 80), "HTs");
    assert_eq!(asked.outcome("TCP", "192.0.2.9", "203.0.113.80", 443), "unknown_service_port");
}

#[test]
fn an_external_address_of_the_node_gives_its_port_alone_to_the_service() {
    let spec = format!("type: LoadBalancer, externalIPs: [192.168.0.2], {PORT}");
    let asked = Asked::with(&web(&spec, "status: {loadBalancer: {ingress: [{ip: \"fd00::2\"}]}}"), CONFIG);
    for (src, dst, port, expected) in [
        ("192.0.2.9", "192.168.0.2", 80, "HTs"),
        ("192.0.2.9", "192.168.0.2", 30080, "HTs"),
        ("192.0.2.9", "192.168.0.2", 22, "pass"),
        ("10.244.0.5", "192.168.0.2", 80, "HTs"),
        ("10.244.0.5", "192.168.0.2", 22, "pass"),
        ("2001:db8:9::9", "fd00::2", 80, "HTs"),
        ("2001:db8:9::9", "fd00::2", 22, "pass"),
    ] {
        assert_eq!(asked.outcome("TCP", src, dst, port), expected, "{src} to {dst}:{port}");
    }
}

#[test]
fn protocols_of_one_number_are_ports_of_their_own() {
    let objects = web(
        "ports: [{name: http, port: 53, protocol: TCP}, {name: udp, port: 53, protocol: UDP}, {name: sctp, port: 53, protocol: SCTP}]",
        "",
    )
    .replace(
        "[{name: http, port: 8080}]",
        "[{name: http, port: 8080}, {name: udp, port: 5353, protocol: UDP}, {name: sctp, port: 5354, protocol: SCTP}]",
    );
    let asked = Asked::with(&objects, CONFIG);
    for (protocol, port) in [("TCP", "8080"), ("UDP", "5353"), ("SCTP", "5354")] {
        for (src, dst, ends) in [
            ("10.244.0.5", "172.30.0.41", ["10.244.0.7", "10.244.1.7"]),
            ("fd44::5", "fd96::41", ["[fd44::7]", "[fd44:0:0:1::7]"]),
        ] {
            let (_, lines) = asked.batch(&line(protocol, src, dst, 53, ""));
            let answer: Answer = serde_json::from_str(&lines[0]).unwrap();
            let found: Vec<_> = answer.backends.into_iter().map(|backend| backend.address).collect();
            assert_eq!(found, ends.map(|end| format!("{end}:{port}")), "{protocol}");
        }
    }
}

#[test]
fn services_of_others_are_nobodys_here() {
    for (metadata, spec) in [
        ("", "clusterIPs: [None]"),
        ("", "type: ExternalName, externalName: example.com"),
        (", labels: {service.kubernetes.io/headless: ''}", "clusterIPs: [172.30.0.41]"),
        (", labels: {service.kubernetes.io/service-proxy-name: other}", "clusterIPs: [172.30.0.41]"),
        (", labels: {service.kubernetes.io/service-proxy-name: ''}", "clusterIPs: [172.30.0.41]"),
    ] {
        let objects = web(PORT, INGRESS)
            .replace("metadata: {name: web}", &format!("metadata: {{name: web{metadata}}}"))
            .replace("clusterIPs: [172.30.0.41, \"fd96::41\"]", spec);
        let asked = Asked::with(&objects, CONFIG);
        assert_eq!(asked.outcome("TCP", "10.244.0.5", "172.30.0.41", 80), "no_vip_port", "{metadata} {spec}");
        assert_eq!(asked.outcome("TCP", "192.0.2.9", "203.0.113.80", 80), "pass", "{metadata} {spec}");
        assert_eq!(asked.outcome("TCP", "192.0.2.9", "192.168.0.2", 30080), "pass", "{metadata} {spec}");
    }
    let ours = web(PORT, "").replace(
        "metadata: {name: web}",
        "metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: atalho}}",
    );
    let named = Asked::with(&ours, &format!("{CONFIG}service_proxy_name = \"atalho\"\n"));
    assert_eq!(named.outcome("TCP", "10.244.0.5", "172.30.0.41", 80), "HT");
    let unlabelled = Asked::with(&web(PORT, ""), &format!("{CONFIG}service_proxy_name = \"atalho\"\n"));
    assert_eq!(unlabelled.outcome("TCP", "10.244.0.5", "172.30.0.41", 80), "no_vip_port");
}

#[test]
fn people_are_told_about_ranges_hints_and_sources() {
    let spec = format!("type: LoadBalancer, {PORT}, loadBalancerSourceRanges: [192.0.2.0/25]");
    let objects = web(&spec, INGRESS)
        .replace("metadata: {name: node-a}", "metadata: {name: node-a, labels: {topology.kubernetes.io/zone: east}}")
        .replace("nodeName: node-a}", "nodeName: node-a, hints: {forZones: [{name: east}]}}")
        .replace("nodeName: node-b}", "nodeName: node-b, hints: {forZones: [{name: west}]}}");
    let asked = Asked::with(&objects, CONFIG);
    let (_, lines) = asked.words(["tcp", "192.0.2.9:1234", "203.0.113.80:80"], None);
    let expected = [
        "TCP 192.0.2.9:1234 -> 203.0.113.80:80, coming in by uplink",
        "  forward, translated to 10.244.0.7:8080",
        "  service   default/web:http (LoadBalancer)",
        "  endpoints",
        "    -> 10.244.0.7:8080 on node-a, this one",
        "     x 10.244.1.7:8080: hints.forZones has others than east, and some endpoint is for it",
        "  source    rewritten to 192.168.0.2: externalTrafficPolicy is Cluster, and the answer must come by here",
        "  leaves    TCP 192.168.0.2, a source port of its own, -> 10.244.0.7:8080 by pod:default/web-1",
    ];
    assert_eq!(lines, expected);
    let (_, lines) = asked.words(["tcp", "192.0.2.200:1234", "203.0.113.80:80"], None);
    assert_eq!(
        lines[1..3],
        [
            "  drop (source_range): nothing is answered",
            "  because   loadBalancerSourceRanges lets in 192.0.2.0/25 alone"
        ]
    );
    let (_, lines) = asked.words(["tcp", "fd44::7", "[fd96::41]:80"], None);
    assert!(
        lines.contains(
            &"  source    rewritten to fd00::2: the endpoint is the client itself, and its answer must come by here"
                .to_owned()
        ),
        "{lines:#?}"
    );
}
