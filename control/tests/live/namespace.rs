//! Runs a test in a network namespace of its own, by running the test's binary once more under `unshare --net`. Needs
//! root; `ATALHO_SKIP_ROOT_TESTS=1` skips.

use std::process::Command;

const INSIDE: &str = "ATALHO_TEST_INSIDE_NAMESPACE";

/// Runs the body of the test that calls this in a namespace with an uplink `up0` (192.0.2.2/24, 2001:db8::2/64, default route by .1) whose other
/// end `far0` answers there.
pub fn in_namespace<F: FnOnce()>(body: F) {
    // The body is a closure of the test: its type bears the test's name, as the harness takes it after the crate's.
    let name = std::any::type_name::<F>();
    let test = name.split_once("::").map_or(name, |(_, test)| test).trim_end_matches("::{{closure}}");
    if std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some() {
        println!("SKIPPED: {test}: ATALHO_SKIP_ROOT_TESTS is set");
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    let binary = std::env::current_exe().unwrap();
    let script = "set -e
        ip link set lo up
        unshare --net sleep 60 & far=$!
        sleep 0.2
        ip link add up0 type veth peer name far0
        ip link set far0 netns $far
        ip addr add 192.0.2.2/24 dev up0
        ip addr add 2001:db8::2/64 dev up0 nodad
        ip link set up0 up
        nsenter --net=/proc/$far/ns/net sh -c 'ip addr add 192.0.2.1/24 dev far0; ip addr add 2001:db8::1/64 dev far0 nodad; ip link set far0 up; ip link set lo up'
        ip route add default via 192.0.2.1
        status=0; \"$0\" --exact \"$1\" --nocapture || status=$?
        kill $far
        exit $status";
    // The inner run speaks only when it failed: it would be counted as a test of its own.
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(binary)
        .arg(test)
        .env(INSIDE, "1")
        .output()
        .expect("running unshare (util-linux)");
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        panic!("{test} inside its namespace: {}\n{}", output.status, said.concat());
    }
}

pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
