//! The unix socket by which `atalho status`, `why` and their like ask the running daemon. One JSON object a line, one
//! line back: `{"ask":"status"}`, `{"ask":"why","queries":[..]}`, `{"ask":"drops"}`, `{"ask":"flows","limit":N}`.
//! Mode 0600: who may read it is root. The client half is synchronous and stands here too, so that both agree.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::publish::Question;
use crate::status::Collector;
use crate::why::Query;

/// Longest request line, bytes: a batch of some ten thousand queries.
const REQUEST_MAX: u64 = 8 << 20;
/// The daemon answers within this or is taken for hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Flows shown where no limit is given.
const FLOWS_SHOWN: u64 = 1000;

/// Where the socket of this node's daemon is.
pub fn socket_path(run_dir: &Path, node: &str) -> PathBuf {
    run_dir.join(format!("{node}.sock"))
}

/// Takes the socket. Refuses while another daemon answers on it; a dead one's is replaced.
pub fn listen(run_dir: &Path, node: &str) -> Result<StdListener, String> {
    let path = socket_path(run_dir, node);
    let failed = |what: &str, error: std::io::Error| {
        format!(
            "{what} {}: {error}; run as root, or set [node] run_dir to a folder that can be written",
            path.display()
        )
    };
    std::fs::create_dir_all(run_dir).map_err(|error| failed("making the folder of", error))?;
    if StdStream::connect(&path).is_ok() {
        return Err(format!(
            "another daemon for the node {node} answers on {}; stop it first, or give this one another [node] name",
            path.display()
        ));
    }
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("replacing", error)),
    }
    let listener = StdListener::bind(&path).map_err(|error| failed("binding", error))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| failed("restricting", error))?;
    listener.set_nonblocking(true).map_err(|error| failed("preparing", error))?;
    Ok(listener)
}

/// Serves until the runtime ends.
pub async fn serve(listener: StdListener, collector: Arc<Collector>, questions: mpsc::Sender<Question>) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("the status socket: {error}; `atalho status` will not be answered");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (collector, questions) = (collector.clone(), questions.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &collector, &questions).await {
                        tracing::debug!("a client of the status socket: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("accepting on the status socket: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(
    stream: UnixStream,
    collector: &Collector,
    questions: &mpsc::Sender<Question>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = AsyncBufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut read).take(REQUEST_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_str::<Value>(&line) {
            Ok(request) => reply(&request, collector, questions).await,
            Err(error) => json!({"error": format!("the request is no JSON of at most {REQUEST_MAX} bytes: {error}")}),
        };
        let mut bytes = reply.to_string().into_bytes();
        bytes.push(b'\n');
        write.write_all(&bytes).await?;
    }
}

async fn reply(request: &Value, collector: &Collector, questions: &mpsc::Sender<Question>) -> Value {
    match request["ask"].as_str() {
        Some("status") => serde_json::to_value(collector.status()).unwrap_or_else(|error| failure(&error)),
        Some("drops") => collector.drops(),
        Some("flows") => collector.flows(request["limit"].as_u64().unwrap_or(FLOWS_SHOWN)),
        Some("why") => {
            let queries: Vec<Query> = match serde_json::from_value(request["queries"].clone()) {
                Ok(queries) => queries,
                Err(error) => return failure(&error),
            };
            let (send, receive) = oneshot::channel();
            if questions.send(Question { queries, reply: send }).await.is_err() {
                return failure(&"the daemon is ending");
            }
            match receive.await {
                Ok(Ok(answers)) => json!({"answers": answers}),
                Ok(Err(why)) => failure(&why),
                Err(_) => failure(&"the daemon is ending"),
            }
        }
        _ => failure(&"ask for one of status, drops, flows, why"),
    }
}

fn failure(why: &dyn fmt::Display) -> Value {
    json!({"error": why.to_string()})
}

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

/// Asks the daemon of this node one question.
pub fn ask(run_dir: &Path, node: &str, request: &Value) -> Result<Value, AskError> {
    let path = socket_path(run_dir, node);
    let no_daemon = |error: std::io::Error| {
        let next = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "ask as root",
            _ => "start it with `atalho run`, or name its node with [node] name and its folder with [node] run_dir",
        };
        AskError::NoDaemon(format!("no daemon for the node {node} answers on {}: {error}; {next}", path.display()))
    };
    let mut stream = StdStream::connect(&path).map_err(no_daemon)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(no_daemon)?;
    let mut line = request.to_string();
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(no_daemon)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(no_daemon)?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| {
        AskError::Refused(format!("the daemon on {} does not speak our language: {error}", path.display()))
    })?;
    match answer["error"].as_str() {
        Some(why) => Err(AskError::Refused(why.to_owned())),
        None => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_a_dead_ones_socket_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let first = listen(folder.path(), "node-a").unwrap();
        let mode = std::fs::metadata(socket_path(folder.path(), "node-a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = listen(folder.path(), "node-a").unwrap_err();
        assert!(error.contains("another daemon") && error.contains("node-a"), "{error}");
        listen(folder.path(), "node-b").unwrap();
        drop(first);
        listen(folder.path(), "node-a").unwrap();
    }

    #[test]
    fn no_daemon_is_said_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let error = ask(folder.path(), "node-a", &json!({"ask": "status"})).unwrap_err();
        assert!(matches!(&error, AskError::NoDaemon(why) if why.contains("atalho run")), "{error}");
    }
}
