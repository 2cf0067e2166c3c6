//! What leaves the node, written down: a capture with one interface for each port.

use std::fs::File;
use std::io::{self, BufWriter};

use super::clock::Clock;
use super::ports::Ports;
use super::report::Report;
use crate::pcapng::Writer;

/// The capture being written and the account of it.
pub struct Out {
    writer: Writer<BufWriter<File>>,
    pub ports: Ports,
    pub report: Report,
    /// Written so far.
    packets: u64,
}

impl Out {
    pub fn new(output: BufWriter<File>, ports: Ports, report: Report) -> io::Result<Self> {
        let mut writer = Writer::new(output)?;
        for name in ports.names() {
            writer.interface(name)?;
        }
        Ok(Self { writer, ports, report, packets: 0 })
    }

    /// A frame leaves by the port of this interface index, because of input packet `cause`.
    pub fn send(&mut self, cause: u64, ifindex: u32, frame: &mut [u8], clock: &Clock) -> io::Result<()> {
        let Some(exit) = self.ports.exit(ifindex) else {
            return Err(io::Error::other(format!("interface {ifindex} is no port: a bug, please report it")));
        };
        exit.address(frame);
        let at = exit.at;
        self.write(cause, at, frame, clock)
    }

    /// A frame that is not ours goes to the node's stack as it is.
    pub fn pass(&mut self, cause: u64, frame: &[u8], clock: &Clock) -> io::Result<()> {
        let Some(at) = self.ports.exit(self.ports.node()).map(|exit| exit.at) else {
            return Err(io::Error::other("the node has no port of its own: a bug, please report it"));
        };
        self.write(cause, at, frame, clock)
    }

    fn write(&mut self, cause: u64, at: usize, frame: &[u8], clock: &Clock) -> io::Result<()> {
        self.writer.packet(at as u32, clock.timestamp_ns(), frame)?;
        self.packets += 1;
        self.report.sent(cause, self.packets);
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
