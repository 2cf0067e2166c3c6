//! The bench itself: that its figures come from packets that arrived and were right.

use std::path::PathBuf;
use std::process::Command;

use atalho_benches::bench::contender::kernel::Kernel;
use atalho_benches::bench::contender::l2fwd::L2fwd;
use atalho_benches::bench::contender::{Contender, Tools};
use atalho_benches::bench::probe::Probing;
use atalho_benches::bench::programs::Flows;
use atalho_benches::bench::site::{Measured, Site, Stretch};
use atalho_benches::lab::command::run_in;
use atalho_benches::lab::plan::Plan;

const BENCH: &str = env!("CARGO_BIN_EXE_atalho-bench");

/// Skips only when told to; without root the tests below fail.
fn skipped(test: &str) -> bool {
    let skip = std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some();
    if skip {
        println!("SKIPPED: {test}: needs root");
    }
    skip
}

#[test]
fn the_pipeline_alone_says_what_a_packet_costs_in_one_line_of_json() {
    let run = Command::new(BENCH)
        .args(["engine", "--flows", "5000", "--new", "50", "--seconds", "0.1", "-o", "json"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    let figures: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(figures["ns_per_packet"].as_f64().unwrap() > 0.0, "{text}");
    assert_eq!((figures["flows"].as_u64(), figures["new_percent"].as_u64()), (Some(5000), Some(50)));
    assert!(figures["frames"].as_u64().unwrap() >= 4096 && figures["frames_span_bytes"].as_u64() == Some(8 << 20));
}

#[test]
fn every_way_of_handing_out_tables_has_its_price() {
    let run = Command::new(BENCH).args(["snapshot", "--seconds", "0.9", "-o", "json"]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(figures.as_array().unwrap().len(), 4);
    for of in figures.as_array().unwrap() {
        for figure in ["look_ns", "look_while_published_ns", "publish_ns"] {
            assert!(of[figure]["median"].as_f64().unwrap() > 0.0, "{of}");
        }
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for arguments in [
        &["engine", "--flows", "0"][..],
        &["engine", "--new", "101"],
        &["snapshot", "--seconds", "0"],
        &["--pairs", "0"],
        &["nobody"],
    ] {
        let run = Command::new(BENCH).args(arguments).output().unwrap();
        assert_eq!(run.status.code(), Some(2), "{arguments:?}");
        assert!(!run.stderr.is_empty());
    }
}

/// The first stretch in which nothing was lost. A machine that is busy elsewhere loses packets now and then, but not always;
/// never does more arrive than was sent.
fn whole(mut stretch: impl FnMut() -> anyhow::Result<Measured>) -> Measured {
    let mut seen = Vec::new();
    for _ in 0..20 {
        let measured = stretch().unwrap();
        assert!(measured.delivered <= measured.sent, "{measured:?}");
        if measured.delivered == measured.sent {
            return measured;
        }
        seen.push((measured.sent, measured.delivered));
    }
    panic!("sent and delivered: {seen:?}");
}

#[test]
fn every_packet_through_the_kernel_is_counted_and_a_changed_one_voids_the_run() {
    if skipped("every_packet_through_the_kernel_is_counted_and_a_changed_one_voids_the_run") {
        return;
    }
    let prefix = "ab-test";
    let mut site = site(prefix, Box::new(Kernel));
    assert_ne!(site.cores().sender, site.cores().forwarder);
    let gentle = |flows| Stretch { seconds: 0.2, pps: Some(50_000.0), flows, spread: false };
    for flows in [Flows::Lasting(64), Flows::Lasting(1 << 17), Flows::Fresh] {
        let live = whole(|| site.measure(&gentle(flows)));
        assert!(live.sent > 1000 && live.sender_cpu_ns > 0, "{live:?}");
    }
    // By way of the other core's backlog, which a busy machine may overrun; what arrives is right all the same.
    let spread = site.measure(&Stretch { spread: true, ..gentle(Flows::Lasting(64)) }).unwrap();
    assert!(spread.delivered > 0, "{spread:?}");
    whole(|| site.control(0.2));
    for (fresh, beside_pps) in [(false, None), (true, None), (false, Some(20_000.0))] {
        let latency = site.probe(Probing { samples: 200, fresh, beside_pps }).unwrap();
        assert!(latency.samples > 0 && latency.samples + latency.lost == 200, "{latency:?}");
        assert!(0 < latency.p50_ns && latency.p50_ns <= latency.p999_ns, "{latency:?}");
    }

    for line in [
        "add table ip bench",
        "add chain ip bench change { type filter hook forward priority 0; }",
        "add rule ip bench change ip ttl set 9",
    ] {
        run_in(&Plan::new(prefix).node(), "nft", &[line]).unwrap();
    }
    let refused = site.measure(&gentle(Flows::Lasting(64))).unwrap_err().to_string();
    assert!(refused.contains("came out wrong"), "{refused}");
    drop(site);
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&left.stdout).contains(prefix), "namespaces are left behind");
}

#[test]
fn the_raw_forwarder_sends_back_what_it_was_sent() {
    if skipped("the_raw_forwarder_sends_back_what_it_was_sent") {
        return;
    }
    // Building it has seen two bursts arrive whole.
    let mut site = site("ab-raw", Box::new(L2fwd));
    let fast = Stretch { seconds: 0.2, pps: None, flows: Flows::Lasting(1024), spread: false };
    let measured = site.measure(&fast).unwrap();
    assert!(measured.delivered > 0 && measured.forwarder_cpu_ns > 0, "{measured:?}");
    assert!(site.probe(Probing { samples: 200, fresh: false, beside_pps: None }).unwrap().samples > 0);
}

/// A node of which only this program is needed.
fn site(prefix: &str, contender: Box<dyn Contender>) -> Site {
    let tools = Tools { atalho: PathBuf::new(), lab: PathBuf::new(), bench: BENCH.into() };
    Site::build(prefix, contender, &tools).unwrap()
}
