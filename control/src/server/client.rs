//! The client's half of the status socket: synchronous, for the commands that ask the running daemon.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::socket_path;

/// The daemon answers within this or is taken for hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why the daemon did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskError {
    /// Nobody listens: the path, and why.
    NoDaemon(String),
    /// It answered that it cannot.
    Refused(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for AskError {}

/// A conversation with the daemon of this node.
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    node: String,
}

impl Client {
    pub fn connect(run_dir: &Path, node: &str) -> Result<Self, AskError> {
        let path = socket_path(run_dir, node);
        let connected = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), path, node: node.to_owned() }),
            Err(error) => Err(no_daemon(&path, node, &error)),
        }
    }

    /// Asks one question.
    pub fn ask(&mut self, request: &Value) -> Result<Value, AskError> {
        let mut line = request.to_string();
        line.push('\n');
        let mut answer = String::new();
        let outcome =
            self.stream.get_mut().write_all(line.as_bytes()).and_then(|()| self.stream.read_line(&mut answer));
        outcome.map_err(|error| no_daemon(&self.path, &self.node, &error))?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| {
            AskError::Refused(format!("the daemon on {} does not speak our language: {error}", self.path.display()))
        })?;
        match answer["error"].as_str() {
            Some(why) => Err(AskError::Refused(why.to_owned())),
            None => Ok(answer),
        }
    }

    /// Asks one question whose answer is a `T`.
    pub fn ask_for<T: DeserializeOwned>(&mut self, request: &Value) -> Result<T, AskError> {
        serde_json::from_value(self.ask(request)?).map_err(|error| {
            AskError::Refused(format!(
                "the daemon is of another version than this command: {error}; use its own `atalho`"
            ))
        })
    }
}

fn no_daemon(path: &Path, node: &str, error: &std::io::Error) -> AskError {
    let next = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "ask as root",
        _ => "start it with `atalho run`, or name its node with [node] name and its folder with [node] run_dir",
    };
    AskError::NoDaemon(format!("no daemon for the node {node} answers on {}: {error}; {next}", path.display()))
}

/// Asks the daemon of this node one question.
pub fn ask(run_dir: &Path, node: &str, request: &Value) -> Result<Value, AskError> {
    Client::connect(run_dir, node)?.ask(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_daemon_is_said_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let error = ask(folder.path(), "node-a", &serde_json::json!({"ask": "status"})).unwrap_err();
        assert!(matches!(&error, AskError::NoDaemon(why) if why.contains("atalho run")), "{error}");
    }
}
