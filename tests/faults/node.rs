//! A node whose API server stands behind the proxy, under traffic that lasts from its beginning to its end.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use atalho_benches::apiserver::ApiServer;
use atalho_benches::lab::daemon::{Objects, Status, write_config};
use atalho_benches::lab::paths::{self, Path};
use atalho_benches::lab::plan::Family;
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

use crate::certificates::Certificates;
use crate::https::{Https, kubeconfig};
use crate::proxy::{self, Fault, Proxy};
use crate::support::{assert_even_and_right, finish, last_words, with_server};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// Traffic lasts until it is stopped.
const FOR_EVER_S: f64 = 600.0;
/// The daemon's memory may grow by so much from the first fault to the last.
const GROWS_MAX_KB: u64 = 24 << 10;

/// Takes this thread, and those that it starts, into a network namespace.
pub fn enter(namespace: &str) {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root, to enter a namespace");
}

/// Does something in a network namespace.
pub fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = namespace.to_owned();
    let done = thread::spawn(move || {
        enter(&namespace);
        work()
    });
    done.join().expect("work in a namespace")
}

pub struct Node {
    pub session: Session,
    pub server: ApiServer,
    pub proxy: Proxy,
    pub admin: Https,
    /// Before the daemon asked for anything.
    pub begun: Instant,
    held: Vec<(u32, Path, JobKind)>,
    /// What the API server has, and the daemon must come to have.
    endpoints: u64,
    changes: u64,
    memory_kb: u64,
}

pub struct StoreCopy {
    path: PathBuf,
    endpoints: u64,
}

impl Node {
    /// Returns when the daemon is ready and traffic flows on every path.
    pub fn start(prefix: &str) -> Self {
        let (mut session, server) = with_server(prefix);
        let plan = session.plan().clone();
        let folder = plan.folder().join("proxy");
        let admin = Https::new(&plan);
        let proxy = Proxy::start(&plan, Certificates::make(&folder), admin.clone());
        let config = write_config(&plan, None, "").unwrap();
        let path = folder.join("kubeconfig");
        kubeconfig(&path, proxy::PORT, proxy.authority(), "token: admin-token");
        let begun = Instant::now();
        session.start_daemon(&config, &Objects::ApiServer { kubeconfig: path }).unwrap();
        let ready = session.daemon_mut().unwrap().wait_ready(Duration::from_secs(60)).unwrap();
        assert_eq!(ready.state, "ready", "{ready:?}");
        let mut held = Vec::new();
        for path in Family::BOTH.into_iter().flat_map(paths::paths) {
            for kind in [JobKind::HoldTcp, JobKind::HoldUdp] {
                let mut job = paths::job(&path, kind, FOR_EVER_S);
                (job.interval_ms, job.timeout_ms) = (50, 10_000);
                held.push((session.ask(path.from, job).unwrap(), path.clone(), kind));
            }
        }
        session.listen(Duration::from_secs(1)).unwrap();
        let memory_kb = memory_kb(&session);
        Self { session, server, proxy, admin, begun, held, endpoints: ready.endpoints, changes: 0, memory_kb }
    }

    pub fn status(&self) -> Status {
        self.session.daemon().unwrap().status().unwrap()
    }

    /// Puts one endpoint more to the API server, by a slice of its own, and returns the slice's name.
    pub fn change(&mut self) -> String {
        self.changes += 1;
        let name = format!("web-{}", self.changes);
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "unused"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
            "endpoints": [{"addresses": [format!("10.244.3.{}", self.changes)], "conditions": {"ready": true}}],
        });
        self.admin.ask("POST", SLICES, Some(&slice));
        self.endpoints += 1;
        name
    }

    /// Takes the endpoint of a change away.
    pub fn take_back(&mut self, name: &str) {
        self.admin.ask("DELETE", &format!("{SLICES}/{name}"), None);
        self.endpoints -= 1;
    }

    /// Writes to the store, without a change to anything that the daemon follows.
    pub fn write(&self, times: u32) {
        let maps = "/api/v1/namespaces/default/configmaps";
        let map = |number: u32| {
            let data = json!({ "number": number.to_string() });
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "number" }, "data": data })
        };
        self.admin.ask("POST", maps, Some(&map(0)));
        for number in 1..times {
            self.admin.ask("PUT", &format!("{maps}/number"), Some(&map(number)));
        }
        self.admin.ask("DELETE", &format!("{maps}/number"), None);
    }

    /// What the API server's store has now, for [`Self::restore`].
    pub fn copy_store(&self) -> StoreCopy {
        StoreCopy { path: self.server.copy_etcd().unwrap(), endpoints: self.endpoints }
    }

    /// Puts the store back.
    pub fn restore(&mut self, copy: StoreCopy) {
        self.server.restore_etcd(&copy.path).unwrap();
        self.endpoints = copy.endpoints;
    }

    /// Waits until the status tells of a failure in these words, and since when; what was in force must be so still.
    pub fn fails(&mut self, before: &Status, words: &[&str]) -> Status {
        let said = |status: &Status| status.api.as_ref().map(ToString::to_string).unwrap_or_default();
        let failing = self.wait(90, &format!("to say {words:?}"), |status| {
            status.state == "degraded" && words.iter().all(|word| said(status).contains(word))
        });
        assert!(failing.failing_since.is_some(), "{failing:?}");
        let in_force = |status: &Status| (status.services, status.endpoints, status.generation);
        assert_eq!(in_force(&failing), in_force(before), "{failing:?}");
        failing
    }

    /// Waits until the daemon has what the API server has, and nothing is wrong.
    pub fn recovers(&mut self) {
        let endpoints = self.endpoints;
        let well = self.wait(90, &format!("to have {endpoints} endpoints"), |status| {
            status.state == "ready" && status.endpoints == endpoints
        });
        assert!(well.api.is_none() && well.failing_since.is_none(), "{well:?}");
    }

    pub fn wait(&mut self, seconds: u64, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let status = self.session.daemon_mut().unwrap().wait_for(Duration::from_secs(seconds), what, holds).unwrap();
        // Reads what the agents have to say, which else wait for a reader.
        self.session.listen(Duration::ZERO).unwrap();
        status
    }

    /// All that was asked was answered, by the same end from the beginning on; the daemon has not grown.
    pub fn end(mut self) {
        let grown = memory_kb(&self.session).saturating_sub(self.memory_kb);
        assert!(grown < GROWS_MAX_KB, "the daemon has grown by {grown} kB from {} kB", self.memory_kb);
        self.session.stop_jobs().unwrap();
        let held = std::mem::take(&mut self.held);
        for outcome in finish(&mut self.session, &held, 25.0) {
            let picked: Vec<_> = outcome.moves.iter().map(|(_, backend)| backend).collect();
            assert_eq!(picked.len(), 1, "a flow was picked again: {picked:?}\n{}", last_words(&self.session));
            assert!(outcome.requests > 50, "{outcome:?}");
        }
        assert_even_and_right(&self.session);
    }

    /// Requests that were answered so far; fails where one was not.
    pub fn answered(&mut self) -> u64 {
        self.session.listen(Duration::from_millis(100)).unwrap();
        let (requests, failed, _) = self.session.progress();
        assert_eq!(failed, 0, "{}", last_words(&self.session));
        requests
    }

    /// Traffic goes on, now.
    pub fn assert_traffic_goes_on(&mut self) {
        let before = self.answered();
        let end = Instant::now() + Duration::from_secs(10);
        while self.answered() < before + 20 {
            assert!(Instant::now() < end, "traffic stands still\n{}", last_words(&self.session));
        }
    }

    /// Counts the daemon's growth from now on.
    pub fn weigh(&mut self) {
        self.memory_kb = memory_kb(&self.session);
    }

    pub fn set(&self, fault: Fault) {
        self.proxy.set(fault);
    }
}

/// RssAnon of the daemon, proc_pid_status(5): the shared tables, of which a scan touches every page, are no part of it.
fn memory_kb(session: &Session) -> u64 {
    let path = format!("/proc/{}/status", session.daemon().unwrap().pid());
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}
