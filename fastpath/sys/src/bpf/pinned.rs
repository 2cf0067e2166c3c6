//! The folder of one node in the BPF file system: which maps stand in it, and whether what stands there may be adopted.
//!
//! A map is adopted only if it is exactly what we would make: type, sizes, flags, entries. The configuration map carries
//! the layout's version, the table's secret, and a mark that is set last, so a folder whose making was interrupted is
//! told from a whole one and made anew.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use atalho_layout::{
    CLAIM_KEY, FLOW4, FLOW6, FUNNEL_QUEUES_MAX, KERNEL_COUNTERS, LAYOUT_VERSION, LPM_KEY, NEXT_HOP, PORT, PRESSURE,
    SECRET_WORDS, SLOTS_PER_BUCKET, TAG_BYTES, affinity,
};
use aya::maps::{Array, Map, MapData, MapInfo};

use super::error::BpfError;
use super::link;

/// How much the shared arrays hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Buckets of the IPv4 table, at least 2.
    pub buckets4: u32,
    /// Buckets of the IPv6 table, at least 2.
    pub buckets6: u32,
    pub next_hops: u32,
}

impl Sizes {
    pub(super) fn check(&self) -> Result<(), BpfError> {
        for (name, buckets) in [("IPv4", self.buckets4), ("IPv6", self.buckets6)] {
            if !(2..=1 << 24).contains(&buckets) {
                return Err(BpfError::Sizes(format!("{buckets} {name} buckets, not from 2 to 2^24")));
            }
        }
        if self.next_hops == 0 {
            return Err(BpfError::Sizes("no next hop at all".into()));
        }
        Ok(())
    }
}

const SLOTS: u32 = SLOTS_PER_BUCKET as u32;
const ARRAY: u32 = 2;
const HASH: u32 = 1;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
const XSKMAP: u32 = 17;
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

/// Capacities as the C side has them: claims.h, ports.h, pod_drops.h, workers.h.
const CLAIMS: u32 = 131_072;
const RANGES: u32 = 256;
const FRAGMENTS: u32 = 16_384;
const PORTS: u32 = 4096;
const POD_DROPS: u32 = PORTS * 8;
const QUEUES: u32 = 256;

/// What a map must be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: u32,
    key: u32,
    value: u32,
    pub(super) entries: u32,
    flags: u32,
}

impl Shape {
    /// Bytes to map: the kernel rounds a value up to 8.
    pub(super) fn mapped_bytes(&self) -> usize {
        (self.value.next_multiple_of(8) as usize) * self.entries as usize
    }

    fn describe(&self) -> String {
        let Self { name: _, kind, key, value, entries, flags } = self;
        format!("type {kind}, key {key} bytes, value {value} bytes, {entries} entries, flags {flags:#x}")
    }
}

/// Every map of the folder but the configuration.
pub(super) fn shapes(sizes: &Sizes) -> Vec<Shape> {
    let shape =
        |name, kind, key, value: usize, entries, flags| Shape { name, kind, key, value: value as u32, entries, flags };
    let tags = SLOTS_PER_BUCKET * TAG_BYTES;
    vec![
        shape("tags4", ARRAY, 4, tags, sizes.buckets4, MMAPABLE),
        shape("flows4", ARRAY, 4, FLOW4.size, sizes.buckets4 * SLOTS, MMAPABLE),
        shape("tags6", ARRAY, 4, tags, sizes.buckets6, MMAPABLE),
        shape("flows6", ARRAY, 4, FLOW6.size, sizes.buckets6 * SLOTS, MMAPABLE),
        shape(NEXT_HOPS, ARRAY, 4, NEXT_HOP.size, sizes.next_hops, MMAPABLE),
        shape(AFFINITY, ARRAY, 4, affinity::WORDS * 4, affinity::ENTRIES as u32, MMAPABLE),
        shape("pressures", ARRAY, 4, PRESSURE.size, FUNNEL_QUEUES_MAX, MMAPABLE),
        shape("pod_drops", HASH, 8, 8, POD_DROPS, NO_PREALLOC),
        shape("claims", HASH, CLAIM_KEY.size as u32, 4, CLAIMS, NO_PREALLOC),
        shape("ranges", LPM_TRIE, LPM_KEY.size as u32, 4, RANGES, NO_PREALLOC),
        shape("ports", HASH, 4, PORT.size, PORTS, NO_PREALLOC),
        shape("uplink_xsks", XSKMAP, 4, 4, QUEUES, 0),
        shape("funnel_xsks", XSKMAP, 4, 4, QUEUES, 0),
        shape("counters", PERCPU_ARRAY, 4, 8, KERNEL_COUNTERS.len() as u32, 0),
        shape("fragments", LRU_HASH, 40, 8, FRAGMENTS, 0),
    ]
}

const NEXT_HOPS: &str = "next_hops";
/// No program reads it; it stands with the others so that it outlives the process as they do.
const AFFINITY: &str = "affinity";
const CONFIG: &str = "config";
const VERSION_WORD: u32 = 0;
const COMPLETE_WORD: u32 = 1;
const SECRET_WORD: u32 = 2;
const CONFIG_WORDS: u32 = SECRET_WORD + SECRET_WORDS as u32;

/// The locked folder of one node: while it is held, no other daemon serves the node.
#[derive(Debug)]
pub struct Folder {
    pub(super) path: PathBuf,
    /// Holds the lock; the kernel gives it back when the process ends, however it ends.
    _lock: File,
}

impl Folder {
    pub(super) fn path_of(bpffs: &Path, node: &str) -> Result<PathBuf, BpfError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if node.is_empty() || node.len() > 253 || !node.bytes().all(fits) {
            return Err(BpfError::NodeName { name: node.into() });
        }
        // The BPF file system takes no dot in a name; node names have no underscore, so this stays unambiguous.
        Ok(bpffs.join("atalho").join(node.replace('.', "_")))
    }

    /// Opens, and makes if need be, the folder, and takes its lock.
    ///
    /// # Errors
    /// [`BpfError::Running`] while another daemon holds it; else why the folder cannot be had.
    pub fn lock(bpffs: &Path, node: &str) -> Result<Self, BpfError> {
        let path = Self::path_of(bpffs, node)?;
        if crate::check::bpffs(bpffs).is_err() {
            return Err(BpfError::NotBpffs { path: bpffs.into() });
        }
        let next = "Run as root, with the BPF file system writable";
        fs::create_dir_all(&path).map_err(|source| BpfError::Pinned {
            doing: "make the folder",
            path: path.clone(),
            source,
            next,
        })?;
        let lock = File::open(&path).map_err(|source| BpfError::Pinned {
            doing: "open the folder",
            path: path.clone(),
            source,
            next,
        })?;
        // SAFETY: flock takes no pointer; the descriptor is open and ours.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let source = io::Error::last_os_error();
            return Err(if source.kind() == io::ErrorKind::WouldBlock {
                BpfError::Running { path }
            } else {
                BpfError::Pinned { doing: "lock the folder", path, source, next }
            });
        }
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn names(&self) -> Result<Vec<String>, BpfError> {
        let failed = |source| BpfError::Pinned { doing: "list", path: self.path.clone(), source, next: "Run as root" };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The secret of a whole predecessor of this layout; `None` where there is none, or one whose making was interrupted.
    pub(super) fn predecessor(&self, sizes: &Sizes) -> Result<Option<[u64; SECRET_WORDS]>, BpfError> {
        let path = self.path.join(CONFIG);
        if !path.exists() {
            return Ok(None);
        }
        let wanted = Shape { name: CONFIG, kind: ARRAY, key: 4, value: 8, entries: CONFIG_WORDS, flags: 0 };
        // The version stands first and its place never changes, so it is read before the shape is judged.
        let config = self.open_config()?;
        let word = |index: u32| config.get(&index, 0).map_err(|e| map_error(CONFIG, "read", &e));
        let version = word(VERSION_WORD)?;
        if version == 0 {
            return Ok(None);
        }
        if version != u64::from(LAYOUT_VERSION) {
            let found = format!("layout version {version}");
            return Err(BpfError::OtherLayout { path, found, wanted: format!("layout version {LAYOUT_VERSION}") });
        }
        self.check_shape(&wanted)?;
        if word(COMPLETE_WORD)? == 0 {
            return Ok(None);
        }
        for shape in shapes(sizes) {
            self.check_shape(&shape)?;
        }
        let mut secret = [0; SECRET_WORDS];
        for (index, value) in (SECRET_WORD..).zip(&mut secret) {
            *value = word(index)?;
        }
        Ok(Some(secret))
    }

    fn open_config(&self) -> Result<Array<MapData, u64>, BpfError> {
        let foreign = |reason: String| BpfError::OtherLayout {
            path: self.path.join(CONFIG),
            found: reason,
            wanted: format!("an array of {CONFIG_WORDS} words"),
        };
        let data = MapData::from_pin(self.path.join(CONFIG)).map_err(|e| foreign(chain(&e)))?;
        Map::from_map_data(data).and_then(Array::try_from).map_err(|e| foreign(chain(&e)))
    }

    fn check_shape(&self, wanted: &Shape) -> Result<(), BpfError> {
        let path = self.path.join(wanted.name);
        let other = |found| BpfError::OtherLayout { path: path.clone(), found, wanted: wanted.describe() };
        let info = MapInfo::from_pin(&path).map_err(|e| other(format!("unreadable ({})", chain(&e))))?;
        let found = Shape {
            name: wanted.name,
            kind: info.map_type().map_or(0, |kind| kind as u32),
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        };
        if found == *wanted { Ok(()) } else { Err(other(found.describe())) }
    }

    /// Makes the maps that no program names: the configuration, not yet marked whole, next hops and session affinity.
    pub(super) fn make(&self, sizes: &Sizes, secret: &[u64; SECRET_WORDS]) -> Result<(), BpfError> {
        let mut config = Array::<MapData, u64>::create(CONFIG_WORDS, 0).map_err(|e| map_error(CONFIG, "create", &e))?;
        let words = [(VERSION_WORD, u64::from(LAYOUT_VERSION))];
        for (index, value) in words.into_iter().chain((SECRET_WORD..).zip(secret.iter().copied())) {
            config.set(index, value, 0).map_err(|e| map_error(CONFIG, "write", &e))?;
        }
        config.pin(self.path.join(CONFIG)).map_err(|e| map_error(CONFIG, "pin", &e))?;
        let hops = Array::<MapData, [u8; NEXT_HOP.size]>::create(sizes.next_hops, MMAPABLE)
            .map_err(|e| map_error(NEXT_HOPS, "create", &e))?;
        hops.pin(self.path.join(NEXT_HOPS)).map_err(|e| map_error(NEXT_HOPS, "pin", &e))?;
        let affinity = Array::<MapData, [u8; affinity::WORDS * 4]>::create(affinity::ENTRIES as u32, MMAPABLE)
            .map_err(|e| map_error(AFFINITY, "create", &e))?;
        affinity.pin(self.path.join(AFFINITY)).map_err(|e| map_error(AFFINITY, "pin", &e))
    }

    /// Marks the folder whole: from now on a successor adopts it.
    pub(super) fn mark_complete(&self) -> Result<(), BpfError> {
        self.open_config()?.set(COMPLETE_WORD, 1, 0).map_err(|e| map_error(CONFIG, "write", &e))
    }

    /// Removes every pin: the claiming ends first, so nothing is claimed that nobody handles; maps last. Returns names.
    pub(super) fn clear(&self) -> Result<Vec<String>, BpfError> {
        let order = |name: &str| match name {
            "steer" => 0,
            _ if name.starts_with("pod-") => 1,
            "uplink-out" | "lo-out" | "deliver" | "funnel" => 2,
            _ => 3,
        };
        let mut names = self.names()?;
        names.sort_by_key(|name| order(name));
        for name in &names {
            // Maps have nothing to detach; their pin goes all the same.
            link::detach(&self.path.join(name))?;
        }
        Ok(names)
    }
}

/// Text of an error and of what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

pub(super) fn map_error(map: &'static str, doing: &'static str, error: &dyn std::error::Error) -> BpfError {
    BpfError::Map { map, doing, reason: chain(error) }
}
