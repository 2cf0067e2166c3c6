//! `atalho run` with one worker: the full pipeline, Services and connections.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Contender, Ground, Running, Way};
use crate::bench::cluster::Cluster;
use crate::lab::daemon::{self, Daemon, Objects};

/// Room for a million lasting flows and as many that just began.
const FLOWS_MAX: u32 = 1 << 21;

pub struct Worker {
    pub cluster: Cluster,
    /// Seconds that an unanswered datagram's flow lives.
    pub udp_s: u32,
}

impl Contender for Worker {
    fn name(&self) -> String {
        format!("worker, {} Services", self.cluster.services)
    }

    fn way(&self) -> Way {
        Way::Services(self.cluster)
    }

    fn cores(&self) -> u32 {
        2
    }

    fn start(&self, ground: &Ground<'_>) -> Result<Option<Box<dyn Running>>> {
        let Ground { plan, tools, .. } = ground;
        let folder = plan.manifests();
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("bench.json"), serde_json::to_vec(&self.cluster.manifest())?)?;
        let config = daemon::write_config(
            plan,
            Some(1),
            &format!("\n[conntrack]\nmax_flows = {FLOWS_MAX}\nudp_s = {}\n", self.udp_s),
        )?;
        let mut daemon = Daemon::start(&tools.atalho, plan, &config, &Objects::Manifests(folder))?;
        daemon.wait_ready(Duration::from_secs(60))?;
        Ok(Some(Box::new(daemon)))
    }
}

impl Running for Daemon {
    fn pid(&self) -> u32 {
        Self::pid(self)
    }

    fn core(&self) -> Result<Option<usize>> {
        let status = self.status()?;
        Ok(Some(status.workers.first().context("the daemon has no worker")?.core as usize))
    }

    fn spins(&self) -> bool {
        false
    }

    fn words(&self) -> String {
        format!("{:?}\n{}", self.status(), self.last_words())
    }
}
