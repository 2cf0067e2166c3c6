//! A run of the program on packets that a test has made.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::capture;

pub const SECOND_NS: u64 = 1_000_000_000;
/// When captures begin, nanoseconds since 1970.
pub const START_NS: u64 = 1_700_000_000 * SECOND_NS;

/// A packet on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub port: String,
    /// Since 1970.
    pub time_ns: u64,
    pub bytes: Vec<u8>,
}

/// A line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub n: u64,
    pub r#in: String,
    pub verdict: String,
    pub reason: Option<String>,
    pub out: Vec<usize>,
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub said: String,
    pub lines: Vec<Line>,
    pub books: Value,
    pub out: Vec<Frame>,
    /// The capture that was written, and the report, byte by byte.
    pub bytes: (Vec<u8>, Vec<u8>),
}

impl Ran {
    /// The frames that input packet `n` caused.
    pub fn out_of(&self, n: usize) -> Vec<&Frame> {
        self.lines[n - 1].out.iter().map(|number| &self.out[number - 1]).collect()
    }

    /// The one frame that input packet `n` caused.
    pub fn sent(&self, n: usize) -> &Frame {
        let frames = self.out_of(n);
        assert_eq!(frames.len(), 1, "packet {n}: {:?}", self.lines[n - 1]);
        frames[0]
    }

    pub fn verdict(&self, n: usize) -> (&str, Option<&str>) {
        (&self.lines[n - 1].verdict, self.lines[n - 1].reason.as_deref())
    }
}

/// A run to be made.
pub struct Lab {
    folder: TempDir,
    frames: Vec<Frame>,
    arguments: Vec<String>,
    manifests: PathBuf,
    /// A small table: most runs have few connections, and its memory is most of what a start costs.
    config: String,
}

impl Lab {
    /// On the example cluster, as its node-a.
    pub fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            frames: Vec::new(),
            arguments: Vec::new(),
            manifests: examples(),
            config: "[conntrack]\nmax_flows = 4096\n".to_owned(),
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn manifests(mut self, folder: impl Into<PathBuf>) -> Self {
        self.manifests = folder.into();
        self
    }

    /// Adds to the configuration file.
    pub fn config(mut self, more: &str) -> Self {
        self.config += more;
        self
    }

    fn config_file(&self) -> PathBuf {
        self.folder().join("atalho.toml")
    }

    /// A packet comes in, so many seconds after the start.
    pub fn packet(mut self, at_s: f64, port: &str, bytes: Vec<u8>) -> Self {
        let time_ns = START_NS + (at_s * 1e9).round() as u64;
        self.frames.push(Frame { port: port.to_owned(), time_ns, bytes });
        self
    }

    pub fn argument(mut self, words: &[&str]) -> Self {
        self.arguments.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Runs it; fails unless the exit code is 0.
    pub fn run(self) -> Ran {
        let ran = self.run_anyhow();
        assert_eq!(ran.code, 0, "{}", ran.said);
        ran
    }

    /// Runs it, whatever the exit code.
    pub fn run_anyhow(self) -> Ran {
        let bytes = capture::write(&self.frames);
        self.run_on(&bytes)
    }

    /// Runs it on these bytes instead of packets.
    pub fn run_on(self, input: &[u8]) -> Ran {
        let (from, to) = (self.folder.path().join("in.pcapng"), self.folder.path().join("out.pcapng"));
        std::fs::write(&from, input).expect("the capture");
        std::fs::write(self.config_file(), &self.config).expect("the configuration");
        let output = command(&self.manifests, &from, &to)
            .arg("--config")
            .arg(self.config_file())
            .args(&self.arguments)
            .output()
            .expect("a run");
        ran(&output, std::fs::read(&to).unwrap_or_default())
    }
}

pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster")
}

pub fn command(manifests: &Path, from: &Path, to: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atalho"));
    command.args(["replay", "--node", "node-a", "-o", "json"]);
    command.arg("--manifests").arg(manifests).arg("--in").arg(from).arg("--out").arg(to);
    command
}

fn ran(output: &Output, written: Vec<u8>) -> Ran {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().expect("an exit code");
    let mut values: Vec<Value> = output
        .stdout
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("JSON"))
        .collect();
    let books = values.pop().unwrap_or_default();
    let lines: Vec<Line> = values.into_iter().map(|value| serde_json::from_value(value).expect("a line")).collect();
    let out = capture::read(&written);
    if code != 2 {
        check(&lines, &books, out.len());
    }
    Ran { code, said, lines, books, out, bytes: (written, output.stdout.clone()) }
}

/// What holds of every run.
fn check(lines: &[Line], books: &Value, sent: usize) {
    let count = |name: &str| books[name].as_u64().unwrap_or_else(|| panic!("{name} in {books}"));
    let dropped: u64 =
        books["dropped"].as_object().expect("reasons").values().map(|n| n.as_u64().expect("a count")).sum();
    assert_eq!(count("received"), lines.len() as u64, "{books}");
    assert_eq!(count("received"), count("forwarded") + count("punted") + dropped, "{books}");
    assert_eq!(count("forwarded") + count("originated"), sent as u64, "{books}");
    let mut numbers: Vec<usize> = lines.iter().flat_map(|line| line.out.iter().copied()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=sent).collect::<Vec<_>>(), "every packet has one cause");
    for (n, line) in (1..).zip(lines) {
        assert_eq!(line.n, n);
        let with_reason = matches!(line.verdict.as_str(), "reject" | "drop");
        assert_eq!(line.reason.is_some(), with_reason, "{line:?}");
        assert!(with_reason || matches!(line.verdict.as_str(), "forward" | "pass"), "{line:?}");
    }
    for (reason, n) in books["dropped"].as_object().expect("reasons") {
        let told = lines.iter().filter(|line| line.verdict == "drop" && line.reason.as_ref() == Some(reason)).count();
        assert_eq!(n.as_u64(), Some(told as u64), "{reason}");
    }
}
