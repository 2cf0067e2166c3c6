//! What a daemon knows of a cluster, compiled after each change of it, without a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atalho_control::compile::{Compiled, NextHopIndexes, compile, offline_facts};
use atalho_control::config::Config;
use atalho_control::model::{Change, Model, Refusal, Source};
use atalho_control::why::{self, Query, View};
use atalho_engine::service::{Vip, VipKey};

/// VIPs that are asked about after each compilation.
const ASKED: usize = 3;

pub struct Cluster {
    config: Config,
    pub model: Model,
    indexes: NextHopIndexes,
    compiled: Option<Compiled>,
}

impl Cluster {
    pub fn new(mut config: Config) -> Self {
        config.node.name = "node-a".into();
        Self { model: Model::new(&config), config, indexes: NextHopIndexes::new(1 << 10), compiled: None }
    }

    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.model.apply(change));
    }

    /// Compiles what changed, and everything anew: both must come to the same. `lines`: of the text that objects were
    /// read from, in which each refusal must name one; `None` where they did not come from a file.
    pub fn compile(&mut self, lines: Option<usize>) {
        let facts = Arc::new(offline_facts(&self.model, &self.config));
        let compiled = compile(&self.model, &facts, &self.config, self.compiled.take(), &mut self.indexes);
        let anew = compile(&self.model, &facts, &self.config, None, &mut self.indexes.clone());
        assert_eq!(shown(&compiled), shown(&anew), "step by step and anew differ");
        self.model.refusals().iter().chain(&compiled.refusals).for_each(|refusal| check(refusal, lines));

        let view = View { model: &self.model, compiled: &compiled, config: &self.config, facts: &facts };
        // In order, for the map has none and a run must be the same each time.
        let vips: BTreeSet<VipKey> = compiled.tables.services.iter().map(|(key, _)| *key).collect();
        for key in vips.iter().take(ASKED) {
            let query = Query {
                id: None,
                protocol: key.protocol,
                src: if key.address.is_ipv4() {
                    [203, 0, 113, 9].into()
                } else {
                    [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9].into()
                },
                src_port: Some(40_000),
                dst: key.address,
                dst_port: Some(key.port),
                way: None,
            };
            let answer = why::answer(&view, &query);
            assert_eq!(answer.reason.is_none(), matches!(answer.verdict, why::Verdict::Forward | why::Verdict::Pass));
        }
        self.compiled = Some(compiled);
    }
}

/// A refusal says what, where, why and what to do next.
pub fn check(refusal: &Refusal, lines: Option<usize>) {
    assert!(!refusal.reason.is_empty() && !refusal.next_step.is_empty(), "{refusal:?}");
    match (&refusal.source, lines) {
        (Source::File { line, .. }, Some(lines)) => {
            assert!((1..=lines).contains(&(*line as usize)), "line {line} of {lines}: {refusal:?}");
        }
        (Source::Api, None) => {}
        (source, _) => panic!("not from where its object came: {source}: {refusal:?}"),
    }
}

/// All that can be compared of a compilation.
fn shown(compiled: &Compiled) -> impl PartialEq + std::fmt::Debug + use<'_> {
    let tables = &compiled.tables;
    let vips: BTreeMap<VipKey, &Vip> = tables.services.iter().map(|(key, vip)| (*key, &**vip)).collect();
    (
        (vips, &tables.node, &tables.cluster, &tables.ports, &tables.local_pods),
        (&compiled.claims, &compiled.ranges, &compiled.pod_ports, &compiled.next_hops),
        (&compiled.wanted_neighbours, &compiled.refusals),
    )
}
