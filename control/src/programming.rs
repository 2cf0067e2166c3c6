//! The way of an object as one supervised part: a source of objects and the node's network feed the publisher. One life of
//! it begins with nothing, as after a start of the daemon: it takes over what is in force, waits for every first list and
//! compares all of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch as latest};
use tokio::task::JoinSet;

use crate::events;
use crate::manifests::{Manifests, STILL, Watch};
use crate::node::{Prepared, follow};
use crate::publish::{Asks, Inputs, Parts, Publisher};
use crate::shared::FEED;
use crate::start::Source;
use crate::watch::{self, Feed, KINDS};

/// What runs beside the publisher; an error ends the life.
type Tasks = JoinSet<Result<(), String>>;

/// What every life begins with.
pub struct Programming {
    pub parts: Parts,
    pub source: Source,
    pub prepared: Prepared,
    /// What others ask of it, held by the life that runs.
    pub asks: Arc<tokio::sync::Mutex<Asks>>,
}

/// One life, from its beginning to a panic or the end of the daemon.
pub struct Life {
    publisher: Publisher,
    feed: mpsc::Receiver<Feed>,
    picture: latest::Receiver<follow::Picture>,
    asks: Arc<tokio::sync::Mutex<Asks>>,
    tasks: Tasks,
}

impl Programming {
    /// Begins a life. The error says what cannot work at all.
    pub async fn begin(&self) -> Result<Life, String> {
        let (feed, changes) = mpsc::channel(FEED);
        let (show, picture) = latest::channel(follow::Picture::default());
        let mut tasks = Tasks::new();
        match &self.source {
            Source::Api { kubeconfig } => {
                let server = watch::server(kubeconfig.as_deref()).await?;
                watch::start(&server, &self.parts.node, &feed, &mut tasks)?;
                let (node, shared) = (self.parts.node.clone(), self.parts.shared.clone());
                tasks.spawn(async move {
                    events::tell(server.client, node, shared).await;
                    Ok(())
                });
            }
            Source::Manifests(folder) => start_manifests(folder, feed, &mut tasks)?,
        }
        let publisher = Publisher::new(self.parts.clone())?;
        let prepared = self.prepared.clone();
        tasks.spawn(async move {
            let followed = follow::follow(prepared, show).await;
            followed.map_err(|error| format!("{error}; the node's network is not followed"))
        });
        Ok(Life { publisher, feed: changes, picture, asks: self.asks.clone(), tasks })
    }
}

impl Life {
    /// Runs until something that it cannot do without has ended. Panics where one of its tasks has.
    pub async fn run(self) -> Result<(), String> {
        let Self { publisher, feed, picture, asks, mut tasks } = self;
        let mut asks = asks.lock().await;
        let mut publishing = std::pin::pin!(publisher.run(Inputs { feed, picture, asks: &mut asks }));
        loop {
            tokio::select! {
                () = &mut publishing => return Err("nobody tells of changes any more".into()),
                Some(ended) = tasks.join_next() => match ended {
                    Ok(ended) => ended?,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(error) => return Err(error.to_string()),
                },
            }
        }
    }
}

/// Reads the folder once, so that one that cannot be read is told at once, and follows it from then on.
fn start_manifests(folder: &Path, feed: mpsc::Sender<Feed>, tasks: &mut Tasks) -> Result<(), String> {
    // The watch comes first: a change between the two is seen twice, which is harmless, and never missed.
    let mut watch = Watch::start(folder).map_err(|error| error.to_string())?;
    let mut manifests = Manifests::new(folder);
    let mut loaded = Some(manifests.reload(Instant::now()).map_err(|error| error.to_string())?);
    tasks.spawn(async move {
        let (mut listed, mut look_again) = (false, None);
        loop {
            let mut say = Vec::new();
            if let Some(loaded) = loaded.take() {
                look_again = loaded.look_again.then_some(STILL);
                say.push(Feed::Changes(loaded.changes));
                say.push(Feed::Unparsed(loaded.refusals));
                say.push(Feed::ManifestsFault(Vec::new()));
            }
            if !std::mem::replace(&mut listed, true) {
                say.extend(KINDS.map(Feed::Listed));
            }
            for feed_item in say {
                if feed.send(feed_item).await.is_err() {
                    return Ok(());
                }
            }
            match look_again {
                Some(after) => tokio::time::sleep(after).await,
                None => watch.changed().await,
            }
            match manifests.reload(Instant::now()) {
                Ok(again) => loaded = Some(again),
                Err(error) => {
                    let fault = Feed::ManifestsFault(vec![format!("{error}; the objects last read stay in force")]);
                    if feed.send(fault).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    });
    Ok(())
}
