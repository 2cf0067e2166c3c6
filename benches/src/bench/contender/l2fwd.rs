//! The least that an AF_XDP program can do: receive, swap the MAC addresses, send back; by this project's own sockets, with
//! the settings that were best (256 frames a turn, one call to send them). What a pipeline costs is measured against it.

use std::io::Read;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use atalho_sys::processor;
use atalho_sys::xsk::{Frame, FramePool, Kick, OpenOptions, Queue, QueueOf, open_uplink};
use aya::maps::XskMap;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};
use std::os::fd::AsFd;

use super::process::Process;
use super::{Contender, Ground, Running, Way};

static SOCKET: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/socket.o"));
/// Frames of a turn, as many as the kernel sends in one call. With 64 a packet took 3.5 % longer, with 512 as long.
const BATCH: usize = 256;
const READY: &str = "forwarding";
const MTU: u32 = 1500;

pub struct L2fwd;

impl Contender for L2fwd {
    fn name(&self) -> String {
        "raw AF_XDP l2fwd".into()
    }

    fn way(&self) -> Way {
        Way::Reflected
    }

    fn cores(&self) -> u32 {
        2
    }

    fn start(&self, ground: &Ground<'_>) -> Result<Option<Box<dyn Running>>> {
        let bench = ground.tools.bench.to_string_lossy();
        let core = ground.core.to_string();
        let command = [&*bench, "reflect", "--interface", "uplink", "--core", &core];
        let log = ground.plan.folder().join("l2fwd.log");
        Ok(Some(Box::new(Process::start(&ground.plan.node(), &command, log, READY)?)))
    }
}

/// The program itself. It ends when its standard input does.
pub fn run(interface: &str, core: usize) -> Result<()> {
    let of = QueueOf { interface: interface.into(), queue: 0 };
    let (pool, queue) = open_uplink(&OpenOptions::new(of.clone(), of, MTU))?;
    let _program = attach(interface, &queue)?;
    thread::spawn(|| {
        // Whether it ended or broke: nobody waits for this program any more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    atalho_sys::cores::pin(core)?;
    println!("{READY}");
    forward(pool, queue)
}

fn attach(interface: &str, queue: &Queue) -> Result<Ebpf> {
    let mut object = Ebpf::load(SOCKET).context("cannot load the forwarder's kernel program")?;
    let mut sockets = XskMap::try_from(object.map_mut("sockets").context("no map sockets")?)?;
    sockets.set(0, queue.as_fd(), 0)?;
    let program: &mut Xdp = object.program_mut("to_socket").context("no program to_socket")?.try_into()?;
    program.load()?;
    program.attach(interface, XdpMode::Driver).with_context(|| format!("cannot attach to {interface}"))?;
    Ok(object)
}

fn forward(mut pool: FramePool, mut queue: Queue) -> Result<()> {
    let mut frames: Vec<Frame> = Vec::with_capacity(BATCH);
    loop {
        queue.complete(&mut pool);
        queue.receive(&mut pool, &mut frames, BATCH);
        for frame in &frames {
            processor::prefetch(pool.bytes(frame));
        }
        for mut frame in frames.drain(..) {
            swap_addresses(pool.bytes_mut(&mut frame));
            if let Err(frame) = queue.transmit(&mut pool, frame) {
                pool.give_back(frame);
            }
        }
        queue.refill(&mut pool);
        if queue.flush() == Kick::Gone {
            // Its namespace is being taken away.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A frame has at least an Ethernet header, or goes back as it is.
fn swap_addresses(frame: &mut [u8]) {
    if let Some((destination, rest)) = frame.split_at_mut_checked(6)
        && let Some(source) = rest.get_mut(..6)
    {
        destination.swap_with_slice(source);
    }
}

#[cfg(test)]
mod tests {
    use super::swap_addresses;

    #[test]
    fn addresses_change_places_and_nothing_else() {
        let mut frame: Vec<u8> = (0..20).collect();
        swap_addresses(&mut frame);
        assert_eq!(frame, [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17, 18, 19]);
        let mut short = [1, 2, 3, 4, 5, 6, 7];
        swap_addresses(&mut short);
        assert_eq!(short, [1, 2, 3, 4, 5, 6, 7]);
    }
}
