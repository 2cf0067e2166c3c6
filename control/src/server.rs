//! The unix socket by which `atalho status`, `why` and their like ask the running daemon. One JSON object a line, one
//! line back: `{"ask":"status"}`, `{"ask":"why","queries":[..]}`, `{"ask":"drops"}`; and, a part of the whole each time,
//! `{"ask":"flows","from":N,"filter":{..}}` and `{"ask":"svc","after":NAME,..}`. Mode 0600: who may read it is root.

mod client;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::publish::Question;
use crate::status::Collector;
use crate::why::{self, Answer, Query, View};
use crate::{drops, flows, svc};

pub use client::{AskError, Client, ask};

/// Longest request line, bytes: a batch of some ten thousand queries.
const REQUEST_MAX: u64 = 8 << 20;

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
        let mut reply = match serde_json::from_str::<Value>(&line) {
            Ok(request) => reply(&request, collector, questions).await,
            Err(error) => Err(format!("the request is no JSON of at most {REQUEST_MAX} bytes: {error}")),
        }
        .unwrap_or_else(|why| json!({ "error": why }).to_string());
        reply.push('\n');
        write.write_all(reply.as_bytes()).await?;
    }
}

/// The answer as JSON, or why there is none.
async fn reply(request: &Value, collector: &Collector, questions: &mpsc::Sender<Question>) -> Result<String, String> {
    match request["ask"].as_str() {
        Some("status") => written(&collector.status()),
        Some("drops") => written(&drops::of(collector)),
        Some("flows") => written(&flows::part(collector, &read(request)?)?),
        Some("svc") => {
            let asked = read(request)?;
            written(&of_model(questions, move |view| svc::part(view, &asked)).await?)
        }
        Some("why") => {
            let queries: Vec<Query> = read(&request["queries"])?;
            let answer = move |view: &View<'_>| Ok(queries.iter().map(|query| why::answer(view, query)).collect());
            let answers: Vec<Answer> = of_model(questions, answer).await?;
            written(&json!({ "answers": answers }))
        }
        // How a test has the publisher panic; no release has it.
        Some("panic") if cfg!(debug_assertions) => {
            let answer: () = of_model(questions, |_| panic!("somebody asked for it")).await?;
            written(&answer)
        }
        _ => Err("ask for one of status, svc, flows, drops, why".to_owned()),
    }
}

fn read<T: DeserializeOwned>(request: &Value) -> Result<T, String> {
    T::deserialize(request).map_err(|error| format!("the question cannot be read: {error}"))
}

fn written<T: Serialize>(answer: &T) -> Result<String, String> {
    serde_json::to_string(answer).map_err(|error| error.to_string())
}

/// Has the owner of the model answer.
async fn of_model<T: Send + 'static>(
    questions: &mpsc::Sender<Question>,
    answer: impl FnOnce(&View<'_>) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (send, receive) = oneshot::channel();
    let question: Question = Box::new(move |view| {
        // Whoever asked may have gone.
        let _ = send.send(view.and_then(answer));
    });
    questions.send(question).await.map_err(|_| "the daemon is ending".to_owned())?;
    receive
        .await
        .map_err(|_| "no answer: the daemon is ending, or had to begin anew; see `atalho status`".to_owned())?
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
}
