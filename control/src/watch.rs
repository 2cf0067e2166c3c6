//! The API server's objects: one watch per resource, listed in pages and then followed. What arrives is turned into the
//! same changes as manifests make.
//!
//! A list is buffered and handed over whole: only when its last page is there does it become a set of changes, so a
//! list that breaks off in the middle deletes nothing. While the server is away or refuses us, the objects last known
//! stay, and `status` says what is wrong with which resource and what to do.

pub mod relist;

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::api::{ApiResource, DynamicObject, ListParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_resource};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::model::api::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use crate::model::{Change, Kind, Object, Refusal};
use relist::Relist;

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

/// How long after a failure, and after each further one, the API server is asked whether it answers again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The resources that must be listed before anything is published.
pub const KINDS: [Kind; 5] = [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node, Kind::ServiceCidr];

/// An API server, with the address that messages about it name.
pub struct Server {
    pub client: Client,
    pub url: String,
}

/// A client from this kubeconfig, or from `$KUBECONFIG`, `~/.kube/config` or the pod that we run in. Connects to nobody
/// yet. The error is for the start's stderr.
pub async fn server(kubeconfig: Option<&Path>) -> Result<Server, String> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| {
                format!("reading the kubeconfig {}: {}; check its path and contents", path.display(), chain(&error))
            })?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|error| {
                format!(
                    "using the kubeconfig {}: {}; check its context, cluster and user",
                    path.display(),
                    chain(&error)
                )
            })?
        }
        None => kube::Config::infer().await.map_err(|error| {
            format!(
                "finding the API server: {}; give --kubeconfig FILE, --manifests DIR, or run in a pod",
                chain(&error)
            )
        })?,
    };
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config)
        .map_err(|error| format!("preparing a client of the API server {url}: {}", chain(&error)))?;
    Ok(Server { client, url })
}

/// Starts every watch in the current runtime. They end when the receiver of `feed` is gone.
pub fn start(server: &Server, node: &str, feed: &mpsc::Sender<Feed>) {
    let all = watcher::Config::default();
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    follow::<Service>(Kind::Service, server, all.clone(), feed);
    follow::<EndpointSlice>(Kind::EndpointSlice, server, all.clone(), feed);
    follow::<Pod>(Kind::Pod, server, ours, feed);
    follow::<Node>(Kind::Node, server, all.clone(), feed);
    follow::<ServiceCidr>(Kind::ServiceCidr, server, all, feed);
}

fn follow<K>(kind: Kind, server: &Server, config: watcher::Config, feed: &mpsc::Sender<Feed>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    Object: From<K>,
{
    let watched = watch_resource(Api::<K>::all(server.client.clone()), config).default_backoff();
    let events = watched.map(|event| event.map(of_any_kind)).boxed();
    // Only metadata is asked of it, and that is the same for all: one type, compiled once.
    let probe = Api::<DynamicObject>::all_with(server.client.clone(), &ApiResource::erase::<K>(&()));
    tokio::spawn(hand_over(kind, server.url.clone(), events, probe, feed.clone()));
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
    probe: Api<DynamicObject>,
    feed: mpsc::Sender<Feed>,
) {
    let mut relist = Relist::default();
    let mut listed = false;
    let mut trouble = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // A watch that goes on where it stopped says nothing until an object changes: ask whether it works again.
            () = answers(&probe), if trouble => {
                trouble = false;
                if feed.send(Feed::Well(kind)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Some(event) = event else { return };
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
                let text = explain(kind, &url, &error);
                if feed.send(Feed::Trouble(kind, text)).await.is_err() {
                    return;
                }
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

/// Returns once the API server lets us list and watch this resource again.
async fn answers(api: &Api<DynamicObject>) {
    loop {
        tokio::time::sleep(RETRY_AFTER).await;
        let one = ListParams::default().limit(1);
        let short = WatchParams::default().timeout(1);
        if api.list_metadata(&one).await.is_ok() && api.watch_metadata(&short, "0").await.is_ok() {
            return;
        }
    }
}

/// The resource's name as RBAC spells it.
fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices.discovery.k8s.io",
        Kind::Pod => "pods",
        Kind::Node => "nodes",
        Kind::ServiceCidr => "servicecidrs.networking.k8s.io",
    }
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::NoResourceVersion => None,
    }
}

/// What is wrong with a resource's watch, and what to do next.
fn explain(kind: Kind, url: &str, error: &watcher::Error) -> String {
    let resource = resource(kind);
    let why = chain(error);
    match status_code(error) {
        Some(401) => format!(
            "{resource}: the API server {url} does not know us (401 Unauthorized); renew the credentials in the kubeconfig or the service account's token"
        ),
        Some(403) => format!(
            "{resource}: the API server {url} forbids it (403 Forbidden): {why}; grant get, list and watch on {resource} by a ClusterRole"
        ),
        Some(410) => format!("{resource}: the watch was too old (410 Gone); listed anew"),
        Some(code) => {
            format!("{resource}: the API server {url} answered {code}: {why}; tried again with growing pauses")
        }
        None => format!(
            "{resource}: the API server {url} cannot be reached: {why}; check its address and the network, tried again with growing pauses"
        ),
    }
}

/// An error with everything that caused it, for one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://192.0.2.1:6443";

    fn refused(code: u16) -> watcher::Error {
        let status = kube::core::Status { code, message: "no".into(), ..Default::default() };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_names_the_resource_and_the_next_step() {
        assert_eq!(status_code(&refused(403)), Some(403));
        let text = explain(Kind::EndpointSlice, URL, &refused(403));
        assert!(text.contains("endpointslices.discovery.k8s.io") && text.contains("ClusterRole"), "{text}");
        let text = explain(Kind::Pod, URL, &refused(401));
        assert!(text.contains("pods") && text.contains("credentials"), "{text}");
        let text = explain(Kind::Pod, URL, &watcher::Error::NoResourceVersion);
        assert!(text.contains("https://192.0.2.1:6443 cannot be reached"), "{text}");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let error = server(Some(Path::new("/nowhere/kubeconfig"))).await.err().unwrap();
        assert!(error.contains("/nowhere/kubeconfig"), "{error}");
    }
}
