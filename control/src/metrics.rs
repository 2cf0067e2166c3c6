//! The metrics page (Prometheus text exposition format 0.0.4), written from the lists that also make the enums and the
//! texts for people. Names of kube-proxy stand where the meaning is the same.

use std::fmt::Write;
use std::time::UNIX_EPOCH;

use atalho_engine::conntrack::Evictable;
use atalho_engine::snat::ports_left;
use atalho_engine::verdict::{DropReason, PuntReason};

use crate::report::{SlowPathReport, WorkerReport};
use crate::shared::{FEED, Published, Times};
use crate::status::Collector;
use crate::supervise::Supervised;

/// The content type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric: its head is written once, however many lines follow.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Times) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound_s, within) in times.buckets() {
            self.line(&bucket, &[("le", &bound_s.to_string())], within);
        }
        self.line(&bucket, &[("le", "+Inf")], times.count);
        self.line(&format!("{name}_sum"), &[], times.sum_s);
        self.line(&format!("{name}_count"), &[], times.count);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The page.
pub fn page(collector: &Collector) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    page.head("atalho_build_info", "gauge", "1, with the version.");
    page.line("atalho_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    workers(&mut page, &(collector.reports)());
    slow_path(&mut page, &(collector.slow_path)());

    page.head("atalho_kernel_packets_total", "counter", "Packets by what the kernel programs did with them.");
    for (name, _, value) in collector.kernel_counters().unwrap_or_default() {
        page.line("atalho_kernel_packets_total", &[("event", name)], value);
    }
    let dropped = "atalho_pod_dropped_packets_total";
    page.head(dropped, "counter", "Packets of pods that the kernel programs dropped, by pod and reason.");
    for (pod, drops) in collector.pod_drops().unwrap_or_default() {
        for (reason, packets) in drops {
            page.line(dropped, &[("pod", &pod), ("reason", &reason)], packets);
        }
    }
    page.single("atalho_flows", "gauge", "Tracked connections.", collector.table.count());
    page.single("atalho_flows_max", "gauge", "Connections that the table has room for.", collector.flows_max);
    page.head("atalho_flows_evicted_total", "counter", "Connections that made room for others, by what they were.");
    for kind in Evictable::ALL {
        page.line("atalho_flows_evicted_total", &[("kind", kind.name())], collector.table.evicted_as(kind));
    }

    let ports = &collector.snapshot.load().settings.snat_ports;
    page.single("atalho_snat_ports", "gauge", "Source ports that masqueraded flows may have.", ports.count());
    page.single(
        "atalho_snat_ports_left",
        "gauge",
        "Source ports that are free toward the destination that has the most masqueraded flows.",
        ports_left(ports, &collector.table),
    );

    let shared = collector.shared.lock();
    page.single(
        "atalho_flows_ended_total",
        "counter",
        "Connections ended because their endpoint or port is gone.",
        shared.flows_ended,
    );
    page.single(
        "atalho_offloads_turned_off_total",
        "counter",
        "Offloads of uplink or funnel that somebody had turned on.",
        shared.offloads_turned_off,
    );
    page.single("atalho_ready", "gauge", "1 once the first tables are in use.", u8::from(shared.ready));
    page.single(
        "atalho_degraded",
        "gauge",
        "1 while some input is refused or some part fails.",
        u8::from(shared.state() == "degraded"),
    );
    page.single("atalho_generation", "gauge", "Generation of the tables in use.", shared.generation);
    page.single("atalho_snapshots_total", "counter", "Snapshots published.", shared.snapshots);
    page.single("atalho_services", "gauge", "Services in the tables.", shared.services);
    page.single("atalho_endpoints", "gauge", "Endpoints in the tables.", shared.endpoints);
    page.single("atalho_refused_objects", "gauge", "Objects that are refused.", shared.refusals.len());
    page.single("atalho_watches_failing", "gauge", "Watches of the API server that fail.", shared.watches_failing());
    page.single(
        "atalho_change_queue_longest",
        "gauge",
        "Most messages of the watches that have waited at once to be taken in.",
        shared.feed_longest,
    );
    page.single("atalho_change_queue_max", "gauge", "Messages for which that queue has room.", FEED);
    let restarts = "atalho_control_restarts_total";
    page.head(restarts, "counter", "Parts of control that were begun anew after they had panicked or failed.");
    for what in Supervised::ALL {
        page.line(restarts, &[("part", what.name())], shared.restarts.get(&what).copied().unwrap_or_default());
    }
    page.single(
        "atalho_neighbours_unresolved",
        "gauge",
        "Next hops whose neighbour has not answered.",
        shared.unresolved.len(),
    );
    page.histogram(
        "atalho_change_to_use_seconds",
        "Time from a change's arrival until every worker uses it.",
        &shared.change_to_use,
    );
    page.histogram(
        "atalho_change_to_ended_seconds",
        "Time from a change's arrival until workers know every connection that ends by it.",
        &shared.change_to_ended,
    );
    kube_proxy(&mut page, &shared);
    page.0
}

/// What kube-proxy has too, under its names. Both families are compiled together, so nothing is told by family.
fn kube_proxy(page: &mut Page, shared: &Published) {
    page.histogram(
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "Time to compile the tables and put them in force.",
        &shared.compile_and_apply,
    );
    page.histogram(
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "The same, where everything was compiled anew.",
        &shared.compile_everything,
    );
    page.histogram(
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "The same, where only what had changed was compiled.",
        &shared.compile_changes,
    );
    page.histogram(
        "kubeproxy_network_programming_duration_seconds",
        "Time from an EndpointSlice's last-change-trigger-time until the tables have it.",
        &shared.network_programming,
    );
    for (name, help, at) in [
        ("last_timestamp", "When the tables were last put in force.", shared.last_publication),
        ("last_queued_timestamp", "When a change last came that no other waited before.", shared.last_queued),
    ] {
        let at_s = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |at| at.as_secs_f64());
        page.single(&format!("kubeproxy_sync_proxy_rules_{name}_seconds"), "gauge", help, at_s);
    }
    for (name, objects, seen) in [
        ("service", "Services", &shared.changes.services),
        ("endpoint", "EndpointSlices", &shared.changes.endpoint_slices),
    ] {
        let name = format!("kubeproxy_sync_proxy_rules_{name}_changes");
        page.single(&format!("{name}_total"), "counter", &format!("Changes of {objects}."), seen.all);
        let help = format!("Changes of {objects} that are not in force yet.");
        page.single(&format!("{name}_pending"), "gauge", &help, seen.waiting);
    }
    let no_local = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    page.head(
        no_local,
        "gauge",
        "Ports of Services, by family, whose policy is Local and whose endpoints are all elsewhere.",
    );
    page.line(no_local, &[("traffic_policy", "internal")], shared.no_local_endpoints.internal);
    page.line(no_local, &[("traffic_policy", "external")], shared.no_local_endpoints.external);
    page.histogram(
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "Time to look for connections whose endpoint or port is gone.",
        &shared.scans,
    );
    page.single(
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "counter",
        "Connections ended because their endpoint or port is gone.",
        shared.flows_ended,
    );
    for (name, probe) in [("healthz", &shared.probes.healthz), ("livez", &shared.probes.livez)] {
        let metric = format!("kubeproxy_proxy_{name}_total");
        page.head(&metric, "counter", &format!("Answers on /{name} of the health port, by their HTTP status."));
        page.line(&metric, &[("code", "200")], probe.well);
        page.line(&metric, &[("code", "503")], probe.unwell);
    }
}

type Count = (&'static str, &'static str, fn(&WorkerReport) -> u64);

const COUNTS: &[Count] = &[
    ("atalho_received_packets_total", "Packets received.", |r| r.received),
    ("atalho_forwarded_packets_total", "Packets sent on.", |r| r.forwarded),
    ("atalho_originated_packets_total", "Answers of our own.", |r| r.originated),
    ("atalho_capture_lost_packets_total", "Packets that a capture wanted and had no room for.", |r| r.capture_lost),
    ("atalho_unsent_packets_total", "Answers of our own that could not be sent.", |r| r.unsent),
];

fn workers(page: &mut Page, reports: &[WorkerReport]) {
    let labelled = || reports.iter().enumerate().map(|(worker, report)| (worker.to_string(), report));
    for (name, help, of) in COUNTS {
        page.head(name, "counter", help);
        for (worker, report) in labelled() {
            page.line(name, &[("worker", &worker)], of(report));
        }
    }
    page.head("atalho_busy_seconds_total", "counter", "Time that workers spent on packets.");
    for (worker, report) in labelled() {
        page.line("atalho_busy_seconds_total", &[("worker", &worker)], report.busy_ns as f64 / 1e9);
    }
    page.head("atalho_dropped_packets_total", "counter", "Packets dropped, by reason.");
    for (worker, report) in labelled() {
        for reason in DropReason::ALL {
            let labels = [("worker", worker.as_str()), ("reason", reason.name())];
            page.line("atalho_dropped_packets_total", &labels, report.dropped[*reason as usize]);
        }
    }
    page.head("atalho_punted_packets_total", "counter", "Packets given to the slow path, by reason.");
    for (worker, report) in labelled() {
        for reason in PuntReason::ALL {
            let labels = [("worker", worker.as_str()), ("reason", reason.name())];
            page.line("atalho_punted_packets_total", &labels, report.punts[*reason as usize]);
        }
    }
}

fn slow_path(page: &mut Page, report: &SlowPathReport) {
    let answered = "atalho_slow_path_answered_packets_total";
    page.head(answered, "counter", "Punted packets that were answered, by the reason of the punt.");
    for reason in PuntReason::ALL {
        page.line(answered, &[("reason", reason.name())], report.answered[*reason as usize]);
    }
    let dropped = "atalho_slow_path_dropped_packets_total";
    page.head(dropped, "counter", "Punted packets that were dropped, by reason.");
    for reason in DropReason::ALL {
        page.line(dropped, &[("reason", reason.name())], report.dropped[*reason as usize]);
    }
    page.single(
        "atalho_slow_path_resumed_packets_total",
        "counter",
        "Punted packets that went on once their neighbour was known.",
        report.resumed,
    );
    page.single("atalho_slow_path_waiting_packets", "gauge", "Packets that wait for a neighbour.", report.waiting);
}

#[cfg(test)]
mod list;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_the_format_wants_it() {
        let mut page = Page(String::new());
        page.head("a_total", "counter", "A.");
        page.line("a_total", &[("reason", "a\"b\\c")], 3);
        assert_eq!(page.0, "# HELP a_total A.\n# TYPE a_total counter\na_total{reason=\"a\\\"b\\\\c\"} 3\n");
    }

    #[test]
    fn a_histogram_counts_what_is_within_each_bound() {
        let mut times = Times::default();
        times.record(std::time::Duration::from_millis(3));
        let mut page = Page(String::new());
        page.histogram("a_seconds", "A.", &times);
        for line in
            ["a_seconds_bucket{le=\"0.002\"} 0", "a_seconds_bucket{le=\"0.004\"} 1", "a_seconds_bucket{le=\"+Inf\"} 1"]
        {
            assert!(page.0.contains(line), "{line} is missing in {}", page.0);
        }
        assert!(page.0.contains("a_seconds_count 1") && page.0.contains("a_seconds_sum 0.003"));
    }
}
