//! The API server's objects: each resource is listed and then followed. What arrives is turned into the same changes as
//! manifests make.
//!
//! A list is buffered and handed over whole: only when its end is there does it become a set of changes, so a
//! list that breaks off in the middle deletes nothing. While the server is away or refuses us, the objects last known
//! stay, and `status` says what is wrong with which resource and what to do.

mod explain;
mod heard;
mod list_watch;
mod readyz;
pub mod relist;
mod server;

use std::fmt::Debug;

use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::model::api::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use crate::model::{Change, Kind, Object, Refusal};
use crate::shared::Subject;
use list_watch::{INITIAL_EVENTS_PAUSE_MAX, ListWatch, State};
use readyz::Readyz;

pub use server::{Server, server};

/// What a source of objects says.
#[derive(Debug)]
pub enum Feed {
    /// Changes that belong together.
    Changes(Vec<Change>),
    /// The first list of this resource is complete; its objects came before.
    Listed(Kind),
    /// This fails at the API server; the objects last known stay.
    Trouble(Subject, String),
    /// It works again.
    Well(Subject),
    /// What manifests could not even read: the whole list.
    Unparsed(Vec<Refusal>),
    /// What is wrong with the folder of manifests; empty if nothing is.
    ManifestsFault(Vec<String>),
}

/// The resources that must be listed before anything is published.
pub const KINDS: [Kind; 5] = [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node, Kind::ServiceCidr];

/// Starts every watch, and the question whether the server is ready, among `tasks`. They end when the receiver of `feed` is gone.
pub fn start(
    server: &Server,
    node: &str,
    feed: &mpsc::Sender<Feed>,
    tasks: &mut JoinSet<Result<(), String>>,
) -> Result<(), String> {
    let ours = format!("spec.nodeName={node}");
    follow::<Service>(Kind::Service, None, server, feed, tasks)?;
    follow::<EndpointSlice>(Kind::EndpointSlice, None, server, feed, tasks)?;
    follow::<Pod>(Kind::Pod, Some(ours), server, feed, tasks)?;
    follow::<Node>(Kind::Node, None, server, feed, tasks)?;
    follow::<ServiceCidr>(Kind::ServiceCidr, None, server, feed, tasks)?;
    let ready = Readyz::new(server, feed.clone())?;
    tasks.spawn(async move {
        ready.run().await;
        Ok(())
    });
    Ok(())
}

fn follow<K>(
    kind: Kind,
    fields: Option<String>,
    server: &Server,
    feed: &mpsc::Sender<Feed>,
    tasks: &mut JoinSet<Result<(), String>>,
) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    Object: From<K>,
{
    let (client, heard) = server.client_heard()?;
    let (api, url, feed) = (Api::<K>::all(client), server.url.clone(), feed.clone());
    let (initial_events_pause_max, state) = (INITIAL_EVENTS_PAUSE_MAX, State::default());
    let followed = ListWatch { kind, api, fields, url, heard, feed, initial_events_pause_max, state };
    tasks.spawn(async move {
        followed.run().await;
        Ok(())
    });
    Ok(())
}
