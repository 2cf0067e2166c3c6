//! What a decision about a packet to a Service is going to read, one line of memory after the other: each leads to the next, so
//! one packet alone would wait for all of them. A batch takes the first step of all its newcomers, then the second, and the
//! lines of some are on their way while those of others are asked for.

use std::sync::Arc;

use super::{FirstPacket, side_of};
use crate::service::{Backends, Slot, Vip};
use crate::tables::Tables;

/// How far the look-ahead for one packet has come: what has been asked for and was not read yet.
#[derive(Clone, Copy)]
pub struct Ahead<'t> {
    packet: FirstPacket,
    next: Next<'t>,
}

#[derive(Clone, Copy)]
enum Next<'t> {
    Slot(Slot),
    Vip(&'t Vip),
    Backends(&'t Backends),
    /// The place in the table of choice.
    Choice(&'t Backends, usize),
    Nothing,
}

impl<'t> Ahead<'t> {
    /// Calls of [`Self::step`] after which nothing is left to ask for.
    pub const STEPS: usize = 4;

    #[inline]
    pub fn new(tables: &'t Tables, packet: FirstPacket, prefetch: impl Fn(*const u8)) -> Self {
        let slot = Slot::of(packet.vip_key());
        let next = match tables.services.line(&slot) {
            Some(line) => {
                prefetch(line);
                Next::Slot(slot)
            }
            None => Next::Nothing,
        };
        Self { packet, next }
    }

    /// Reads what was asked for and asks for what it leads to.
    #[inline]
    pub fn step(&mut self, tables: &'t Tables, prefetch: impl Fn(*const u8)) {
        self.next = match self.next {
            Next::Slot(slot) => match tables.services.find(&slot) {
                Some(vip) => {
                    prefetch((&raw const *vip).cast());
                    prefetch((&raw const vip.outside).cast());
                    Next::Vip(vip)
                }
                None => Next::Nothing,
            },
            Next::Vip(vip) => match self.backends(tables, vip) {
                Some(backends) => {
                    prefetch((&raw const *backends).cast());
                    Next::Backends(backends)
                }
                None => Next::Nothing,
            },
            Next::Backends(backends) => match backends.place(&self.packet.key) {
                Some(place) => {
                    prefetch((&raw const backends.lookup[place]).cast());
                    Next::Choice(backends, place)
                }
                None => Next::Nothing,
            },
            Next::Choice(backends, place) => {
                if let Some(endpoint) = backends.endpoints.get(usize::from(backends.lookup[place])) {
                    prefetch((&raw const *endpoint).cast());
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
        let port = tables.ports.get(&self.packet.ingress)?;
        Some(&side_of(tables, port, vip, self.packet.key.src).backends)
    }
}
