//! An API server's watches: a line an event, before it the resource's digit.

use atalho_control::config::Config;
use atalho_control::model::api::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use atalho_control::model::{Change, Object, Source};
use kube::core::WatchEvent;
use serde::de::DeserializeOwned;

use super::cluster::Cluster;

/// Between two compilations; a daemon gathers what comes at once, too.
const EVENTS_TOGETHER: usize = 4;
const EVENTS_MAX: usize = 24;

pub fn run(input: &[u8]) {
    let mut cluster = Cluster::new(Config::default());
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').take(EVENTS_MAX).collect();
    for together in lines.chunks(EVENTS_TOGETHER) {
        cluster.apply(together.iter().filter_map(|line| change(line)));
        cluster.compile(None);
    }
}

/// What a line of a watch says. `None`: nothing about an object, or no line of a watch.
fn change(line: &[u8]) -> Option<Change> {
    let (resource, event) = line.split_first()?;
    match resource {
        b'0' => event_of::<Service>(event),
        b'1' => event_of::<EndpointSlice>(event),
        b'2' => event_of::<Pod>(event),
        b'3' => event_of::<Node>(event),
        _ => event_of::<ServiceCidr>(event),
    }
}

fn event_of<T: DeserializeOwned + Into<Object>>(json: &[u8]) -> Option<Change> {
    match serde_json::from_slice::<WatchEvent<T>>(json).ok()? {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => Some(Change::Put(object.into(), Source::Api)),
        WatchEvent::Deleted(object) => Some(Change::Delete(object.into().key())),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => None,
    }
}
