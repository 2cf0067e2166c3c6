//! What is read of the daemon before and after: its metrics page and its process.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::lab::command::run_in;
use crate::lab::session::Session;

const METRICS: &str = "http://127.0.0.1:10249/metrics";

/// Counts since the daemon began.
#[derive(Debug, Default)]
pub struct Readings {
    pub changes: u64,
    pub publications: u64,
    pub queue_longest: u64,
    pub queue_max: u64,
    pub scans: u64,
    pub scan_s: f64,
    pub cpu_s: f64,
    pub memory_mib: f64,
    pub dropped: u64,
    /// From the time that a slice says it was changed at.
    pub programming: Buckets,
    /// From a change's arrival until all flows that it ends were found.
    pub ended: Buckets,
}

impl Readings {
    pub fn take(session: &Session) -> Result<Self> {
        let page = run_in(&session.plan().node(), "curl", &["-s", "--fail", "--max-time", "10", METRICS])?;
        let value = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|text| text.parse::<f64>().ok()).with_context(|| format!("no metric {name}"))
        };
        let scans = "kubeproxy_conntrack_reconciler_sync_duration_seconds";
        let status = session.daemon()?.status()?;
        let kernel = |counter: &str| status.kernel.get(counter).copied().unwrap_or_default();
        Ok(Self {
            changes: value("kubeproxy_sync_proxy_rules_endpoint_changes_total")? as u64,
            publications: value("atalho_snapshots_total")? as u64,
            queue_longest: value("atalho_change_queue_longest")? as u64,
            queue_max: value("atalho_change_queue_max")? as u64,
            scans: value(&format!("{scans}_count"))? as u64,
            scan_s: value(&format!("{scans}_sum"))?,
            cpu_s: session.daemon()?.cpu_seconds()?,
            memory_mib: memory_mib(session)?,
            dropped: status.dropped + kernel("uplink_no_worker") + kernel("funnel_no_worker") + kernel("pod_policed"),
            programming: Buckets::read(&page, "kubeproxy_network_programming_duration_seconds"),
            ended: Buckets::read(&page, "atalho_change_to_ended_seconds"),
        })
    }
}

/// RssAnon of the daemon, proc_pid_status(5): its own memory, without the tables that it shares with the kernel.
pub fn memory_mib(session: &Session) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/status", session.daemon()?.pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kb / 1024.0)
}

/// A histogram: how many were not longer than each bound, by the bound in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets(BTreeMap<u64, u64>);

impl Buckets {
    fn read(page: &str, name: &str) -> Self {
        let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket{le=\""));
        let buckets = lines.filter_map(|line| {
            let (bound, count) = line.split_once("\"} ")?;
            let bound_us = if bound == "+Inf" { u64::MAX } else { (bound.parse::<f64>().ok()? * 1e6).round() as u64 };
            Some((bound_us, count.parse().ok()?))
        });
        Self(buckets.collect())
    }

    pub fn since(&self, before: &Self) -> Self {
        let earlier = |bound| before.0.get(bound).copied().unwrap_or_default();
        Self(self.0.iter().map(|(bound, count)| (*bound, count - earlier(bound))).collect())
    }

    /// The smallest bound, in seconds, that so large a share does not exceed.
    pub fn below(&self, share: f64) -> f64 {
        let all = self.0.values().max().copied().unwrap_or_default() as f64;
        let bound = self.0.iter().find(|(_, count)| **count as f64 >= share * all).map(|(bound, _)| *bound);
        bound.filter(|bound| *bound < u64::MAX).map_or(f64::INFINITY, |bound| bound as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_found_among_the_buckets_of_a_page() {
        let page = |counts: [u64; 4]| {
            let bounds = ["0.001", "0.002", "0.004", "+Inf"];
            let lines =
                bounds.iter().zip(counts).map(|(bound, count)| format!("a_seconds_bucket{{le=\"{bound}\"}} {count}\n"));
            Buckets::read(&lines.collect::<String>(), "a_seconds")
        };
        let buckets = page([5, 60, 100, 100]).since(&page([5, 10, 10, 10]));
        assert_eq!((buckets.below(0.5), buckets.below(0.99)), (0.002, 0.004));
        assert_eq!(page([0, 0, 0, 1]).below(0.99), f64::INFINITY);
    }
}
