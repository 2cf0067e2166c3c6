//! The asking side of an agent: one job is one thread that asks one address in one way.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::message::{Reply, Request, RequestKind};
use super::pattern;

/// Errors kept in full; the rest are only counted.
const ERRORS_KEPT: usize = 50;

/// In which way a job asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Connect, ask, close, again and again.
    Tcp,
    /// A new socket for every request: every one is a flow of its own.
    Udp,
    /// One TCP stream as fast as it goes.
    Bulk,
    /// One TCP connection that asks again and again: it must live as long as the job.
    HoldTcp,
    /// One UDP socket that asks again and again.
    HoldUdp,
}

/// What an agent is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: u32,
    pub kind: JobKind,
    pub target: SocketAddr,
    pub seconds: f64,
    /// From the start of one request to the start of the next.
    pub interval_ms: u64,
    /// How long an answer may take.
    pub timeout_ms: u64,
    pub request_bytes: u32,
    pub reply_bytes: u32,
    /// Bound in count: requests, or bytes of a bulk stream.
    pub count_max: u64,
}

/// Something that went wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub number: u64,
    pub text: String,
}

/// What came of a job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub id: u32,
    pub requests: u64,
    /// No answer, or none in time.
    pub failed: u64,
    /// An answer with a wrong byte.
    pub wrong: u64,
    /// Payload bytes that were answered for, both ways.
    pub bytes: u64,
    pub seconds: f64,
    /// Answers by identity.
    pub backends: BTreeMap<String, u64>,
    /// Answers by the client's IP address as the server saw it.
    pub sources: BTreeMap<String, u64>,
    /// Microseconds and how many answers took that long.
    pub latencies_us: Vec<(u64, u64)>,
    /// When the answering identity changed (milliseconds since 1970), the first one included.
    pub moves: Vec<(u64, String)>,
    /// Longest time between two answers.
    pub gap_ms_max: u64,
    pub failures: Vec<Failure>,
}

/// What a job has done so far, readable while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    pub requests: AtomicU64,
    pub failed: AtomicU64,
    pub bytes: AtomicU64,
}

/// Milliseconds since 1970: the clock that all agents of a machine share.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Does the job, to its end or until `stop`.
pub fn run(job: &Job, seed: u64, stop: &AtomicBool, progress: &Progress) -> Outcome {
    let mut run = Run::new(job, seed, progress);
    match job.kind {
        JobKind::Tcp => run.repeat(stop, |run, request| run.ask_once_by_tcp(request)),
        JobKind::Udp => run.repeat(stop, |run, request| run.ask_by_udp(None, request)),
        JobKind::Bulk => run.bulk(stop),
        JobKind::HoldTcp => match run.connect() {
            Ok(stream) => run.repeat(stop, move |run, request| run.ask_by_tcp(&stream, request)),
            Err(error) => run.fail(0, &error),
        },
        JobKind::HoldUdp => match run.udp_socket() {
            Ok(socket) => run.repeat(stop, move |run, request| run.ask_by_udp(Some(&socket), request)),
            Err(error) => run.fail(0, &error),
        },
    }
    run.finish()
}

/// Latencies up to 100 s in microseconds, to three digits.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000, 3)
        .unwrap_or_else(|_| unreachable!("bounds and digits are the histogram's own"))
}

/// A job under way.
struct Run<'a> {
    job: &'a Job,
    seed: u64,
    progress: &'a Progress,
    outcome: Outcome,
    latencies: Histogram<u64>,
    begin: Instant,
    last_answer: Instant,
}

impl<'a> Run<'a> {
    fn new(job: &'a Job, seed: u64, progress: &'a Progress) -> Self {
        let now = Instant::now();
        Self {
            job,
            seed,
            progress,
            outcome: Outcome { id: job.id, ..Outcome::default() },
            latencies: latencies(),
            begin: now,
            last_answer: now,
        }
    }

    /// Asks at the job's pace. A request that failed does not stop it, unless the connection it needs is gone.
    fn repeat(&mut self, stop: &AtomicBool, mut ask: impl FnMut(&mut Self, &Request) -> io::Result<Reply>) {
        let end = self.begin + Duration::from_secs_f64(self.job.seconds);
        for number in 1..=self.job.count_max {
            if Instant::now() >= end || stop.load(Ordering::Relaxed) {
                return;
            }
            let request = Request {
                kind: RequestKind::Echo,
                number,
                seed: self.seed,
                payload_bytes: self.job.request_bytes,
                reply_bytes: self.job.reply_bytes,
            };
            let start = Instant::now();
            self.outcome.requests += 1;
            self.progress.requests.fetch_add(1, Ordering::Relaxed);
            match ask(self, &request) {
                Ok(reply) => self.answered(&request, &reply, start),
                Err(error) => {
                    self.fail(number, &error);
                    if self.job.kind == JobKind::HoldTcp {
                        return;
                    }
                }
            }
            let next = start + Duration::from_millis(self.job.interval_ms);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn answered(&mut self, request: &Request, reply: &Reply, start: Instant) {
        if let Some(complaint) = reply.complaint(request) {
            self.outcome.wrong += 1;
            self.note(request.number, complaint);
            return;
        }
        let now = Instant::now();
        let us = (now - start).as_micros() as u64;
        // Higher than the histogram reaches is as good as its end: the value is far over every timeout.
        self.latencies.saturating_record(us);
        let gap = (now - self.last_answer).as_millis() as u64;
        self.outcome.gap_ms_max = self.outcome.gap_ms_max.max(gap);
        self.last_answer = now;
        let bytes = u64::from(request.payload_bytes) + u64::from(request.reply_bytes);
        self.outcome.bytes += bytes;
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.credit(reply);
    }

    /// Notes who answered, and whom the server saw.
    fn credit(&mut self, reply: &Reply) {
        if self.outcome.moves.last().is_none_or(|(_, last)| *last != reply.identity) && self.outcome.moves.len() < 1000
        {
            self.outcome.moves.push((now_ms(), reply.identity.clone()));
        }
        *self.outcome.backends.entry(reply.identity.clone()).or_default() += 1;
        let source =
            reply.source.parse::<SocketAddr>().map_or_else(|_| reply.source.clone(), |seen| seen.ip().to_string());
        *self.outcome.sources.entry(source).or_default() += 1;
    }

    fn fail(&mut self, number: u64, error: &io::Error) {
        self.outcome.failed += 1;
        self.progress.failed.fetch_add(1, Ordering::Relaxed);
        self.note(number, error.to_string());
    }

    fn note(&mut self, number: u64, text: String) {
        if self.outcome.failures.len() < ERRORS_KEPT {
            self.outcome.failures.push(Failure { at_ms: now_ms(), number, text });
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.job.timeout_ms)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream =
            TcpStream::connect_timeout(&self.job.target, self.timeout()).map_err(|error| during("connect", error))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout()))?;
        stream.set_write_timeout(Some(self.timeout()))?;
        Ok(stream)
    }

    fn udp_socket(&self) -> io::Result<UdpSocket> {
        let any: SocketAddr = if self.job.target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(self.job.target).map_err(|error| during("connect", error))?;
        socket.set_read_timeout(Some(self.timeout()))?;
        Ok(socket)
    }

    fn ask_once_by_tcp(&self, request: &Request) -> io::Result<Reply> {
        let stream = self.connect()?;
        self.ask_by_tcp(&stream, request)
    }

    fn ask_by_tcp(&self, mut stream: &TcpStream, request: &Request) -> io::Result<Reply> {
        stream.write_all(&request.encode()).map_err(|error| during("send", error))?;
        Reply::read(&mut stream).map_err(|error| during("receive", error))
    }

    fn ask_by_udp(&self, socket: Option<&UdpSocket>, request: &Request) -> io::Result<Reply> {
        let own;
        let socket = match socket {
            Some(socket) => socket,
            None => {
                own = self.udp_socket()?;
                &own
            }
        };
        socket.send(&request.encode()).map_err(|error| during("send", error))?;
        let deadline = Instant::now() + self.timeout();
        let mut buffer = vec![0; 65_536];
        loop {
            let count = socket.recv(&mut buffer).map_err(|error| during("receive", error))?;
            let reply = Reply::read(&mut &buffer[..count])?;
            // The late answer to an earlier request has been counted as lost; it is not this one's.
            if reply.number >= request.number {
                return Ok(reply);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "receive: only late answers"));
            }
        }
    }

    /// One stream: bounded in time and in bytes, answered once at its end with what the server counted.
    fn bulk(&mut self, stop: &AtomicBool) {
        self.outcome.requests = 1;
        self.progress.requests.store(1, Ordering::Relaxed);
        if let Err(error) = self.bulk_stream(stop) {
            self.fail(1, &error);
        }
    }

    fn bulk_stream(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let request = Request { kind: RequestKind::Sink, number: 1, seed: self.seed, payload_bytes: 0, reply_bytes: 0 };
        let mut stream = self.connect()?;
        stream.write_all(&request.encode()).map_err(|error| during("send", error))?;
        let end = self.begin + Duration::from_secs_f64(self.job.seconds);
        let mut chunk = vec![0; 64 * 1024];
        let mut sent = 0;
        while Instant::now() < end && sent < self.job.count_max && !stop.load(Ordering::Relaxed) {
            pattern::fill(request.payload_seed(), sent, &mut chunk);
            stream.write_all(&chunk).map_err(|error| during("send", error))?;
            sent += chunk.len() as u64;
            self.progress.bytes.store(sent, Ordering::Relaxed);
        }
        stream.shutdown(Shutdown::Write)?;
        let reply = Reply::read(&mut stream).map_err(|error| during("receive", error))?;
        if reply.number != sent || !reply.intact {
            self.outcome.wrong += 1;
            self.note(1, format!("sent {sent} bytes, the server saw {} (intact: {})", reply.number, reply.intact));
        }
        self.outcome.bytes = reply.number;
        self.credit(&reply);
        Ok(())
    }

    fn finish(mut self) -> Outcome {
        self.outcome.seconds = self.begin.elapsed().as_secs_f64();
        self.outcome.latencies_us =
            self.latencies.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect();
        self.outcome
    }
}

fn during(step: &str, error: io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("{step}: no answer in time"),
        _ => format!("{step}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::server;

    fn job(kind: JobKind, target: SocketAddr) -> Job {
        Job {
            id: 1,
            kind,
            target,
            seconds: 5.0,
            interval_ms: 1,
            timeout_ms: 1000,
            request_bytes: 300,
            reply_bytes: 700,
            count_max: 20,
        }
    }

    fn free_address() -> SocketAddr {
        UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn every_kind_asks_and_is_answered() {
        let address = free_address();
        server::serve("here", address).unwrap();
        for kind in [JobKind::Tcp, JobKind::Udp, JobKind::HoldTcp, JobKind::HoldUdp] {
            let outcome = run(&job(kind, address), 5, &AtomicBool::new(false), &Progress::default());
            assert_eq!(
                (outcome.requests, outcome.failed, outcome.wrong),
                (20, 0, 0),
                "{kind:?}: {:?}",
                outcome.failures
            );
            assert_eq!(outcome.backends["here"], 20);
            assert_eq!(outcome.sources["127.0.0.1"], 20);
            assert_eq!(outcome.bytes, 20 * 1000);
            assert!(
                outcome.latencies_us.iter().all(|(us, _)| (5..1_000_000).contains(us)),
                "{:?}",
                outcome.latencies_us
            );
            assert_eq!(outcome.latencies_us.iter().map(|(_, count)| count).sum::<u64>(), 20);
        }
        let bulk = Job { count_max: 1 << 20, ..job(JobKind::Bulk, address) };
        let outcome = run(&bulk, 5, &AtomicBool::new(false), &Progress::default());
        assert_eq!((outcome.bytes, outcome.failed, outcome.wrong), (1 << 20, 0, 0), "{:?}", outcome.failures);
    }

    #[test]
    fn silence_and_refusal_are_failures() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let job = Job { timeout_ms: 20, count_max: 3, ..job(JobKind::Udp, silent.local_addr().unwrap()) };
        let outcome = run(&job, 5, &AtomicBool::new(false), &Progress::default());
        assert_eq!((outcome.requests, outcome.failed), (3, 3));
        assert_eq!(outcome.failures[0].text, "receive: no answer in time");
        let refused = run(&Job { kind: JobKind::Tcp, ..job }, 5, &AtomicBool::new(false), &Progress::default());
        assert_eq!(refused.failed, 3);
        assert!(refused.failures[0].text.contains("refused"), "{}", refused.failures[0].text);
    }
}
