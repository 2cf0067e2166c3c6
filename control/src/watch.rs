//! The API server's objects: one watch per resource, listed in pages and then followed. What arrives is turned into the
//! same changes as manifests make.
//!
//! A list is buffered and handed over whole: only when its last page is there does it become a set of changes, so a
//! list that breaks off in the middle deletes nothing. While the server is away or refuses us, the objects last known
//! stay, and `status` says what is wrong with which resource and what to do.

mod explain;
mod heard;
pub mod relist;
mod server;

use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher as watch_resource;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::model::api::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use crate::model::{Change, Kind, Object, Refusal};
use explain::{explain, status_code};
use heard::Heard;
use relist::Relist;

pub use server::{Server, server};

/// What a source of objects says.
#[derive(Debug)]
pub enum Feed {
    /// Changes that belong together.
    Changes(Vec<Change>),
    /// The first list of this resource is complete; its objects came before.
    Listed(Kind),
    /// This resource's watch fails; the objects last known stay.
    Trouble(Kind, String),
    /// It works again.
    Well(Kind),
    /// What manifests could not even read: the whole list.
    Unparsed(Vec<Refusal>),
    /// What is wrong with the folder of manifests; empty if nothing is.
    ManifestsFault(Vec<String>),
}

/// The resources that must be listed before anything is published.
pub const KINDS: [Kind; 5] = [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node, Kind::ServiceCidr];

/// Starts every watch among `tasks`. They end when the receiver of `feed` is gone.
pub fn start(
    server: &Server,
    node: &str,
    feed: &mpsc::Sender<Feed>,
    tasks: &mut JoinSet<Result<(), String>>,
) -> Result<(), String> {
    let all = watcher::Config::default().timeout(server::WATCH_S);
    let ours = all.clone().fields(&format!("spec.nodeName={node}"));
    follow::<Service>(Kind::Service, server, all.clone(), feed, tasks)?;
    follow::<EndpointSlice>(Kind::EndpointSlice, server, all.clone(), feed, tasks)?;
    follow::<Pod>(Kind::Pod, server, ours, feed, tasks)?;
    follow::<Node>(Kind::Node, server, all.clone(), feed, tasks)?;
    follow::<ServiceCidr>(Kind::ServiceCidr, server, all, feed, tasks)
}

fn follow<K>(
    kind: Kind,
    server: &Server,
    config: watcher::Config,
    feed: &mpsc::Sender<Feed>,
    tasks: &mut JoinSet<Result<(), String>>,
) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    Object: From<K>,
{
    let (client, heard) = server.client_heard()?;
    let events = watch_resource(Api::<K>::all(client), config).map(|event| event.map(of_any_kind)).boxed();
    let (url, feed) = (server.url.clone(), feed.clone());
    tasks.spawn(async move {
        hand_over(kind, url, events, heard, feed).await;
        Ok(())
    });
    Ok(())
}

fn of_any_kind<K>(event: Event<K>) -> Event<Object>
where
    Object: From<K>,
{
    match event {
        Event::Apply(object) => Event::Apply(object.into()),
        Event::Delete(object) => Event::Delete(object.into()),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.into()),
        Event::InitDone => Event::InitDone,
    }
}

/// Turns a watch's events into what `feed` is told, until its receiver is gone.
async fn hand_over(
    kind: Kind,
    url: String,
    mut events: BoxStream<'static, watcher::Result<Event<Object>>>,
    heard: Heard,
    feed: mpsc::Sender<Feed>,
) {
    let mut relist = Relist::default();
    let mut listed = false;
    let mut trouble = false;
    let mut pauses = DefaultBackoff::default();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // A watch that goes on where it stopped says nothing until an object changes.
            () = heard.watch_stands(), if trouble => {
                trouble = false;
                if feed.send(Feed::Well(kind)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Some(event) = event else { return };
        if event.is_ok() {
            pauses.reset();
        }
        let works = !matches!(event, Err(_) | Ok(Event::Init));
        if works && std::mem::take(&mut trouble) && feed.send(Feed::Well(kind)).await.is_err() {
            return;
        }
        let mut completes = false;
        let changes = match event {
            Ok(Event::Init) => {
                relist.begin();
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                relist.buffer(object);
                Vec::new()
            }
            Ok(Event::InitDone) => {
                completes = !std::mem::replace(&mut listed, true);
                relist.finish()
            }
            Ok(Event::Apply(object)) => vec![relist.put(object)],
            Ok(Event::Delete(object)) => vec![relist.delete(&object.key())],
            Err(error) if kind == Kind::ServiceCidr && status_code(&error) == Some(404) => {
                // Before Kubernetes 1.33 there is no such resource; the configuration then names the ranges.
                if !std::mem::replace(&mut listed, true) {
                    tracing::info!("the API server has no ServiceCIDR objects; set [cluster] service_cidrs");
                    completes = true;
                }
                Vec::new()
            }
            Err(error) => {
                trouble = true;
                let text = explain(kind, &url, &error, heard.refusal());
                heard.fails();
                if feed.send(Feed::Trouble(kind, text)).await.is_err() {
                    return;
                }
                heard.pause(pauses.next().unwrap_or_default()).await;
                continue;
            }
        };
        if !changes.is_empty() && feed.send(Feed::Changes(changes)).await.is_err() {
            return;
        }
        if completes && feed.send(Feed::Listed(kind)).await.is_err() {
            return;
        }
    }
}
