//! The list of all vectors by where their rules are written, with the packets that each sends: kept in `docs/vectors.md`.

use std::fmt::Write;
use std::path::Path;

use crate::{RUNS, Run};

/// Set to write the list instead of comparing it.
const WRITE: &str = "ATALHO_WRITE_VECTORS";

const HEAD: &str = "\
# Vectors

Packets in, verdicts, packets out: what `fastpath/engine/tests/vectors` holds the engine to, by where it is written. The
two other implementations etherparse and scapy (`tests/scapy/check_vectors.py`) compute every checksum and length of what
leaves anew. A test writes this list (`ATALHO_WRITE_VECTORS=1 cargo test -p atalho-engine --test vectors list`) and
compares it.

| rule | what | file | packets | forwarded | slow path | dropped |
|---|---|---|---|---|---|---|
";

/// RFCs by number and section, then the rest by name.
fn order(source: &str) -> (bool, Vec<u32>, &str) {
    let numbers = source.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    (!source.starts_with("RFC "), numbers.collect(), source)
}

fn list() -> String {
    let mut runs: Vec<&Run> = RUNS.iter().collect();
    runs.sort_by_key(|run| (order(run.vector.source), run.vector.what));
    let mut list = HEAD.to_string();
    for Run { subject, vector, trace } in runs {
        let (source, what, packets) = (vector.source, vector.what, trace.packets());
        let (forwarded, punted, dropped) = (trace.forwarded, trace.punted, trace.dropped);
        writeln!(list, "| {source} | {what} | {subject} | {packets} | {forwarded} | {punted} | {dropped} |").unwrap();
    }
    list
}

#[test]
fn the_list_in_the_documents_is_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors.md");
    let list = list();
    if std::env::var_os(WRITE).is_some() {
        return std::fs::write(&path, &list).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = list.lines().find(|line| !kept.lines().any(|other| other == *line));
    assert_eq!(differs, None, "docs/vectors.md has not this line; run the test again with {WRITE}=1 and commit it");
    assert_eq!(kept, list, "docs/vectors.md is not this list; run the test again with {WRITE}=1 and commit it");
}
