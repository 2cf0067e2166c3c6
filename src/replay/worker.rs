//! What the one worker does with a packet: the engine's verdict carried out, what the slow path asks of it done.

use std::io;

use atalho_engine::handoff::{Handoff, Task};
use atalho_engine::pipeline::Slot;
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};

use super::clock::Clock;
use super::node::Node;
use super::out::Out;
use super::report::End;

/// The input packet in a buffer, and why it went to the slow path.
#[derive(Debug, Clone, Copy)]
pub struct Cause {
    n: u64,
    reason: PuntReason,
}

impl Node {
    /// Input packet `n` comes to the worker by the port of interface index `ingress`.
    pub fn receive(&mut self, n: u64, ingress: u32, frame: &mut [u8], clock: &Clock, out: &mut Out) -> io::Result<()> {
        // Every destination MAC counts as ours.
        if let (Some(exit), Some(destination)) = (out.ports.exit(ingress), frame.first_chunk_mut::<6>()) {
            *destination = exit.our_mac();
        }
        let mut slot = Slot::new(frame, ingress);
        self.engine.process(&self.tables, clock.coarse_s(), std::slice::from_mut(&mut slot));
        let outcome = Outcome::of(&slot);
        match outcome.punt {
            Some((reason, task)) => match self.buffer_with(frame, outcome.ingress) {
                Ok(buffer) => self.punt(Cause { n, reason }, task, buffer, clock, out)?,
                Err(reason) => {
                    self.engine.counters().dropped(reason);
                    self.ended.push((n, End::Drop(reason)));
                }
            },
            None => self.settle(n, outcome.verdict, &mut frame[..outcome.send_bytes], clock, out)?,
        }
        self.reclaim();
        self.tick(clock, out)
    }

    /// Lets the slow path give back what need not wait any more.
    pub fn tick(&mut self, clock: &Clock, out: &mut Out) -> io::Result<()> {
        if self.slow.has_waiting() {
            let mut leaving = Vec::new();
            self.slow.tick(clock.now_ms(), |_, buffer| leaving.push(buffer));
            for buffer in leaving {
                if let Some(cause) = self.waiting.remove(&address(&buffer)) {
                    self.take_back(cause, buffer, clock, out)?;
                }
            }
        }
        self.ended.drain(..).try_for_each(|(n, end)| out.report.end(n, end))
    }

    fn buffer_with(&self, frame: &[u8], ingress: u32) -> Result<Box<Handoff>, DropReason> {
        let mut buffer = self.queues.free.pop().ok_or(DropReason::PuntQueueFull)?;
        if buffer.fill(frame, ingress) {
            return Ok(buffer);
        }
        self.free(buffer);
        Err(DropReason::SuperPacket)
    }

    fn punt(
        &mut self,
        cause: Cause,
        task: Task,
        mut buffer: Box<Handoff>,
        clock: &Clock,
        out: &mut Out,
    ) -> io::Result<()> {
        self.engine.counters().punted(cause.reason);
        buffer.task = task;
        self.waiting.insert(address(&buffer), cause);
        let mut leaving = Vec::new();
        self.slow.handle(clock.now_ms(), 0, buffer, |_, buffer| leaving.push(buffer));
        for buffer in leaving {
            match self.waiting.remove(&address(&buffer)) {
                Some(cause) => self.take_back(cause, buffer, clock, out)?,
                None => self.take_piece(cause, buffer, clock, out)?,
            }
        }
        Ok(())
    }

    /// Does what the slow path asks of the worker, with the buffer that a packet was punted in.
    fn take_back(&mut self, cause: Cause, mut buffer: Box<Handoff>, clock: &Clock, out: &mut Out) -> io::Result<()> {
        match buffer.task {
            Task::Reply => {
                self.engine.counters().originated();
                let (ingress, bytes) = (buffer.ingress, buffer.len);
                out.send(cause.n, ingress, &mut buffer.frame[..bytes], clock)?;
                // Cut in pieces, or handed to other nodes, it goes on, and this is the first one.
                let goes_on = matches!(cause.reason, PuntReason::ToCut | PuntReason::TrackedElsewhere);
                let end = if goes_on { End::Forward } else { End::Reject(cause.reason) };
                if end != End::Forward {
                    out.report.originated();
                }
                self.ended.push((cause.n, end));
            }
            Task::Resume => {
                let mut slot = Slot::resumed(&mut buffer);
                self.engine.resume(&self.tables, clock.coarse_s(), std::slice::from_mut(&mut slot));
                let outcome = Outcome::of(&slot);
                if let Some((reason, task)) = outcome.punt {
                    buffer.ingress = outcome.ingress;
                    return self.punt(Cause { reason, ..cause }, task, buffer, clock, out);
                }
                let frame = &mut buffer.frame[..outcome.send_bytes];
                self.settle(cause.n, outcome.verdict, frame, clock, out)?;
            }
            Task::Drop(reason) => self.ended.push((cause.n, End::Drop(reason))),
            Task::Punt { .. } => return Err(io::Error::other("the slow path gave a packet back unanswered: a bug")),
        }
        self.free(buffer);
        Ok(())
    }

    /// A further buffer that the slow path took for the same packet: a piece of it to be sent, or nothing.
    fn take_piece(&mut self, cause: Cause, mut buffer: Box<Handoff>, clock: &Clock, out: &mut Out) -> io::Result<()> {
        if buffer.task == Task::Reply {
            self.engine.counters().originated();
            out.report.originated();
            let (ingress, bytes) = (buffer.ingress, buffer.len);
            out.send(cause.n, ingress, &mut buffer.frame[..bytes], clock)?;
        }
        self.free(buffer);
        Ok(())
    }

    /// Carries out a verdict that is no punt. `frame`: as it is to be sent.
    fn settle(&mut self, n: u64, verdict: Verdict, frame: &mut [u8], clock: &Clock, out: &mut Out) -> io::Result<()> {
        self.engine.counters().settle(verdict, frame.len());
        match verdict {
            Verdict::Forward { next_hop } => {
                // The engine has just read it.
                let ifindex = self.next_hops.get(next_hop).map_or(0, |next_hop| next_hop.ifindex);
                out.send(n, ifindex, frame, clock)?;
                self.ended.push((n, End::Forward));
            }
            Verdict::Drop(reason) => self.ended.push((n, End::Drop(reason))),
            Verdict::Punt(_) => {}
        }
        Ok(())
    }

    fn free(&self, buffer: Box<Handoff>) {
        // The queue has room for every buffer there is.
        let _ = self.queues.free.push(buffer);
    }
}

/// What the engine said about a packet, kept while its frame moves.
struct Outcome {
    verdict: Verdict,
    /// What the slow path is asked, if the packet is for it.
    punt: Option<(PuntReason, Task)>,
    ingress: u32,
    send_bytes: usize,
}

impl Outcome {
    fn of(slot: &Slot<'_>) -> Self {
        let punt = match slot.verdict {
            Verdict::Punt(reason) => {
                Some((reason, Task::Punt { reason, next_hop_address: slot.neighbour, mtu: slot.mtu }))
            }
            Verdict::Forward { .. } | Verdict::Drop(_) => None,
        };
        Self { verdict: slot.verdict, punt, ingress: slot.ingress, send_bytes: slot.send_len }
    }
}

fn address(buffer: &Handoff) -> usize {
    std::ptr::from_ref(buffer).addr()
}
