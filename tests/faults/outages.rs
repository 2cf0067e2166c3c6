//! One life of a daemon through every fault of its API server, one after the other, without a request lost or a flow
//! picked again.

use std::time::{Duration, Instant};

use crate::certificates::Dates;
use crate::etcd;
use crate::node::Node;
use crate::proxy::{Asked, Fault};
use crate::support::{skipped, turn};

/// etcd stands still until that is noticed; for so many seconds at least if this is set.
const ETCD_STANDS: &str = "ATALHO_ETCD_STANDS_S";

#[test]
fn a_node_outlives_every_fault_of_its_api_server() {
    if skipped("a_node_outlives_every_fault_of_its_api_server") {
        return;
    }
    let _turn = turn();
    let mut node = Node::start("at-f-node");
    for (name, fault) in FAULTS {
        let start = Instant::now();
        fault(&mut node);
        node.recovers();
        node.assert_traffic_goes_on();
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    node.end();
}

const RESOURCES: [&str; 5] = ["/services?", "/endpointslices?", "/pods?", "/nodes?", "/servicecidrs?"];

type Make = fn(&mut Node);

const FAULTS: [(&str, Make); 13] = [
    ("none yet", asked_by_streams),
    ("a bookmark", a_bookmark),
    ("an event cut in the middle", cut_in_an_event),
    ("too many requests", too_many_requests),
    ("too old by the proxy", too_old),
    ("a stream cut before its end", a_stream_cut_off),
    ("a server that does not stream", no_streams),
    ("a list cut off", a_list_cut_off),
    ("certificates out of their dates", wrong_clock),
    ("killed, and compacted meanwhile", killed_and_compacted),
    ("restored from a copy", restored),
    ("etcd stands still", etcd_stands_still),
    ("no answer at first", away),
];

fn cut_in_an_event(node: &mut Node) {
    let before = node.status();
    node.set(Fault::CutEvents);
    node.change();
    node.fails(&before, &["endpointslices.discovery.k8s.io", "broke off"]);
    node.assert_traffic_goes_on();
    node.set(Fault::None);
}

fn away(node: &mut Node) {
    let before = node.status();
    node.set(Fault::Away);
    node.fails(&before, &["services", "cannot be reached", "6444"]);
    node.change();
    node.set(Fault::None);
}

fn too_many_requests(node: &mut Node) {
    const PAUSE_S: u64 = 3;
    let (before, since) = (node.status(), Instant::now());
    node.set(Fault::Busy(PAUSE_S));
    node.change();
    node.fails(&before, &["429", "asked again when it said"]);
    node.session.listen(Duration::from_secs(2 * PAUSE_S)).unwrap();
    node.set(Fault::None);
    let asked = node.proxy.asked_since(since);
    let mut again = 0;
    for (index, first) in asked.iter().enumerate() {
        let resource = |path: &str| path.split('?').next().unwrap_or_default().to_owned();
        let next = asked[index + 1..].iter().find(|next| resource(&next.path) == resource(&first.path));
        if let Some(next) = next {
            let pause = next.at - first.at;
            assert!(pause >= Duration::from_secs(PAUSE_S), "{} asked again after {pause:?}", first.path);
            again += 1;
        }
    }
    assert!(again > 0, "nobody asked twice: {asked:?}");
}

/// A request for what there is, as a stream.
fn is_stream(path: &str) -> bool {
    path.contains("sendInitialEvents=true") && path.contains("resourceVersionMatch=NotOlderThan")
}

/// A request for what there is, in pages: with any limit but that of the question how far the server is.
fn is_page(path: &str) -> bool {
    path.split(['?', '&']).any(|pair| pair.starts_with("limit=") && pair != "limit=1")
}

/// Waits until a request since then is so, and returns all of them.
fn until_asked(node: &mut Node, since: Instant, what: &str, is_so: impl Fn(&str) -> bool) -> Vec<Asked> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let asked = node.proxy.asked_since(since);
        if asked.iter().any(|one| is_so(&one.path)) {
            return asked;
        }
        assert!(Instant::now() < end, "not asked for {what}: {asked:?}");
        node.session.listen(Duration::from_millis(50)).unwrap();
    }
}

fn asked_by_streams(node: &mut Node) {
    let asked = node.proxy.asked_since(node.begun);
    for resource in RESOURCES {
        let first = asked.iter().find(|one| one.path.contains(resource));
        let is_consistent = |path: &str| path.split('&').any(|pair| pair == "resourceVersion=");
        assert!(first.is_some_and(|one| is_stream(&one.path) && is_consistent(&one.path)), "{resource} {asked:?}");
    }
    assert!(asked.iter().all(|one| !one.path.contains("limit=")), "{asked:?}");
}

fn too_old(node: &mut Node) {
    let gone = node.change();
    node.recovers();
    let (before, since) = (node.status(), Instant::now());
    node.set(Fault::TooOld);
    node.fails(&before, &["410 Gone"]);
    // What is deleted while nobody watches is missed by no list.
    node.take_back(&gone);
    node.change();
    let is_slices = |path: &str| path.contains("endpointslices") && is_stream(path);
    let has_version = |path: &str| path.split('&').any(|pair| pair.len() > 16 && pair.starts_with("resourceVersion="));
    until_asked(node, since, "what is not older than the last", |path| is_slices(path) && has_version(path));
    let asked = until_asked(node, since, "what there is now", |path| is_slices(path) && !has_version(path));
    assert!(asked.iter().all(|one| !is_page(&one.path)), "{asked:?}");
    node.set(Fault::None);
}

fn a_stream_cut_off(node: &mut Node) {
    let gone = node.change();
    node.recovers();
    let (before, since) = (node.status(), Instant::now());
    node.set(Fault::CutStreams);
    node.take_back(&gone);
    node.fails(&before, &["endpointslices", "broke off"]);
    let twice = |node: &Node| {
        let asked = node.proxy.asked_since(since);
        asked.iter().filter(|one| one.path.contains("endpointslices") && is_stream(&one.path)).count() > 1
    };
    let end = Instant::now() + Duration::from_secs(30);
    while !twice(node) {
        assert!(Instant::now() < end, "asked no second time");
        node.session.listen(Duration::from_millis(50)).unwrap();
    }
    node.fails(&before, &[]);
    node.set(Fault::None);
}

fn no_streams(node: &mut Node) {
    let gone = node.change();
    node.recovers();
    let before = node.status();
    node.set(Fault::TooOld);
    node.fails(&before, &["410 Gone"]);
    node.take_back(&gone);
    node.change();
    let since = Instant::now();
    node.set(Fault::NoStreams);
    // Listed in pages, and nothing is wrong any more.
    node.recovers();
    let asked = until_asked(node, since, "pages", |path| path.contains("endpointslices") && is_page(path));
    assert!(asked.iter().any(|one| one.path.contains("endpointslices") && is_stream(&one.path)), "{asked:?}");
    node.set(Fault::None);
}

fn a_list_cut_off(node: &mut Node) {
    let gone = node.change();
    node.recovers();
    let (before, since) = (node.status(), Instant::now());
    node.set(Fault::CutPages);
    node.take_back(&gone);
    node.fails(&before, &["services", "cannot be reached"]);
    until_asked(node, since, "a second page", |path| path.contains("endpointslices") && path.contains("continue="));
    node.fails(&before, &[]);
    node.set(Fault::None);
}

fn a_bookmark(node: &mut Node) {
    let list = node.admin.ask("GET", "/api/v1/services?limit=1", None);
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    node.proxy.say(&format!(r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{version}"}}}}}}"#));
    let since = Instant::now();
    node.session.listen(Duration::from_millis(300)).unwrap();
    node.set(Fault::None);
    let wanted = format!("resourceVersion={version}");
    let goes_on = |path: &str| path.contains("watch=true") && path.split('&').any(|pair| pair == wanted);
    let end = since + Duration::from_secs(30);
    // Every watch goes on behind the bookmark, also those whose objects are all older, and none lists again.
    loop {
        let asked = node.proxy.asked_since(since);
        if RESOURCES.iter().all(|resource| asked.iter().any(|one| one.path.contains(resource) && goes_on(&one.path))) {
            let lists = |path: &str| is_page(path) || is_stream(path);
            assert!(!asked.iter().any(|one| lists(&one.path)), "{asked:?}");
            break;
        }
        assert!(Instant::now() < end, "{version}: {asked:?}");
        node.session.listen(Duration::from_millis(50)).unwrap();
    }
    node.change();
}

fn wrong_clock(node: &mut Node) {
    for (dates, word) in [(Dates::Past, "expired"), (Dates::Future, "not valid yet")] {
        let before = node.status();
        node.set(Fault::Certificate(dates));
        node.fails(&before, &["certificate", word, "this node's clock"]);
    }
    node.change();
    node.set(Fault::None);
}

fn killed_and_compacted(node: &mut Node) {
    let gone = node.change();
    node.recovers();
    let (before, since) = (node.status(), Instant::now());
    node.set(Fault::Away);
    node.fails(&before, &["cannot be reached"]);
    // Its watch begins before this, and nobody will tell it.
    node.take_back(&gone);
    node.change();
    node.server.stop_server();
    etcd::compact(node.session.plan());
    node.server.start_server().unwrap();
    node.set(Fault::None);
    node.recovers();
    let asked = node.proxy.asked_since(since);
    let lists = asked.iter().filter(|one| one.path.contains("endpointslices") && is_stream(&one.path)).count();
    assert!(lists >= 1, "a watch went on over what was compacted: {asked:?}");
}

/// The store is older afterwards than what the daemon has seen, by more than a server writes when it starts.
fn restored(node: &mut Node) {
    let copy = node.copy_store();
    node.change();
    node.write(250);
    node.change();
    node.recovers();
    let (before, since) = (node.status(), Instant::now());
    node.set(Fault::Away);
    node.fails(&before, &["cannot be reached"]);
    node.restore(copy);
    node.set(Fault::None);
    node.recovers();
    let asked = node.proxy.asked_since(since);
    let lists = asked.iter().filter(|one| one.path.contains("endpointslices") && is_stream(&one.path)).count();
    assert!(lists >= 1, "a watch went on in a store that is older: {asked:?}");
}

fn etcd_stands_still(node: &mut Node) {
    let stands = std::env::var(ETCD_STANDS).map_or(0, |text| text.parse().expect("seconds"));
    let (before, start) = (node.status(), Instant::now());
    node.server.stop_etcd().unwrap();
    let mut noticed = None;
    while noticed.is_none() || start.elapsed() < Duration::from_secs(stands) {
        node.assert_traffic_goes_on();
        let status = node.status();
        assert_eq!((status.services, status.endpoints), (before.services, before.endpoints), "{status:?}");
        let said = status.api.as_ref().map(ToString::to_string).unwrap_or_default();
        let is_told = ["not ready", "etcd", "6444", "kubectl"].iter().all(|word| said.contains(word));
        if is_told && status.state == "degraded" && status.failing_since.is_some() {
            noticed = noticed.or(Some(start.elapsed()));
        }
        assert!(noticed.is_some() || start.elapsed() < Duration::from_secs(45), "nobody noticed: {status:?}");
    }
    println!("etcd that stands still was noticed after {:.1} s", noticed.unwrap_or_default().as_secs_f64());
    node.server.continue_etcd().unwrap();
    node.server.wait_ready(Duration::from_secs(60)).unwrap();
    node.change();
}
