//! Objects from a folder: every `*.yaml`, `*.yml` and `*.json` below it, several documents a file, `kind: List` too.
//!
//! A file is read again only when it looks different (time, length, inode), and what comes out are differences. One that
//! changes under our eyes is read once it has been left alone for [`STILL`]: a file that is written in place is cut off
//! wherever its writer has got to, and what is cut between two lines often reads as a whole one with less in it. Until
//! then, and while it is gone for a moment, what it gave stays in force.
//!
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
use std::time::{Duration, Instant};

use crate::model::{Change, Key, Object, Refusal, Source};

#[cfg(test)]
pub(crate) use documents::parse_one;
pub use documents::{Documents, parse};
pub use watch::Watch;

/// How long a changed file must look the same before it is read: longer than a busy machine keeps a writer from its next
/// line, and short enough for a change to count within a second. Who writes still slower writes it elsewhere and moves it here.
pub const STILL: Duration = Duration::from_millis(250);
/// A file that is not left alone for so long is told of.
const WRITTEN_MAX: Duration = Duration::from_secs(5);

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
    /// A file has changed and may not be whole yet: read again after [`STILL`].
    pub look_again: bool,
}

/// A folder of manifests and what was last read from it.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Files that look different from what was read of them.
    changing: BTreeMap<PathBuf, Changing>,
    /// What was there at the beginning has been read: it took the place of nothing.
    has_begun: bool,
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

/// A file that has changed.
#[derive(Debug, Clone, Copy)]
struct Changing {
    /// `None`: it is gone.
    looks: Option<Looks>,
    /// How long it has looked so.
    since: Instant,
    /// How long it has looked different from what was read.
    first: Instant,
}

#[derive(Debug)]
struct File {
    looks: Looks,
    objects: Vec<(Object, u32)>,
    refusals: Vec<Refusal>,
}

impl Manifests {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            files: BTreeMap::new(),
            changing: BTreeMap::new(),
            has_begun: false,
            given: BTreeMap::new(),
        }
    }

    /// Reads what changed and has been still for [`STILL`]; the first time, whatever there is.
    ///
    /// # Errors
    /// The folder cannot be listed; everything given so far stays.
    pub fn reload(&mut self, now: Instant) -> Result<Loaded, ManifestsError> {
        let mut found = BTreeMap::new();
        let mut refusals = Vec::new();
        list(&self.folder, &mut found, &mut refusals).map_err(|cause| ManifestsError {
            path: self.folder.clone(),
            what: "the folder of manifests cannot be read",
            cause: cause.to_string(),
            next_step: "create it, or name another one with --manifests",
        })?;
        let cannot_be_read: Vec<PathBuf> = refusals.iter().filter_map(path_of).collect();
        let known = self.files.keys().chain(self.changing.keys());
        let paths: BTreeSet<PathBuf> = found.keys().chain(known).cloned().collect();
        for path in paths {
            let looks = found.get(&path).copied();
            if cannot_be_read.iter().any(|unknown| path.starts_with(unknown)) {
                continue;
            }
            if self.files.get(&path).map(|file| file.looks) == looks {
                self.changing.remove(&path);
            } else if self.is_still(&path, looks, now) {
                match looks {
                    Some(looks) => self.read(&path, looks, &mut refusals),
                    None => drop(self.files.remove(&path)),
                }
            }
        }
        self.has_begun = true;
        refusals.extend(self.changing.iter().filter(|(_, file)| now - file.first >= WRITTEN_MAX).map(never_still));
        let look_again = self.changing.values().any(|file| now - file.since < STILL);
        Ok(Loaded { look_again, ..self.differences(refusals) })
    }

    /// Whether a file that looks different can be taken to be whole.
    fn is_still(&mut self, path: &Path, looks: Option<Looks>, now: Instant) -> bool {
        if !self.has_begun {
            return true;
        }
        let new = Changing { looks, since: now, first: now };
        let file = self.changing.entry(path.to_owned()).or_insert(new);
        if file.looks != looks {
            *file = Changing { first: file.first, ..new };
        }
        now - file.since >= STILL
    }

    fn read(&mut self, path: &Path, looks: Looks, refusals: &mut Vec<Refusal>) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            // Gone between listing and reading: the next event tells.
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return,
            // The operator's to mend.
            Err(cause) => return refusals.push(unreadable(path, &cause)),
        };
        let is_same = std::fs::metadata(path).is_ok_and(|metadata| looks_of(&metadata) == looks);
        if self.has_begun && !is_same {
            // Written to again while it was read: the next event tells of that, too.
            return;
        }
        self.changing.remove(path);
        let documents = documents::parse(path, &text);
        let before = self.files.remove(path);
        let mut file = File { looks, objects: documents.objects, refusals: documents.refusals };
        if !file.refusals.is_empty() {
            file.keep_missing(before);
        }
        self.files.insert(path.to_owned(), file);
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
        Loaded { changes, refusals, look_again: false }
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
                    found.insert(path, looks_of(&metadata));
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

fn looks_of(metadata: &std::fs::Metadata) -> Looks {
    let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Looks {
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        bytes: metadata.len(),
        inode: metadata.ino(),
    }
}

fn never_still((path, _): (&PathBuf, &Changing)) -> Refusal {
    Refusal {
        object: name_of(path),
        source: Source::File { path: path.clone(), line: 1 },
        reason: format!("it has changed for {WRITTEN_MAX:?} without being left alone for {STILL:?}"),
        next_step: "what it gave before stays in force; write it elsewhere and move it here".to_owned(),
    }
}

fn unreadable(path: &Path, cause: &std::io::Error) -> Refusal {
    Refusal {
        object: name_of(path),
        source: Source::File { path: path.to_owned(), line: 1 },
        reason: format!("cannot be read: {cause}"),
        next_step: "make it readable, or take it out of the folder".to_owned(),
    }
}

fn path_of(refusal: &Refusal) -> Option<PathBuf> {
    match &refusal.source {
        Source::File { path, .. } => Some(path.clone()),
        Source::Api | Source::Node => None,
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
