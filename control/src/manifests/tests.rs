use std::fs;
use std::time::{Duration, Instant};

use super::*;
use crate::config::Config;
use crate::model::Model;

const WEB: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
const DNS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: dns}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}\n";

fn shown(loaded: &Loaded) -> Vec<String> {
    let change = |change: &Change| match change {
        Change::Put(object, source) => format!("put {} {}", object.key(), line(source)),
        Change::Delete(key) => format!("delete {key}"),
    };
    loaded.changes.iter().map(change).collect()
}

/// What comes out once everything has been still.
fn settled(manifests: &mut Manifests) -> Loaded {
    let now = Instant::now();
    let loaded = manifests.reload(now).unwrap();
    if loaded.look_again { manifests.reload(now + STILL).unwrap() } else { loaded }
}

fn line(source: &Source) -> String {
    match source {
        Source::File { path, line } => format!("{}:{line}", path.file_name().unwrap().display()),
        Source::Api | Source::Node => String::new(),
    }
}

fn refused(loaded: &Loaded) -> Vec<String> {
    loaded
        .refusals
        .iter()
        .map(|r| format!("{}: {}: {}; {}", line(&r.source), r.object, r.reason, r.next_step))
        .collect()
}

#[test]
fn documents_lists_and_json_are_read_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("below")).unwrap();
    fs::write(folder.path().join("a.yaml"), format!("# two\n---\n{WEB}---\n{DNS}")).unwrap();
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Node\n  metadata: {name: n1}\n- {apiVersion: v1, kind: Node, metadata: {name: n2}}\n";
    fs::write(folder.path().join("below/b.yml"), list).unwrap();
    let json = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "p"}, "spec": {"containers": []}}]}"#;
    fs::write(folder.path().join("c.json"), json).unwrap();
    fs::write(folder.path().join("notes.txt"), "kind: [").unwrap();
    fs::write(folder.path().join(".hidden.yaml"), "kind: [").unwrap();
    let loaded = Manifests::new(folder.path()).reload(Instant::now()).unwrap();
    assert_eq!(refused(&loaded), [] as [&str; 0]);
    assert_eq!(
        shown(&loaded),
        [
            "put Service default/web a.yaml:3",
            "put Service default/dns a.yaml:8",
            "put Node n1 b.yml:4",
            "put Node n2 b.yml:7",
            "put Pod default/p c.json:1"
        ]
    );
}

#[test]
fn only_differences_come_out_of_a_second_reading() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, format!("{WEB}---\n{DNS}")).unwrap();
    let mut manifests = Manifests::new(folder.path());
    assert_eq!(settled(&mut manifests).changes.len(), 2);
    assert_eq!(settled(&mut manifests).changes, []);
    fs::write(&file, WEB.replace("port: 80", "port: 81")).unwrap();
    assert_eq!(shown(&settled(&mut manifests)), ["delete Service default/dns", "put Service default/web a.yaml:1"]);
    fs::remove_file(&file).unwrap();
    assert_eq!(shown(&settled(&mut manifests)), ["delete Service default/web"]);
}

#[test]
fn what_cannot_be_read_is_refused_by_name_and_line_and_the_rest_works() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "kind: Service\napiVersion: v1\nmetadata:\n  name: broken\nspec: [\n";
    let wrong_type =
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: typed\n  namespace: shop\nspec:\n  ports:\n  - port: many\n";
    let unknown = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n";
    let version = "apiVersion: v2\nkind: Pod\nmetadata: {name: p}\n";
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\n";
    let harmless = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {anything: 1}\n";
    let nameless = "apiVersion: v1\nkind: Node\n";
    let text = [bad, wrong_type, unknown, version, policy, harmless, nameless, WEB].join("---\n");
    fs::write(folder.path().join("a.yaml"), text).unwrap();
    fs::write(folder.path().join("b.json"), "{\n\"kind\": }").unwrap();
    let loaded = Manifests::new(folder.path()).reload(Instant::now()).unwrap();
    assert_eq!(shown(&loaded), ["put Service default/web a.yaml:36"]);
    let refused = refused(&loaded);
    for (found, (start, end)) in refused.iter().zip([
        ("a.yaml:5: Service broken: cannot be read: unclosed bracket '['; ", FIX),
        ("a.yaml:14: Service shop/typed: cannot be read: ", FIX),
        ("a.yaml:16: Widget w: unknown kind Widget", "or take it out of the folder"),
        ("a.yaml:20: Pod default/p: apiVersion is v2, wanted v1", FIX),
        ("a.yaml:24: NetworkPolicy deny: kind NetworkPolicy is not in force", "take it out of the folder"),
        ("a.yaml:33: Node without a name: it has no metadata.name", FIX),
        ("b.json:2: document: not JSON: ", FIX),
    ]) {
        assert!(found.starts_with(start) && found.ends_with(end), "{found}\nwanted: {start} ... {end}");
    }
    assert_eq!(refused.len(), 7, "{refused:#?}");
}

#[test]
fn what_is_read_must_have_its_type_and_nothing_else_matters() {
    let folder = tempfile::tempdir().unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  managedFields: 7\nspec:\n  containers: {no: list}\n  nodeName: null\n";
    let wrong_pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: q}\nspec:\n  hostNetwork: [maybe]\n";
    let wrong_node = "apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec:\n  podCIDRs:\n  - {a: b}\n";
    let wrong_label = "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\n  labels:\n    a: [b]\n";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints: null\nports: null\n";
    fs::write(folder.path().join("a.yaml"), [pod, wrong_pod, wrong_node, wrong_label, slice].join("---\n")).unwrap();
    let items = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "m"}, "status": {"addresses": "none"}}"#;
    fs::write(folder.path().join("b.json"), format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{items}]}}"#))
        .unwrap();
    let loaded = Manifests::new(folder.path()).reload(Instant::now()).unwrap();
    assert_eq!(shown(&loaded), ["put Pod default/p a.yaml:1", "put EndpointSlice default/e a.yaml:30"]);
    let refused = refused(&loaded);
    for (found, start) in refused.iter().zip([
        "a.yaml:14: Pod default/q: cannot be read: ",
        "a.yaml:21: Node n: cannot be read: ",
        "a.yaml:28: Service default/s: cannot be read: ",
        "b.json:1: Node m: cannot be read: ",
    ]) {
        assert!(found.starts_with(start) && found.ends_with(FIX), "{found}\nwanted: {start} ... {FIX}");
    }
    assert_eq!(refused.len(), 4, "{refused:#?}");
}

const FIX: &str = "its last good version stays in force; correct the file and save it";

#[test]
fn half_a_file_takes_nothing_down() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, format!("{WEB}---\n{DNS}")).unwrap();
    let mut manifests = Manifests::new(folder.path());
    settled(&mut manifests);
    fs::write(&file, format!("{WEB}---\nkind: Service\nmetadata: {{name: dns\n")).unwrap();
    let loaded = settled(&mut manifests);
    assert_eq!((shown(&loaded), loaded.refusals.len()), (vec![], 1));
    fs::write(&file, WEB).unwrap();
    let loaded = settled(&mut manifests);
    assert_eq!((shown(&loaded), loaded.refusals.len()), (vec!["delete Service default/dns".to_owned()], 0));
}

#[test]
fn a_file_that_is_written_in_place_is_read_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web}\naddressType: IPv4\nendpoints:\n\
                 - addresses: [10.0.0.1]\n- addresses: [10.0.0.2]\n";
    let whole = [WEB, DNS, slice].join("---\n");
    fs::write(&file, &whole).unwrap();
    let mut manifests = Manifests::new(folder.path());
    let mut now = Instant::now();
    assert_eq!(manifests.reload(now).unwrap().changes.len(), 3);
    let new = whole.replace("10.0.0.2", "10.0.0.3");
    // Its writer begins with nothing and pauses after every line: most of what is there then reads as a whole file.
    let ends = [0].into_iter().chain(new.match_indices('\n').map(|(at, _)| at + 1));
    let mut wholes = 0;
    for end in ends {
        fs::write(&file, &new[..end]).unwrap();
        wholes += usize::from(parse(&file, &new[..end]).refusals.is_empty());
        let loaded = manifests.reload(now).unwrap();
        assert_eq!((loaded.changes, loaded.refusals, loaded.look_again), (vec![], vec![], true), "{}", &new[..end]);
        now += STILL - Duration::from_millis(1);
        assert_eq!(manifests.reload(now).unwrap().changes, [], "{}", &new[..end]);
    }
    assert!(wholes > 5, "{wholes}");
    let loaded = manifests.reload(now + STILL).unwrap();
    assert_eq!(
        (shown(&loaded), loaded.look_again),
        (vec!["put EndpointSlice default/web a.yaml:11".to_owned()], false)
    );
}

#[test]
fn a_file_that_is_gone_for_a_moment_is_replaced_and_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, WEB).unwrap();
    let mut manifests = Manifests::new(folder.path());
    let now = Instant::now();
    manifests.reload(now).unwrap();
    fs::remove_file(&file).unwrap();
    let loaded = manifests.reload(now).unwrap();
    assert_eq!((loaded.changes, loaded.look_again), (vec![], true));
    fs::write(&file, WEB.replace("port: 80", "port: 81")).unwrap();
    assert_eq!(manifests.reload(now + STILL).unwrap().changes, []);
    assert_eq!(shown(&manifests.reload(now + 2 * STILL).unwrap()), ["put Service default/web a.yaml:1"]);
}

#[test]
fn a_file_that_is_never_left_alone_is_told_of_and_what_it_gave_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, WEB).unwrap();
    let mut manifests = Manifests::new(folder.path());
    let begin = Instant::now();
    manifests.reload(begin).unwrap();
    for n in 0..60 {
        fs::write(&file, format!("{WEB}# {}\n", "x".repeat(n))).unwrap();
        let loaded = manifests.reload(begin + n as u32 * Duration::from_millis(100)).unwrap();
        let is_told = refused(&loaded)
            == [
                "a.yaml:1: a.yaml: it has changed for 5s without being left alone for 250ms; what it gave before stays in force; write it elsewhere and move it here",
            ];
        assert_eq!((loaded.changes.len(), is_told), (0, n >= 50), "{n}: {:?}", loaded.refusals);
    }
    assert_eq!(refused(&settled(&mut manifests)), [] as [&str; 0]);
}

#[test]
fn what_can_be_looked_at_no_longer_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, WEB).unwrap();
    let mut manifests = Manifests::new(folder.path());
    settled(&mut manifests);
    fs::remove_file(&file).unwrap();
    // Leads round and round.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let loaded = settled(&mut manifests);
    assert_eq!((shown(&loaded), loaded.refusals.len()), (vec![], 1));
    fs::remove_file(&file).unwrap();
    assert_eq!(shown(&settled(&mut manifests)), ["delete Service default/web"]);
}

#[test]
fn the_same_object_twice_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), WEB).unwrap();
    fs::write(folder.path().join("b.yaml"), WEB.replace("port: 80", "port: 81")).unwrap();
    let loaded = Manifests::new(folder.path()).reload(Instant::now()).unwrap();
    assert_eq!(shown(&loaded), ["put Service default/web a.yaml:1"]);
    assert!(refused(&loaded)[0].contains("b.yaml:1: Service default/web: it stands in "), "{:?}", refused(&loaded));
}

#[test]
fn of_two_files_that_meet_the_first_stays_in_force() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), WEB).unwrap();
    fs::write(folder.path().join("b.yaml"), DNS.replace("10.96.0.10", "10.96.0.1")).unwrap();
    let mut model = Model::new(&Config::default());
    for change in Manifests::new(folder.path()).reload(Instant::now()).unwrap().changes {
        model.apply(change);
    }
    assert!(model.service("default/web").is_some());
    assert!(model.refusals()[0].reason.contains("clusterIP 10.96.0.1 belongs to Service default/web"));
}

#[test]
fn a_missing_folder_says_what_to_do() {
    let error = Manifests::new(Path::new("/nonexistent")).reload(Instant::now()).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent: the folder of manifests cannot be read: "), "{error}");
    assert!(Watch::start(Path::new("/nonexistent")).is_err());
}

#[tokio::test]
async fn a_change_is_noticed_within_a_second_however_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut watch = Watch::start(folder.path()).unwrap();
    let mut manifests = Manifests::new(folder.path());
    manifests.reload(Instant::now()).unwrap();
    type Step = (&'static str, fn(&Path));
    let steps: [Step; 4] = [
        ("written", |at| fs::write(at.join("a.yaml"), WEB).unwrap()),
        ("renamed over", |at| {
            fs::write(at.join(".a.yaml.tmp"), DNS).unwrap();
            fs::rename(at.join(".a.yaml.tmp"), at.join("a.yaml")).unwrap();
        }),
        ("in a new folder", |at| {
            fs::create_dir(at.join("new")).unwrap();
            fs::write(at.join("new/b.yaml"), WEB).unwrap();
        }),
        ("removed", |at| fs::remove_file(at.join("a.yaml")).unwrap()),
    ];
    for (what, step) in steps {
        let start = Instant::now();
        step(folder.path());
        // A burst may end before its last event is there; then the next one comes at once.
        let mut changes = Vec::new();
        while changes.is_empty() {
            tokio::time::timeout(Duration::from_secs(5), watch.changed())
                .await
                .unwrap_or_else(|_| panic!("{what}: not noticed"));
            let mut loaded = manifests.reload(Instant::now()).unwrap();
            while loaded.look_again {
                tokio::time::sleep(STILL).await;
                loaded = manifests.reload(Instant::now()).unwrap();
            }
            changes = loaded.changes;
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{what}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn reading_alone_wakes_nobody() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), WEB).unwrap();
    let mut watch = Watch::start(folder.path()).unwrap();
    Manifests::new(folder.path()).reload(Instant::now()).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(600), watch.changed()).await.is_err());
}
