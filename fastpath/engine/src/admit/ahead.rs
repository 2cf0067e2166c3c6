//! What a decision about a packet to a Service is going to read, one line of memory after the other: each leads to the next, so
//! one packet alone would wait for all of them. A batch takes the first step of all its newcomers, then the second, and the
//! lines of some are on their way while those of others are asked for.

use std::sync::Arc;

use super::{FirstPacket, Known, side_of};
use crate::processor::Processor;
use crate::service::{Backends, FlowHash, Vip, VipHash};
use crate::tables::{Port, Tables};

/// How far the look-ahead for one packet has come: what has been asked for and was not read yet.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'t> {
    packet: FirstPacket,
    known: Known<'t>,
    next: Next<'t>,
}

#[derive(Clone, Copy)]
enum Next<'t> {
    Slot(VipHash),
    Vip(&'t Vip),
    Backends(&'t Backends),
    /// The place in the table of choice.
    Choice(&'t Backends, usize),
    Nothing,
}

impl<'t> Ahead<'t> {
    /// Calls of [`Self::step`] after which nothing is left to ask for.
    pub const STEPS: usize = 4;

    /// `port`: that by which the packet came in.
    #[inline]
    pub fn new(tables: &Tables, port: Option<&'t Port>, packet: FirstPacket, processor: impl Processor) -> Self {
        let hash = VipHash::of(&packet.vip_key());
        let next = match tables.services.line(hash) {
            Some(line) => {
                processor.prefetch(line);
                Next::Slot(hash)
            }
            None => Next::Nothing,
        };
        let known = Known { port, vip: None, flow: FlowHash::of(&packet.key) };
        Self { packet, known, next }
    }

    /// What admission asks about, and what has been found out about it after all steps.
    #[inline]
    pub fn found(&self) -> (&FirstPacket, &Known<'t>) {
        (&self.packet, &self.known)
    }

    /// Reads what was asked for and asks for what it leads to.
    #[inline]
    pub fn step(&mut self, tables: &'t Tables, processor: impl Processor) {
        self.next = match self.next {
            Next::Slot(hash) => match tables.services.find(hash, &self.packet.vip_key()) {
                Some(vip) => {
                    self.known.vip = Some(vip);
                    lines_of(vip, processor);
                    Next::Vip(vip)
                }
                None => Next::Nothing,
            },
            Next::Vip(vip) => match self.backends(tables, vip) {
                Some(backends) => {
                    lines_of(backends, processor);
                    Next::Backends(backends)
                }
                None => Next::Nothing,
            },
            Next::Backends(backends) => match backends.place(self.known.flow) {
                Some(place) => {
                    processor.prefetch(backends.lookup.line(place));
                    Next::Choice(backends, place)
                }
                None => Next::Nothing,
            },
            Next::Choice(backends, place) => {
                if let Some(endpoint) = backends.endpoints.get(backends.lookup.at(place)) {
                    lines_of(endpoint, processor);
                }
                Next::Nothing
            }
            Next::Nothing => Next::Nothing,
        }
    }

    /// Mostly both sides have the same, and nobody has to find out which one applies.
    #[inline]
    fn backends(&self, tables: &Tables, vip: &'t Vip) -> Option<&'t Backends> {
        if Arc::ptr_eq(&vip.inside.backends, &vip.outside.backends) {
            return Some(&vip.inside.backends);
        }
        Some(&side_of(tables, self.known.port?, vip, self.packet.key.src).backends)
    }
}

/// Names the lines in which something of at most two begins and ends.
#[inline]
fn lines_of<T>(object: &T, processor: impl Processor) {
    let start = (&raw const *object).cast::<u8>();
    processor.prefetch(start);
    processor.prefetch(start.wrapping_add(size_of::<T>() - 1));
}
