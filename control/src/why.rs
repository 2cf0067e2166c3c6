//! `atalho why`: what would happen to a packet, and because of which object.
//!
//! The engine's own admission decides here as it does in a worker; before it stands the same claim check as in the
//! kernel. Offline the tables are compiled from manifests; without them the running daemon is asked, which answers by
//! the same [`answer`]. Every packet is the first of a new connection, judged alone.

mod explain;
mod query;
mod text;

use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use atalho_engine::admit::{Decision, Egress, FirstPacket, Opening, Outcome, check_source, decide};
use atalho_engine::flow::{FlowKey, Protocol};
use atalho_engine::service::Endpoint;
use atalho_engine::tables::Port;
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_layout::ClaimKind;
use serde::{Deserialize, Serialize};

use crate::compile::{Compiled, NextHopIndexes, compile, offline_facts};
use crate::config::Config;
use crate::facts::NodeFacts;
use crate::manifests::Manifests;
use crate::model::Model;

pub use explain::LeftOut;
pub(crate) use explain::left_out;
pub use query::{Query, QueryError, Way};

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct WhyOptions {
    pub manifests: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub node: Option<String>,
    /// PROTOCOL SOURCE DESTINATION.
    pub query: Option<Vec<String>>,
    /// `--in`.
    pub port: Option<String>,
    /// A file of batch lines; `-` is standard input.
    pub batch: Option<PathBuf>,
    pub json: bool,
}

/// What an answer is taken from.
pub struct View<'v> {
    pub model: &'v Model,
    pub compiled: &'v Compiled,
    pub config: &'v Config,
    pub facts: &'v NodeFacts,
}

/// One line of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: Option<serde_json::Value>,
    pub verdict: Verdict,
    pub reason: Option<String>,
    pub service: Option<String>,
    pub vip: Option<String>,
    pub backends: Vec<Backend>,
    pub chosen: Option<String>,
    pub snat: bool,
    pub source: Option<String>,
    pub egress: Option<String>,
    /// Always null: no policy is in force in this version.
    pub policy: Option<serde_json::Value>,
    /// For people: told by the text, not by `-o json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// What the text tells beside the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// Where the packet came in.
    pub came_in: String,
    /// In words, where the names alone do not tell.
    pub because: String,
    /// Endpoints of the Service port that this packet could not have gone to.
    pub left_out: Vec<LeftOut>,
    /// Why the source is rewritten, or is not.
    pub source_because: String,
    /// The packet when it leaves.
    pub leaves: String,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Forward,
    Pass,
    Reject,
    Drop,
}

/// An endpoint in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub address: String,
    pub weight: u32,
    pub node: Option<String>,
    pub local: bool,
}

impl Backend {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            address: shown(endpoint.address, endpoint.port),
            weight: endpoint.weight,
            node: endpoint.node.as_deref().map(str::to_owned),
            local: endpoint.local,
        }
    }
}

/// `address:port`, IPv6 as `[address]:port`.
fn shown(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Answers `query`.
pub fn answer(view: &View<'_>, query: &Query) -> Answer {
    let tables = &view.compiled.tables;
    let way = query.way.clone().unwrap_or_else(|| default_way(view, query.src));
    let came_in = way.to_string();
    let blank = |verdict, reason: Option<&str>, because: String| Answer {
        id: query.id.clone(),
        verdict,
        reason: reason.map(str::to_owned),
        service: None,
        vip: None,
        backends: Vec::new(),
        chosen: None,
        snat: false,
        source: None,
        egress: None,
        policy: None,
        detail: Some(Detail { came_in: came_in.clone(), because, ..Detail::default() }),
    };
    let Some(ingress) = ingress(view, &way) else {
        let reason = DropReason::UnknownPort;
        return blank(Verdict::Drop, Some(reason.name()), format!("no port of this node is {way}"));
    };
    if let Some(because) = passes(view, query, &way, ingress) {
        return blank(Verdict::Pass, None, because);
    }
    let packet = first_packet(query, ingress);
    // Any even draw will do, and the same query should be answered alike.
    let random = u32::from(packet.key.src_port).wrapping_mul(0x9e37_79b9);
    // Each packet is judged alone: no client has been here before.
    let decision = decide(tables, &packet, random, |_| None);
    let (verdict, reason, because) = match decision.outcome {
        Outcome::Drop(reason @ DropReason::SourceRange) => {
            (Verdict::Drop, Some(reason.name()), decision.vip.map(explain::who_is_let_in).unwrap_or_default())
        }
        Outcome::Forward => (Verdict::Forward, None, String::new()),
        Outcome::Pass => (Verdict::Pass, None, "it goes on by the node's own routes".to_owned()),
        Outcome::Punt(reason) => (punted(reason), Some(reason.name()), reason.text().to_owned()),
        Outcome::Drop(reason) => (Verdict::Drop, Some(reason.name()), reason.text().to_owned()),
    };
    let mut answer = blank(verdict, reason, because);
    fill(&mut answer, view, &packet, &decision);
    answer
}

/// What the slow path's answer is to the sender.
const fn punted(reason: PuntReason) -> Verdict {
    match reason {
        // Answered in any case, if only with a reply.
        PuntReason::NoEndpoint
        | PuntReason::UnknownServicePort
        | PuntReason::NoConnection
        | PuntReason::EchoToVip
        | PuntReason::Unreachable => Verdict::Reject,
        // They wait or are sent again smaller; the flow itself is let through.
        PuntReason::NeighbourUnresolved
        | PuntReason::TtlExceeded
        | PuntReason::TooBig
        | PuntReason::ToCut
        | PuntReason::TrackedElsewhere
        | PuntReason::Fragment => Verdict::Forward,
    }
}

fn fill(answer: &mut Answer, view: &View<'_>, packet: &FirstPacket, decision: &Decision<'_>) {
    answer.service = decision.vip.map(|vip| vip.service.to_string());
    answer.vip = decision.vip.map(|vip| vip.kind.name().to_owned());
    if let Some(route) = decision.route {
        answer.backends = route.backends.endpoints.iter().map(Backend::of).collect();
    }
    if let (Some(vip), Some(route), Some(detail)) = (decision.vip, decision.route, &mut answer.detail) {
        detail.left_out = explain::left_out(view, vip, route, packet.key.dst.is_ipv4());
    }
    if answer.verdict != Verdict::Forward {
        return;
    }
    answer.chosen = decision.chosen.map(|endpoint| shown(endpoint.address, endpoint.port));
    answer.snat = decision.source.is_some();
    answer.source = decision.source.map(|source| source.to_string());
    answer.egress = decision.egress.map(|egress| match egress {
        Egress::Node => "node".to_owned(),
        Egress::Pod(next_hop) => pod_behind(view, next_hop),
        Egress::Uplink(_) | Egress::UplinkUnresolved(_) => "uplink".to_owned(),
    });
    if let Some(detail) = &mut answer.detail {
        detail.source_because = explain::source(view, packet, decision).to_owned();
        detail.leaves = explain::leaves(packet, decision);
    }
}

fn pod_behind(view: &View<'_>, next_hop: u32) -> String {
    let ifindex = view.compiled.next_hops.get(&next_hop).map_or(0, |hop| hop.ifindex);
    match view.compiled.tables.ports.get(&ifindex) {
        Some(Port::Pod { name, .. }) => format!("pod:{name}"),
        _ => format!("next hop {next_hop}"),
    }
}

fn first_packet(query: &Query, ingress: u32) -> FirstPacket {
    let protocol = match (query.protocol, query.src) {
        (Protocol::Icmp, IpAddr::V6(_)) => Protocol::Icmpv6,
        (protocol, _) => protocol,
    };
    let is_echo = matches!(protocol, Protocol::Icmp | Protocol::Icmpv6);
    let key = FlowKey {
        src: query.src,
        dst: query.dst,
        src_port: query.src_port.unwrap_or(FIRST_DYNAMIC_PORT),
        dst_port: if is_echo { 0 } else { query.dst_port.unwrap_or(0) },
        protocol,
    };
    FirstPacket { key, ingress, opening: Opening::of_new(protocol) }
}

/// The source port where none is given (RFC 6335 section 6).
const FIRST_DYNAMIC_PORT: u16 = 49_152;

/// Where a packet with this source comes from, if the query does not say.
fn default_way(view: &View<'_>, src: IpAddr) -> Way {
    let tables = &view.compiled.tables;
    let of_pod = tables.ports.values().find_map(|port| match port {
        Port::Pod { name, addresses } if addresses.contains(&src) => Some(name.to_string()),
        _ => None,
    });
    match of_pod {
        Some(name) => Way::Pod(name),
        None if src.is_loopback() || tables.is_node_address(src) => Way::Node,
        None => Way::Uplink,
    }
}

fn ingress(view: &View<'_>, way: &Way) -> Option<u32> {
    match way {
        Way::Uplink => Some(view.facts.uplink).filter(|ifindex| *ifindex != 0),
        Way::Node => Some(view.facts.funnel).filter(|ifindex| *ifindex != 0),
        Way::Pod(wanted) => view.compiled.tables.ports.iter().find_map(|(ifindex, port)| match port {
            Port::Pod { name, .. } if **name == **wanted => Some(*ifindex),
            _ => None,
        }),
    }
}

/// Whether the kernel side leaves this packet to the node's own stack, and why.
fn passes(view: &View<'_>, query: &Query, way: &Way, ingress: u32) -> Option<String> {
    let claim = view.compiled.claim_of(query.dst, query.protocol, query.dst_port.unwrap_or(0));
    match (way, claim) {
        (Way::Uplink, None) => Some(format!("{} is neither a Service's nor a pod's of this node", query.dst)),
        (Way::Uplink, Some(ClaimKind::Node)) => {
            Some(format!("{} is the node itself, and no node port is there", query.dst))
        }
        (Way::Node, None | Some(ClaimKind::Node | ClaimKind::Pod)) => {
            Some("what processes of the node send to no Service goes by the node's own routes".to_owned())
        }
        (Way::Pod(_), Some(ClaimKind::Node)) => {
            // A pod that lies about its source gets nowhere, not even to the node.
            let port = view.compiled.tables.ports.get(&ingress)?;
            check_source(&view.compiled.tables, port, query.src).ok()?;
            Some(format!("{} is the pod's own node, and no node port is there", query.dst))
        }
        _ => None,
    }
}

/// Exit codes of the command.
const FINE: u8 = 0;
const DEGRADED: u8 = 1;
const BROKEN: u8 = 2;

/// Runs the command: answers go to `out`, what is wrong beside to standard error. `ask` asks the running daemon.
/// Returns the exit code: 1 if an object or a batch line was refused, 2 if nothing could be answered.
pub fn run(
    options: &WhyOptions,
    ask: impl FnOnce(&Config, &[Query]) -> Result<Vec<Answer>, String>,
    out: &mut dyn Write,
) -> u8 {
    match try_run(options, ask, out) {
        Ok(code) => code,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "atalho why: {problem}");
            BROKEN
        }
    }
}

fn try_run(
    options: &WhyOptions,
    ask: impl FnOnce(&Config, &[Query]) -> Result<Vec<Answer>, String>,
    out: &mut dyn Write,
) -> Result<u8, String> {
    let mut config = Config::load(options.config.as_deref()).map_err(|errors| errors.to_string())?;
    if let Some(node) = &options.node {
        config.node.name.clone_from(node);
    }
    let queries = queries(options)?;
    let asked: Vec<Query> = queries.iter().filter_map(|query| query.as_ref().ok()).cloned().collect();
    let mut code = if asked.len() == queries.len() { FINE } else { DEGRADED };
    let answers = match &options.manifests {
        Some(folder) => {
            let (answers, refused) = offline(folder, &config, &asked)?;
            for refusal in &refused {
                let _ = writeln!(std::io::stderr(), "refused: {refusal}");
                code = DEGRADED;
            }
            answers
        }
        None if asked.is_empty() => Vec::new(),
        None => ask(&config, &asked)?,
    };
    if answers.len() != asked.len() {
        return Err(format!(
            "{} questions, {} answers; is the daemon of the same version?",
            asked.len(),
            answers.len()
        ));
    }
    let mut answers = asked.iter().zip(answers);
    for query in &queries {
        let written = match query {
            Ok(_) => match answers.next() {
                Some((query, answer)) => write_answer(out, query, answer, options.json),
                None => Ok(()),
            },
            Err(error) if options.json => {
                serde_json::to_writer(&mut *out, error).map_err(Into::into).and_then(|()| writeln!(out))
            }
            Err(error) => writeln!(out, "{error}"),
        };
        written.map_err(|cause| format!("writing answers: {cause}"))?;
    }
    Ok(code)
}

fn write_answer(out: &mut dyn Write, query: &Query, mut answer: Answer, json: bool) -> std::io::Result<()> {
    if !json {
        return text::write(out, query, &answer);
    }
    answer.detail = None;
    serde_json::to_writer(&mut *out, &answer)?;
    writeln!(out)
}

/// The packets asked about; bad batch lines as errors in their place.
fn queries(options: &WhyOptions) -> Result<Vec<Result<Query, QueryError>>, String> {
    if let Some(words) = &options.query {
        return Query::from_words(words, options.port.as_deref())
            .map(|query| vec![Ok(query)])
            .map_err(|e| e.to_string());
    }
    let Some(path) = &options.batch else {
        return Err("say which packet: PROTOCOL SOURCE[:PORT] DESTINATION[:PORT], or --batch FILE".to_owned());
    };
    let unreadable = |cause: std::io::Error| format!("{}: cannot be read: {cause}", path.display());
    let reader: Box<dyn BufRead> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::io::BufReader::new(std::fs::File::open(path).map_err(unreadable)?)),
    };
    let mut queries = Vec::new();
    for (n, line) in reader.split(b'\n').enumerate() {
        let line = line.map_err(unreadable)?;
        if !line.trim_ascii().is_empty() {
            queries.push(Query::from_line(n + 1, &line, options.port.as_deref()));
        }
    }
    Ok(queries)
}

/// Answers from the manifests below `folder`, and what of them was refused.
fn offline(folder: &std::path::Path, config: &Config, queries: &[Query]) -> Result<(Vec<Answer>, Vec<String>), String> {
    let loaded = Manifests::new(folder).reload(Instant::now()).map_err(|error| error.to_string())?;
    let mut model = Model::new(config);
    model.set_unparsed(loaded.refusals);
    for change in loaded.changes {
        model.apply(change);
    }
    let facts = Arc::new(offline_facts(&model, config));
    let mut indexes = NextHopIndexes::new(u32::MAX);
    let compiled = compile(&model, &facts, config, None, &mut indexes);
    let view = View { model: &model, compiled: &compiled, config, facts: &facts };
    let answers = queries.iter().map(|query| answer(&view, query)).collect();
    let refusals = model.refusals().into_iter().chain(compiled.refusals.iter().cloned());
    Ok((answers, refusals.map(|refusal| refusal.to_string()).collect()))
}

#[cfg(test)]
mod tests;
