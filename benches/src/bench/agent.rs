//! The process that sends and judges inside a namespace: orders on its standard input, answers on its standard output,
//! a JSON line each. It ends when its input does, so it never outlives the bench.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::probe::{Latency, Probing};
use super::programs::{Arrived, Programs, Sending, Sent, Stream};

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Load { stream: Stream, interface: String, spare: [String; 2], core: usize },
    Send(Sending),
    Arrived,
    Probe(Probing),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Loaded,
    Sent(Sent),
    Arrived(Arrived),
    Probed(Latency),
    Failed(String),
}

/// The process's side.
pub fn serve() -> Result<()> {
    let mut programs = None;
    for line in std::io::stdin().lock().lines() {
        let order = serde_json::from_str(&line?).context("an order that makes no sense")?;
        let answer = obey(order, &mut programs).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

fn obey(order: Order, programs: &mut Option<Programs>) -> Result<Answer> {
    let loaded = programs.as_mut().context("nothing is loaded yet");
    Ok(match order {
        Order::Load { stream, interface, spare, core } => {
            atalho_sys::cores::pin(core)?;
            *programs = Some(Programs::load(&stream, &interface, [&spare[0], &spare[1]])?);
            Answer::Loaded
        }
        Order::Send(sending) => Answer::Sent(loaded?.send(&sending)?),
        Order::Arrived => Answer::Arrived(loaded?.arrived()?),
        Order::Probe(probing) => Answer::Probed(loaded?.probe(&probing)?),
    })
}

/// The bench's side.
pub struct Agent {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts one in a namespace: `bench` is this program's own file.
    pub fn start(bench: &Path, namespace: &str) -> Result<Self> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg(bench)
            .arg("agent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {} in {namespace}", bench.display()))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the agent in {namespace} has no pipes");
        };
        Ok(Self { child, orders, answers: BufReader::new(answers) })
    }

    /// Loads the programs and pins the process, so that all that it sends is made on one core.
    pub fn load(&mut self, stream: Stream, interface: &str, spare: [&str; 2], core: usize) -> Result<()> {
        let order = Order::Load { stream, interface: interface.into(), spare: spare.map(str::to_owned), core };
        match self.ask(&order)? {
            Answer::Loaded => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    pub fn send(&mut self, sending: Sending) -> Result<Sent> {
        match self.ask(&Order::Send(sending))? {
            Answer::Sent(sent) => Ok(sent),
            other => Err(unexpected(other)),
        }
    }

    pub fn arrived(&mut self) -> Result<Arrived> {
        match self.ask(&Order::Arrived)? {
            Answer::Arrived(arrived) => Ok(arrived),
            other => Err(unexpected(other)),
        }
    }

    pub fn probe(&mut self, probing: Probing) -> Result<Latency> {
        match self.ask(&Order::Probe(probing))? {
            Answer::Probed(latency) => Ok(latency),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?).context("the agent has ended")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the agent has ended; what it said stands above");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

fn unexpected(answer: Answer) -> anyhow::Error {
    match answer {
        Answer::Failed(reason) => anyhow!(reason),
        other => anyhow!("the agent answered {other:?}"),
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ended already is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
