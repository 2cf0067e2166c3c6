//! Connection tracking and translation as one would write them down first: a list of connections, searched from its start.

use std::net::IpAddr;

use crate::tcp::{Fate, Segment, Stage, Tcp};

pub type End = (IpAddr, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Echo,
}

/// Who to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub protocol: Protocol,
    pub src: End,
    pub dst: End,
}

impl Tuple {
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// As its first side sends it, and as that arrives; the answers are the reverse of it.
    pub asked: Tuple,
    pub arrives: Tuple,
    pub tcp: Option<Tcp>,
    pub last_s: [u32; 2],
    pub is_answered: bool,
}

impl Connection {
    fn idle_s(&self, now_s: u32) -> u32 {
        now_s - self.last_s[0].max(self.last_s[1])
    }

    fn timeout_s(&self) -> u32 {
        match &self.tcp {
            Some(tcp) => tcp.timeout_s(self.last_s),
            None if self.asked.protocol == Protocol::Udp && self.is_answered => 120,
            None => 30,
        }
    }

    pub fn is_expired(&self, now_s: u32) -> bool {
        self.idle_s(now_s) >= self.timeout_s()
    }

    /// Its place in the order in which full buckets give up connections; `None`: never.
    pub fn evictable(&self) -> Option<usize> {
        let Some(tcp) = self.tcp else { return Some(if self.is_answered { 2 } else { 0 }) };
        let is_through = tcp.0[0].ack.is_some() && tcp.0[1].has_spoken;
        match tcp.stage() {
            Stage::Reset | Stage::Over | Stage::BothClosed => Some(1),
            _ if !is_through => Some(0),
            _ => None,
        }
    }
}

/// What becomes of a packet that has met a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// Goes on as this.
    Goes(Tuple),
    BadState,
    OutOfWindow,
    /// As if there were none.
    Nothing,
}

#[derive(Default)]
pub struct World {
    pub connections: Vec<Connection>,
}

impl World {
    /// The connection that holds a tuple, and which side of it that is.
    pub fn holder(&self, tuple: &Tuple) -> Option<(usize, usize)> {
        let side = |c: &Connection| match () {
            () if c.asked == *tuple => Some(0),
            () if c.arrives.reversed() == *tuple => Some(1),
            () => None,
        };
        self.connections.iter().enumerate().find_map(|(at, c)| side(c).map(|side| (at, side)))
    }

    pub fn take(&mut self, tuple: &Tuple, segment: Option<&Segment>, now_s: u32) -> Met {
        let Some((at, side)) = self.holder(tuple) else { return Met::Nothing };
        let connection = &mut self.connections[at];
        if connection.is_expired(now_s) {
            self.connections.swap_remove(at);
            return Met::Nothing;
        }
        let out = if side == 0 { connection.arrives } else { connection.asked.reversed() };
        let fate = match (&mut connection.tcp, segment) {
            (Some(tcp), Some(segment)) => tcp.take(side, segment),
            _ => Fate::Noted,
        };
        match fate {
            Fate::Noted => {
                connection.last_s[side] = now_s;
                connection.is_answered |= side == 1;
                Met::Goes(out)
            }
            Fate::Unnoted => Met::Goes(out),
            Fate::Renews => {
                self.connections.swap_remove(at);
                Met::Nothing
            }
            Fate::BadState => Met::BadState,
            Fate::OutOfWindow => Met::OutOfWindow,
        }
    }

    pub fn begin(&mut self, asked: Tuple, arrives: Tuple, segment: Option<&Segment>, now_s: u32) {
        let tcp = segment.map(Tcp::begun_by);
        self.connections.push(Connection { asked, arrives, tcp, last_s: [now_s; 2], is_answered: false });
    }

    pub fn walk(&mut self, now_s: u32) {
        self.connections.retain(|connection| !connection.is_expired(now_s));
    }
}
