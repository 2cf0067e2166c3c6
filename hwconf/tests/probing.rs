//! Probing real interfaces: a veth pair in a network namespace of the test's own (needs root), and loopback (does not).

use std::process::Command;

use atalho_hwconf::{ProbeError, Wishes, plan, probe, render};

/// Set in the child that runs inside the namespace.
const INSIDE: &str = "ATALHO_TEST_INSIDE_NAMESPACE";

#[test]
fn a_missing_interface_is_named_with_what_to_do() {
    let error = probe("none-such0").unwrap_err();
    assert!(matches!(error, ProbeError::Interface { .. }));
    let text = error.to_string();
    assert!(text.contains("none-such0") && text.contains("ip link"), "{text}");
    assert!(probe("").is_err());
    assert!(probe("../../etc").is_err());
}

#[test]
fn loopback_has_facts() {
    let facts = probe("lo").unwrap();
    assert_eq!(facts.interface.index, 1);
    assert!(facts.interface.mtu >= 1280);
    assert!(facts.interface.irqs.is_empty());
    assert!(facts.cores.iter().any(|core| core.allowed));
    let text = render::facts_text(&facts);
    assert!(text.contains("interface  lo (index 1") && text.contains("SIBLINGS"), "{text}");
}

#[test]
fn a_veth_in_a_namespace_of_its_own() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some() {
        println!("\nSKIPPED: probing a veth needs root");
        return;
    }
    let test = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--net", "--"])
        .arg(test)
        .args(["--exact", "a_veth_in_a_namespace_of_its_own", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) runs");
    assert!(output.status.success(), "needs root\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the test ran inside");
}

fn inside() {
    let ip = Command::new("ip")
        .args(
            "link add v0 mtu 1400 numtxqueues 2 numrxqueues 2 type veth peer name v1 numtxqueues 2 numrxqueues 2"
                .split(' '),
        )
        .status()
        .expect("ip (iproute2) runs");
    assert!(ip.success());
    let facts = probe("v0").unwrap();
    assert_eq!(facts.interface.driver.as_deref(), Some("veth"));
    assert_eq!((facts.interface.queues.rx, facts.interface.queues.tx), (2, 2));
    assert_eq!(facts.interface.mtu, 1400);
    assert_eq!(facts.interface.numa_node, None, "/sys is another namespace's and is not believed");
    let xdp = facts.interface.xdp.as_ref().expect("Linux 6.6 or later has the netdev family");
    assert!(xdp.has("basic") && xdp.has("redirect"), "{xdp:?}");
    let plan = plan(&facts, &Wishes::default()).unwrap();
    assert!(!plan.lines.is_empty());
    assert!(render::plan_text(&plan).contains("REASON"));
    assert!(render::json(&facts).unwrap().contains("\"driver\": \"veth\""));
    assert!(render::json(&plan).unwrap().contains("\"worker\": 0"));
}
