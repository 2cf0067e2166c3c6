//! The list of metrics in docs/metrics.md, made from the page, and what else names metrics: the dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use super::page;
use crate::status::tests::collector;

/// Writes the list instead of comparing it.
const WRITE: &str = "ATALHO_WRITE_METRICS";

const HEAD: &str = "\
# Metrics

What `/metrics` on port 10249 has: Prometheus' text format. Counters grow for as long as the daemon runs, but those of the
kernel programs outlive it. Names that begin with `kubeproxy_` mean what they mean with kube-proxy, so that its dashboards and alerts go
on working; they have no label `ip_family`, for both families are compiled together. `docs/grafana.json` is a dashboard.
A test writes this list (`ATALHO_WRITE_METRICS=1 cargo test -p atalho-control --lib metrics`) and fails where it is not up to date.

| metric | type | labels | what it says |
|---|---|---|---|
";

/// One metric, as the page describes it.
#[derive(Default)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

/// The page's metrics by name.
fn metrics() -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in page(&collector()).lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else {
            let (name, labels) = line.split_once('{').unwrap_or((line.split_once(' ').unwrap().0, ""));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                name.strip_suffix(end).filter(|family| metrics.get(*family).is_some_and(|m| m.kind == "histogram"))
            });
            let metric = metrics.get_mut(family.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no head"));
            let labels = labels.split_once('}').map_or("", |(labels, _)| labels).split(',');
            metric.labels.extend(labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned())));
        }
    }
    metrics
}

fn file(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

#[test]
fn the_list_in_docs_is_up_to_date() {
    let mut text = HEAD.to_owned();
    for (name, metric) in metrics() {
        assert!(!metric.kind.is_empty() && metric.help.ends_with('.'), "{name}: {:?} {:?}", metric.kind, metric.help);
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{name}` | {} | {} | {} |", metric.kind, labels.join(", "), metric.help);
    }
    let path = file("docs/metrics.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == text, "docs/metrics.md is old: run with {WRITE}=1 once");
}

#[test]
fn every_metric_and_label_of_the_dashboard_exists() {
    let metrics = metrics();
    let text = std::fs::read_to_string(file("docs/grafana.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let of_expr: Vec<&str> =
                words.filter(|w| w.starts_with("atalho_") || w.starts_with("kubeproxy_")).collect();
            assert!(!of_expr.is_empty(), "{title}: {expr} names no metric");
            for word in of_expr {
                let name = word.strip_suffix("_bucket").unwrap_or(word);
                let metric = metrics.get(name).unwrap_or_else(|| panic!("{title}: there is no metric {word}"));
                assert_eq!(metric.kind == "histogram", word.ends_with("_bucket"), "{title}: {word}");
                assert_eq!(metric.kind != "gauge", expr.contains("rate("), "{title}: rates are of counters: {expr}");
                for label in by(expr).iter().filter(|label| !["le", "instance"].contains(&label.as_str())) {
                    assert!(metric.labels.contains(label), "{title}: {name} has no label {label}");
                }
                names.insert(name.to_owned());
            }
        }
    }
    assert!(names.len() >= 12, "a dashboard of {} metrics", names.len());
}

/// The labels that an expression groups by.
fn by(expr: &str) -> Vec<String> {
    let groups = expr.split("by (").skip(1).filter_map(|rest| rest.split_once(')')).map(|(labels, _)| labels);
    groups.flat_map(|labels| labels.split(',')).map(|label| label.trim().to_owned()).collect()
}
