//! Netfilter as an oracle: the same random packets through nftables rules of kube-proxy's shape in a namespace, and
//! through the engine and the slow path in memory. What comes out must be the same to the byte, or differ by a rule of
//! [`difference`], which is counted and stands with its reason in ARCHITECTURE.md.
//!
//! Read in this order: `cluster` (who is there), `netfilter` and `node` (the two sides), `scene` and `conversation` (who
//! talks), `segments`, `datagrams`, `errors` and `oddity` (what is said), `run` (the loop), `difference` (the judge).
//!
//! `ATALHO_ORACLE_PACKETS` and `ATALHO_ORACLE_SEED` make another run of it. Needs root; `ATALHO_SKIP_ROOT_TESTS=1` skips it.

mod checksum;
mod cluster;
mod conversation;
mod datagrams;
mod difference;
mod errors;
mod fragments;
mod frame;
mod manifests;
mod netfilter;
mod node;
mod oddity;
mod packet;
mod rules;
mod ruleset;
mod run;
mod scene;
mod segments;
mod shrink;
mod stage;
mod stimulus;
mod wires;

use cluster::Link;
use frame::Outline;
use rules::Rule;
use stage::Stage;

/// Netfilter's, then ours.
pub type Both<T> = [T; 2];
pub const NETFILTER: usize = 0;
pub const OURS: usize = 1;

/// A frame that came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    pub link: Link,
    pub frame: Vec<u8>,
}

/// Packets of a run, unless `ATALHO_ORACLE_PACKETS` says otherwise.
const PACKETS: u64 = 20_000;

#[test]
fn netfilter_and_we_treat_the_same_packets_alike() {
    if skipped("netfilter_and_we_treat_the_same_packets_alike") {
        return;
    }
    let (packets, seed) = (setting("ATALHO_ORACLE_PACKETS", PACKETS), setting("ATALHO_ORACLE_SEED", 1));
    pin();
    let mut stage = Stage::new("run", seed, |_| {});
    let started = std::time::Instant::now();
    let figures = run::run(&mut stage, seed, packets);
    println!("seed {seed}, {:.1} s: {}", started.elapsed().as_secs_f64(), figures.table());
    if let Some(complaint) = figures.complaint(&mut stage) {
        panic!("seed {seed}: the two sides differ\n{complaint}");
    }
}

/// A FIN of IPv6 that goes to one pod keeps its hop limit.
fn keep_hop_limit(out: &mut Out) {
    let frame = &mut out.frame;
    let is_fin = |frame: &[u8], outline: &Outline| {
        outline.protocol == packet::TCP
            && frame.get(outline.transport + 13).is_some_and(|flags| flags & packet::FIN != 0)
    };
    if out.link == Link::Web
        && let Some(outline) = Outline::of(frame)
        && outline.src.is_ipv6()
        && is_fin(frame, &outline)
    {
        frame[frame::ETHERNET_BYTES + 7] += 1;
    }
}

#[test]
fn a_fault_is_found_and_shrunk_to_the_packets_that_show_it() {
    if skipped("a_fault_is_found_and_shrunk_to_the_packets_that_show_it") {
        return;
    }
    pin();
    let mut stage = Stage::new("fault", 1, keep_hop_limit);
    let figures = run::run(&mut stage, 1, 3000);
    let (headline, (_, finding)) = figures.wrong.first_key_value().expect("a difference");
    assert!(finding.history.contains("FIN"), "{headline}\n{}", finding.history);
    let shortest =
        shrink::shortest(&mut stage, finding.scene, finding.events.clone(), headline).expect("the same alone");
    let packets = |history: &str| history.lines().filter(|line| !line.starts_with(' ')).count();
    // A SYN and its answer, and the FIN; what else a scene says is taken out.
    assert!(packets(&shortest) <= 3, "{shortest}");
    assert!(packets(&shortest) <= packets(&finding.history), "{shortest}\n{}", finding.history);
}

#[test]
fn every_difference_that_is_meant_stands_in_the_architecture() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for rule in Rule::ALL {
        let row = format!("| {} | {} | {} |", rule.name(), rule.netfilter(), rule.ours());
        assert!(text.contains(&row), "ARCHITECTURE.md lacks this row:\n{row}");
    }
    let rows = text.lines().skip_while(|line| !line.starts_with("| difference |")).skip(2);
    let named = rows.take_while(|line| line.starts_with('|')).count();
    assert_eq!(named, Rule::ALL.len(), "ARCHITECTURE.md names differences that are none any more");
}

fn skipped(test: &str) -> bool {
    let skip = std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some();
    if skip {
        println!("SKIPPED: {test}: needs root");
    }
    skip
}

/// What goes in by one core comes out in order.
fn pin() {
    atalho_sys::cores::pin(*atalho_sys::cores::available().last().expect("a core")).expect("a core");
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number is wanted")),
        Err(_) => default,
    }
}
