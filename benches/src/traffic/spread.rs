//! Begins flows: one datagram to each of many addresses and ports, at a pace. Where nobody lives nobody answers.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The same each time: what comes again is the same flow.
const SOURCE_PORT: u16 = 40_000;
/// Ports of each address that are used, from 1 on.
const PORTS: u32 = 65_000;
/// How often the sender looks at the clock.
const BEAT: Duration = Duration::from_millis(1);

/// Sends to so many pairs of an address from `first` on and a port; returns how many datagrams the kernel took.
pub fn send(first: Ipv4Addr, flows: u32, pps: u32) -> Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SOURCE_PORT)).context("cannot open a socket")?;
    let start = Instant::now();
    let mut sent = 0;
    for flow in 0..flows {
        let target = target(first, flow);
        // What a full queue of the kernel refuses is tried again.
        while socket.send_to(&[], target).is_err() {
            thread::sleep(BEAT);
        }
        sent += 1;
        if flow % (pps / 1000).max(1) == 0 {
            let due = start + Duration::from_secs_f64(f64::from(flow) / f64::from(pps));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(sent)
}

fn target(first: Ipv4Addr, flow: u32) -> SocketAddrV4 {
    let port = (flow % PORTS + 1) as u16;
    SocketAddrV4::new(Ipv4Addr::from(u32::from(first) + flow / PORTS), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_a_target_of_its_own() {
        let first = Ipv4Addr::new(10, 244, 2, 128);
        assert_eq!(target(first, 0).to_string(), "10.244.2.128:1");
        assert_eq!(target(first, PORTS - 1).to_string(), "10.244.2.128:65000");
        assert_eq!(target(first, PORTS).to_string(), "10.244.2.129:1");
        assert_eq!(target(first, 1_000_000).to_string(), "10.244.2.143:25001");
    }
}
