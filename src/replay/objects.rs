//! The cluster's objects over time: folders read at the start, one in force at a time, compiled as on a node.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use atalho_control::compile::{Compiled, NextHopIndexes, OfflinePorts, compile};
use atalho_control::config::Config;
use atalho_control::manifests::{Loaded, Manifests};
use atalho_control::model::{Change, EndpointState, Inherited, Key, Model};

/// Names of the ports that every node has.
pub const UPLINK: &str = "uplink";
pub const NODE: &str = "node";

/// What a node knows of its cluster.
pub struct Objects {
    config: Config,
    model: Model,
    ports: OfflinePorts,
    indexes: NextHopIndexes,
    compiled: Compiled,
    /// Addresses that changed hands with the folder in force.
    inherited: Inherited,
    /// Of the folder in force.
    keys: BTreeSet<Key>,
    /// Folders that come later, in order.
    later: VecDeque<Loaded>,
    /// Names of all ports that there are at any time.
    port_names: Vec<String>,
    /// What was refused at any time.
    refusals: BTreeSet<String>,
}

impl Objects {
    /// Reads `folders`; the first one is in force.
    pub fn load<'f>(config: Config, folders: impl Iterator<Item = &'f PathBuf>) -> anyhow::Result<Self> {
        let mut loaded = VecDeque::new();
        for folder in folders {
            loaded.push_back(
                Manifests::new(folder).reload(Instant::now()).with_context(|| folder.display().to_string())?,
            );
        }
        let port_names = port_names(&loaded, &config);
        let first = loaded.pop_front().unwrap_or_default();
        let mut model = Model::new(&config);
        let mut keys = BTreeSet::new();
        replace(&mut model, &mut keys, first);
        let inherited = model.take_inherited();
        let (mut ports, mut indexes) = (OfflinePorts::default(), NextHopIndexes::new(u32::MAX));
        let facts = Arc::new(ports.facts(&model, &config));
        let compiled = compile(&model, &facts, &config, None, &mut indexes);
        let mut objects = Self {
            config,
            model,
            ports,
            indexes,
            compiled,
            inherited,
            keys,
            later: loaded,
            port_names,
            refusals: BTreeSet::new(),
        };
        objects.note_refusals();
        Ok(objects)
    }

    /// Puts the next folder in force.
    pub fn advance(&mut self) {
        let Some(next) = self.later.pop_front() else { return };
        replace(&mut self.model, &mut self.keys, next);
        self.inherited = self.model.take_inherited();
        let facts = Arc::new(self.ports.facts(&self.model, &self.config));
        let previous = std::mem::replace(&mut self.compiled, Compiled::empty(&facts, &self.config));
        self.compiled = compile(&self.model, &facts, &self.config, Some(previous), &mut self.indexes);
        self.note_refusals();
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tables in force and what goes with them.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Whether any slice of the Service still has this endpoint.
    pub fn knows_endpoint(&self, service: &str, endpoint: (IpAddr, u16)) -> bool {
        self.model.endpoint_state(service, endpoint.0, endpoint.1) != EndpointState::Gone
    }

    pub fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// `uplink`, `node`, and every pod of the node that any folder has, by name.
    pub fn port_names(&self) -> &[String] {
        &self.port_names
    }

    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.refusals.iter().map(String::as_str)
    }

    fn note_refusals(&mut self) {
        let refusals = self.model.refusals().into_iter().chain(self.compiled.refusals.iter().cloned());
        self.refusals.extend(refusals.map(|refusal| refusal.to_string()));
    }
}

/// Makes `model` what `loaded` says. `keys`: of the objects that it had.
fn replace(model: &mut Model, keys: &mut BTreeSet<Key>, loaded: Loaded) {
    let new: BTreeSet<Key> = loaded.changes.iter().filter_map(key_of).collect();
    // Removals first: what one object lets go another one may want.
    for gone in keys.difference(&new) {
        model.apply(Change::Delete(gone.clone()));
    }
    *keys = new;
    model.set_unparsed(loaded.refusals);
    for change in loaded.changes {
        model.apply(change);
    }
}

fn key_of(change: &Change) -> Option<Key> {
    match change {
        Change::Put(object, _) => Some(object.key()),
        Change::Delete(_) => None,
    }
}

fn port_names(folders: &VecDeque<Loaded>, config: &Config) -> Vec<String> {
    let mut pods = BTreeSet::new();
    for folder in folders {
        let mut model = Model::new(config);
        folder.changes.iter().for_each(|change| model.apply(change.clone()));
        let ours = model.pods().map(|pod| &pod.object).filter(|pod| pod.node == config.node.name && !pod.host_network);
        pods.extend(ours.map(|pod| format!("pod:{}/{}", pod.namespace, pod.name)));
    }
    [UPLINK, NODE].map(str::to_owned).into_iter().chain(pods).collect()
}
