//! What the publishing task has to say, for those who are asked: the status socket, the HTTP endpoints, the metrics.
//! One lock that control's own thread takes for moments; no worker ever sees it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::compile::NoLocal;
use crate::model::{Kind, Refusal};
use crate::supervise::Supervised;

/// Messages of the watches that wait for the publisher at most; then the watches wait.
pub const FEED: usize = 1024;
/// Samples of which percentiles are made.
const SAMPLES: usize = 1024;
/// Upper bounds of a histogram's buckets, seconds: 1 ms doubled fourteen times, as kube-proxy has them (pkg/proxy/metrics).
const BOUNDS_S: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// Those of network programming, as kube-proxy has them: 0.25, 0.5, every second below a minute, every five to 115, then every thirty to five minutes.
const PROGRAMMING_BOUNDS_S: [f64; 80] = {
    let mut bounds_s = [0.25; 80];
    bounds_s[1] = 0.5;
    let mut i = 2;
    while i < bounds_s.len() {
        bounds_s[i] = match i {
            ..61 => (i - 1) as f64,
            61..73 => (60 + 5 * (i - 61)) as f64,
            _ => (120 + 30 * (i - 73)) as f64,
        };
        i += 1;
    }
    bounds_s
};

/// Durations of the last events.
#[derive(Debug)]
pub struct Times {
    /// Milliseconds; a ring once it is full.
    samples: Vec<f64>,
    next: usize,
    /// Histogram for the metrics: events in all, their sum in seconds, and how many were not longer than each bound.
    pub count: u64,
    pub sum_s: f64,
    bounds_s: &'static [f64],
    within: Box<[u64]>,
}

impl Default for Times {
    fn default() -> Self {
        Self::with_bounds(&BOUNDS_S)
    }
}

/// The last duration and two percentiles, milliseconds; null before the first event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub last: Option<f64>,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

impl Times {
    fn with_bounds(bounds_s: &'static [f64]) -> Self {
        let within = vec![0; bounds_s.len()].into();
        Self { samples: Vec::new(), next: 0, count: 0, sum_s: 0.0, bounds_s, within }
    }

    /// The histogram's buckets: their upper bounds in seconds, and how many events were not longer.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds_s.iter().copied().zip(self.within.iter().copied())
    }

    pub fn record(&mut self, duration: Duration) {
        let ms = duration.as_secs_f64() * 1000.0;
        self.count += 1;
        self.sum_s += duration.as_secs_f64();
        for (bound_s, within) in self.bounds_s.iter().zip(&mut self.within) {
            *within += u64::from(duration.as_secs_f64() <= *bound_s);
        }
        if self.samples.len() < SAMPLES {
            self.samples.push(ms);
        } else {
            self.samples[self.next] = ms;
        }
        self.next = (self.next + 1) % SAMPLES;
    }

    pub fn summary(&self) -> Summary {
        if self.samples.is_empty() {
            return Summary::default();
        }
        let last = self.samples[(self.next + SAMPLES - 1) % SAMPLES % self.samples.len()];
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        // The nearest rank: the smallest sample that so large a share does not exceed.
        let rank = |share: f64| sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1];
        let round = |ms: f64| Some((ms * 1000.0).round() / 1000.0);
        Summary { last: round(last), p50: round(rank(0.50)), p99: round(rank(0.99)) }
    }
}

/// Changes of Services and EndpointSlices that mattered.
#[derive(Debug, Default)]
pub struct Changes {
    pub services: Seen,
    pub endpoint_slices: Seen,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub all: u64,
    /// Not in force yet.
    pub waiting: u64,
}

impl Changes {
    pub fn wait(&mut self, kind: Kind) {
        let seen = match kind {
            Kind::Service => &mut self.services,
            Kind::EndpointSlice => &mut self.endpoint_slices,
            Kind::Pod | Kind::Node | Kind::ServiceCidr => return,
        };
        seen.all += 1;
        seen.waiting += 1;
    }

    pub fn put_in_force(&mut self) {
        (self.services.waiting, self.endpoint_slices.waiting) = (0, 0);
    }
}

/// How often the health endpoints were asked, by what they answered.
#[derive(Debug, Default)]
pub struct Probes {
    pub healthz: Probe,
    pub livez: Probe,
}

#[derive(Debug, Default)]
pub struct Probe {
    /// 200.
    pub well: u64,
    /// 503.
    pub unwell: u64,
}

impl Probe {
    pub fn count(&mut self, is_well: bool) {
        *(if is_well { &mut self.well } else { &mut self.unwell }) += 1;
    }
}

/// Which part of control has something to complain about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Dataplane,
    NextHops,
    Routes,
    Neighbours,
    Facts,
    Offloads,
    Manifests,
    Http,
    HealthChecks,
    /// What panicked or failed as a whole and was made anew.
    Supervised,
}

/// What the API server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A resource's objects.
    Watch(Kind),
    /// Whether it is ready, `/readyz`.
    Readyz,
}

/// What fails at the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub text: String,
    pub since: SystemTime,
}

/// What is published, and what keeps us from better.
#[derive(Debug, Default)]
pub struct Published {
    /// The first tables are in use.
    pub ready: bool,
    /// Resources whose first list is not complete.
    pub waiting_for: Vec<Kind>,
    pub generation: u64,
    pub snapshots: u64,
    pub services: u64,
    pub endpoints: u64,
    pub refusals: Vec<Refusal>,
    /// What fails at the API server.
    pub troubles: BTreeMap<Subject, Trouble>,
    pub faults: BTreeMap<Part, Vec<String>>,
    /// Since when each of these parts has had something to complain about.
    pub faults_since: BTreeMap<Part, SystemTime>,
    /// How often a part of control was made anew.
    pub restarts: BTreeMap<Supervised, u64>,
    /// Next hops whose neighbour is not resolved.
    pub unresolved: Vec<String>,
    pub change_to_published: Times,
    pub change_to_use: Times,
    pub compile_and_apply: Times,
    /// Of these, those that compiled everything anew, and those that compiled what had changed.
    pub compile_everything: Times,
    pub compile_changes: Times,
    /// Looking for flows whose endpoint or port is gone: CPU time of once through the table.
    pub scans: Times,
    /// From a change's arrival until workers were told of every flow that it ends.
    pub change_to_ended: Times,
    pub changes: Changes,
    /// When the last change came that had to wait for nothing before it.
    pub last_queued: Option<SystemTime>,
    /// Ports of Services with a policy Local for which this node has no endpoint, another has.
    pub no_local_endpoints: NoLocal,
    /// From the last-change-trigger-time of an EndpointSlice until workers could use it.
    pub network_programming: Times,
    pub last_publication: Option<SystemTime>,
    /// Most messages of the watches that waited at once for the publisher; there is room for [`FEED`].
    pub feed_longest: usize,
    /// Changes are waiting to be published since then.
    pub waiting_since: Option<Instant>,
    pub flows_ended: u64,
    /// Offloads of uplink or funnel that somebody had turned on, and that were turned off again.
    pub offloads_turned_off: u64,
    /// The node is being deleted, or about to be (taint ToBeDeletedByClusterAutoscaler).
    pub node_leaves: bool,
    pub probes: Probes,
}

impl Published {
    /// Sets what a part complains about; an empty list says that all is well.
    pub fn set_faults(&mut self, part: Part, faults: Vec<String>) {
        if faults.is_empty() {
            self.faults.remove(&part);
            self.faults_since.remove(&part);
            return;
        }
        if self.faults.get(&part) != Some(&faults) {
            for fault in &faults {
                tracing::warn!("{fault}");
            }
        }
        self.faults.insert(part, faults);
        self.faults_since.entry(part).or_insert_with(SystemTime::now);
    }

    /// Notes that this fails. `true`: that is news.
    pub fn set_trouble(&mut self, subject: Subject, text: String) -> bool {
        let trouble = Trouble { text, since: SystemTime::now() };
        match self.troubles.entry(subject) {
            Entry::Vacant(vacant) => {
                vacant.insert(trouble);
                true
            }
            Entry::Occupied(mut before) => {
                let news = before.get().text != trouble.text;
                before.get_mut().text = trouble.text;
                news
            }
        }
    }

    /// Resources whose watch fails.
    pub fn watches_failing(&self) -> usize {
        self.troubles.keys().filter(|subject| matches!(subject, Subject::Watch(_))).count()
    }

    /// Since when the API server or a part has failed; `None` if none does.
    pub fn failing_since(&self) -> Option<SystemTime> {
        self.troubles.values().map(|trouble| trouble.since).chain(self.faults_since.values().copied()).min()
    }

    pub fn state(&self) -> &'static str {
        match self.ready {
            false => "starting",
            true if self.refusals.is_empty() && self.troubles.is_empty() && self.faults.is_empty() => "ready",
            true => "degraded",
        }
    }

    /// What is wrong with the API server; `None` if nothing is.
    pub fn api(&self) -> Option<String> {
        (!self.troubles.is_empty())
            .then(|| self.troubles.values().map(|trouble| trouble.text.as_str()).collect::<Vec<_>>().join("; "))
    }
}

/// The lock around it.
#[derive(Debug)]
pub struct Shared {
    published: Mutex<Published>,
}

impl Default for Shared {
    fn default() -> Self {
        let network_programming = Times::with_bounds(&PROGRAMMING_BOUNDS_S);
        Self { published: Mutex::new(Published { network_programming, ..Published::default() }) }
    }
}

impl Shared {
    /// A panic elsewhere leaves plain values behind: they are still worth telling.
    pub fn lock(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_samples() {
        let mut times = Times::default();
        assert_eq!(times.summary(), Summary::default());
        for ms in 1..=100 {
            times.record(Duration::from_millis(ms));
        }
        assert_eq!(times.summary(), Summary { last: Some(100.0), p50: Some(50.0), p99: Some(99.0) });
        for _ in 0..SAMPLES + 5 {
            times.record(Duration::from_millis(7));
        }
        assert_eq!(times.summary(), Summary { last: Some(7.0), p50: Some(7.0), p99: Some(7.0) });
        assert_eq!(times.count, 100 + SAMPLES as u64 + 5);
        // 1 ms; 2 ms; 3 and 4 ms; 5, 6, 7, 8 ms and all that came later.
        assert_eq!(times.within[..4], [1, 2, 4, 8 + SAMPLES as u64 + 5]);
        assert_eq!(times.within.last(), Some(&times.count));
    }

    #[test]
    fn network_programming_has_kube_proxys_buckets() {
        let shared = Shared::default();
        shared.lock().network_programming.record(Duration::from_secs(63));
        let buckets: Vec<(f64, u64)> = shared.lock().network_programming.buckets().collect();
        let bounds: Vec<f64> = buckets.iter().map(|(bound_s, _)| *bound_s).collect();
        assert_eq!(bounds[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(bounds[60..63], [59.0, 60.0, 65.0]);
        assert_eq!(bounds[71..75], [110.0, 115.0, 120.0, 150.0]);
        assert_eq!(bounds.last(), Some(&300.0));
        assert!(buckets.iter().all(|(bound_s, within)| *within == u64::from(*bound_s >= 65.0)));
    }

    #[test]
    fn the_state_follows_from_what_is_wrong() {
        let mut published = Published::default();
        assert_eq!(published.state(), "starting");
        published.ready = true;
        assert_eq!(published.state(), "ready");
        assert_eq!(published.failing_since(), None);
        assert!(published.set_trouble(Subject::Watch(Kind::Pod), "pods: 403".into()));
        assert_eq!((published.state(), published.api().as_deref()), ("degraded", Some("pods: 403")));
        let since = published.failing_since();
        assert!(since.is_some_and(|since| since <= SystemTime::now()));
        assert!(!published.set_trouble(Subject::Watch(Kind::Pod), "pods: 403".into()));
        assert!(published.set_trouble(Subject::Watch(Kind::Pod), "pods: 401".into()));
        assert_eq!((published.failing_since(), published.api().as_deref()), (since, Some("pods: 401")));
        published.troubles.clear();
        published.set_faults(Part::Routes, vec!["x".into()]);
        assert_eq!(published.state(), "degraded");
        assert!(published.failing_since() > since);
        published.set_faults(Part::Routes, Vec::new());
        assert_eq!((published.state(), published.failing_since()), ("ready", None));
    }
}
