//! The nodes that stand, by who forwards in them: each is built once, when it is needed first, and goes when nobody needs it
//! any more.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use super::contender::Tools;
use super::peer::Peer;
use super::progress::Progress;
use super::schedule;
use super::site::Site;

/// How much is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveOptions {
    pub tools: Tools,
    pub prefix: String,
    /// Rounds that count.
    pub pairs: usize,
    /// More rounds at most, for those whose control strays.
    pub repeats_max: usize,
    /// Stretches at the bearable rate.
    pub paced: usize,
    /// Of each stretch.
    pub seconds: f64,
}

impl LiveOptions {
    /// As much as a run measures that was not told otherwise.
    pub fn new(tools: Tools, prefix: &str, quick: bool) -> Self {
        let (paced, seconds) = if quick { (1, 0.25) } else { (3, 1.0) };
        Self { tools, prefix: prefix.to_owned(), pairs: 7, repeats_max: 7, paced, seconds }
    }
}

pub struct Sites<'a> {
    pub options: &'a LiveOptions,
    standing: HashMap<Peer, Site>,
}

impl<'a> Sites<'a> {
    pub fn new(options: &'a LiveOptions) -> Result<Self> {
        let LiveOptions { pairs, seconds, .. } = options;
        ensure!((1..=100).contains(pairs), "--pairs {pairs}: 1 to 100");
        ensure!((0.05..=10.0).contains(seconds), "--seconds {seconds}: 0.05 to 10");
        Ok(Self { options, standing: HashMap::new() })
    }

    pub fn build(&mut self, peer: Peer, progress: &Progress) -> Result<()> {
        if !self.standing.contains_key(&peer) {
            let contender = peer.contender();
            progress.say(&format!("building a node with {}", contender.name()));
            let site =
                Site::build(&format!("{}-{}", self.options.prefix, peer.label()), contender, &self.options.tools)?;
            self.standing.insert(peer, site);
            progress.done(schedule::of_building_s(peer));
        }
        Ok(())
    }

    /// Takes away those that nobody needs any more.
    pub fn keep(&mut self, needed: impl Fn(Peer) -> bool) {
        self.standing.retain(|peer, _| needed(*peer));
    }

    pub fn of(&mut self, peer: Peer) -> Result<&mut Site> {
        self.standing.get_mut(&peer).with_context(|| format!("no node with {}", peer.label()))
    }
}
