//! Target `frames`: a worker on AF_XDP queues whose kernel is the input: it receives, sends and completes in any order, and
//! now and then hands back what it was never lent. No chunk may be lost or be in two places, and every packet has one end.
//!
//! The worker reads the clock, so connections may expire a second earlier or later from run to run.

use std::sync::Arc;

use arc_swap::ArcSwap;
use atalho_engine::conntrack::Epochs;
use atalho_engine::counters::Counters;
use atalho_engine::handoff::Task;
use atalho_engine::pipeline::{Engine, EngineParts};
use atalho_engine::verdict::DropReason;
use atalho_layout::tag_mac;
use atalho_sys::doorbell::Doorbell;
use atalho_sys::xsk::ring::Desc;
use atalho_sys::xsk::{FramePool, KernelEnd, Queue, Side};
use atalho_worker::{Native, Spin, Worker, WorkerOptions, WorkerParts, WorkerStats, XskPort};

use crate::bytes::Bytes;
use crate::lab::packet::{Layer4, Packet, SYN};
use crate::lab::{CLIENT, FUNNEL, Family, Lab, UPLINK, WEB};
use crate::memory::Memory;

const CHUNK_BYTES: u32 = 1024;
const CHUNKS: u32 = 24;
/// Slots of each ring: fewer than chunks, so that rings fill up and run empty.
const ENTRIES: u32 = 8;
/// What the kernel leaves free before a packet.
const HEADROOM_BYTES: u64 = 256;
/// More pieces of this packet follow (uapi/linux/if_xdp.h).
const XDP_PKT_CONTD: u32 = 1;

/// Plays an input and looks at the books after every event.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut bench = Bench::new(&mut bytes);
    while let Some(what) = bytes.byte() {
        let (side, much) = (usize::from(what >> 3 & 1), usize::from(what >> 4));
        match what & 7 {
            0 | 1 => bench.kernels[side].receives(much, &mut bytes),
            2 => bench.kernels[side].sends(much),
            3 => bench.kernels[side].completes(much),
            4 => bench.kernels[side].errs(u64::from(what >> 4), &mut bytes),
            5 => bench.slow_path_returns(much, &mut bytes),
            _ => bench.turn(),
        }
        bench.check();
    }
    bench.ends();
}

struct Bench {
    worker: Worker<XskPort>,
    kernels: [Kernel; 2],
    counters: Arc<Counters>,
    epochs: Arc<Epochs>,
    memory: Memory,
}

impl Bench {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let memory = Memory::take();
        let lab = Lab::on(memory.table, memory.affinity, memory.hops);
        let fill = bytes.byte().unwrap_or(0);
        let pool = FramePool::in_memory(CHUNK_BYTES, CHUNKS).expect("memory for a pool");
        let mut pool = if fill & 2 == 0 { pool } else { pool.with_pieces() };
        write_packets(&mut pool, fill);
        let first_index = if fill & 1 == 0 { 0 } else { u32::MAX - 3 };
        let [(uplink, from_uplink), (funnel, from_funnel)] = Side::ALL
            .map(|side| Queue::in_memory(side, ENTRIES, first_index, &pool).expect("a descriptor for a queue"));
        let counters = Arc::new(Counters::default());
        let epochs = lab.epochs.clone();
        let engine = Engine::new(EngineParts {
            worker: 0,
            table: lab.table,
            affinity: lab.affinity,
            epochs: epochs.clone(),
            next_hops: lab.hops,
            counters: counters.clone(),
            seed: 1,
            processor: Native,
        });
        let parts = WorkerParts {
            pool,
            uplink: XskPort::new(uplink),
            funnel: XskPort::new(funnel),
            engine,
            epochs: epochs.clone(),
            queues: memory.queues.clone(),
            pressure: None,
            snapshot: Arc::new(ArcSwap::from_pointee(lab.tables)),
            ring_slow_path: Box::new(|| {}),
            doorbell: Arc::new(Doorbell::new().expect("a descriptor for a doorbell")),
            stats: Arc::new(WorkerStats::new(0, None, [None, None])),
        };
        let options = WorkerOptions {
            index: 0,
            workers: 1,
            core: None,
            spin: Spin::Micros(0),
            uplink_ifindex: UPLINK,
            frame_bytes_max: [1514, 1514],
        };
        let kernels = [Kernel::new(from_uplink), Kernel::new(from_funnel)];
        Self { worker: Worker::new(options, parts), kernels, counters, epochs, memory }
    }

    fn turn(&mut self) {
        self.worker.turn();
        let frames = self.worker.frame_books();
        assert_eq!((frames.counted(), frames.held), (CHUNKS, 0), "after a turn: {frames:?}");
        // Removed entries are free again, as after a grace period.
        if self.epochs.waits() {
            let target = self.epochs.advance();
            self.epochs.mark_safe(target);
        }
    }

    /// The slow path gives buffers back: to be run again, as answers, or dropped.
    fn slow_path_returns(&mut self, much: usize, bytes: &mut Bytes<'_>) {
        for _ in 0..=much {
            let Some(mut buffer) = self.memory.queues.punts.pop() else { return };
            buffer.task = match bytes.byte().unwrap_or(0) & 3 {
                0 => Task::Resume,
                1 => Task::Drop(DropReason::NeighbourTimeout),
                _ => Task::Reply,
            };
            assert!(self.memory.queues.returns.push(buffer).is_ok(), "more buffers than were made");
        }
    }

    fn check(&self) {
        let (frames, packets) = (self.worker.frame_books(), self.counters.books());
        assert!(packets.is_even(), "{packets:?}");
        // What a kernel handed back wrongly and the worker has not looked at yet stands in the rings as if it were a chunk.
        if self.kernels.iter().all(|kernel| !kernel.has_erred) {
            frames.check().unwrap_or_else(|error| panic!("{error}: {frames:?}"));
        }
    }

    /// The kernel sends what is queued, the slow path gives everything back: then nothing is anywhere but free or lent.
    fn ends(mut self) {
        for _ in 0..8 {
            while let Some(mut buffer) = self.memory.queues.punts.pop() {
                buffer.task = Task::Drop(DropReason::NeighbourTimeout);
                assert!(self.memory.queues.returns.push(buffer).is_ok(), "more buffers than were made");
            }
            for kernel in &mut self.kernels {
                kernel.sends(ENTRIES as usize);
                kernel.completes(ENTRIES as usize);
            }
            self.turn();
            self.check();
        }
        let frames = self.worker.frame_books();
        assert_eq!(frames.free + frames.fill[0] + frames.fill[1], CHUNKS, "{frames:?}");
        self.memory.keep(&self.counters, &self.epochs);
    }
}

/// Fills every chunk with a packet that some port could bring: what is received is what lies there.
fn write_packets(pool: &mut FramePool, choice: u8) {
    let mut frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    for (at, frame) in frames.iter_mut().enumerate() {
        let packet = packet(at + usize::from(choice >> 2));
        let first_piece = &packet[..packet.len().min(pool.frame_bytes_max())];
        assert!(pool.set_len(frame, first_piece.len()), "longer than a chunk");
        pool.bytes_mut(frame).copy_from_slice(first_piece);
    }
    // The first one taken becomes the first one again.
    frames.into_iter().rev().for_each(|frame| pool.give_back(frame));
}

fn packet(which: usize) -> Vec<u8> {
    let f = if which % 5 == 0 { Family::V6 } else { Family::V4 };
    let port = 40_000 + which as u16;
    let (port_of_source, packet) = match which % 8 {
        0 => (CLIENT, Packet::new((f.client(), port), SYN, (f.vip_local(), 80))),
        1 => (CLIENT, Packet::udp((f.client(), port), (f.vip_remote(), 53))),
        2 => (UPLINK, Packet::new((f.far(), port), SYN, (f.node(), crate::lab::NODE_PORT_REMOTE))),
        3 => (FUNNEL, Packet::new((f.node(), port), SYN, (f.vip_local(), 80))),
        4 => (CLIENT, Packet::udp((f.client(), port), (f.stranger(), 9))),
        5 => (WEB, Packet::new((f.web(), port), SYN, (f.vip_empty(), 80))),
        6 => (CLIENT, Packet::udp((f.client(), port), (f.far(), 9)).ttl(1)),
        _ => (CLIENT, Packet::echo(f.client(), Layer4::EchoRequest(port), f.vip_local())),
    };
    // Every third one is longer than a chunk, and needs several pieces.
    let mut frame = packet.payload(&vec![0x5a; if which % 3 == 0 { 1400 } else { 100 }]).build();
    frame[..6].copy_from_slice(&tag_mac(port_of_source));
    frame
}

/// The kernel of one queue.
struct Kernel {
    end: KernelEnd,
    /// Lent to receive into.
    empty: Vec<u64>,
    /// Taken to be sent, not completed.
    sending: Vec<u64>,
    /// It handed back what it did not have.
    has_erred: bool,
}

impl Kernel {
    fn new(end: KernelEnd) -> Self {
        Self { end, empty: Vec::new(), sending: Vec::new(), has_erred: false }
    }

    fn takes_empty(&mut self) {
        while let Some(addr) = self.end.fill.pop() {
            self.empty.push(addr);
        }
        self.end.fill.release();
    }

    /// Packets come in, of one piece or several.
    fn receives(&mut self, much: usize, bytes: &mut Bytes<'_>) {
        self.takes_empty();
        for _ in 0..=much {
            let how = bytes.byte().unwrap_or(0x40);
            let pieces = [1, 1, 1, 1, 2, 2, 2, 3][usize::from(how & 7)];
            if self.empty.len() < pieces || !self.end.rx.has_room(pieces as u32) {
                break;
            }
            for left in (0..pieces).rev() {
                // In the order that they were lent, or the other way round.
                let addr = if how & 8 == 0 { self.empty.remove(0) } else { self.empty.pop().unwrap_or(0) };
                let len = match how & 0x10 {
                    0 if pieces > 1 => CHUNK_BYTES - HEADROOM_BYTES as u32,
                    0 => 142 + u32::from(how >> 6) * 20,
                    _ => u32::from(how >> 5) * 16,
                };
                let options = if left > 0 { XDP_PKT_CONTD } else { 0 };
                assert!(self.end.rx.push(Desc { addr: addr + HEADROOM_BYTES, len, options }), "room was seen");
            }
        }
        self.end.rx.publish();
    }

    fn sends(&mut self, much: usize) {
        for _ in 0..=much {
            let Some(desc) = self.end.tx.pop() else { break };
            let room = u64::from(CHUNK_BYTES) - desc.addr % u64::from(CHUNK_BYTES);
            assert!(desc.addr < u64::from(CHUNK_BYTES * CHUNKS) && u64::from(desc.len) <= room, "{desc:?}");
            assert!(self.has_erred || !self.sending.contains(&desc.addr), "sent twice at once: {desc:?}");
            self.sending.push(desc.addr);
        }
        self.end.tx.release();
    }

    fn completes(&mut self, much: usize) {
        for _ in 0..=much {
            if self.sending.is_empty() || !self.end.completion.has_room(1) {
                break;
            }
            assert!(self.end.completion.push(self.sending.remove(0)), "room was seen");
        }
        self.end.completion.publish();
    }

    /// Hands back an address that it was not lent for this, or a length that does not fit.
    fn errs(&mut self, which: u64, bytes: &mut Bytes<'_>) {
        let addr = which * u64::from(CHUNK_BYTES) + u64::from(bytes.byte().unwrap_or(0)) * 8;
        let addr = if which == 15 { u64::MAX - addr } else { addr };
        let is_sending = self.sending.iter().any(|sending| sending / 1024 == addr / 1024);
        let is_empty = self.empty.iter().any(|empty| empty / 1024 == addr / 1024);
        let can_receive = self.end.rx.has_room(1);
        if !is_empty && can_receive && bytes.byte().unwrap_or(0) & 1 == 0 {
            self.has_erred = true;
            assert!(self.end.rx.push(Desc { addr, len: CHUNK_BYTES, options: 0 }), "room was seen");
            self.end.rx.publish();
        } else if !is_sending && self.end.completion.has_room(1) {
            self.has_erred = true;
            assert!(self.end.completion.push(addr), "room was seen");
            self.end.completion.publish();
        }
    }
}
