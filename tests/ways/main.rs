//! Every way into and out of a node: who asks, what is asked for, under which policy. The same question goes to kube-proxy and
//! to the daemon, in one lab and in one run, over TCP and UDP and in both families; what counts is who answers, whom the
//! server sees, and what a client gets that nobody answers. `docs/ways.md` is the matrix that comes of it; the test compares
//! every cell, and each one that differs from kube-proxy's has its reason there.

mod ask;
mod cells;
mod document;
mod forgotten;
mod hosts;
mod lab;
mod network;
mod objects;
mod proxies;
mod reasons;
mod streams;

use std::path::Path;

use atalho_benches::lab::session::Programs;

use crate::lab::Lab;

const DOCUMENT: &str = "docs/ways.md";
const WRITE: &str = "ATALHO_WRITE_WAYS";

#[test]
fn every_way_ends_as_the_document_says() {
    if std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some() {
        println!("SKIPPED: every_way_ends_as_the_document_says: needs root and XDP");
        return;
    }
    let programs = Programs::beside(Path::new(env!("CARGO_BIN_EXE_atalho"))).expect("both programs");
    let mut lab = Lab::build("at-ways", &programs).expect("a lab of two nodes");
    let cells = cells::all();

    let proxies = proxies::start_kube_proxies(&lab).expect("kube-proxy on both nodes");
    let theirs = ask::all(&mut lab, &cells).expect("answers by kube-proxy");
    proxies.stop(&lab).expect("no trace of kube-proxy");

    let before = lab.loopback_refusals().expect("counters");
    let mut daemons = proxies::start_daemons(&lab).expect("the daemon on both nodes");
    let ours = ask::all(&mut lab, &cells).expect("answers by the daemon");
    let after = lab.loopback_refusals().expect("counters");
    let streams = streams::to_own_node_ports(&mut lab).expect("streams that end");
    let wrong = lab.wrong_packets().expect("counters");
    let books = daemons.uneven_books().expect("a status");
    drop(daemons);

    let document = document::write(&cells, &ours, &theirs);
    println!("{}", document.text);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &document.text).expect("a document");
    }
    assert_eq!(document.faults, Vec::<String>::new());
    assert!(
        before.iter().zip(after).all(|(before, after)| *before < after),
        "nobody met a loopback: {before:?} {after:?}"
    );
    assert_eq!(streams, Vec::<String>::new());
    assert_eq!((wrong, books), (Vec::new(), Vec::<String>::new()));
    let kept = std::fs::read_to_string(&path).expect("a document");
    let differing = document::differing_lines(&kept, &document.text);
    assert_eq!(differing, Vec::<String>::new(), "{DOCUMENT} is another one; {WRITE}=1 writes it anew");
}
