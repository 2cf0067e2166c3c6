//! A file of manifests, and what it becomes when it is written anew.

use std::collections::BTreeMap;
use std::path::Path;

use atalho_control::config::Config;
use atalho_control::manifests;
use atalho_control::model::{Change, Source};

use super::cluster::{self, Cluster};

/// A line of this ends one version of the file.
const VERSION: &str = "\n%%%\n";
const VERSIONS_MAX: usize = 4;

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut cluster = Cluster::new(Config::default());
    let mut before = BTreeMap::new();
    for version in text.split(VERSION).take(VERSIONS_MAX) {
        let is_json = version.starts_with(['{', '[']);
        let path = Path::new(if is_json { "file.json" } else { "file.yaml" });
        let documents = manifests::parse(path, version);
        let lines = lines(version);
        documents.refusals.iter().for_each(|refusal| cluster::check(refusal, Some(lines)));
        let source = |line: u32| Source::File { path: path.to_owned(), line };
        let now: BTreeMap<_, _> = documents.objects.iter().map(|(object, line)| (object.key(), *line)).collect();
        assert!(now.values().all(|line| (1..=lines).contains(&(*line as usize))), "{now:?}");
        let gone = before.into_keys().filter(|key| !now.contains_key(key)).map(Change::Delete);
        cluster.apply(gone.collect::<Vec<_>>());
        cluster.apply(documents.objects.into_iter().map(|(object, line)| Change::Put(object, source(line))));
        cluster.compile(Some(self::lines(text)));
        before = now;
    }
}

/// Lines as YAML counts them: a carriage return alone ends one too (YAML 1.2.2 section 5.4). A fault at the end of the file
/// may be told on the line behind its last one.
fn lines(text: &str) -> usize {
    text.replace("\r\n", "\n").split(['\n', '\r']).count()
}
