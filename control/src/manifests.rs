//! Objects from a folder: every `*.yaml`, `*.yml` and `*.json` below it, several documents a file, `kind: List` too.
//!
//! A file is read again only when it looks different (time, length, inode), and what comes out are differences.
//! While a file has a document that cannot be read, objects that it gave before and does not give now stay: half a
//! file, as an editor may leave it for a moment, must not take Services down. Where two files give the same object the
//! first in the order of paths counts.
//!
//! What this does not do: it judges no object's content (the model does), and it does not follow links out of loops:
//! folders behind symbolic links are not entered, files behind them are read.

mod documents;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::model::{Change, Key, Object, Refusal, Source};

#[cfg(test)]
pub(crate) use documents::parse_one;
pub use documents::{Documents, parse};
pub use watch::Watch;

/// A folder that cannot be read or watched at all.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}: {cause}; {next_step}", path.display())]
pub struct ManifestsError {
    pub path: PathBuf,
    pub what: &'static str,
    pub cause: String,
    pub next_step: &'static str,
}

/// What a reading gave.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Against the reading before; deletions first.
    pub changes: Vec<Change>,
    /// All that cannot be read at this moment, not only what is new.
    pub refusals: Vec<Refusal>,
}

/// A folder of manifests and what was last read from it.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// What was given out, to tell differences.
    given: BTreeMap<Key, (Object, Source)>,
}

/// Looks of a file: when none of them changed its content has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looks {
    modified_ns: i128,
    changed_ns: i128,
    bytes: u64,
    inode: u64,
}

#[derive(Debug)]
struct File {
    looks: Looks,
    objects: Vec<(Object, u32)>,
    refusals: Vec<Refusal>,
}

impl Manifests {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), files: BTreeMap::new(), given: BTreeMap::new() }
    }

    /// Reads what changed.
    ///
    /// # Errors
    /// The folder cannot be listed; everything given so far stays.
    pub fn reload(&mut self) -> Result<Loaded, ManifestsError> {
        let mut found = BTreeMap::new();
        let mut refusals = Vec::new();
        list(&self.folder, &mut found, &mut refusals).map_err(|cause| ManifestsError {
            path: self.folder.clone(),
            what: "the folder of manifests cannot be read",
            cause: cause.to_string(),
            next_step: "create it, or name another one with --manifests",
        })?;
        self.files.retain(|path, _| found.contains_key(path));
        for (path, looks) in found {
            if self.files.get(&path).is_some_and(|file| file.looks == looks) {
                continue;
            }
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let documents = documents::parse(&path, &text);
                    let before = self.files.remove(&path);
                    let mut file = File { looks, objects: documents.objects, refusals: documents.refusals };
                    if !file.refusals.is_empty() {
                        file.keep_missing(before);
                    }
                    self.files.insert(path, file);
                }
                Err(cause) => {
                    // Gone between listing and reading: the next event tells. Anything else is the operator's to mend.
                    if cause.kind() != std::io::ErrorKind::NotFound {
                        refusals.push(unreadable(&path, &cause));
                    }
                }
            }
        }
        Ok(self.differences(refusals))
    }

    fn differences(&mut self, mut refusals: Vec<Refusal>) -> Loaded {
        let mut now: BTreeMap<Key, (Object, Source)> = BTreeMap::new();
        for (path, file) in &self.files {
            refusals.extend(file.refusals.iter().cloned());
            for (object, line) in &file.objects {
                let source = Source::File { path: path.clone(), line: *line };
                let key = object.key();
                if let Some((_, first)) = now.get(&key) {
                    refusals.push(Refusal {
                        object: key.to_string(),
                        reason: format!("it stands in {first} already"),
                        next_step: "the first one counts; take this one out".to_owned(),
                        source,
                    });
                    continue;
                }
                now.insert(key, (object.clone(), source));
            }
        }
        let gone: BTreeSet<&Key> = self.given.keys().filter(|key| !now.contains_key(*key)).collect();
        let mut changes: Vec<Change> = gone.into_iter().cloned().map(Change::Delete).collect();
        // In the order of the files, so that of two that meet the first one written stays.
        let mut puts: Vec<(&Object, &Source)> = now
            .iter()
            .filter(|(key, value)| self.given.get(*key) != Some(*value))
            .map(|(_, (object, source))| (object, source))
            .collect();
        puts.sort_by_key(|(_, source)| match source {
            Source::File { path, line } => (Some(path), *line),
            Source::Api | Source::Node => (None, 0),
        });
        changes.extend(puts.into_iter().map(|(object, source)| Change::Put(object.clone(), source.clone())));
        self.given = now;
        Loaded { changes, refusals }
    }
}

impl File {
    /// Takes over what `before` gave and this reading does not.
    fn keep_missing(&mut self, before: Option<Self>) {
        let now: BTreeSet<Key> = self.objects.iter().map(|(object, _)| object.key()).collect();
        let before = before.map(|file| file.objects).unwrap_or_default();
        self.objects.extend(before.into_iter().filter(|(object, _)| !now.contains(&object.key())));
    }
}

/// Collects manifests below `folder`. Names that start with a dot are skipped: editors' files, and the folders that
/// a mounted ConfigMap keeps its versions in.
fn list(folder: &Path, found: &mut BTreeMap<PathBuf, Looks>, refusals: &mut Vec<Refusal>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Err(cause) = list(&path, found, refusals)
                && cause.kind() != std::io::ErrorKind::NotFound
            {
                refusals.push(unreadable(&path, &cause));
            }
        } else if is_manifest(&path) {
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    found.insert(path, looks(&metadata));
                }
                Ok(_) => {}
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
                Err(cause) => refusals.push(unreadable(&path, &cause)),
            }
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json"))
}

fn looks(metadata: &std::fs::Metadata) -> Looks {
    let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Looks {
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        bytes: metadata.len(),
        inode: metadata.ino(),
    }
}

fn unreadable(path: &Path, cause: &std::io::Error) -> Refusal {
    Refusal {
        object: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        source: Source::File { path: path.to_owned(), line: 1 },
        reason: format!("cannot be read: {cause}"),
        next_step: "make it readable, or take it out of the folder".to_owned(),
    }
}

#[cfg(test)]
mod tests;
