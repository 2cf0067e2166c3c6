//! Commands that the lab runs: their failure is told with what they printed.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs it and returns what it printed.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    run_with_input(program, arguments, "")
}

/// The same, with `input` on its standard input.
pub fn run_with_input<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{shown}`: is {program} installed (./scripts/setup)?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input has its reason; its exit code tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it inside a network namespace, /sys left as it is.
pub fn run_in(namespace: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let net = format!("--net=/run/netns/{namespace}");
    run("nsenter", [&[net.as_str(), program], arguments].concat())
}

/// Runs lines of `ip` inside a network namespace; the first that fails ends it.
pub fn ip(namespace: &str, lines: &str) -> Result<()> {
    run_with_input("ip", ["-n", namespace, "-batch", "-"], lines).map(drop)
}
