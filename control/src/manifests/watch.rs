//! Tells when a folder of manifests changed. The kernel's file events come in bursts (an editor writes, renames,
//! removes), so a quiet moment is waited for, but not for ever.

use std::path::Path;
use std::time::Duration;

use notify::event::{AccessKind, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::ManifestsError;

/// Without events for so long a burst is over.
const QUIET: Duration = Duration::from_millis(50);
/// A burst is not waited for longer than this; a change counts within a second.
const BURST_MAX: Duration = Duration::from_millis(400);

/// A watched folder. Events stop when it is dropped.
pub struct Watch {
    events: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches `folder` and everything below it, also folders that come later.
    ///
    /// # Errors
    /// The folder is missing, or the kernel's bounds on watches are reached.
    pub fn start(folder: &Path) -> Result<Self, ManifestsError> {
        let refused = |cause: notify::Error| ManifestsError {
            path: folder.to_owned(),
            what: "the folder of manifests cannot be watched",
            cause: cause.to_string(),
            next_step: "see that it exists and raise fs.inotify.max_user_watches if it is very large",
        };
        // One place: an event that finds it full says nothing new.
        let (sender, events) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading files is an event too, and we read them.
            let is_access =
                |kind: &EventKind| matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(_)));
            if event.map_or(true, |event| !is_access(&event.kind) && !closed_after_reading(&event.kind)) {
                let _ = sender.try_send(());
            }
        })
        .map_err(refused)?;
        watcher.watch(folder, RecursiveMode::Recursive).map_err(refused)?;
        Ok(Self { events, _watcher: watcher })
    }

    /// Waits for the next change and the end of its burst. May be dropped at any time: nothing is lost but the wait.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            // The watcher lives as long as `self` does; should it ever end, there is nothing left to wait for.
            return std::future::pending().await;
        }
        let end = Instant::now() + BURST_MAX;
        while let Ok(Some(())) = timeout_at(end.min(Instant::now() + QUIET), self.events.recv()).await {}
    }
}

fn closed_after_reading(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(AccessKind::Close(mode)) if *mode != notify::event::AccessMode::Write)
}
