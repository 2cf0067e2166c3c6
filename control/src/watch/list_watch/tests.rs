use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use futures::future::join_all;
use futures::stream;
use kube::Client;
use kube::client::Body;

use super::*;
use crate::model::api::{Service, ServiceCidr};

/// How an answer ends.
#[derive(Clone, Copy)]
enum Ends {
    Whole,
    /// The connection breaks.
    Broken,
    /// Nothing more comes, and it stays.
    Open,
}

type Answer = (u16, Vec<String>, Ends);

fn watch(events: &[String], ends: Ends) -> Answer {
    (200, events.iter().map(|event| format!("{event}\n")).collect(), ends)
}

fn status(code: u16, message: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","code":{code}}}"#
    )
}

fn refusal(code: u16) -> Answer {
    (code, vec![status(code, "sendInitialEvents is forbidden for watch")], Ends::Whole)
}

fn object(name: &str, version: u64) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","namespace":"default","resourceVersion":"{version}"}}}}"#)
}

fn event(kind: &str, name: &str, version: u64) -> String {
    format!(r#"{{"type":"{kind}","object":{}}}"#, object(name, version))
}

fn added(name: &str, version: u64) -> String {
    event("ADDED", name, version)
}

fn error(code: u16) -> String {
    format!(r#"{{"type":"ERROR","object":{}}}"#, status(code, "no"))
}

fn bookmark(version: u64, annotations: &str) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"kind":"Service","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","annotations":{{{annotations}}}}}}}}}"#
    )
}

fn end(version: u64) -> String {
    bookmark(version, r#""k8s.io/initial-events-end":"true""#)
}

fn page(names: &[&str], version: u64, token: &str) -> Answer {
    let items: Vec<String> = names.iter().map(|name| object(name, 1)).collect();
    let metadata = format!(r#"{{"resourceVersion":"{version}","continue":"{token}"}}"#);
    (
        200,
        vec![format!(
            r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{metadata},"items":[{}]}}"#,
            items.join(",")
        )],
        Ends::Whole,
    )
}

/// How far the server is.
fn newest(version: u64) -> Answer {
    (
        200,
        vec![format!(
            r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"{version}"}},"items":[]}}"#
        )],
        Ends::Whole,
    )
}

/// Answers so, one after another, and then nothing. What was asked until then, or for so long, and what was told.
async fn play<K>(kind: Kind, answers: Vec<Answer>, within: Duration) -> (Vec<String>, Vec<String>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    Object: From<K>,
{
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (script, uris, heard) = (Mutex::new(VecDeque::from(answers)), asked.clone(), Heard::default());
    let (played, mut is_played) = mpsc::channel::<()>(1);
    let played = Mutex::new(Some(played));
    let listens = heard.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        listens.request();
        uris.lock().unwrap().push(request.uri().to_string());
        let answer = script.lock().unwrap().pop_front();
        if answer.is_none() {
            played.lock().unwrap().take();
        }
        let listens = listens.clone();
        async move {
            let Some((code, parts, ends)) = answer else { return std::future::pending().await };
            let parts = stream::iter(parts.into_iter().map(|part| Ok::<_, std::io::Error>(part.into_bytes())));
            let rest = match ends {
                Ends::Whole => stream::empty().boxed(),
                Ends::Broken => stream::iter([Err(std::io::Error::other("cut"))]).boxed(),
                Ends::Open => stream::pending().boxed(),
            };
            let body = axum::body::Body::from_stream(parts.chain(rest));
            let answer = Response::builder().status(code).body(body).unwrap();
            listens.answer(&answer);
            Ok::<_, Infallible>(answer)
        }
    });
    let (feed, mut told) = mpsc::channel(64);
    let list_watch = ListWatch::<K> {
        kind,
        api: Api::all(Client::new(service, "default")),
        fields: None,
        url: "https://192.0.2.1".into(),
        heard,
        feed,
        initial_events_pause_max: Duration::from_millis(100),
        state: State::default(),
    };
    let running = tokio::spawn(list_watch.run());
    let _ = timeout(within, is_played.recv()).await;
    running.abort();
    let mut said = Vec::new();
    while let Some(feed) = told.recv().await {
        said.extend(lines(feed));
    }
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    (asked, said)
}

fn lines(feed: Feed) -> Vec<String> {
    match feed {
        Feed::Changes(changes) => changes
            .into_iter()
            .map(|change| match change {
                Change::Put(object, _) => format!("put {}", object.key().name),
                Change::Delete(key) => format!("delete {}", key.name),
            })
            .collect(),
        Feed::Listed(_) => vec!["listed".into()],
        Feed::Trouble(_, text) => vec![format!("trouble: {text}")],
        Feed::Well(_) => vec!["well".into()],
        other => panic!("{other:?}"),
    }
}

async fn services(answers: Vec<Answer>) -> (Vec<String>, Vec<String>) {
    play::<Service>(Kind::Service, answers, Duration::from_secs(20)).await
}

/// What each request asked for, and behind which version.
fn what(asked: &[String]) -> Vec<String> {
    let part = |query: &str, name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    asked
        .iter()
        .map(|uri| {
            let query = uri.split_once('?').unwrap().1;
            let version = part(query, "resourceVersion").unwrap_or_default();
            if part(query, "limit").as_deref() == Some("1") {
                assert_eq!(version, "", "{uri}");
                return "newest".into();
            }
            if part(query, "watch").is_none() {
                return format!("page {}", part(query, "continue").unwrap_or_default());
            }
            assert_eq!(part(query, "allowWatchBookmarks").as_deref(), Some("true"), "{uri}");
            let streams = part(query, "sendInitialEvents").is_some();
            assert_eq!(part(query, "resourceVersionMatch").is_some_and(|how| how == "NotOlderThan"), streams, "{uri}");
            format!("{} {version}", if streams { "stream" } else { "watch" })
        })
        .collect()
}

#[tokio::test]
async fn a_stream_comes_into_force_at_its_end_bookmark_and_goes_on_as_a_watch() {
    let events = [
        added("a", 5),
        added("b", 3),
        bookmark(9, ""),
        event("MODIFIED", "b", 10),
        event("DELETED", "a", 11),
        end(12),
        added("c", 13),
        event("DELETED", "b", 14),
        bookmark(20, ""),
    ];
    let (asked, told) = services(vec![watch(&events, Ends::Whole), newest(20)]).await;
    assert_eq!(what(&asked), ["stream ", "newest", "watch 20"]);
    assert_eq!(told, ["put b", "listed", "put c", "delete b"], "a went before the list was complete");
}

#[tokio::test]
async fn a_stream_cut_before_its_end_bookmark_counts_for_nothing() {
    let (asked, told) = services(vec![
        watch(&[added("a", 1), added("b", 2), end(10), error(410)], Ends::Whole),
        watch(&[added("b", 2), added("c", 12)], Ends::Broken),
        watch(&[added("a", 1), end(13)], Ends::Whole),
        newest(13),
    ])
    .await;
    assert_eq!(what(&asked), ["stream ", "stream 10", "stream 10", "newest", "watch 13"]);
    let [before @ .., gone, cut, deleted, put, well] = &told[..] else { panic!("{told:?}") };
    assert_eq!(before, ["put a", "put b", "listed"]);
    assert!(gone.contains("410 Gone") && cut.contains("broke off"), "{told:?}");
    assert_eq!([deleted, put, well], ["delete b", "put a", "well"]);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_asked_in_pages_and_nothing_is_wrong() {
    let ignores = [added("a", 1), added("b", 2)];
    let cases = [
        refusal(400),
        refusal(422),
        watch(&[error(500)], Ends::Whole),
        watch(&ignores, Ends::Whole),
        watch(&ignores, Ends::Open),
    ]
    .map(|cannot| {
        let pages = [page(&["a", "b"], 7, "more"), page(&["c"], 7, "")];
        services([vec![cannot], pages.into(), vec![watch(&[added("d", 8)], Ends::Whole), newest(9)]].concat())
    });
    for (asked, told) in join_all(cases).await {
        assert_eq!(what(&asked), ["stream ", "page ", "page more", "watch 7", "newest", "watch 8"]);
        assert_eq!(told, ["put a", "put b", "put c", "listed", "put d"]);
    }
}

#[tokio::test]
async fn pages_that_break_off_count_for_nothing_and_the_next_list_is_asked_for_as_a_stream() {
    let half = (200, vec![r#"{"items":["#.into()], Ends::Broken);
    let (asked, told) = services(vec![
        refusal(422),
        page(&["a"], 7, "more"),
        half,
        watch(&[added("b", 8), end(9)], Ends::Whole),
        newest(9),
    ])
    .await;
    assert_eq!(what(&asked), ["stream ", "page ", "page more", "stream ", "newest", "watch 9"]);
    assert!(told[0].starts_with("trouble: services"), "{told:?}");
    assert_eq!(told[1..], ["put b", "listed", "well"]);
}

#[tokio::test]
async fn a_version_that_the_server_cannot_serve_is_not_asked_for_again() {
    let cases = [watch(&[error(504)], Ends::Whole), watch(&[added("b", 1), error(410)], Ends::Whole), refusal(410)]
        .map(|no| {
            let begin = watch(&[added("a", 1), end(10), error(410)], Ends::Whole);
            services(vec![begin, no, watch(&[end(4)], Ends::Whole), newest(5)])
        });
    for (asked, told) in join_all(cases).await {
        assert_eq!(what(&asked), ["stream ", "stream 10", "stream ", "newest", "watch 4"]);
        assert_eq!(told[told.len() - 2..], ["delete a", "well"], "{told:?}");
    }
}

#[tokio::test]
async fn a_server_whose_store_went_back_is_asked_for_what_it_has_now() {
    let before = watch(&[added("a", 9_999), added("b", 3), end(10_000)], Ends::Whole);
    let cases = [newest(9_999), newest(5)].map(|older| {
        services(vec![before.clone(), older, watch(&[added("b", 3), added("c", 4), end(6)], Ends::Whole), newest(6)])
    });
    for (asked, told) in join_all(cases).await {
        assert_eq!(what(&asked), ["stream ", "newest", "stream ", "newest", "watch 6"]);
        assert_eq!(told, ["put a", "put b", "listed", "delete a", "put b", "put c"]);
    }
}

#[tokio::test]
async fn a_watch_stands_again_by_its_answer_though_nothing_changes() {
    let busy = (429, vec!["Too many requests, please try again later.\n".to_owned()], Ends::Whole);
    let (asked, told) = services(vec![
        watch(&[end(10), added("a", 11)], Ends::Broken),
        newest(11),
        busy,
        newest(11),
        watch(&[], Ends::Whole),
        newest(11),
        watch(&[], Ends::Whole),
    ])
    .await;
    let wanted = ["stream ", "newest", "watch 11", "newest", "watch 11", "newest", "watch 11", "newest"];
    assert_eq!(what(&asked), wanted);
    let [listed, put, broke, too_many, well] = &told[..] else { panic!("{told:?}") };
    assert_eq!([listed, put, well], ["listed", "put a", "well"]);
    assert!(broke.contains("broke off") && too_many.contains("429"), "{told:?}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_of_and_not_in_the_way_of_others() {
    let unreadable = r#"{"type":"ADDED","object":{"metadata":7}}"#.to_owned();
    let (_, told) =
        services(vec![watch(&[end(10), unreadable, added("b", 12)], Ends::Whole), newest(12), watch(&[], Ends::Whole)])
            .await;
    assert!(told[1].contains("services") && told[1].contains("cannot be read"), "{told:?}");
    assert_eq!((&told[0][..], &told[2..]), ("listed", &["put b".to_owned(), "well".to_owned()][..]));
}

#[tokio::test]
async fn a_resource_that_the_server_does_not_have_is_listed_as_none_and_seldom_asked_for() {
    let nobody = watch(&[], Ends::Broken);
    let gone = (404, vec!["404 page not found\n".to_owned()], Ends::Whole);
    let (asked, told) = play::<ServiceCidr>(Kind::ServiceCidr, vec![nobody, gone], Duration::from_secs(4)).await;
    assert_eq!(what(&asked), ["stream ", "stream "], "asked again at once");
    assert_eq!(told[1..], ["listed", "well"], "{told:?}");
}
