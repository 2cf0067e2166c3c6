//! Streams of the node to its own node ports: on lo both ends take segments of 64 KiB, and the way between them does not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atalho_benches::lab::plan::Family;
use atalho_benches::traffic::agent::Report;
use atalho_benches::traffic::client::{Job, JobKind};

use crate::hosts::Host;
use crate::lab::Lab;
use crate::objects::{self, Behind, Policy};

const BYTES: u64 = 4 << 20;
const SECONDS: f64 = 2.0;
const WITHIN: Duration = Duration::from_secs(30);

/// Sends one of each family to a process of the node, to a pod here and to one there; tells of those that did not come whole.
pub fn to_own_node_ports(lab: &mut Lab) -> Result<Vec<String>> {
    let behind = [Behind::Process, Behind::Local, Behind::Remote];
    let services = objects::services().into_iter().filter(|service| service.policy == Policy::Cluster);
    let agent = lab.agents.get_mut(&Host::Node).context("every host has an agent")?;
    let mut asked = Vec::new();
    for (service, family) in services.flat_map(|service| Family::BOTH.map(|family| (service, family))) {
        if !behind.contains(&service.behind) {
            continue;
        }
        let target = (Host::Node.address(family), service.node_port()).into();
        let job = Job {
            id: asked.len() as u32,
            kind: JobKind::Bulk,
            target,
            seconds: SECONDS,
            interval_ms: 0,
            timeout_ms: 10_000,
            request_bytes: 0,
            reply_bytes: 0,
            count_max: BYTES,
        };
        agent.ask(job)?;
        asked.push(format!("{} to {}", family.name(), service.behind.name()));
    }
    let (deadline, mut open, mut complaints) = (Instant::now() + WITHIN, asked.len(), Vec::new());
    while open > 0 {
        match agent.next_report(deadline)? {
            Some(Report::Done(outcome)) => {
                open -= 1;
                if outcome.failed > 0 || outcome.wrong > 0 || outcome.bytes == 0 {
                    complaints.push(format!("{}: {outcome:?}", asked[outcome.id as usize]));
                }
            }
            Some(Report::Refused { reason }) => bail!("an agent refused: {reason}"),
            Some(_) => {}
            None => bail!("{open} streams did not end within {WITHIN:?}"),
        }
    }
    Ok(complaints)
}
