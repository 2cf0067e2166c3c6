//! A flood of datagrams at a pace, and the count of what of it arrived.
//!
//! Nobody answers and nobody reads: the receiving kernel's own count of each socket is the result, so that counting costs
//! the machine next to nothing.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Payload of a datagram, bytes: a frame of 60 over IPv4.
const PAYLOAD_BYTES: usize = 18;
/// How often a sender looks at the clock.
const BEAT: Duration = Duration::from_millis(1);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    pub to: SocketAddr,
    /// Datagrams a second.
    pub pps: u64,
    pub seconds: f64,
    /// Sockets, each a flow of its own, used in turn.
    pub flows: usize,
}

/// Sends it and returns how many datagrams the kernel took. A sender that is late does not make up for it.
pub fn send(flood: &Flood) -> Result<u64> {
    let any: IpAddr = if flood.to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let sockets: Vec<UdpSocket> = (0..flood.flows.max(1))
        .map(|_| {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(flood.to).map(|()| socket)
        })
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot open sockets to {}", flood.to))?;
    let per_beat = flood.pps as f64 * BEAT.as_secs_f64();
    let end = Instant::now() + Duration::from_secs_f64(flood.seconds);
    let mut sockets = sockets.iter().cycle();
    let (mut taken, mut due, mut next) = (0, 0.0, Instant::now());
    while Instant::now() < end {
        due += per_beat;
        while due >= 1.0 {
            due -= 1.0;
            // What a full queue of the kernel refuses was never sent.
            taken += u64::from(sockets.next().is_some_and(|socket| socket.send(&[0x5a; PAYLOAD_BYTES]).is_ok()));
        }
        next += BEAT;
        let now = Instant::now();
        if next > now {
            thread::sleep(next - now);
        } else {
            next = now;
        }
    }
    Ok(taken)
}

/// Opens sockets at `addresses`, says so, waits for the end of the standard input, and returns how many datagrams came
/// to each: those that lie in the socket and those for which it had no room.
pub fn count(addresses: &[SocketAddr]) -> Result<Vec<u64>> {
    let sockets: Vec<UdpSocket> = addresses
        .iter()
        .map(|&at| UdpSocket::bind(at).with_context(|| format!("cannot listen at {at}")))
        .collect::<Result<_>>()?;
    println!("listening");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let tables = [fs::read_to_string("/proc/self/net/udp")?, fs::read_to_string("/proc/self/net/udp6")?];
    let mut counts = Vec::new();
    for (socket, at) in sockets.iter().zip(addresses) {
        socket.set_nonblocking(true)?;
        let mut lying = 0;
        while socket.recv(&mut [0; 64]).is_ok() {
            lying += 1;
        }
        counts.push(lying + dropped_at(&tables[usize::from(at.is_ipv6())], at.port())?);
    }
    Ok(counts)
}

/// The last column of the socket's line (Documentation/networking/proc_net_tcp.rst has the others): datagrams dropped.
fn dropped_at(table: &str, port: u16) -> Result<u64> {
    let ending = format!(":{port:04X}");
    let line = table
        .lines()
        .find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&ending)))
        .with_context(|| format!("the kernel lists no socket at port {port}"))?;
    let drops = line.split_whitespace().last().and_then(|drops| drops.parse().ok());
    drops.with_context(|| format!("no count of drops in {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drops_of_a_socket_are_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             \u{20} 10: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 0000000000000000 3\n\
             \u{20} 11: 0B01F40A:2711 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0000000000000000 41\n";
        assert_eq!(dropped_at(table, 10_001).unwrap(), 41);
        assert!(dropped_at(table, 10_002).unwrap_err().to_string().contains("10002"));
    }

    #[test]
    fn a_flood_keeps_its_pace() {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let flood = Flood { to: sink.local_addr().unwrap(), pps: 5000, seconds: 0.3, flows: 3 };
        let taken = send(&flood).unwrap();
        // A machine under load may be late, and is never early.
        assert!((300..=1510).contains(&taken), "{taken}");
    }
}
