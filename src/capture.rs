//! `atalho run --capture`: what comes in by the node's ports, written to a bounded pair of files in the form that `replay`
//! reads. Workers copy packets into a ring (`fastpath/worker/src/tap.rs`); a thread here names their ports and writes them.
//!
//! When FILE is half of what it may be, it becomes FILE.old and a new one begins, so the last of a long run is always there.
//! Both are whole captures, and so are both together, one after the other.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use arc_swap::ArcSwap;
use atalho_engine::tables::{Port, Tables};
use atalho_sys::clock;
use atalho_worker::tap::{Filter, Tap, TapRing, Tapped};
use clap::Args;

use crate::pcapng::Writer;

/// Packets between workers and the writer: 20 ms at 100,000 packets/s. 19 MB, taken only if there is a capture.
const RING_PACKETS: usize = 2048;
/// The writer's pause when there is nothing to write.
const PAUSE: Duration = Duration::from_millis(5);
const FILE_BUFFER_BYTES: usize = 1 << 16;
const NS_PER_MS: u64 = 1_000_000;

#[derive(Args)]
pub struct CaptureArguments {
    /// Write what comes in by the node's ports to this file (pcapng), for `atalho replay`.
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Only these packets: terms joined by `and`: in PORT, host ADDRESS, net CIDR, port NUMBER, tcp, udp, sctp, icmp.
    #[arg(long, value_name = "EXPR", requires = "capture")]
    capture_filter: Option<Filter>,
    /// Bytes that FILE and FILE.old take together.
    #[arg(long, value_name = "BYTES", requires = "capture", default_value_t = 256 << 20,
          value_parser = clap::value_parser!(u64).range(1 << 16..))]
    capture_bytes: u64,
}

/// A capture under way.
pub struct Capture {
    ring: Arc<TapRing>,
    filter: Filter,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Capture {
    /// Starts what the arguments ask for, of so many workers.
    pub fn start(
        arguments: &CaptureArguments,
        workers: usize,
        snapshot: Arc<ArcSwap<Tables>>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(path) = &arguments.capture else { return Ok(None) };
        let files = Files::create(path, arguments.capture_bytes)
            .with_context(|| format!("--capture {}: cannot be written", path.display()))?;
        let ring = TapRing::new(RING_PACKETS, workers);
        let stop = Arc::new(AtomicBool::new(false));
        let writing = Writing { files, snapshot, epoch_ms: epoch_ms(), written: 0, unnamed: 0 };
        let (of_ring, of_stop) = (ring.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || writing.run(&of_ring, &of_stop))
            .context("start the capture's thread")?;
        tracing::info!(file = %path.display(), bytes = arguments.capture_bytes, "capturing what comes in");
        Ok(Some(Self { ring, filter: arguments.capture_filter.clone().unwrap_or_default(), stop, thread }))
    }

    /// One worker's end.
    pub fn tap(&self, worker: usize) -> Tap {
        Tap::new(worker, self.filter.clone(), self.ring.clone())
    }

    pub fn ring(&self) -> Arc<TapRing> {
        self.ring.clone()
    }

    /// Writes what is left, once no worker runs any more.
    pub fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.join();
    }
}

/// The thread's own.
struct Writing {
    files: Files,
    snapshot: Arc<ArcSwap<Tables>>,
    /// What the coarse clock counts from, milliseconds since 1970.
    epoch_ms: u64,
    written: u64,
    /// Of ports that nobody has.
    unnamed: u64,
}

impl Writing {
    fn run(mut self, ring: &TapRing, stop: &AtomicBool) {
        let mut failed: Option<io::Error> = None;
        loop {
            // Read before the last look at the ring, so that nothing is left in it.
            let is_last = stop.load(Ordering::SeqCst);
            let mut result = Ok(());
            // After a failure packets are still taken, so that workers count none as lost that nobody would write.
            while ring.take(|tapped| {
                if failed.is_none() && result.is_ok() {
                    result = self.write(tapped);
                }
            }) {}
            if failed.is_none()
                && let Err(error) = result.and_then(|()| self.files.writer.flush())
            {
                tracing::error!("the capture {} ends here: {error}", self.files.path.display());
                failed = Some(error);
            }
            if is_last {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let (written, unnamed) = (self.written, self.unnamed);
        tracing::info!(written, unnamed, file = %self.files.path.display(), "the capture is written");
    }

    fn write(&mut self, tapped: &Tapped) -> io::Result<()> {
        if !self.files.names.contains_key(&tapped.ingress) {
            match name_of(&self.snapshot.load(), tapped.ingress) {
                Some(name) => self.files.names.insert(tapped.ingress, name),
                None => {
                    self.unnamed += 1;
                    return Ok(());
                }
            };
        }
        self.written += 1;
        self.files.packet(tapped.ingress, (self.epoch_ms + tapped.time_ms) * NS_PER_MS, tapped.bytes())
    }
}

/// FILE and FILE.old.
struct Files {
    path: PathBuf,
    old: PathBuf,
    bytes_max: u64,
    writer: Writer<BufWriter<File>>,
    /// By interface index: a port that is gone keeps its name for what came in before.
    names: HashMap<u32, String>,
    /// Of this file, by interface index.
    interfaces: HashMap<u32, u32>,
}

impl Files {
    fn create(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let mut old = OsString::from(path);
        old.push(".old");
        let old = PathBuf::from(old);
        match std::fs::remove_file(&old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let writer = begin(path)?;
        Ok(Self { path: path.to_owned(), old, bytes_max, writer, names: HashMap::new(), interfaces: HashMap::new() })
    }

    fn packet(&mut self, ingress: u32, time_ns: u64, bytes: &[u8]) -> io::Result<()> {
        if self.writer.bytes() >= self.bytes_max / 2 {
            self.writer.flush()?;
            std::fs::rename(&self.path, &self.old)?;
            self.writer = begin(&self.path)?;
            self.interfaces.clear();
        }
        let next = self.interfaces.len() as u32;
        let number = match self.interfaces.get(&ingress) {
            Some(number) => *number,
            None => {
                self.writer.interface(self.names.get(&ingress).map_or("", String::as_str))?;
                self.interfaces.insert(ingress, next);
                next
            }
        };
        self.writer.packet(number, time_ns, bytes)
    }
}

fn begin(path: &Path) -> io::Result<Writer<BufWriter<File>>> {
    // What others send is nobody's to read but the operator's.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Writer::new(BufWriter::with_capacity(FILE_BUFFER_BYTES, file))
}

fn name_of(tables: &Tables, ifindex: u32) -> Option<String> {
    Some(match tables.ports.get(&ifindex)? {
        Port::Uplink => "uplink".to_owned(),
        Port::Node => "node".to_owned(),
        Port::Pod { name, .. } => format!("pod:{name}"),
    })
}

/// When the kernel's coarse clock was 0, milliseconds since 1970.
fn epoch_ms() -> u64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    now_ms.saturating_sub(clock::coarse_ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcapng::{Block, Reader};
    use std::os::unix::fs::PermissionsExt;

    fn packets(path: &Path) -> Vec<(String, u64, Vec<u8>)> {
        let mut reader = Reader::new(File::open(path).unwrap());
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next().unwrap() {
            match block {
                Block::Section => names.clear(),
                Block::Interface { name } => names.push(name.unwrap().to_owned()),
                Block::Packet(packet) => {
                    packets.push((names[packet.interface].clone(), packet.time_ns.unwrap(), packet.bytes.to_vec()))
                }
            }
        }
        packets
    }

    #[test]
    fn two_files_hold_the_last_of_it_and_each_is_whole() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("seen.pcapng");
        std::fs::write(folder.path().join("seen.pcapng.old"), "of another run").unwrap();
        let mut files = Files::create(&path, 20_000).unwrap();
        assert!(!files.old.exists());
        files.names.extend([(2, "uplink".to_owned()), (11, "pod:default/a".to_owned())]);
        for n in 0..200_u64 {
            files.packet(if n % 2 == 0 { 2 } else { 11 }, n, &[n as u8; 100]).unwrap();
        }
        files.writer.flush().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let all: Vec<_> = [&files.old, &files.path].into_iter().flat_map(|path| packets(path)).collect();
        let bytes: u64 = [&files.old, &files.path].map(|path| path.metadata().unwrap().len()).iter().sum();
        assert!(bytes <= 20_000 + 2 * 132, "{bytes}");
        assert!(all.len() > 70, "{}", all.len());
        for (n, packet) in (200 - all.len() as u64..).zip(&all) {
            let port = if n % 2 == 0 { "uplink" } else { "pod:default/a" };
            assert_eq!(packet, &(port.to_owned(), n, vec![n as u8; 100]));
        }
    }
}
