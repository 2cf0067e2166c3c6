//! One resource's list and watch, kept up for ever: a set of objects is asked for as a stream that then goes on as a watch
//! (KEP-3157), or in pages where the server does not know how to stream; a watch that ends is taken up where it was.
//!
//! The first set is asked for without a version, which is a consistent read: at least as new as the request (Kubernetes API
//! concepts, "Streaming lists"). The version 0 would take what some API server remembers, and an old memory brings back
//! objects that were deleted while no daemon ran. Later sets are not older than the last version seen, which the
//! server has in memory. Where its memory lags behind that, or it wants no such version (504, 410), the next set is asked
//! for without one again.
//!
//! A store that was restored from a copy is older than what was seen, and a watch behind a version that it has not come to yet
//! hears nothing, without an error. So after a watch that did not end by its time the server is asked how far it is;
//! versions of one resource can be compared as numbers (KEP-5504).

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{DefaultBackoff, Error};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::Feed;
use super::explain::{explain, status_code};
use super::heard::Heard;
use super::relist::Relist;
use super::server::WATCH_S;
use crate::model::{Change, Kind, Object};
use crate::shared::Subject;

/// A bookmark with this annotation ends the objects that there were.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// A server that says nothing for so long before that bookmark does not know of it: it has ignored what we asked for, as before
/// Kubernetes 1.19, and waits for changes.
pub const INITIAL_EVENTS_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server that ends watches as soon as they begin is not asked more often than this.
const WATCH_MIN: Duration = Duration::from_secs(1);
/// A watch that is over sooner has not ended by its time.
const WATCH_BY_TIME: Duration = Duration::from_secs(WATCH_S as u64 - 5);
/// Objects in a page.
const PAGE: u32 = 500;
/// A resource that the server does not have is asked for again after so long.
const NO_SUCH_RESOURCE_PAUSE: Duration = Duration::from_secs(60);

/// What is asked for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The objects that there are, as a stream that goes on with changes.
    Stream,
    /// The objects that there are, in pages.
    Pages,
    /// Whether the server is as far as the last version seen.
    Version,
    /// What has changed since the last version seen.
    Watch,
}

/// Why no more can be asked, or not at once.
enum End {
    /// Nobody takes what we say.
    Unheard,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub struct ListWatch<K> {
    pub kind: Kind,
    pub api: Api<K>,
    /// A field selector: which of its objects.
    pub fields: Option<String>,
    /// The server's address, for messages.
    pub url: String,
    pub heard: Heard,
    pub feed: mpsc::Sender<Feed>,
    pub initial_events_pause_max: Duration,
    pub state: State,
}

/// How far it has come.
#[derive(Debug)]
pub struct State {
    next: Next,
    /// The last one seen; empty where none is known or can be had.
    version: String,
    relist: Relist,
    /// The first set has been handed over.
    listed: bool,
    /// The last thing told was a trouble.
    trouble: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { next: Next::Stream, version: String::new(), relist: Relist::default(), listed: false, trouble: false }
    }
}

impl<K> ListWatch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    Object: From<K>,
{
    /// Until the receiver of `feed` is gone.
    pub async fn run(mut self) {
        let mut pauses = DefaultBackoff::default();
        loop {
            let asked = match self.state.next {
                Next::Pages => self.list().await,
                Next::Version => self.compare().await,
                Next::Stream | Next::Watch => self.watch().await,
            };
            self.state.relist.break_off();
            let was_well = !self.state.trouble;
            let error = match asked {
                Ok(()) => continue,
                Err(End::Unheard) => return,
                Err(End::Failed(error)) => error,
            };
            let code = status_code(&error).or(self.heard.refusal());
            let told = match (self.state.next, code) {
                // Invalid: it does not stream, or not these. An error of its own: its etcd cannot tell how far it is.
                (Next::Stream, Some(400 | 422 | 500)) => {
                    self.state.next = Next::Pages;
                    continue;
                }
                (_, Some(404)) if self.kind == Kind::ServiceCidr => self.there_is_none().await,
                _ => self.fails(&error).await,
            };
            if told.is_err() {
                return;
            }
            match (self.state.next, code) {
                (Next::Stream, Some(410 | 504)) => self.state.version.clear(),
                (Next::Watch, Some(410)) | (Next::Pages, _) => self.state.next = Next::Stream,
                (Next::Watch, _) => self.state.next = Next::Version,
                _ => {}
            }
            if was_well {
                pauses.reset();
            }
            let pause = if self.state.trouble { pauses.next().unwrap_or_default() } else { NO_SUCH_RESOURCE_PAUSE };
            self.heard.pause(pause).await;
        }
    }

    async fn list(&mut self) -> Result<(), End> {
        let mut page = ListParams { field_selector: self.fields.clone(), ..ListParams::default() }.limit(PAGE);
        loop {
            let list = self.api.list(&page).await.map_err(Error::InitialListFailed)?;
            list.items.into_iter().for_each(|object| self.state.relist.buffer(object.into()));
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                return self.complete(list.metadata.resource_version.unwrap_or_default()).await;
            }
        }
    }

    /// Goes on behind the last version seen if the server has come to it, and else from what there is now.
    async fn compare(&mut self) -> Result<(), End> {
        let one = ListParams { field_selector: self.fields.clone(), ..ListParams::default() }.limit(1);
        let list = self.api.list_metadata(&one).await.map_err(Error::InitialListFailed)?;
        let version = list.metadata.resource_version.unwrap_or_default();
        let number = |version: &str| version.parse::<u128>().ok();
        let is_older = number(&version).zip(number(&self.state.version)).is_some_and(|(has, seen)| has < seen);
        if is_older {
            tracing::warn!(
                "{}: the API server is at version {version} and was at {} before: its store was restored from a copy; what \
                 it has now comes into force",
                self.kind.name(),
                self.state.version
            );
            self.state.version.clear();
        }
        self.state.next = if is_older { Next::Stream } else { Next::Watch };
        Ok(())
    }

    /// One watch, to its end; the objects that there are come first if they are what is next.
    async fn watch(&mut self) -> Result<(), End> {
        let mut initial = self.state.next == Next::Stream;
        let asked = WatchParams {
            bookmarks: true,
            send_initial_events: initial,
            timeout: Some(WATCH_S),
            field_selector: self.fields.clone(),
            label_selector: None,
        };
        let events = self.api.watch(&asked, &self.state.version).await.map_err(Error::WatchStartFailed)?;
        let (mut events, begun) = (pin!(events), Instant::now());
        if !initial && self.heard.refusal().is_none() {
            // It says nothing until an object changes.
            self.works().await?;
        }
        loop {
            let event = match initial {
                true => timeout(self.initial_events_pause_max, events.next()).await.unwrap_or_default(),
                false => events.next().await,
            };
            let Some(event) = event else {
                if initial {
                    self.state.next = Next::Pages;
                } else {
                    if begun.elapsed() < WATCH_BY_TIME {
                        self.state.next = Next::Version;
                    }
                    sleep(WATCH_MIN.saturating_sub(begun.elapsed())).await;
                }
                return Ok(());
            };
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) if initial => {
                    self.state.relist.buffer(object.into());
                }
                Ok(WatchEvent::Deleted(object)) if initial => self.state.relist.forget(&Object::from(object).key()),
                Ok(WatchEvent::Bookmark(mark)) if initial => {
                    if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) {
                        self.complete(mark.metadata.resource_version).await?;
                        initial = false;
                    }
                }
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.seen(&object);
                    let change = self.state.relist.put(object.into());
                    self.change(vec![change]).await?;
                }
                Ok(WatchEvent::Deleted(object)) => {
                    self.seen(&object);
                    let change = self.state.relist.delete(&Object::from(object).key());
                    self.change(vec![change]).await?;
                }
                Ok(WatchEvent::Bookmark(mark)) => self.state.version = mark.metadata.resource_version,
                Ok(WatchEvent::Error(status)) => return Err(Error::WatchError(status).into()),
                // One object that cannot be read is told of, and is not in the way of the others.
                Err(error @ (kube::Error::SerdeError(_) | kube::Error::Api(_)))
                    if !initial && self.heard.refusal().is_none() =>
                {
                    self.fails(&Error::WatchFailed(error)).await?;
                }
                Err(error) => return Err(Error::WatchFailed(error).into()),
            }
        }
    }

    fn seen(&mut self, object: &K) {
        if let Some(version) = &object.meta().resource_version {
            self.state.version.clone_from(version);
        }
    }

    /// The set is there: it comes into force, and the watch goes on behind its version.
    async fn complete(&mut self, version: String) -> Result<(), End> {
        if version.is_empty() {
            return Err(Error::NoResourceVersion.into());
        }
        (self.state.version, self.state.next) = (version, Next::Watch);
        let changes = self.state.relist.finish();
        self.change(changes).await?;
        self.listed().await?;
        self.works().await
    }

    /// Before Kubernetes 1.33 there are no ServiceCIDR objects.
    async fn there_is_none(&mut self) -> Result<(), End> {
        if !self.state.listed {
            tracing::info!("the API server has no ServiceCIDR objects; set [cluster] service_cidrs");
        }
        self.listed().await?;
        self.works().await
    }

    async fn listed(&mut self) -> Result<(), End> {
        if std::mem::replace(&mut self.state.listed, true) {
            return Ok(());
        }
        self.say(Feed::Listed(self.kind)).await
    }

    async fn works(&mut self) -> Result<(), End> {
        self.heard.stands();
        if std::mem::take(&mut self.state.trouble) {
            self.say(Feed::Well(Subject::Watch(self.kind))).await?;
        }
        Ok(())
    }

    async fn fails(&mut self, error: &Error) -> Result<(), End> {
        self.state.trouble = true;
        let text = explain(self.kind, &self.url, error, self.heard.refusal());
        self.say(Feed::Trouble(Subject::Watch(self.kind), text)).await
    }

    async fn change(&self, changes: Vec<Change>) -> Result<(), End> {
        if changes.is_empty() {
            return Ok(());
        }
        self.say(Feed::Changes(changes)).await
    }

    async fn say(&self, what: Feed) -> Result<(), End> {
        self.feed.send(what).await.map_err(|_| End::Unheard)
    }
}

#[cfg(test)]
mod tests;
