//! A conversation: who asks whom, what both ends know of it, and how either side translates it.

use std::net::IpAddr;

use super::cluster::{Family, Host};
use super::frame::{Alias, Outline, port_at, word};
use super::packet::{ICMP, ICMPV6, Layer4, Packet, Segment, TCP, UDP};
use super::{Both, Out, fragments};

/// What it talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    Tcp,
    Udp,
    Echo,
}

/// An end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

impl End {
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What one end of a TCP connection has sent and received.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub first_seq: u32,
    /// Of the next byte that it sends; `None` before its SYN.
    pub next: Option<u32>,
    /// What it expects next of the other one; `None` before anything arrived.
    pub expected: Option<u32>,
    /// As last announced, before scaling.
    pub window: u16,
    /// Where the window ends that the other end has announced.
    pub edge: u32,
    pub scale: u8,
    pub has_ended: bool,
    /// Of the server: the client has acknowledged its answer, or seemed to.
    pub is_acknowledged: bool,
    /// To be sent again.
    pub sent: Vec<Segment>,
}

pub struct Conversation {
    pub family: Family,
    pub speech: Speech,
    pub client: (Host, u16),
    pub asked: (IpAddr, u16),
    /// `None`: nobody is there.
    pub server: Option<(Host, u16)>,
    /// The client as its server sees it, on either side.
    pub seen: Option<Both<(IpAddr, u16)>>,
    /// Of the client and the server.
    pub streams: [Stream; 2],
    /// Frames that arrived at the client and the server.
    pub arrived: [Vec<Both<Vec<u8>>>; 2],
    /// Something was said that no honest end says.
    pub is_disturbed: bool,
    /// The server has answered.
    pub has_answer: bool,
    /// A reset came before any answer.
    pub is_refused: bool,
    /// Both sides may disagree about it from here on.
    pub is_over: bool,
}

/// Frames remembered of each end, to be quoted by ICMP errors.
const ARRIVED_MAX: usize = 8;

impl Conversation {
    pub fn new(
        family: Family,
        speech: Speech,
        client: (Host, u16),
        asked: (IpAddr, u16),
        server: Option<(Host, u16)>,
    ) -> Self {
        Self {
            family,
            speech,
            client,
            asked,
            server,
            seen: None,
            streams: Default::default(),
            arrived: Default::default(),
            is_disturbed: false,
            has_answer: false,
            is_refused: false,
            is_over: false,
        }
    }

    pub fn protocol(&self) -> u8 {
        match self.speech {
            Speech::Tcp => TCP,
            Speech::Udp => UDP,
            Speech::Echo => self.family.pick(ICMP, ICMPV6),
        }
    }

    /// Who sits at `end`; `None`: nobody.
    pub fn host(&self, end: End) -> Option<Host> {
        match end {
            End::Client => Some(self.client.0),
            End::Server => self.server.map(|(host, _)| host),
        }
    }

    /// Whether `end` can send: the server has to know whom it answers.
    pub fn can_send(&self, end: End) -> bool {
        end == End::Client || self.server.is_some() && self.seen.is_some()
    }

    /// A packet that `end` sends, as it is on either side; `layer4` gets source and destination port.
    pub fn packets(&self, end: End, layer4: impl Fn(u16, u16) -> Layer4) -> Both<Packet> {
        let (client, client_port) = (self.client.0.address(self.family), self.client.1);
        match (end, self.server, self.seen) {
            (End::Server, Some((host, port)), Some(seen)) => {
                let server = host.address(self.family);
                seen.map(|(address, seen_port)| Packet::new(server, address, layer4(port, seen_port)))
            }
            _ => {
                let packet = Packet::new(client, self.asked.0, layer4(client_port, self.asked.1));
                [packet.clone(), packet]
            }
        }
    }

    /// The ports that mean the same on both sides.
    pub fn aliases(&self, side: usize) -> Vec<Alias> {
        let Some(seen) = self.seen else { return Vec::new() };
        let (address, port) = seen[side];
        vec![Alias { protocol: self.protocol(), address, port, stands_for: self.client.1 }]
    }

    /// Takes note of what came out: how the client looks to the server. Tells what is wrong with that.
    pub fn learn(&mut self, out: &Both<Vec<Out>>, is_first: bool) -> Result<(), String> {
        let Some((host, port)) = self.server else { return Ok(()) };
        let found = out.each_ref().map(|out| self.client_in(&fragments::joined(out), host, port));
        let [Some(netfilter), Some(ours)] = found else {
            return Ok(());
        };
        let found = [netfilter, ours];
        let before = self.seen.replace(found);
        let is_kept = found.map(|(_, port)| port == self.client.1);
        if self.speech != Speech::Echo && is_kept[0] != is_kept[1] {
            return Err(format!("the source port is translated on one side only: {found:?}"));
        }
        if !is_kept[1] && self.speech != Speech::Echo && !super::cluster::MASQUERADE_PORTS.contains(&found[1].1) {
            return Err(format!("the source port is outside the range: {found:?}"));
        }
        if before.is_some_and(|before| !is_first && before != found) {
            return Err(format!("the source changed within a connection: {before:?}, then {found:?}"));
        }
        Ok(())
    }

    fn client_in(&self, out: &[Out], host: Host, port: u16) -> Option<(IpAddr, u16)> {
        let server = host.address(self.family);
        out.iter().filter(|out| out.link == host.link()).find_map(|out| {
            let outline = Outline::of(&out.frame)?;
            let is_to_server = outline.dst == server && outline.protocol == self.protocol();
            let is_port = self.speech == Speech::Echo || word(&out.frame, outline.transport + 2) == Some(port);
            let at = port_at(&out.frame, &outline, true)?;
            (is_to_server && is_port).then_some((outline.src, word(&out.frame, at)?))
        })
    }

    /// Takes note of frames that arrived at an end.
    pub fn arrived_at(&mut self, end: End, frames: Both<Vec<u8>>) {
        let arrived = &mut self.arrived[end as usize];
        if arrived.len() == ARRIVED_MAX {
            arrived.remove(0);
        }
        arrived.push(frames);
    }
}
