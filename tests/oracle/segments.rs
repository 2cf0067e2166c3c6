//! What TCP conversations say: mostly what two honest ends would, else whatever a network or an attacker can send.

use super::conversation::{Conversation, End, Stream};
use super::datagrams::payload;
use super::frame::Outline;
use super::packet::{ACK, FIN, Layer4, PSH, RST, SYN, Segment};
use super::stimulus::Drawn;

/// Segments kept to be sent again.
const SENT_MAX: usize = 6;
const WINDOWS: [u16; 5] = [0, 100, 1000, 29_200, 65_535];

pub fn next(conversation: &mut Conversation, random: &mut fastrand::Rng) -> Option<Drawn> {
    let is_fresh = conversation.streams[0].next.is_none();
    if random.u8(..10) < if is_fresh { 1 } else { 3 } {
        let drawn = disturbance(conversation, random);
        conversation.is_disturbed = true;
        return Some(Drawn { is_disturbance: true, ..drawn });
    }
    Some(progress(conversation, random))
}

/// What an honest end sends next.
fn progress(conversation: &mut Conversation, random: &mut fastrand::Rng) -> Drawn {
    let [client, server] = &conversation.streams;
    if client.next.is_none() {
        return opening(conversation, random);
    }
    if server.expected.is_some() && server.next.is_none() && conversation.can_send(End::Server) {
        return send(conversation, End::Server, SYN | ACK, 0, random, "SYN-ACK");
    }
    let is_over = client.has_ended && server.has_ended;
    if is_over && random.u8(..4) == 0 {
        return reopening(conversation, random);
    }
    let may_speak = server.is_acknowledged && server.next.is_some() && conversation.can_send(End::Server);
    let from = if may_speak && random.bool() { End::Server } else { End::Client };
    let stream = &conversation.streams[from as usize];
    if stream.expected.is_none() {
        // Nothing came back: the SYN once more.
        return again(conversation, from, random);
    }
    let room = stream.edge.wrapping_sub(stream.next.unwrap_or(0));
    let room = if room < 1 << 31 { room as usize } else { 0 };
    match random.u8(..20) {
        _ if stream.has_ended || room == 0 => send(conversation, from, ACK, 0, random, "ACK"),
        0..=2 => send(conversation, from, FIN | ACK, 0, random, "FIN"),
        3..=11 => {
            let len = payload(random).len().clamp(1, room);
            send(conversation, from, ACK | PSH, len, random, "data")
        }
        _ => send(conversation, from, ACK, 0, random, "ACK"),
    }
}

/// A first segment: a SYN, or one from the middle of a connection that began before.
fn opening(conversation: &mut Conversation, random: &mut fastrand::Rng) -> Drawn {
    let first = random.u32(..);
    let stream = &mut conversation.streams[0];
    (stream.first_seq, stream.next) = (first, Some(first));
    if random.u8(..8) == 0 {
        let expected = random.u32(..);
        (stream.expected, stream.edge) = (Some(expected), first.wrapping_add(10));
        let server = &mut conversation.streams[1];
        (server.next, server.expected) = (Some(expected), Some(first));
        server.is_acknowledged = true;
        let mut drawn = send(conversation, End::Client, ACK, 10, random, "data in the middle");
        conversation.streams[1].edge = expected;
        drawn.is_first = true;
        return drawn;
    }
    let mut drawn = send(conversation, End::Client, SYN, 0, random, "SYN");
    drawn.is_first = true;
    drawn
}

/// A new connection on the tuple of one that is over.
fn reopening(conversation: &mut Conversation, random: &mut fastrand::Rng) -> Drawn {
    let after = conversation.streams[0].next.unwrap_or(0).wrapping_add(random.u32(1..1_000_000));
    conversation.streams = [Stream { first_seq: after, next: Some(after), ..Stream::default() }, Stream::default()];
    let mut drawn = send(conversation, End::Client, SYN, 0, random, "SYN after the end");
    drawn.is_first = true;
    drawn
}

/// Sends at the end of the stream, which moves on.
fn send(
    conversation: &mut Conversation,
    from: End,
    flags: u8,
    len: usize,
    random: &mut fastrand::Rng,
    what: &str,
) -> Drawn {
    let sent_until = conversation.streams[from.other() as usize].next;
    let stream = &mut conversation.streams[from as usize];
    if stream.next.is_none() {
        stream.first_seq = random.u32(..);
        stream.next = Some(stream.first_seq);
    }
    let seq = stream.next.unwrap_or(0);
    stream.window = if flags & SYN != 0 { 29_200 } else { WINDOWS[random.usize(..WINDOWS.len())].max(1000) };
    let options = options(stream, sent_until, flags, random);
    let segment = Segment {
        src_port: 0,
        dst_port: 0,
        seq,
        ack: if flags & ACK != 0 { stream.expected.unwrap_or(0) } else { 0 },
        flags,
        window: stream.window,
        options,
        payload: vec![0x61; len],
    };
    stream.next = Some(after(&segment));
    stream.has_ended |= flags & FIN != 0;
    if stream.sent.len() == SENT_MAX {
        stream.sent.remove(0);
    }
    stream.sent.push(segment.clone());
    drawn(conversation, from, segment, what)
}

fn again(conversation: &mut Conversation, from: End, random: &mut fastrand::Rng) -> Drawn {
    let sent = &conversation.streams[from as usize].sent;
    match sent.is_empty() {
        true => send(conversation, from, ACK, 0, random, "ACK"),
        false => {
            let segment = sent[random.usize(..sent.len())].clone();
            drawn(conversation, from, segment, "again")
        }
    }
}

/// The sequence number behind `segment`.
pub fn after(segment: &Segment) -> u32 {
    let flags = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
    segment.seq.wrapping_add(segment.payload.len() as u32).wrapping_add(flags)
}

/// Segment size, window scale and SACK as they come with a SYN; a SACK block now and then later.
fn options(stream: &mut Stream, sent_until: Option<u32>, flags: u8, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut options = Vec::new();
    if flags & SYN != 0 {
        options.extend([2, 4, 5, 180]);
        if random.u8(..4) != 0 {
            options.extend([4, 2, 1, 1]);
        }
        stream.scale = 0;
        if random.u8(..4) != 0 {
            stream.scale = random.u8(..9);
            options.extend([1, 3, 3, stream.scale]);
        }
    } else if let (0, Some(expected)) = (random.u8(..4), stream.expected) {
        // Behind a gap, of what the other end has sent; or of what it has not.
        let missing = sent_until.map_or(0, |next| next.wrapping_sub(expected));
        let is_honest = (2..1 << 20).contains(&missing);
        if is_honest || random.u8(..8) == 0 {
            let span = if is_honest { missing } else { 4000 };
            let left = random.u32(1..span);
            let right = random.u32(left + 1..=span);
            options.extend([1, 1, 5, 10]);
            options.extend(expected.wrapping_add(left).to_be_bytes());
            options.extend(expected.wrapping_add(right).to_be_bytes());
        }
    }
    options
}

/// Something that no honest end would send here and now.
fn disturbance(conversation: &mut Conversation, random: &mut fastrand::Rng) -> Drawn {
    let from = if conversation.can_send(End::Server) && random.bool() { End::Server } else { End::Client };
    if random.u8(..6) == 0 {
        return again(conversation, from, random);
    }
    let (own, peer) = (&conversation.streams[from as usize], &conversation.streams[from.other() as usize]);
    let next = own.next.unwrap_or_else(|| random.u32(..));
    let expected = own.expected.unwrap_or_else(|| random.u32(..));
    let offered = u32::from(peer.window) << if peer.scale > 0 && own.scale > 0 { peer.scale } else { 0 };
    let edge = peer.expected.unwrap_or(next).wrapping_add(offered);
    let near = |base: u32, random: &mut fastrand::Rng| base.wrapping_add(random.u32(..5)).wrapping_sub(2);
    let (what, flags, seq, ack, len): (&str, u8, u32, u32, usize) = match random.u8(..24) {
        0 => ("data far above", ACK, next.wrapping_add(1 << 30), expected, 10),
        1 => ("data far below", ACK, next.wrapping_sub(1 << 30), expected, 10),
        2 => ("data at the window's edge", ACK, near(edge.wrapping_sub(10), random), expected, 10),
        3 => ("data just below", ACK, near(next.wrapping_sub(70_000), random), expected, 10),
        4 => ("acknowledges what was not sent", ACK, next, near(peer.next.unwrap_or(0), random).wrapping_add(1000), 0),
        5 => ("acknowledges far ahead", ACK, next, expected.wrapping_add(1 << 30), 0),
        6 => ("acknowledges long ago", ACK, next, expected.wrapping_sub(1 << 30), 0),
        7 => ("acknowledges a little less", ACK, next, expected.wrapping_sub(random.u32(1..70_000)), 0),
        8 => ("RST exact", RST, next, 0, 0),
        9 => ("RST in the window", RST, next.wrapping_add(random.u32(1..offered.max(2))), 0, 0),
        10 => ("RST blind", RST, random.u32(..), 0, 0),
        11 => ("RST with ACK", RST | ACK, next, expected, 0),
        12 => ("RST of sequence 0", RST | ACK, 0, expected, 0),
        13 => ("SYN of the same number", SYN, own.first_seq, 0, 0),
        14 => ("SYN anew", SYN, random.u32(..), 0, 0),
        15 => ("SYN-ACK", SYN | ACK, random.u32(..), expected, 0),
        16 => ("SYN-ACK again", SYN | ACK, own.first_seq, own.expected.unwrap_or(0), 0),
        17 => ("FIN beyond a gap", FIN | ACK, next.wrapping_add(random.u32(1..3000)), expected, 5),
        18 => ("FIN blind", FIN | ACK, random.u32(..), expected, 0),
        19 => {
            let flags = [0, FIN, FIN | SYN, SYN | RST, 0x3f, 0x20, PSH, FIN | PSH | 0x20, SYN | PSH, FIN | RST | ACK];
            ("strange flags", flags[random.usize(..flags.len())], next, expected, 0)
        }
        20 => ("data without ACK", PSH, next, 0, 20),
        21 => ("keepalive", ACK, next.wrapping_sub(1), expected, random.usize(..2)),
        22 => ("data beyond a gap", ACK, next.wrapping_add(random.u32(1..1400)), expected, 100),
        _ => ("window closed", ACK, next, expected, 0),
    };
    let options = if flags & SYN != 0 { vec![2, 4, 5, 180] } else { Vec::new() };
    let window = if what == "window closed" { 0 } else { 1000 };
    let segment = Segment { src_port: 0, dst_port: 0, seq, ack, flags, window, options, payload: vec![0x62; len] };
    drawn(conversation, from, segment, what)
}

fn drawn(conversation: &Conversation, from: End, segment: Segment, what: &str) -> Drawn {
    let packets =
        conversation.packets(from, |src_port, dst_port| Layer4::Tcp(Segment { src_port, dst_port, ..segment.clone() }));
    Drawn {
        from,
        packets,
        what: format!("{from:?} {what}"),
        is_first: segment.flags & (SYN | ACK) == SYN,
        is_disturbance: false,
    }
}

/// Takes note of a segment that arrived at `end`.
pub fn received(conversation: &mut Conversation, end: End, frame: &[u8], outline: &Outline) {
    let Some(header) = frame.get(outline.transport..outline.transport + 20) else { return };
    let (flags, offset) = (header[13], usize::from(header[12] >> 4) * 4);
    let seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let len = outline.end.saturating_sub(outline.transport + offset) as u32;
    let after = seq.wrapping_add(len).wrapping_add(u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
    conversation.is_refused |= flags & RST != 0 && !conversation.has_answer;
    conversation.has_answer |= end == End::Client;
    let scales = [0, 1].map(|end| conversation.streams[end].scale);
    let scale = if flags & SYN == 0 && scales[0] > 0 && scales[1] > 0 { scales[end.other() as usize] } else { 0 };
    let window = u32::from(u16::from_be_bytes([header[14], header[15]])) << scale;
    let stream = &mut conversation.streams[end as usize];
    if flags & (ACK | RST) == ACK {
        stream.edge = u32::from_be_bytes([header[8], header[9], header[10], header[11]]).wrapping_add(window);
    }
    stream.is_acknowledged |= flags & (ACK | SYN | RST) == ACK;
    if flags & SYN != 0 && stream.expected.is_none() || stream.expected == Some(seq) {
        stream.expected = Some(after);
    }
}
