//! Stands between the daemon and its API server and does what it is told: passes on, refuses, cuts, lies. One connection
//! carries one request, so answers pass as they are, and a cut hits exactly one of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use atalho_benches::lab::plan::{Family, Plan, router_address};
use rustls::{ServerConnection, StreamOwned};

use crate::answers;
use crate::certificates::{Certificates, Dates};
use crate::https::{Https, Stream};
use crate::node::enter;

/// Where it listens, at the router's address.
pub const PORT: u16 = 6444;
/// A stream that is silent looks this often whether it is to be cut.
const LOOK: Duration = Duration::from_millis(20);
/// In the event that ends a stream of what there is.
const INITIAL_EVENTS_END: &[u8] = b"k8s.io/initial-events-end";
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What it does to requests and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Connections are closed as soon as they come.
    Away,
    /// Whatever comes is taken, and nothing is passed on; connections stay.
    Silent,
    /// 429 with this `Retry-After`, seconds.
    Busy(u64),
    /// Watches are told in their stream that they are too old (410), streams of what there is among them.
    TooOld,
    /// Watches are too old, and each stream of what there is is cut in the event that ends it.
    CutStreams,
    /// What there is is not told of as a stream (422).
    NoStreams,
    /// The next event of a watch is cut in the middle, and then it is away.
    CutEvents,
    /// Watches are too old, nothing is streamed, lists come in pages of one object, and each second page is cut in the
    /// middle.
    CutPages,
    /// It shows a certificate with these dates.
    Certificate(Dates),
}

/// A request that came, and when.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Instant,
    /// Path and query.
    pub path: String,
}

type Client = StreamOwned<ServerConnection, TcpStream>;

struct State {
    fault: Mutex<Fault>,
    /// Grows when every connection is to be cut.
    cuts: AtomicU64,
    /// An event for every watch, and its number.
    event: Mutex<(u64, String)>,
    asked: Mutex<Vec<Asked>>,
    stop: AtomicBool,
    certificates: Certificates,
    upstream: Https,
}

/// At work until it is dropped.
pub struct Proxy {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start(plan: &Plan, certificates: Certificates, upstream: Https) -> Self {
        let state = Arc::new(State {
            fault: Mutex::new(Fault::None),
            cuts: AtomicU64::new(0),
            event: Mutex::default(),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
            certificates,
            upstream,
        });
        let (shared, far) = (state.clone(), plan.far());
        let thread = thread::spawn(move || {
            enter(&far);
            let listener = TcpListener::bind((router_address(Family::V4), PORT)).expect("the proxy's port");
            listener.set_nonblocking(true).unwrap();
            while !shared.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let state = shared.clone();
                        // Whoever breaks off is the daemon's affair, or the fault's.
                        thread::spawn(move || drop(state.serve(stream)));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        Self { state, thread: Some(thread) }
    }

    /// From now on; connections of before are cut, but where they are to be silent or an event is waited for.
    pub fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
        if !matches!(fault, Fault::CutEvents | Fault::Silent) {
            self.state.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends every watch an event, as JSON.
    pub fn say(&self, event: &str) {
        let mut said = self.state.event.lock().unwrap();
        *said = (said.0 + 1, format!("{event}\n"));
    }

    /// The requests that came since then.
    pub fn asked_since(&self, since: Instant) -> Vec<Asked> {
        self.state.asked.lock().unwrap().iter().filter(|asked| asked.at >= since).cloned().collect()
    }

    pub fn authority(&self) -> &std::path::Path {
        self.state.certificates.authority()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        self.state.cuts.fetch_add(1, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let cuts = self.cuts.load(Ordering::Relaxed);
        stream.set_nonblocking(false)?;
        let fault = self.fault();
        let dates = match fault {
            Fault::Away => return stream.shutdown(Shutdown::Both),
            Fault::Certificate(dates) => dates,
            _ => Dates::Now,
        };
        let session = ServerConnection::new(self.certificates.of(dates)).map_err(std::io::Error::other)?;
        let mut client = StreamOwned::new(session, stream);
        let mut request = read_request(&mut client)?;
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push(Asked { at: Instant::now(), path: path.clone() });
        let is_watch = path.contains("watch=true");
        let is_stream = path.contains("sendInitialEvents=true");
        match fault {
            Fault::Busy(seconds) => return client.write_all(answers::busy(seconds).as_bytes()),
            Fault::NoStreams | Fault::CutPages if is_stream => {
                return client.write_all(answers::no_streams().as_bytes());
            }
            Fault::CutStreams if is_stream => {}
            Fault::TooOld | Fault::CutStreams | Fault::CutPages if is_watch => {
                return client.write_all(answers::too_old().as_bytes());
            }
            Fault::CutPages => request = request.replacen("limit=500", "limit=1", 1),
            _ => {}
        }
        let mut server = self.upstream.connect()?;
        server.write_all(request.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes())?;
        server.sock.set_read_timeout(Some(LOOK))?;
        let cut_page = fault == Fault::CutPages && path.contains("continue=");
        self.pass_on(&mut server, &mut client, cuts, fault, is_watch, cut_page)?;
        client.conn.send_close_notify();
        client.flush()
    }

    /// Passes an answer on, to its end or to where it is cut.
    fn pass_on(
        &self,
        server: &mut Stream,
        client: &mut Client,
        cuts: u64,
        fault: Fault,
        is_watch: bool,
        cut_page: bool,
    ) -> std::io::Result<()> {
        let cut = || Err(ErrorKind::ConnectionAborted.into());
        let mut buffer = vec![0; 64 << 10];
        let mut said = self.event.lock().unwrap().0;
        let mut passed = 0;
        loop {
            if self.cuts.load(Ordering::Relaxed) != cuts {
                return cut();
            }
            if self.fault() == Fault::Silent {
                thread::sleep(LOOK);
                continue;
            }
            let bytes = match server.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    // A stream that is silent stands between two chunks.
                    let event = self.event.lock().unwrap().clone();
                    if is_watch && passed > 0 && event.0 != said {
                        said = event.0;
                        client.write_all(format!("{:x}\r\n{}\r\n", event.1.len(), event.1).as_bytes())?;
                    }
                    continue;
                }
                // The server's end of a connection, without a word.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            if fault == Fault::CutStreams
                && let Some(end) = find(&buffer[..bytes], INITIAL_EVENTS_END)
            {
                client.write_all(&buffer[..end])?;
                return cut();
            }
            let cut_event = is_watch && passed > 0 && self.fault() == Fault::CutEvents;
            if cut_event || cut_page {
                // Its head may fill the first read alone, and half an event is none.
                let part = if cut_page { bytes * 9 / 10 } else { bytes / 2 };
                client.write_all(&buffer[..part])?;
                if cut_event {
                    self.set_away();
                }
                return cut();
            }
            client.write_all(&buffer[..bytes])?;
            passed += bytes;
        }
    }

    fn set_away(&self) {
        *self.fault.lock().unwrap() = Fault::Away;
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request's head and body, as text.
fn read_request(client: &mut Client) -> std::io::Result<String> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let bytes = client.read(&mut buffer)?;
        if bytes == 0 || text.len() > HEAD_BYTES_MAX {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&buffer[..bytes]);
        let read = String::from_utf8_lossy(&text);
        let Some((head, body)) = read.split_once("\r\n\r\n") else { continue };
        let length = head.lines().filter_map(|line| line.split_once(": "));
        let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.next().and_then(|(_, bytes)| bytes.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Ok(read.into_owned());
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word)
}
