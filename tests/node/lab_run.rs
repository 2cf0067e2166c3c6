//! The demonstration itself: its account, its lock, and what it leaves when it is interrupted or killed.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use atalho_benches::lab::command::run;
use atalho_benches::lab::plan::Plan;

use crate::support::{programs, skipped, turn};

fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(programs().lab);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn wait_for(what: &str, at_most: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + at_most;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {at_most:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn namespaces_of(prefix: &str) -> Vec<String> {
    let listed = run("ip", ["netns", "list"]).unwrap();
    listed.lines().filter(|line| line.starts_with(&format!("{prefix}-"))).map(str::to_owned).collect()
}

fn assert_nothing_left(prefix: &str) {
    assert_eq!(namespaces_of(prefix), Vec::<String>::new());
    assert!(!Plan::new(prefix).folder().exists(), "the lab's folder is still there");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_gives_its_account_as_json_and_a_second_one_is_told_to_wait() {
    if skipped("a_run_gives_its_account_as_json_and_a_second_one_is_told_to_wait") {
        return;
    }
    let _turn = turn();
    let arguments = ["run", "--prefix", "at-t-run", "--seconds", "6", "--pods", "6", "-o", "json"];
    let first = lab(&arguments).spawn().unwrap();
    wait_for("the first run's namespaces", Duration::from_secs(20), || !namespaces_of("at-t-run").is_empty());
    let second = lab(&arguments).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second.stderr).contains("another lab is running"), "{}", text(&second.stderr));

    let output: Output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["problems"], serde_json::json!([]));
    // Six paths in two families, three ways each; the moving Service in two.
    assert_eq!(report["rows"].as_array().unwrap().len(), 6 * 2 * 3 + 2 * 2);
    assert_eq!(report["refused_at_once"], 20);
    assert_nothing_left("at-t-run");
}

#[test]
fn ctrl_c_cleans_up_and_so_does_the_next_one_after_a_kill() {
    if skipped("ctrl_c_cleans_up_and_so_does_the_next_one_after_a_kill") {
        return;
    }
    let _turn = turn();
    let start = || lab(&["run", "--prefix", "at-t-stop", "--seconds", "30"]).spawn().unwrap();
    let at_work = || Path::new("/run/atalho-lab/at-t-stop/run/node-a.sock").exists();
    let signal = |child: &Child, name: &str| run("kill", [name, &child.id().to_string()]).unwrap();

    let interrupted = start();
    wait_for("a daemon", Duration::from_secs(30), at_work);
    signal(&interrupted, "-INT");
    let output = interrupted.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
    assert_nothing_left("at-t-stop");

    let mut killed = start();
    wait_for("a daemon", Duration::from_secs(30), at_work);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!namespaces_of("at-t-stop").is_empty(), "a killed run cannot clean up: this test tests nothing");
    let clean = lab(&["clean", "--prefix", "at-t-stop"]).output().unwrap();
    assert!(clean.status.success(), "{}", text(&clean.stderr));
    assert_nothing_left("at-t-stop");
}
