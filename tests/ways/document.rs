//! The document: one matrix with a line for each question and a column for each source, then the reasons of what differs, and
//! where the ways that are easily forgotten stand in it.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::ask::{Answers, Seen, Variant};
use crate::cells::{Cell, SOURCES};
use crate::forgotten::{Place, WAYS};
use crate::hosts::Host;
use crate::reasons::{Difference, REASONS};

pub struct Document {
    pub text: String,
    /// What must not be: a difference without a reason, a reason without a difference, a lost packet.
    pub faults: Vec<String>,
}

const HEAD: &str = "\
# Ways into and out of a node

Who asks what, under which policy, and what comes of it: two nodes, a client and a router in network namespaces, ordinary sockets,
objects of a real API server. kube-proxy 1.37 in nftables mode is asked the same in the same lab and the same run, on both nodes.
A test makes this matrix and compares it with this file (`cargo test --test ways`; with `ATALHO_WRITE_WAYS=1` it writes it anew).

A cell says who answered, and in brackets whom it saw: *client*, the one who asked, or a node. `local`, `other` and `remote` are the endpoint
pods here (at node-a), of another plugin (routed as Calico does it) and there (at node-b); `node-a` as who answers is its process.
*refused* is a reset or an ICMP port unreachable, *unreachable* another ICMP error. TCP, UDP, IPv4 and IPv6 are alike where a cell does not
tell them apart. Policy stands for externalTrafficPolicy and internalTrafficPolicy. **Where kube-proxy does otherwise**, it stands
behind an arrow with the number of the reason below.

";

pub fn write(cells: &[Cell], ours: &Answers, theirs: &Answers) -> Document {
    let mut page = Page { cells, ours, theirs, faults: Vec::new(), used: BTreeSet::new() };
    let mut text = HEAD.to_owned();
    let columns: Vec<&str> = SOURCES.iter().map(|(_, name)| *name).collect();
    let _ = writeln!(text, "| to | endpoint | policy | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---{}|", "|---".repeat(2 + columns.len()));
    for (at, cell) in cells.iter().enumerate() {
        let answers: Vec<String> = SOURCES.iter().map(|(source, _)| page.cell(at, *source)).collect();
        let [endpoint, policy] =
            cell.service.map_or(["-"; 2], |service| [service.behind.name(), service.policy.name()]);
        let _ = writeln!(text, "| {} | {endpoint} | {policy} | {} |", cell.target.name(), answers.join(" | "));
    }
    text += "\n## Why a cell differs\n\n";
    for (at, reason) in REASONS.iter().enumerate() {
        let _ = writeln!(text, "{}. {}", at + 1, reason.text);
        if !page.used.contains(&at) {
            page.faults.push(format!("no cell differs for reason {}: {}", at + 1, reason.text));
        }
    }
    text += "\n## Ways that are easily forgotten\n\n| way | cells |\n|---|---|\n";
    for (way, places) in WAYS {
        let shown: Vec<String> = places.iter().map(|place| page.place(place)).collect();
        let _ = writeln!(text, "| {way} | {} |", shown.join("; "));
    }
    Document { text, faults: page.faults }
}

/// Lines that two documents do not have in common.
pub fn differing_lines(kept: &str, new: &str) -> Vec<String> {
    let [kept, new] = [kept, new].map(|text| text.lines().collect::<BTreeSet<_>>());
    let gone = kept.difference(&new).map(|line| format!("- {line}"));
    gone.chain(new.difference(&kept).map(|line| format!("+ {line}"))).collect()
}

struct Page<'a> {
    cells: &'a [Cell],
    ours: &'a Answers,
    theirs: &'a Answers,
    faults: Vec<String>,
    /// Reasons that some cell has.
    used: BTreeSet<usize>,
}

impl Page<'_> {
    /// What one cell says: once if its variants agree.
    fn cell(&mut self, at: usize, source: Host) -> String {
        let mut groups: Vec<(String, Vec<Variant>)> = Vec::new();
        for variant in Variant::ALL {
            let question = (at, source, variant);
            let (Some(ours), Some(theirs)) = (self.ours.get(&question), self.theirs.get(&question)) else { continue };
            let text = self.compared(Difference { cell: &self.cells[at], source, ours, theirs }, variant);
            match groups.iter_mut().find(|(known, _)| *known == text) {
                Some((_, variants)) => variants.push(variant),
                None => groups.push((text, vec![variant])),
            }
        }
        match groups.as_slice() {
            [] => "-".into(),
            [(text, _)] => text.clone(),
            groups => {
                let parts: Vec<String> =
                    groups.iter().map(|(text, variants)| format!("{}: {text}", names(variants))).collect();
                parts.join("; ")
            }
        }
    }

    fn compared(&mut self, difference: Difference<'_>, variant: Variant) -> String {
        let Difference { cell, source, ours, theirs } = difference;
        let (here, there) = (shown(ours), shown(theirs));
        let what = || format!("{} {:?} from {source:?} by {}", cell.target.name(), cell.service, variant.name());
        if ours.servers.is_empty() == ours.ends.is_empty() {
            self.faults.push(format!("{}: {here}", what()));
        }
        if here == there {
            return here;
        }
        match REASONS.iter().position(|reason| (reason.is_for)(&difference)) {
            Some(at) => {
                self.used.insert(at);
                format!("**{here}** ← {there} ({})", at + 1)
            }
            None => {
                self.faults.push(format!("{}: {here}, by kube-proxy {there}, for no reason", what()));
                format!("**{here}** ← {there} (?)")
            }
        }
    }

    fn place(&mut self, (target, wanted, source): &Place) -> String {
        let is_it = |cell: &Cell| {
            cell.target == *target && cell.service.map(|service| (service.behind, service.policy)) == *wanted
        };
        let column = SOURCES.iter().find(|(host, _)| host == source).map_or("nobody", |(_, name)| name);
        let service =
            wanted.map_or_else(String::new, |(behind, policy)| format!(", {}, {}", behind.name(), policy.name()));
        let name = format!("{column} to {}{service}", target.name());
        match self.cells.iter().position(is_it) {
            Some(at) if target.is_asked_by(*source) => format!("{name}: {}", self.cell(at, *source)),
            _ => {
                self.faults.push(format!("no cell: {name}"));
                name
            }
        }
    }
}

/// Who answered whom, or what the client got.
fn shown(seen: &Seen) -> String {
    let list = |words: Vec<&str>| words.join(" + ");
    let [servers, clients] =
        [&seen.servers, &seen.clients].map(|names| list(names.iter().map(String::as_str).collect()));
    let ends = list(seen.ends.keys().map(String::as_str).collect());
    match (servers.is_empty(), ends.is_empty()) {
        (true, _) => ends,
        (false, true) => format!("{servers} ({clients})"),
        (false, false) => format!("{servers} ({clients}), at times {ends}"),
    }
}

/// Variants, by what they have in common.
fn names(variants: &[Variant]) -> String {
    match variants {
        [one, other] if one.family == other.family => one.family.name().into(),
        [one, other] if one.is_tcp == other.is_tcp => if one.is_tcp { "TCP" } else { "UDP" }.into(),
        all => all.iter().map(|variant| variant.name()).collect::<Vec<_>>().join(", "),
    }
}
