//! One lab at work: network, agents, objects, daemon. What `atalho-lab run` and the end-to-end tests share.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::command::{run_in, run_with_input};
use super::daemon::{Daemon, Objects, write_config};
use super::lock::Lock;
use super::network::Network;
use super::objects;
use super::paths::Place;
use super::plan::{
    Family, OUTSIDE_PORT, Plan, REMOTE_PODS, node_address, outside_address, pod_address, pod_sockets,
    remote_pod_address,
};
use super::stack::wrong_packets;
use crate::traffic::agent::Report;
use crate::traffic::client::{Job, Outcome};
use crate::traffic::driver::Agent;
use crate::traffic::raw::to_hex;

/// The two programs that a lab starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The daemon.
    pub atalho: PathBuf,
    /// The binary with the agent in it.
    pub lab: PathBuf,
}

impl Programs {
    /// Both beside each other in one folder, as cargo builds them.
    pub fn beside(program: &FilePath) -> Result<Self> {
        let folder = program.parent().context("a program without a folder")?;
        let programs = Self { atalho: folder.join("atalho"), lab: folder.join("atalho-lab") };
        for path in [&programs.atalho, &programs.lab] {
            if !path.exists() {
                bail!("{} is not built: run `cargo build --workspace --bins` first", path.display());
            }
        }
        Ok(programs)
    }
}

/// A network with its agents, each serving where it lives. Dropping it takes everything away.
pub struct Session {
    // In the order in which they have to go.
    agents: BTreeMap<Place, Agent>,
    daemon: Option<Daemon>,
    network: Network,
    _lock: Lock,
    programs: Programs,
    outcomes: BTreeMap<u32, Outcome>,
    progress: BTreeMap<u32, (u64, u64, u64)>,
    next_job: u32,
}

impl Session {
    /// Builds the network and starts the agents.
    pub fn build(plan: &Plan, programs: &Programs) -> Result<Self> {
        plan.check()?;
        let lock = Lock::take(&plan.prefix)?;
        let network = Network::build(plan).context("cannot build the lab's network (root is needed)")?;
        let mut session = Self {
            agents: BTreeMap::new(),
            daemon: None,
            network,
            _lock: lock,
            programs: programs.clone(),
            outcomes: BTreeMap::new(),
            progress: BTreeMap::new(),
            next_job: 1,
        };
        session.start_agents()?;
        Ok(session)
    }

    fn start_agents(&mut self) -> Result<()> {
        let plan = self.network.plan().clone();
        self.agents.insert(Place::Node, Agent::start(&self.programs.lab, &plan.node())?);
        let mut far = Agent::start(&self.programs.lab, &plan.beyond())?;
        far.serve("outside", Family::BOTH.map(|family| (outside_address(family), OUTSIDE_PORT).into()).to_vec())?;
        for number in 1..=REMOTE_PODS {
            let addresses = Family::BOTH.into_iter().flat_map(|family| pod_sockets(remote_pod_address(number, family)));
            far.serve(&format!("remote-{number}"), addresses.collect())?;
        }
        self.agents.insert(Place::Far, far);
        for number in 1..=plan.pods {
            self.start_pod_agent(number)?;
        }
        Ok(())
    }

    /// Ends all agents and starts new ones: for jobs after [`Self::stop_jobs`], which is for good.
    pub fn restart_agents(&mut self) -> Result<()> {
        self.agents.clear();
        self.start_agents()
    }

    /// Starts the agent of a pod; for one that was taken away and made anew.
    pub fn start_pod_agent(&mut self, number: usize) -> Result<()> {
        let mut agent = Agent::start(&self.programs.lab, &self.plan().pod(number))?;
        let addresses = Family::BOTH.into_iter().flat_map(|family| pod_sockets(pod_address(number, family)));
        agent.serve(&format!("pod-{number}"), addresses.collect())?;
        self.agents.insert(Place::Pod(number), agent);
        Ok(())
    }

    pub fn plan(&self) -> &Plan {
        self.network.plan()
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Writes the objects of `examples/` and starts the daemon on them; returns when it is ready.
    pub fn start_daemon_on_manifests(&mut self, workers: Option<u32>) -> Result<()> {
        let config = write_config(self.plan(), workers, "")?;
        let manifests = objects::write(self.plan())?;
        self.start_daemon(&config, &Objects::Manifests(manifests))?;
        self.daemon_mut()?.wait_ready(Duration::from_secs(20)).map(drop)
    }

    /// Starts the daemon and does not wait for it. An earlier one must have ended.
    pub fn start_daemon(&mut self, config: &FilePath, objects: &Objects) -> Result<()> {
        self.daemon = Some(Daemon::start(&self.programs.atalho, self.network.plan(), config, objects)?);
        Ok(())
    }

    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon has been started")
    }

    pub fn daemon_mut(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("no daemon has been started")
    }

    /// Starts a job at a place and returns its number.
    pub fn ask(&mut self, from: Place, job: Job) -> Result<u32> {
        let id = self.next_job;
        self.next_job += 1;
        self.agents.get_mut(&from).with_context(|| format!("no agent at {from:?}"))?.ask(Job { id, ..job })?;
        Ok(id)
    }

    /// Takes in what the agents have to tell, for a while.
    pub fn listen(&mut self, for_so_long: Duration) -> Result<()> {
        let end = Instant::now() + for_so_long;
        loop {
            for agent in self.agents.values_mut() {
                while let Some(report) = agent.next_report(Instant::now())? {
                    match report {
                        Report::Progress { id, requests, failed, bytes } => {
                            self.progress.insert(id, (requests, failed, bytes));
                        }
                        Report::Done(outcome) => {
                            self.progress.insert(outcome.id, (outcome.requests, outcome.failed, outcome.bytes));
                            self.outcomes.insert(outcome.id, outcome);
                        }
                        Report::Refused { reason } => bail!("an agent refused: {reason}"),
                        Report::Serving { .. } => {}
                    }
                }
            }
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20).min(end - now));
        }
    }

    /// The outcome of a job, once it has ended.
    pub fn outcome(&self, id: u32) -> Option<&Outcome> {
        self.outcomes.get(&id)
    }

    /// Waits for jobs to end.
    pub fn wait_for(&mut self, jobs: &[u32], at_most: Duration) -> Result<Vec<Outcome>> {
        let deadline = Instant::now() + at_most;
        while !jobs.iter().all(|id| self.outcomes.contains_key(id)) {
            if Instant::now() >= deadline {
                let late: Vec<&u32> = jobs.iter().filter(|id| !self.outcomes.contains_key(id)).collect();
                bail!("jobs {late:?} did not end within {at_most:?}");
            }
            self.listen(Duration::from_millis(50))?;
        }
        Ok(jobs.iter().map(|id| self.outcomes[id].clone()).collect())
    }

    /// Requests, failures and bytes of all jobs so far.
    pub fn progress(&self) -> (u64, u64, u64) {
        self.progress.values().fold((0, 0, 0), |sum, job| (sum.0 + job.0, sum.1 + job.1, sum.2 + job.2))
    }

    /// Sends junk out of an interface at a place, and returns how many frames the kernel took.
    pub fn send_junk(&self, from: Place, interface: &str, to: &str, count: u64, seed: u64) -> Result<u64> {
        let [v4, v6] = Family::BOTH.map(|family| address_of(from, family).to_string());
        let (count, seed) = (count.to_string(), seed.to_string());
        let arguments = [
            "junk",
            "--interface",
            interface,
            "--to",
            to,
            "--count",
            &count,
            "--seed",
            &seed,
            "--source",
            &v4,
            "--source",
            &v6,
        ];
        let program = self.programs.lab.to_string_lossy();
        let said = run_in(&self.namespace(from), &program, &arguments)?;
        said.trim().parse().with_context(|| format!("the sender of junk said {said:?}"))
    }

    /// Sends frames out of an interface at a place, each so many times, and returns how many the kernel took.
    pub fn send_frames(&self, from: Place, interface: &str, frames: &[Vec<u8>], copies: u64) -> Result<u64> {
        let net = format!("--net=/run/netns/{}", self.namespace(from));
        let (program, copies) = (self.programs.lab.to_string_lossy(), copies.to_string());
        let arguments = [net.as_str(), &*program, "frames", "--interface", interface, "--copies", &copies];
        let lines: Vec<String> = frames.iter().map(|frame| to_hex(frame)).collect();
        let said = run_with_input("nsenter", arguments, &lines.join("\n"))?;
        said.trim().parse().with_context(|| format!("the sender of frames said {said:?}"))
    }

    pub fn namespace(&self, place: Place) -> String {
        match place {
            Place::Node => self.plan().node(),
            Place::Far => self.plan().beyond(),
            Place::Pod(number) => self.plan().pod(number),
        }
    }

    /// Packets with a wrong checksum, length or header that any namespace received; empty if none.
    pub fn wrong_packets(&self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for namespace in self.plan().namespaces() {
            wrong.extend(
                wrong_packets(&namespace)?.into_iter().map(|(name, count)| format!("{namespace}: {name} {count}")),
            );
        }
        Ok(wrong)
    }

    /// Ends all jobs early; the agents take no new ones.
    pub fn stop_jobs(&mut self) -> Result<()> {
        self.agents.values_mut().try_for_each(Agent::stop)
    }

    /// Ends the agent of a place, with everything it serves and asks.
    pub fn end_agent(&mut self, place: Place) {
        self.agents.remove(&place);
    }
}

fn address_of(place: Place, family: Family) -> std::net::IpAddr {
    match place {
        Place::Node => node_address(family),
        Place::Far => outside_address(family),
        Place::Pod(number) => pod_address(number, family),
    }
}
