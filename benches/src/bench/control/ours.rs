//! What our control takes for a cluster, in a process of its own, so that memory is its own too.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atalho_control::model::api::{EndpointSlice, Service};
use atalho_control::model::{Change, Object, Source};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::node::{Node, Packets};
use crate::bench::{cluster, node};

/// Of an EndpointSlice, as the controller makes them.
const ENDPOINTS_A_SLICE: u32 = 100;
/// Publications are 50 ms apart at least; a change that comes sooner would wait for its turn.
const REST: Duration = Duration::from_millis(80);
const TABLES_WITHIN: Duration = Duration::from_secs(60);
/// A stride through the Services that meets all of them, and neighbours never one after the other.
const STRIDE: u32 = 7919;
const STATUS: &str = "/proc/self/status";

/// A cluster, and how many changes of it are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct Asked {
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub services: u32,
    /// Of each Service.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub endpoints: u32,
    #[arg(long, default_value_t = 0)]
    pub changes: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ours {
    pub asked: Asked,
    /// Objects into the model, as they come from a list; with what makes them from JSON.
    pub intake_s: f64,
    /// From the last list's end until every worker had the tables.
    pub publish_s: f64,
    /// From each event until every worker had its tables.
    pub changes_s: Vec<f64>,
    /// Resident memory that the model took, and then the tables with all that publishing keeps.
    pub model_bytes: u64,
    pub tables_bytes: u64,
    /// The most that the process ever had, less what it had before.
    pub peak_bytes: u64,
    /// Of the workers, while tables changed.
    pub packets: Packets,
}

impl Asked {
    /// Has it measured by this program's own file.
    pub fn measure(self, bench: &Path) -> Result<Ours> {
        let Self { services, endpoints, changes } = self;
        let output = Command::new(bench)
            .arg("tables")
            .args(["--services", &services.to_string(), "--endpoints", &endpoints.to_string()])
            .args(["--changes", &changes.to_string()])
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", bench.display()))?;
        ensure!(
            output.status.success(),
            "{services} Services x {endpoints} were not measured; the reason stands above"
        );
        serde_json::from_slice(&output.stdout).context("a measurement that cannot be read")
    }

    /// Measures it in this process. Prints the figures.
    pub fn run(self) -> Result<()> {
        println!("{}", serde_json::to_string(&self.figures()?)?);
        Ok(())
    }

    pub fn figures(self) -> Result<Ours> {
        let Self { services, endpoints, changes } = self;
        let rows = u64::from(services) * u64::from(endpoints);
        ensure!(rows <= 262_144, "{services} Services x {endpoints}: at most 262144 endpoints in all");
        let node = Node::start()?;
        let before = memory()?;
        let start = Instant::now();
        node.tell(traffic()?)?;
        for index in 0..services {
            let slices = self.slices(index).map(|(number, rows)| put_slice(index, number, rows));
            let service: Service = serde_json::from_value(cluster::service(index))?;
            let put = Change::Put(service.into(), Source::Api);
            node.tell([Ok(put)].into_iter().chain(slices).collect::<Result<_>>()?)?;
        }
        node.list_all_but_one()?;
        let intake_s = start.elapsed().as_secs_f64();
        let with_model = memory()?;
        let publish_s = node.list_the_last(TABLES_WITHIN)?;
        let with_tables = memory()?;
        thread::sleep(REST);
        let mut changes_s = Vec::new();
        for number in 0..changes {
            // The last endpoint of a Service goes, and the next time it is back.
            let index = (number / 2).wrapping_mul(STRIDE) % services;
            let (slice, rows) = self.slices(index).next().context("a Service without a slice")?;
            let rows = if number % 2 == 0 { rows.start..rows.end - 1 } else { rows };
            changes_s.push(node.change(put_slice(index, slice, rows)?, TABLES_WITHIN)?);
            thread::sleep(REST);
        }
        let peak = memory()?.peak;
        Ok(Ours {
            asked: self,
            intake_s,
            publish_s,
            changes_s,
            model_bytes: with_model.resident.saturating_sub(before.resident),
            tables_bytes: with_tables.resident.saturating_sub(with_model.resident),
            peak_bytes: peak.saturating_sub(before.resident),
            packets: node.end()?,
        })
    }

    /// The slices of Service `index`: their numbers and endpoints.
    fn slices(self, index: u32) -> impl Iterator<Item = (u32, Range<u32>)> {
        let rows = index * self.endpoints..(index + 1) * self.endpoints;
        let firsts = rows.clone().step_by(ENDPOINTS_A_SLICE as usize);
        (1..).zip(firsts.map(move |first| first..rows.end.min(first + ENDPOINTS_A_SLICE)))
    }
}

fn put_slice(index: u32, number: u32, rows: Range<u32>) -> Result<Change> {
    let slice: EndpointSlice = serde_json::from_value(cluster::slice(index, number, rows))?;
    Ok(Change::Put(slice.into(), Source::Api))
}

/// The Service that the workers' packets go to; it never changes.
fn traffic() -> Result<Vec<Change>> {
    let address = node::VIP.to_string();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "traffic", "namespace": "default"},
        "spec": {
            "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "dns", "protocol": "UDP", "port": node::VIP_PORT}],
        },
    }))?;
    let first = u32::from(node::FIRST_ENDPOINT);
    let endpoint = |address: u32| json!({"addresses": [std::net::Ipv4Addr::from(address)], "nodeName": "node-b"});
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "name": "traffic-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "traffic"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "protocol": "UDP", "port": node::ENDPOINT_PORT}],
        "endpoints": (first..first + node::ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    }))?;
    let objects: [Object; 2] = [service.into(), slice.into()];
    Ok(objects.map(|object| Change::Put(object, Source::Api)).into())
}

struct Memory {
    resident: u64,
    peak: u64,
}

/// Of this process, by the kernel's account (proc(5), VmRSS and VmHWM).
fn memory() -> Result<Memory> {
    let status = fs::read_to_string(STATUS).with_context(|| format!("cannot read {STATUS}"))?;
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    let of = |name| bytes(name).with_context(|| format!("{STATUS} does not tell {name}"));
    Ok(Memory { resident: of("VmRSS")?, peak: of("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_reaches_the_workers_and_takes_no_packet_along() {
        let asked = Asked { services: 20, endpoints: 3, changes: 4 };
        let ours = asked.figures().unwrap();
        assert!(ours.publish_s > 0.0 && ours.changes_s.len() == 4, "{ours:?}");
        assert!(ours.changes_s.iter().all(|change_s| (1e-6..30.0).contains(change_s)), "{ours:?}");
        assert!(ours.packets.received > 0 && ours.packets.lost == 0, "{ours:?}");
    }

    #[test]
    fn a_service_of_many_endpoints_has_slices_of_a_hundred() {
        let asked = Asked { services: 2, endpoints: 250, changes: 0 };
        let slices: Vec<_> = asked.slices(1).collect();
        assert_eq!(slices, [(1, 250..350), (2, 350..450), (3, 450..500)]);
    }
}
