//! A queue whose rings lie in plain memory, and the kernel's end of them for a test to play: which frames come in, which
//! were sent, in which order, and what a broken driver would do. No packet moves: what "comes in" is what the chunk holds.

use std::fs::File;
use std::io;

use super::frames::{FramePool, Side};
use super::queue::{Queue, Socket};
use super::ring::{self, Consumer, Desc, Producer};
use super::socket::Mode;
use super::socket_memory::Rings;

/// The kernel's end of a queue's rings.
pub struct KernelEnd {
    /// Chunks lent to receive into.
    pub fill: Consumer<u64>,
    /// What was received.
    pub rx: Producer<Desc>,
    /// What is to be sent.
    pub tx: Consumer<Desc>,
    /// Chunks that were sent.
    pub completion: Producer<u64>,
}

impl Queue {
    /// A queue of `side` with rings of `entries` slots each (a power of two), whose indices start at `first_index`. It never
    /// asks to be woken.
    ///
    /// # Errors
    /// No descriptor to stand for a socket: opening `/dev/null` failed.
    pub fn in_memory(side: Side, entries: u32, first_index: u32, pool: &FramePool) -> io::Result<(Self, KernelEnd)> {
        let (fill, kernel_fill) = ring::in_memory(entries, first_index);
        let (kernel_rx, rx) = ring::in_memory(entries, first_index);
        let (tx, kernel_tx) = ring::in_memory(entries, first_index);
        let (kernel_completion, completion) = ring::in_memory(entries, first_index);
        let socket = Socket::Own(File::open("/dev/null")?.into());
        let queue = Self::new(side, Rings { rx, tx, fill, completion }, socket, Mode::Copy, pool);
        let kernel = KernelEnd { fill: kernel_fill, rx: kernel_rx, tx: kernel_tx, completion: kernel_completion };
        Ok((queue, kernel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_round_all_four_rings() {
        let mut pool = FramePool::in_memory(2048, 8).unwrap();
        let (mut queue, mut kernel) = Queue::in_memory(Side::Uplink, 4, u32::MAX - 1, &pool).unwrap();
        let books = |pool: &FramePool, queue: &Queue| {
            let mut books = pool.books();
            queue.add_to_books(&mut books);
            books
        };
        assert_eq!(queue.refill(&mut pool), 4, "as many as there are slots");
        let addr = kernel.fill.pop().unwrap();
        kernel.fill.release();
        assert!(kernel.rx.push(Desc { addr: addr + 256, len: 60, options: 0 }));
        kernel.rx.publish();
        assert_eq!((books(&pool, &queue).fill[0], books(&pool, &queue).rx[0]), (3, 1));

        let mut frames = Vec::new();
        assert_eq!(queue.receive(&mut pool, &mut frames, 64), 1);
        let frame = frames.pop().unwrap();
        assert_eq!(pool.bytes(&frame).len(), 60);
        queue.transmit(&mut pool, frame).unwrap();
        queue.flush();
        assert_eq!(kernel.tx.pop(), Some(Desc { addr: addr + 256, len: 60, options: 0 }));
        kernel.tx.release();
        assert!(kernel.completion.push(addr + 256));
        kernel.completion.publish();
        assert_eq!((books(&pool, &queue).tx[0], books(&pool, &queue).completion[0]), (0, 1));
        assert_eq!(queue.complete(&mut pool), 1);
        books(&pool, &queue).check().unwrap();
        assert_eq!(pool.free_count(), 5);
    }
}
