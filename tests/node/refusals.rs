//! What keeps the daemon from starting: said before anything is touched, with what, where, why and what to do next.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use atalho_benches::lab::command::{ip, run, run_in};
use atalho_benches::lab::daemon::{Objects, command, write_config};
use atalho_benches::lab::network::Network;
use atalho_benches::lab::objects;
use atalho_benches::lab::plan::Plan;

use crate::support::{atalho, skipped};

/// A network without agents, and the configuration in it.
struct Bare {
    network: Network,
}

impl Bare {
    fn build(plan: &Plan) -> Self {
        let network = Network::build(plan).expect("a network");
        objects::write(plan).expect("objects");
        Self { network }
    }

    /// Starts the daemon, which must refuse: exit code 2, and every one of these words on standard error.
    fn refused(&self, config: &Path, words: &[&str]) {
        let plan = self.network.plan();
        let output = command(&atalho(), &plan.node(), config, &Objects::Manifests(plan.manifests())).output().unwrap();
        assert_refusal(&output, words);
    }
}

fn assert_refusal(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn with_line(config: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(config, text.replace(from, to)).unwrap();
}

#[test]
fn without_root() {
    if skipped("without_root") {
        return;
    }
    let plan = Plan::new("at-t-noroot");
    let bare = Bare::build(&plan);
    let config = write_config(&plan, None, "").unwrap();
    // Copied to where nobody may run it, whatever the build folder's permissions are.
    let copy = std::env::temp_dir().join(format!("atalho-noroot-{}", std::process::id()));
    fs::copy(atalho(), &copy).unwrap();
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", plan.node()))
        .args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"])
        .arg(&copy)
        .arg("run")
        .arg("--config")
        .arg(&config)
        .arg("--manifests")
        .arg(plan.manifests())
        .output()
        .unwrap();
    fs::remove_file(&copy).unwrap();
    assert_refusal(&output, &["root"]);
    drop(bare);
}

#[test]
fn an_interface_that_is_missing_or_of_a_kind_it_cannot_drive() {
    if skipped("an_interface_that_is_missing_or_of_a_kind_it_cannot_drive") {
        return;
    }
    let plan = Plan::new("at-t-iface");
    let bare = Bare::build(&plan);
    let config = write_config(&plan, None, "").unwrap();
    with_line(&config, "interface = \"uplink\"", "interface = \"nosuch0\"");
    bare.refused(&config, &["nosuch0"]);

    ip(&plan.node(), "link add br-test type bridge\nlink set br-test up\n").unwrap();
    with_line(&config, "nosuch0", "br-test");
    bare.refused(&config, &["br-test", "bridge"]);
    // Bonds and VLANs are refused alike, but not every kernel can make one; ifb has no native XDP.
    ip(&plan.node(), "link add ifb-test type ifb\nlink set ifb-test up\n").unwrap();
    with_line(&config, "br-test", "ifb-test");
    bare.refused(&config, &["ifb-test", "XDP"]);
}

#[test]
fn fewer_queues_than_workers() {
    if skipped("fewer_queues_than_workers") {
        return;
    }
    let plan = Plan { queues: 1, ..Plan::new("at-t-queues") };
    let bare = Bare::build(&plan);
    let config = write_config(&plan, Some(2), "").unwrap();
    bare.refused(&config, &["uplink", "queue", "2 workers"]);
}

#[test]
fn another_program_on_the_uplink() {
    if skipped("another_program_on_the_uplink") {
        return;
    }
    let plan = Plan::new("at-t-foreign");
    let bare = Bare::build(&plan);
    let config = write_config(&plan, None, "").unwrap();
    let source = plan.folder().join("pass.c");
    let object = plan.folder().join("pass.o");
    fs::write(
        &source,
        "__attribute__((section(\"xdp\"), used)) int pass_all(void *packet) { (void)packet; return 2; }\n",
    )
    .unwrap();
    run("clang", ["-O2", "-g", "-target", "bpf", "-c", &source.to_string_lossy(), "-o", &object.to_string_lossy()])
        .unwrap();
    run_in(
        &plan.node(),
        "ip",
        &["link", "set", "dev", "uplink", "xdp", "obj", &object.to_string_lossy(), "sec", "xdp"],
    )
    .unwrap();
    bare.refused(&config, &["uplink", "XDP", "pass_all"]);
    // The other program is still there.
    let shown = run_in(&plan.node(), "ip", &["link", "show", "dev", "uplink"]).unwrap();
    assert!(shown.contains("prog/xdp"), "{shown}");
}

#[test]
fn no_bpf_file_system() {
    if skipped("no_bpf_file_system") {
        return;
    }
    let plan = Plan::new("at-t-bpffs");
    let bare = Bare::build(&plan);
    let config = write_config(&plan, None, "").unwrap();
    let plain = plan.folder().join("plain");
    fs::create_dir(&plain).unwrap();
    with_line(&config, &plan.bpffs().to_string_lossy(), &plain.to_string_lossy());
    bare.refused(&config, &[&plain.to_string_lossy(), "mount -t bpf"]);
}

#[test]
fn a_configuration_with_an_unknown_key_or_a_wrong_type() {
    if skipped("a_configuration_with_an_unknown_key_or_a_wrong_type") {
        return;
    }
    let plan = Plan::new("at-t-config");
    let bare = Bare::build(&plan);
    let config = write_config(&plan, None, "spin_uss = 5\n").unwrap();
    bare.refused(&config, &["atalho.toml:", "spin_uss", "spin_us"]);
    let config = write_config(&plan, None, "spin_us = [5]\n").unwrap();
    bare.refused(&config, &["atalho.toml:", "spin_us"]);
    let config = write_config(&plan, None, "[[[\n").unwrap();
    bare.refused(&config, &["atalho.toml:"]);
    fs::remove_file(&config).unwrap();
    bare.refused(&config, &["atalho.toml"]);
}

#[test]
fn no_daemon_to_ask() {
    let folder = std::env::temp_dir().join(format!("atalho-nobody-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let config = folder.join("atalho.toml");
    fs::write(&config, format!("[node]\nname = \"nobody\"\nrun_dir = {folder:?}\n")).unwrap();
    let output = Command::new(atalho()).args(["status", "--config"]).arg(&config).output().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("nobody") && said.contains("atalho run"), "{said}");
}
