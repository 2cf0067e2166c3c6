//! Whether the API server is ready, by its own word. It serves watches from memory, so where its etcd stands still no watch
//! fails, and nobody is told of anything.
//!
//! Anybody may ask `/readyz` (ClusterRole system:public-info-viewer), and the server serves it outside its queues. Where it
//! may not be asked, or nobody answers, this says nothing: the watches tell of that.

use std::time::{Duration, Instant};

use axum::http::{Request, StatusCode};
use kube::Client;
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::heard::Heard;
use super::{Feed, Server};
use crate::shared::Subject;

/// It is asked so often.
const EVERY: Duration = Duration::from_secs(10);
/// After its first no it is asked again before it is believed: etcd may be choosing another leader.
const AGAIN: Duration = Duration::from_secs(3);
/// An answer that takes longer is none. The server's own checks of etcd take 2 s at most.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

pub struct Readyz {
    client: Client,
    heard: Heard,
    url: String,
    feed: mpsc::Sender<Feed>,
    every: Duration,
    again: Duration,
}

impl Readyz {
    pub fn new(server: &Server, feed: mpsc::Sender<Feed>) -> Result<Self, String> {
        let (client, heard) = server.client_heard()?;
        Ok(Self { client, heard, url: server.url.clone(), feed, every: EVERY, again: AGAIN })
    }

    /// Until the receiver of `feed` is gone.
    pub async fn run(self) {
        let mut refusals: u32 = 0;
        loop {
            let pause = if refusals == 1 { self.again } else { self.every };
            tokio::select! {
                () = sleep(pause.max(self.heard.left_alone(Instant::now()))) => {}
                () = self.feed.closed() => return,
            }
            let Ok(Ok(refusal)) = timeout(ANSWERS_WITHIN, self.refusal()).await else { continue };
            let was_told = refusals > 1;
            refusals = if refusal.is_some() { refusals.saturating_add(1) } else { 0 };
            let told = match refusal {
                Some(text) if refusals > 1 => Feed::Trouble(Subject::Readyz, text),
                None if was_told => Feed::Well(Subject::Readyz),
                _ => continue,
            };
            if self.feed.send(told).await.is_err() {
                return;
            }
        }
    }

    /// What it says that it is not ready for; `None` where it is, or may not be asked.
    async fn refusal(&self) -> kube::Result<Option<String>> {
        let question = Request::get("/readyz").body(Body::empty()).map_err(kube::Error::HttpError)?;
        let answer = self.client.send(question).await?;
        if answer.status() != StatusCode::INTERNAL_SERVER_ERROR {
            return Ok(None);
        }
        let text = answer.into_body().collect_bytes().await?;
        let failed = failed_checks(&String::from_utf8_lossy(&text));
        Ok(Some(format!(
            "the API server {} says that it is not ready ({failed}): it may take no changes and tell of none; look at its etcd and at \
             `kubectl get --raw '/readyz?verbose'`, asked again every {} s",
            self.url,
            self.every.as_secs()
        )))
    }
}

/// The names in the answer's lines `[-]NAME failed: reason withheld` (k8s.io/apiserver, healthz `handleRootHealth`).
fn failed_checks(answer: &str) -> String {
    let checks: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .map(|line| line.split_once(" failed").map_or(line, |(name, _)| name))
        .collect();
    match checks.is_empty() {
        true => "/readyz answered 500".to_owned(),
        false => format!("/readyz: {} failed", checks.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use axum::http::Response;

    use super::*;

    const NOT_READY: &str =
        "[+]ping ok\n[-]etcd failed: reason withheld\n[-]etcd-readiness failed: reason withheld\nreadyz check failed\n";

    /// What is told of a server that answers so, one after another; each time after how many answers.
    async fn told(answers: &[(u16, &'static str)]) -> Vec<(usize, String)> {
        let all = answers.len();
        let left = Arc::new(Mutex::new(VecDeque::from(answers.to_vec())));
        let answers = left.clone();
        let service = tower::service_fn(move |asked: Request<Body>| {
            assert_eq!(asked.uri(), "/readyz");
            let answer = answers.lock().unwrap().pop_front();
            async move {
                let (code, body) = answer.ok_or("nobody answers")?;
                Ok::<_, &str>(Response::builder().status(code).body(Body::from(body.as_bytes().to_vec())).unwrap())
            }
        });
        let (feed, mut heard) = mpsc::channel(1);
        let (every, again) = (Duration::from_millis(40), Duration::from_millis(10));
        let client = Client::new(service, "default");
        let ready = Readyz { client, heard: Heard::default(), url: "https://192.0.2.1".into(), feed, every, again };
        let running = tokio::spawn(ready.run());
        let mut told = Vec::new();
        while let Ok(Some(feed)) = timeout(Duration::from_millis(500), heard.recv()).await {
            told.push((all - left.lock().unwrap().len(), format!("{feed:?}")));
        }
        assert!(left.lock().unwrap().is_empty());
        drop(heard);
        running.await.unwrap();
        told
    }

    #[tokio::test]
    async fn a_server_that_says_twice_that_it_is_not_ready_is_told_of_until_it_is() {
        let told = told(&[(200, "ok"), (500, NOT_READY), (500, NOT_READY), (500, ""), (200, "ok"), (200, "ok")]).await;
        let [(3, text), (4, still), (5, well)] = &told[..] else { panic!("{told:?}") };
        assert!(text.starts_with("Trouble(Readyz") && text.contains("etcd, etcd-readiness failed"), "{text}");
        assert!(still.contains("/readyz answered 500") && still.contains("kubectl"), "{still}");
        assert_eq!(well, "Well(Readyz)");
    }

    #[tokio::test]
    async fn a_server_that_is_not_ready_for_a_moment_or_may_not_be_asked_is_not_told_of() {
        let answers =
            [(500, NOT_READY), (200, "ok"), (403, "no"), (403, "no"), (404, ""), (404, ""), (401, ""), (503, "")];
        assert_eq!(told(&answers).await, Vec::new());
    }
}
