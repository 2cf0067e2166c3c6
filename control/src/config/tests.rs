use super::*;

fn problems(text: &str) -> Vec<String> {
    match Config::parse(Path::new("atalho.toml"), text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = Config::parse(Path::new("atalho.toml"), "").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.conntrack.max_flows, 262_144);
    assert_eq!(config.conntrack.timeouts.tcp_established_s, 432_000);
    assert_eq!(config.worker, WorkerConfig { count: None, spin_us: Some(50), is_fair: true });
    assert_eq!(config.shortcut, ShortcutConfig { on: true, orphan_max_s: 300 });
    assert_eq!(config.cluster.pod_cidrs, None);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        [node]
        name = "node-a"
        addresses = ["192.168.0.2", "fd00::2"]
        bpffs = "/tmp/bpf"
        run_dir = "/tmp/run"
        [cluster]
        pod_cidrs = []
        service_cidrs = ["10.96.0.0/12"]
        [uplink]
        interface = "eth1"
        [funnel]
        names = ["a0", "a1"]
        [worker]
        count = 2
        spin_us = "always"
        fairness = "off"
        [conntrack]
        max_flows = 65_536
        tcp_established_s = 600
        loose = false
        snat_ports = [50000, 50999]
        [pods]
        network = "adopt"
        [shortcut]
        mode = "off"
        orphan_max_s = 10
        [service]
        scheduler = "random"
        masquerade_all = true
        node_port_addresses = ["192.168.0.0/16"]
        external_ip_cidrs = ["203.0.113.0/24"]
        service_proxy_name = "atalho"
        [status]
        healthz_addresses = ["0.0.0.0:1"]
        metrics_addresses = []
    "#;
    let c = Config::parse(Path::new("atalho.toml"), text).unwrap();
    assert_eq!(c.node.name, "node-a");
    assert_eq!(c.node.addresses.len(), 2);
    assert_eq!(c.node.bpffs, Path::new("/tmp/bpf"));
    assert_eq!(c.node.run_dir, Path::new("/tmp/run"));
    assert_eq!(c.cluster.pod_cidrs, Some(vec![]));
    assert_eq!(c.cluster.service_cidrs, Some(vec!["10.96.0.0/12".parse().unwrap()]));
    assert_eq!(c.uplink.interface.as_deref(), Some("eth1"));
    assert_eq!(c.funnel.names, ["a0", "a1"]);
    assert_eq!(c.worker, WorkerConfig { count: Some(2), spin_us: None, is_fair: false });
    assert_eq!(c.conntrack.max_flows, 65_536);
    assert_eq!(c.conntrack.timeouts.tcp_established_s, 600);
    assert_eq!((c.conntrack.loose, c.conntrack.snat_ports), (false, Some(50_000..=50_999)));
    assert_eq!(c.pods.network, PodNetwork::Adopt);
    assert_eq!(c.shortcut, ShortcutConfig { on: false, orphan_max_s: 10 });
    assert_eq!((c.service.scheduler, c.service.masquerade_all), (Scheduler::Random, true));
    assert_eq!(c.service.node_port_addresses, NodePortAddresses::Cidrs(vec!["192.168.0.0/16".parse().unwrap()]));
    assert_eq!(c.service.external_ip_cidrs.len(), 1);
    assert_eq!(c.service.service_proxy_name, "atalho");
    assert_eq!(c.status.healthz_addresses, ["0.0.0.0:1".parse().unwrap()]);
    assert_eq!(c.status.metrics_addresses, []);
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_one_and_its_line() {
    assert_eq!(
        problems("[cluster]\npod_cidr = []\n"),
        ["atalho.toml:2: unknown key cluster.pod_cidr; did you mean cluster.pod_cidrs?"]
    );
    assert_eq!(problems("\n[conntrak]\n"), ["atalho.toml:2: unknown key conntrak; did you mean [conntrack]?"]);
    assert_eq!(
        problems("[worker]\nsipn_us = 3\n"),
        ["atalho.toml:2: unknown key worker.sipn_us; did you mean worker.spin_us?"]
    );
    assert_eq!(
        problems("[shortcut]\nzzz = 3\n"),
        ["atalho.toml:2: unknown key shortcut.zzz; [shortcut] knows mode, orphan_max_s"]
    );
}

#[test]
fn a_wrong_type_says_what_stands_there_and_what_was_wanted() {
    for (text, message) in [
        (
            "[worker]\ncount = \"two\"",
            "atalho.toml:2: worker.count is the string \"two\", wanted \"auto\" or a number of workers",
        ),
        ("[worker]\nspin_us = -1", "atalho.toml:2: worker.spin_us is the number -1, wanted \"always\" or microseconds"),
        (
            "[node]\naddresses = \"10.0.0.1\"",
            "atalho.toml:2: node.addresses is the string \"10.0.0.1\", wanted a list of IP addresses in quotes",
        ),
        (
            "[node]\naddresses = [\"10.0.0.300\"]",
            "atalho.toml:2: node.addresses is the list [the string \"10.0.0.300\"], wanted a list of IP addresses in quotes",
        ),
        (
            "[service]\nmasquerade_all = 1",
            "atalho.toml:2: service.masquerade_all is the number 1, wanted true or false",
        ),
        (
            "[service]\nscheduler = \"rr\"",
            "atalho.toml:2: service.scheduler is the string \"rr\", wanted \"maglev\" or \"random\"",
        ),
        ("service = 5", "atalho.toml:1: service is the number 5, wanted a table: [service]"),
        ("[shortcut]\nmode = true", "atalho.toml:2: shortcut.mode is true, wanted \"on\" or \"off\""),
    ] {
        assert_eq!(problems(text), [message]);
    }
}

#[test]
fn values_out_of_bounds_name_the_key() {
    for (text, message) in [
        ("[conntrack]\nmax_flows = 10", "atalho.toml:2: conntrack.max_flows must be 1024 to 16777216"),
        ("[conntrack]\nudp_s = 0", "atalho.toml:2: conntrack.udp_s must be 1 to 31536000 seconds (a year)"),
        (
            "[conntrack]\nsnat_ports = [5, 4]",
            "atalho.toml:2: conntrack.snat_ports must be \"auto\", or a first and a last port, both from 1024 on: \"61000-65535\"",
        ),
        ("[worker]\ncount = 0", "atalho.toml:2: worker.count must be \"auto\" or 1 to 128"),
        ("[funnel]\nnames = [\"a\"]", "atalho.toml:2: funnel.names must be two interface names, not 1"),
        (
            "[uplink]\ninterface = \"a/b\"",
            "atalho.toml:2: uplink.interface must be an interface name: 1 to 15 bytes, no slash, no space",
        ),
        (
            "[node]\nname = \"\"",
            "atalho.toml:2: node.name must not be empty; leave it out to take $NODE_NAME or the hostname",
        ),
    ] {
        assert_eq!(problems(text), [message]);
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let found = problems("[service]\nscheduler = 1\n[node]\nnam = 2\n[worker]\ncount = 0\n");
    assert_eq!(
        found.iter().map(|p| p.split(": ").next().unwrap()).collect::<Vec<_>>(),
        ["atalho.toml:2", "atalho.toml:4", "atalho.toml:6"]
    );
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let found = problems("[node]\nname = \n");
    assert!(found[0].starts_with("atalho.toml:2: not TOML: "), "{found:?}");
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = Config::load(Some(Path::new("/nonexistent/atalho.toml"))).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/atalho.toml: cannot be read") && error.contains("--config"), "{error}");
}
