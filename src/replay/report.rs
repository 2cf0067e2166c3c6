//! What became of each packet, a line each in their order, and the books at the end.
//!
//! A line is written when its packet's end is known. One that waits in the slow path holds back those behind it, up to a
//! bound; past it the line says `wait`, and only the books tell the end.

use std::collections::VecDeque;
use std::io::{self, BufWriter, StdoutLock, Write};

use atalho_engine::verdict::{DropReason, PuntReason};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Lines held back at most.
const LINES_HELD_MAX: usize = 65_536;

/// How a packet ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Forward,
    /// Not ours: the node's own stack got it.
    Pass,
    /// Answered by us, for this reason.
    Reject(PuntReason),
    Drop(DropReason),
}

impl End {
    const fn verdict(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Pass => "pass",
            Self::Reject(_) => "reject",
            Self::Drop(_) => "drop",
        }
    }

    const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Forward | Self::Pass => None,
            Self::Reject(reason) => Some(reason.name()),
            Self::Drop(reason) => Some(reason.name()),
        }
    }
}

/// The report being written to standard output.
pub struct Report {
    output: BufWriter<StdoutLock<'static>>,
    is_json: bool,
    /// In the order of the packets; the first one's packet has not ended.
    held: VecDeque<Line>,
    books: Books,
}

struct Line {
    n: u64,
    /// Since the first packet.
    at_ns: u64,
    port: Box<str>,
    end: Option<End>,
    /// Numbers of packets in the capture that is written, from 1.
    out: Vec<u64>,
}

struct Books {
    received: u64,
    forwarded: u64,
    punted: u64,
    originated: u64,
    dropped: [u64; DropReason::COUNT],
}

#[derive(Serialize)]
struct JsonLine<'l> {
    n: u64,
    r#in: &'l str,
    verdict: &'l str,
    reason: Option<&'l str>,
    out: &'l [u64],
}

impl Report {
    pub fn new(is_json: bool) -> io::Result<Self> {
        let mut output = BufWriter::new(io::stdout().lock());
        if !is_json {
            writeln!(output, "{:>8} {:>14}  {:<24} {:<8} {:<22} out", "packet", "seconds", "in", "verdict", "reason")?;
        }
        let books = Books { received: 0, forwarded: 0, punted: 0, originated: 0, dropped: [0; DropReason::COUNT] };
        Ok(Self { output, is_json, held: VecDeque::new(), books })
    }

    /// Packet `n` comes in; `n` counts up from 1.
    pub fn begin(&mut self, n: u64, at_ns: u64, port: &str) -> io::Result<()> {
        self.books.received += 1;
        if self.held.len() >= LINES_HELD_MAX
            && let Some(line) = self.held.pop_front()
        {
            self.write(&line)?;
            self.write_ended()?;
        }
        self.held.push_back(Line { n, at_ns, port: port.into(), end: None, out: Vec::new() });
        Ok(())
    }

    /// Packet `number` of the capture that is written leaves because of packet `cause`.
    pub fn sent(&mut self, cause: u64, number: u64) {
        if let Some(line) = self.line(cause) {
            line.out.push(number);
        }
    }

    /// A packet of our own was sent.
    pub fn originated(&mut self) {
        self.books.originated += 1;
    }

    /// Packet `n` has ended.
    pub fn end(&mut self, n: u64, end: End) -> io::Result<()> {
        match end {
            End::Forward | End::Pass => self.books.forwarded += 1,
            End::Reject(_) => self.books.punted += 1,
            End::Drop(reason) => self.books.dropped[reason as usize] += 1,
        }
        if let Some(line) = self.line(n) {
            line.end = Some(end);
        }
        self.write_ended()
    }

    /// Writes the books.
    pub fn finish(mut self) -> io::Result<()> {
        while let Some(line) = self.held.pop_front() {
            self.write(&line)?;
        }
        let Books { received, forwarded, punted, originated, dropped } = self.books;
        let in_all: u64 = dropped.iter().sum();
        // What waits at the end is still the slow path's.
        let punted = punted.max(received.saturating_sub(forwarded + in_all));
        let by_reason = || DropReason::ALL.iter().zip(dropped).filter(|(_, count)| *count > 0);
        if self.is_json {
            let dropped: Map<String, Value> =
                by_reason().map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
            let books = json!({
                "received": received,
                "forwarded": forwarded,
                "punted": punted,
                "originated": originated,
                "dropped": dropped,
            });
            writeln!(self.output, "{books}")?;
        } else {
            writeln!(self.output)?;
            writeln!(
                self.output,
                "received {received} = forwarded {forwarded} + punted {punted} + dropped {in_all}; originated {originated}"
            )?;
            for (reason, count) in by_reason() {
                writeln!(self.output, "{count:>8} {}: {}", reason.name(), reason.text())?;
            }
        }
        self.output.flush()
    }

    fn line(&mut self, n: u64) -> Option<&mut Line> {
        let first = self.held.front()?.n;
        self.held.get_mut(usize::try_from(n.checked_sub(first)?).ok()?)
    }

    fn write_ended(&mut self) -> io::Result<()> {
        while let Some(line) = self.held.pop_front_if(|line| line.end.is_some()) {
            self.write(&line)?;
        }
        Ok(())
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let (verdict, reason) = line.end.map_or(("wait", None), |end| (end.verdict(), end.reason()));
        if self.is_json {
            let line = JsonLine { n: line.n, r#in: &line.port, verdict, reason, out: &line.out };
            serde_json::to_writer(&mut self.output, &line)?;
            return writeln!(self.output);
        }
        let seconds = line.at_ns as f64 / 1e9;
        write!(
            self.output,
            "{:>8} {seconds:>14.6}  {:<24} {verdict:<8} {:<22}",
            line.n,
            line.port,
            reason.unwrap_or("-")
        )?;
        line.out.iter().try_for_each(|number| write!(self.output, " {number}"))?;
        writeln!(self.output)
    }
}
