//! What one resource's requests and answers tell beside their contents: the status of an answer whose body is no object, as
//! filters before the API have them; how long the server wants to be left alone; and that it is there again, which
//! another resource's watch may be the first to see.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, Response};
use tokio::sync::watch;

/// The longest that a server is left alone, whatever it asks for.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(300);
/// The shortest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(800);

/// Shared by a resource's client, which asks one thing after another, and the task that follows the resource.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The last answer's; 0 where there is none.
    status: AtomicU16,
    /// Counts the watches of the server, this one among them, that were let stand.
    any_stands: watch::Sender<u64>,
    leave_alone_until: Mutex<Option<Instant>>,
}

impl Heard {
    /// One more resource of the server whose watches are counted there.
    pub fn new(any_stands: watch::Sender<u64>) -> Self {
        Self(Arc::new(State { any_stands, ..State::default() }))
    }

    /// Something is asked for.
    pub fn request(&self) {
        self.0.status.store(0, Ordering::Relaxed);
    }

    pub fn answer<B>(&self, answer: &Response<B>) {
        if let Some(pause) = retry_after(answer.headers()) {
            let until = Instant::now() + pause.min(LEFT_ALONE_MAX);
            *self.0.leave_alone_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
        self.0.status.store(answer.status().as_u16(), Ordering::Relaxed);
    }

    /// The status by which the last request was refused.
    pub fn refusal(&self) -> Option<u16> {
        Some(self.0.status.load(Ordering::Relaxed)).filter(|status| *status >= 400)
    }

    /// The server lets us watch.
    pub fn stands(&self) {
        self.0.any_stands.send_modify(|watches| *watches += 1);
    }

    /// Returns when the server may be asked again: after `pause`, or soon after a watch of another resource stands again,
    /// and never before the server has said.
    pub async fn pause(&self, pause: Duration) {
        let mut any_stands = self.0.any_stands.subscribe();
        tokio::time::sleep(self.left_alone(Instant::now()).max(PAUSE_MIN.min(pause))).await;
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(PAUSE_MIN)) => {}
            // Its sender is ours.
            _ = any_stands.changed() => {}
        }
    }

    /// How long the server wants to be left alone.
    pub fn left_alone(&self, now: Instant) -> Duration {
        let until = *self.0.leave_alone_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

/// The seconds of `Retry-After` (RFC 9110 section 10.2.3). Its other form, a date, no API server sends.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<&str>) -> Response<()> {
        let mut answer = Response::builder().status(status);
        if let Some(text) = retry_after {
            answer = answer.header(RETRY_AFTER, text);
        }
        answer.body(()).unwrap()
    }

    #[test]
    fn a_refusal_is_of_the_last_request() {
        let heard = Heard::default();
        heard.answer(&answer(429, None));
        assert_eq!(heard.refusal(), Some(429));
        heard.request();
        assert_eq!(heard.refusal(), None);
        heard.answer(&answer(200, None));
        assert_eq!(heard.refusal(), None);
    }

    #[tokio::test]
    async fn a_pause_ends_soon_after_another_watch_stands() {
        let server = watch::Sender::default();
        let [one, other] = [(); 2].map(|()| Heard::new(server.clone()));
        let start = Instant::now();
        let stands = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            other.stands();
        };
        tokio::join!(one.pause(Duration::from_secs(30)), stands);
        assert!((PAUSE_MIN..Duration::from_secs(10)).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks_and_no_longer_than_bearable() {
        let heard = Heard::default();
        let seconds = || heard.left_alone(Instant::now()).as_secs_f64().round();
        assert_eq!(seconds(), 0.0);
        heard.answer(&answer(429, Some("7")));
        assert_eq!(seconds(), 7.0);
        assert_eq!(heard.left_alone(Instant::now() + Duration::from_secs(8)), Duration::ZERO);
        heard.answer(&answer(503, Some("86400")));
        assert_eq!(seconds(), LEFT_ALONE_MAX.as_secs_f64());
        for other in ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", ""] {
            assert_eq!(retry_after(answer(429, Some(other)).headers()), None, "{other}");
        }
    }
}
