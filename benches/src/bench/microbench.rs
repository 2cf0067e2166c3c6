//! The stages of a packet's way, each alone over a batch with everything in the caches: what it costs to compute, without
//! memory. For microbenches, and for the proof that none of them allocates.

use std::hint::black_box;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use atalho_engine::admit::{self, FirstPacket, Outcome};
use atalho_engine::conntrack::{ConnTable, Epochs, ExpiryScan, Flow, Followed, NewConnection, Probe};
use atalho_engine::flow::FlowKey;
use atalho_engine::pipeline::BATCH;
use atalho_engine::rewrite::{self, Hop};
use atalho_engine::tables::Tables;
use atalho_engine::wire::{self, Packet};
use atalho_worker::EXPIRY_SLOTS_PER_TURN;

use super::cases;
use super::connections::Family;
use super::node::{self, UPLINK};

const NOW_S: u32 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Parse,
    Hash,
    Find,
    Follow,
    Rewrite,
    Choose,
    Decide,
    InsertAndEnd,
    Expire,
}

impl Stage {
    pub const ALL: [Self; 9] = [
        Self::Parse,
        Self::Hash,
        Self::Find,
        Self::Follow,
        Self::Rewrite,
        Self::Choose,
        Self::Decide,
        Self::InsertAndEnd,
        Self::Expire,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Hash => "hash",
            Self::Find => "find",
            Self::Follow => "follow",
            Self::Rewrite => "rewrite",
            Self::Choose => "choose an endpoint",
            Self::Decide => "decide about a first packet",
            Self::InsertAndEnd => "insert and end",
            Self::Expire => "look at 2,048 slots",
        }
    }
}

/// A batch of TCP segments of established connections, IPv4, and all that its stages need.
pub struct StageBench {
    table: ConnTable,
    epochs: Epochs,
    tables: Tables,
    frames: Vec<Vec<u8>>,
    packets: Vec<Packet>,
    probes: Vec<Probe>,
    flows: Vec<Flow>,
    /// Frames to be written into.
    scratch: Vec<Vec<u8>>,
    /// First packets of connections that are not there, and the connections that they would make.
    strangers: Vec<(FlowKey, NewConnection)>,
    scan: ExpiryScan,
}

impl StageBench {
    pub fn new() -> Result<Self> {
        let prepared = cases::Prepared::new(cases::Case::TcpV4)?;
        let (table, frames) = (*prepared.table(), prepared.frames()[..BATCH].to_vec());
        let packets = frames
            .iter()
            .map(|frame| wire::parse(frame, frame.len()).map_err(|reason| anyhow::anyhow!("{reason:?}")))
            .collect::<Result<Vec<_>>>()?;
        let probes: Vec<Probe> = packets.iter().filter_map(|packet| table.probe(&packet.key)).collect();
        let flows: Vec<Flow> = probes.iter().filter_map(|probe| table.find_probe(probe)).collect();
        ensure!(flows.len() == BATCH, "{} of {BATCH} flows are there", flows.len());
        let strangers = (0..BATCH as u32).map(|number| {
            let new = super::connections::connection(Family::V4, number);
            (new.original.key, new)
        });
        Ok(Self {
            table,
            epochs: Epochs::new(),
            tables: node::dual_stack_tables(),
            scratch: frames.clone(),
            frames,
            packets,
            probes,
            flows,
            strangers: strangers.collect(),
            scan: ExpiryScan::new(0, 1),
        })
    }

    /// Takes a batch through a stage.
    ///
    /// # Errors
    /// It did not come out as it should.
    pub fn run(&mut self, stage: Stage) -> Result<()> {
        let right = match stage {
            Stage::Parse => count(&self.frames, |frame| wire::parse(black_box(frame), frame.len()).is_ok()),
            Stage::Hash => count(&self.packets, |packet| black_box(self.table.probe(black_box(&packet.key))).is_some()),
            Stage::Find => count(&self.probes, |probe| black_box(self.table.find_probe(black_box(probe))).is_some()),
            Stage::Follow => count(self.flows.iter().zip(&self.packets), |(flow, packet)| {
                self.table.follow(flow, &packet.segment(), NOW_S, &self.tables.settings) == Followed::Belongs
            }),
            Stage::Rewrite => {
                for ((scratch, frame), (packet, flow)) in
                    self.scratch.iter_mut().zip(&self.frames).zip(self.packets.iter().zip(&self.flows))
                {
                    scratch.copy_from_slice(frame);
                    rewrite::apply(scratch, packet, &flow.rewrite, Hop::Counted);
                }
                let destination = |frame: &Vec<u8>| <[u8; 4]>::try_from(&frame[30..34]).map(IpAddr::from);
                count(self.scratch.iter().zip(&self.flows), |(frame, flow)| {
                    destination(frame).is_ok_and(|address| address == flow.rewrite.dst)
                })
            }
            Stage::Choose => {
                let backends = self.tables.services.iter().next().map(|(_, vip)| &vip.outside.backends);
                count(&self.strangers, |(key, _)| {
                    black_box(backends.and_then(|backends| backends.choose(black_box(key), 0))).is_some()
                })
            }
            Stage::Decide => count(&self.strangers, |(key, _)| {
                let first = FirstPacket { key: *key, ingress: UPLINK, opening: admit::Opening::Datagram };
                let decision = admit::decide(&self.tables, black_box(&first), 0, |_| None);
                black_box(decision).outcome == Outcome::Forward
            }),
            Stage::InsertAndEnd => {
                let ended = count(&self.strangers, |(_, new)| {
                    let inserted = self.table.insert(0, &self.epochs, new, NOW_S);
                    inserted.is_ok_and(|inserted| self.table.end(&self.epochs, inserted.flow.at))
                });
                // Nobody else holds an entry of it.
                let target = self.epochs.advance();
                self.epochs.mark_safe(target);
                ended
            }
            Stage::Expire => {
                let timeouts = &self.tables.settings.timeouts;
                let expired = self.table.expire(&mut self.scan, EXPIRY_SLOTS_PER_TURN, NOW_S, timeouts, &self.epochs);
                // All have just been heard of.
                if expired.ended == 0 && expired.scanned > 0 { BATCH } else { 0 }
            }
        };
        ensure!(right == BATCH, "{}: {right} of {BATCH} came out right", stage.name());
        Ok(())
    }
}

fn count<T>(items: impl IntoIterator<Item = T>, is_right: impl FnMut(&T) -> bool) -> usize {
    items.into_iter().filter(is_right).count()
}
