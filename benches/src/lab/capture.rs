//! What passes an interface and should not: tcpdump with a filter, counted line by line.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::command::run;

/// A capture under way. Dropping it ends it.
pub struct Capture {
    child: Child,
    lines: Receiver<String>,
}

impl Capture {
    /// Captures on an interface of a namespace; returns once it listens.
    pub fn start(namespace: &str, interface: &str, filter: &str) -> Result<Self> {
        Self::start_with(namespace, interface, &[filter])
    }

    /// Captures what comes in by the interface, also what a kernel program redirects into it. The filter's own word
    /// `inbound` would not do: tcpdump asks for it again in what is in its ring just then, where it never holds, and so
    /// loses the first packet.
    pub fn start_inbound(namespace: &str, interface: &str, filter: &str) -> Result<Self> {
        Self::start_with(namespace, interface, &["-Q", "in", filter])
    }

    fn start_with(namespace: &str, interface: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(["tcpdump", "--immediate-mode", "-l", "-n", "-tt", "-p", "-i", interface])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start tcpdump: is it installed (./scripts/setup)?")?;
        let mut said = BufReader::new(child.stderr.take().context("tcpdump has no standard error")?);
        let mut line = String::new();
        let mut all = String::new();
        while !line.starts_with("listening on") {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                let _ = child.wait();
                bail!("tcpdump does not start on {interface} in {namespace}: {all}");
            }
            all += &line;
        }
        let output = BufReader::new(child.stdout.take().context("tcpdump has no standard output")?);
        let (sender, lines) = channel();
        thread::Builder::new().name("capture".into()).spawn(move || {
            // The rest of what it says must be read, or it would stop at a full pipe.
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        })?;
        thread::Builder::new()
            .name("capture errors".into())
            .spawn(move || said.lines().map_while(Result::ok).for_each(drop))?;
        Ok(Self { child, lines })
    }

    /// Ends it and returns what passed, one line a packet.
    pub fn finish(mut self) -> Result<Vec<String>> {
        // What has arrived last must get through tcpdump first.
        thread::sleep(Duration::from_millis(200));
        run("kill", ["-INT", &self.child.id().to_string()])?;
        self.child.wait()?;
        // Its farewell is an empty line.
        Ok(self.lines.iter().filter(|line| !line.is_empty()).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Ended already is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
