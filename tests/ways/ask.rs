//! Asking: every cell by ordinary sockets, all at once. Who stays silent is asked a second time with more patience, so that a busy
//! machine is not taken for a silent one; where several may answer, often enough to hear each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atalho_benches::lab::plan::Family;
use atalho_benches::traffic::agent::Report;
use atalho_benches::traffic::client::{Job, JobKind, Outcome};

use crate::cells::{Cell, SOURCES};
use crate::hosts::{Host, owner};
use crate::lab::Lab;

/// How a cell is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    pub family: Family,
    pub is_tcp: bool,
}

impl Variant {
    pub const ALL: [Self; 4] = [
        Self { family: Family::V4, is_tcp: true },
        Self { family: Family::V4, is_tcp: false },
        Self { family: Family::V6, is_tcp: true },
        Self { family: Family::V6, is_tcp: false },
    ];

    pub fn name(self) -> String {
        format!("{} {}", self.family.name(), if self.is_tcp { "TCP" } else { "UDP" })
    }
}

/// One question: the cell by its place in the list, who asks, and how.
pub type Question = (usize, Host, Variant);

/// What came of a question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who answered.
    pub servers: BTreeSet<String>,
    /// Whom they saw.
    pub clients: BTreeSet<String>,
    /// What the client got instead of an answer, and how often.
    pub ends: BTreeMap<String, u64>,
}

pub type Answers = BTreeMap<Question, Seen>;

/// A SYN that was lost is sent again after a second.
const PATIENCE_MS: u64 = 1500;
const MORE_PATIENCE_MS: u64 = 4000;
/// Of two endpoints that are chosen alike, one is not heard in 30 with a probability of 2e-9. So many at once, and so often, for
/// a server's socket takes some hundred datagrams.
const AT_ONCE: u64 = 6;
const ROUNDS: u64 = 5;
/// Of so many a busy machine may lose one. Of a way on which every second one is lost, fewer come to be with a probability of 4e-6.
const LOST_AT_LEAST: u64 = 10;
const WAVE_AT_MOST: Duration = Duration::from_secs(60);

/// Asks every cell from every source in every variant.
pub fn all(lab: &mut Lab, cells: &[Cell]) -> Result<Answers> {
    let mut answers = Answers::new();
    for variant in Variant::ALL {
        let questions = cells.iter().enumerate().flat_map(|(at, cell)| {
            let sources = SOURCES.into_iter().filter(|(source, _)| cell.target.is_asked_by(*source));
            sources.map(move |(source, _)| (at, source, variant))
        });
        answers.extend(wave(lab, cells, &questions.collect::<Vec<_>>(), 1, PATIENCE_MS)?);
    }
    let is_unsure = |seen: &Seen| seen.ends.keys().any(|end| end != REFUSED);
    let unsure: Vec<Question> =
        answers.iter().filter(|(_, seen)| is_unsure(seen)).map(|(question, _)| *question).collect();
    answers.extend(wave(lab, cells, &unsure, 1, MORE_PATIENCE_MS)?);
    for variant in Variant::ALL {
        let has_choice = |(at, _, how): &&Question| cells[*at].has_choice() && *how == variant;
        let open: Vec<Question> = answers.keys().filter(has_choice).copied().collect();
        let mut heard = Answers::new();
        for _ in 0..ROUNDS {
            for (question, seen) in wave(lab, cells, &open, AT_ONCE, PATIENCE_MS)? {
                heard.entry(question).or_default().join(seen);
            }
        }
        for seen in heard.values_mut() {
            seen.ends.retain(|_, count| *count * LOST_AT_LEAST > AT_ONCE * ROUNDS);
        }
        answers.extend(heard);
    }
    Ok(answers)
}

/// Asks each question so many times, all at once.
fn wave(lab: &mut Lab, cells: &[Cell], questions: &[Question], times: u64, patience_ms: u64) -> Result<Answers> {
    let jobs: Vec<Question> = (0..times).flat_map(|_| questions).copied().collect();
    for (id, (at, source, variant)) in (0..).zip(&jobs) {
        let job = Job {
            id,
            kind: if variant.is_tcp { JobKind::Tcp } else { JobKind::Udp },
            target: cells[*at].addresses[usize::from(variant.family == Family::V6)],
            seconds: WAVE_AT_MOST.as_secs_f64(),
            interval_ms: 0,
            timeout_ms: patience_ms,
            request_bytes: 64,
            reply_bytes: 64,
            count_max: 1,
        };
        lab.agents.get_mut(source).context("every host has an agent")?.ask(job)?;
    }
    let deadline = Instant::now() + WAVE_AT_MOST;
    let mut answers = Answers::new();
    for (source, agent) in &mut lab.agents {
        let mut open = jobs.iter().filter(|(_, asks, _)| asks == source).count();
        while open > 0 {
            match agent.next_report(deadline)? {
                Some(Report::Done(outcome)) => {
                    let question = jobs[outcome.id as usize];
                    answers.entry(question).or_default().add(&outcome, question.1);
                    open -= 1;
                }
                Some(Report::Refused { reason }) => bail!("an agent refused: {reason}"),
                Some(_) => {}
                None => bail!("{source:?}: {open} questions did not end within {WAVE_AT_MOST:?}"),
            }
        }
    }
    Ok(answers)
}

const REFUSED: &str = "refused";

impl Seen {
    fn add(&mut self, outcome: &Outcome, source: Host) {
        self.servers.extend(outcome.backends.keys().cloned());
        self.clients.extend(outcome.sources.keys().map(|address| client(address, source)));
        let wrong = (outcome.wrong > 0).then_some("WRONG BYTES");
        for end in outcome.failures.iter().map(|failure| end(&failure.text)).chain(wrong) {
            *self.ends.entry(end.into()).or_default() += 1;
        }
    }

    fn join(&mut self, other: Self) {
        self.servers.extend(other.servers);
        self.clients.extend(other.clients);
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
    }
}

/// Who the client was to the server.
fn client(address: &str, source: Host) -> String {
    match address.parse::<IpAddr>().ok().and_then(owner) {
        // A node has several addresses, and all of them are its own.
        Some(host) if host == source && host != Host::Node => "client".into(),
        Some(host) => host.name().into(),
        None => address.into(),
    }
}

/// What a client was told, from the error that it got (connect(2), send(2), recv(2)).
fn end(text: &str) -> &str {
    let kinds = [
        ("no answer in time", "silence"),
        ("refused", REFUSED),
        ("not permitted", "not permitted"),
        ("No route to host", "unreachable"),
        ("unreachable", "unreachable"),
        ("reset", "reset"),
    ];
    kinds.into_iter().find(|(words, _)| text.contains(words)).map_or(text, |(_, kind)| kind)
}
