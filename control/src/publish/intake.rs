//! What comes in: objects, first lists, troubles of the watches, and the picture of the node. All of it is only noted
//! here; the loop decides when it is published.

use std::time::{Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;

use super::{Publisher, lock};
use crate::model::{Change, Object};
use crate::node::follow::Picture;
use crate::shared::Part;
use crate::watch::Feed;

/// Trigger times kept for one publication; a storm of changes is measured by its first ones.
const TRIGGERS_MAX: usize = 1024;
/// k8s.io/api/core/v1 annotation_key_constants.go, EndpointsLastChangeTriggerTime.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl Publisher {
    pub(super) fn change(&mut self) {
        let now = Instant::now();
        if self.changed.is_none() {
            self.changed = Some(now);
            let mut shared = self.parts.shared.lock();
            // One that this loop's predecessor had not published still waits.
            shared.waiting_since.get_or_insert(now);
            shared.last_queued = Some(SystemTime::now());
        }
    }

    pub(super) fn note_waiting(&self, messages: usize) {
        let mut shared = self.parts.shared.lock();
        shared.feed_longest = shared.feed_longest.max(messages);
    }

    pub(super) fn take(&mut self, feed: Feed) {
        match feed {
            Feed::Changes(changes) => {
                for change in changes {
                    let before = self.model.revision();
                    let (trigger, kind) = (trigger_of(&change), change.kind());
                    self.model.apply(change);
                    if self.model.revision() != before {
                        self.change();
                        self.parts.shared.lock().changes.wait(kind);
                        if self.compiled.is_some() && self.triggers.len() < TRIGGERS_MAX {
                            self.triggers.extend(trigger);
                        }
                    }
                }
            }
            Feed::Unparsed(refusals) => {
                self.model.set_unparsed(refusals);
                // Shown with the next publication, which is due even if no object changed.
                self.change();
            }
            Feed::Listed(kind) => {
                self.waiting_for.remove(&kind);
                self.parts.shared.lock().waiting_for = self.waiting_for.iter().copied().collect();
                self.change();
            }
            Feed::Trouble(subject, text) => {
                if self.parts.shared.lock().set_trouble(subject, text.clone()) {
                    tracing::warn!("{text}");
                }
            }
            Feed::Well(subject) => {
                if self.parts.shared.lock().troubles.remove(&subject).is_some() {
                    tracing::info!("{subject:?}: the API server is well again");
                }
            }
            Feed::ManifestsFault(faults) => self.parts.shared.lock().set_faults(Part::Manifests, faults),
        }
    }

    pub(super) async fn look_at(&mut self, picture: Picture) {
        if self.picture.facts.links.is_empty() {
            // The first picture: neighbours that an earlier daemon was asked for go on being kept until they are old.
            let now = Instant::now();
            for (_, address) in picture.managed.iter().filter(|(interface, _)| *interface == picture.facts.uplink) {
                self.asked.ask(*address, now);
            }
        }
        let facts_changed = self.picture.facts != picture.facts;
        let managed_changed = self.picture.managed != picture.managed;
        let own_links_changed = self.picture.own_links_told != picture.own_links_told;
        self.picture = picture;
        if own_links_changed {
            self.keep_offloads();
        }
        if facts_changed {
            self.routes_stale = true;
            self.change();
        }
        if managed_changed && self.compiled.is_some() {
            self.sync_neighbours().await;
        }
    }

    /// With the funnel's offloads on, pods' packets reach workers unfinished and leave with a wrong checksum.
    fn keep_offloads(&self) {
        let kept = lock(&self.parts.dataplane).keep_offloads();
        let mut shared = self.parts.shared.lock();
        match kept {
            Ok(turned_off) => {
                for offload in &turned_off {
                    tracing::warn!("{offload} had been turned on by somebody; it is off again");
                }
                shared.offloads_turned_off += turned_off.len() as u64;
                shared.set_faults(Part::Offloads, Vec::new());
            }
            Err(why) => shared.set_faults(Part::Offloads, vec![why]),
        }
    }
}

/// When the endpoints controller saw what a slice tells of; `None` for every other change.
fn trigger_of(change: &Change) -> Option<Timestamp> {
    let Change::Put(Object::EndpointSlice(slice), _) = change else { return None };
    slice.metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?.parse().ok()
}
