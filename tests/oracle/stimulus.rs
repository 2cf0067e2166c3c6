//! What is put in next: a frame for either side, alike but for what that side translated.

use super::cluster::{Host, Link};
use super::conversation::{Conversation, End, Speech};
use super::fragments::{self, Cut};
use super::frame::ETHERNET_BYTES;
use super::frame::Outline;
use super::packet::Packet;
use super::{Both, OURS};
use super::{datagrams, errors, oddity, segments};

pub struct Stimulus {
    pub link: Link,
    pub from: End,
    pub frames: Both<Vec<u8>>,
    /// What is sent instead of the whole frame.
    pub fragments: Vec<Both<Vec<u8>>>,
    /// Fragments are lost, come twice or overlap.
    pub is_cut_oddly: bool,
    /// For people.
    pub what: String,
    /// The first packet of a connection, by the generator's intention.
    pub is_first: bool,
    /// Nothing that an honest end would send here and now.
    pub is_disturbance: bool,
}

impl Stimulus {
    /// The next packet of `conversation`, drawn from `random`. `None`: nobody has anything to say. `identification` tells
    /// datagrams in fragments apart.
    pub fn next(conversation: &mut Conversation, identification: u32, random: &mut fastrand::Rng) -> Option<Self> {
        if random.u8(..20) == 0
            && let Some(error) = errors::next(conversation, random)
        {
            return Some(error);
        }
        let drawn = match conversation.speech {
            Speech::Tcp => segments::next(conversation, random),
            Speech::Udp => datagrams::next_udp(conversation, random),
            Speech::Echo => datagrams::next_echo(conversation, random),
        }?;
        let host = conversation.host(drawn.from)?;
        let stimulus = Self::of(host, drawn, identification, random);
        // A wire does not carry what is longer than its MTU.
        let bytes_max = ETHERNET_BYTES + usize::from(host.link().mtu());
        stimulus.frames.iter().all(|frame| frame.len() <= bytes_max).then_some(stimulus)
    }

    /// Whether it has an authentication header, behind which rules see no ports.
    pub fn has_authentication(&self) -> bool {
        self.what.contains("\"authentication\"")
    }

    fn of(host: Host, drawn: Drawn, identification: u32, random: &mut fastrand::Rng) -> Self {
        let mut what = drawn.what;
        let odd = (random.u8(..8) == 0).then(|| oddity::draw(drawn.packets[0].src.is_ipv4(), random));
        let [netfilter, ours] = drawn.packets;
        let frames = [netfilter, ours].map(|mut packet| {
            if let Some(odd) = &odd {
                odd.change(&mut packet);
            }
            let mut frame = packet.build(host.link().mac(), host.mac());
            if let Some(odd) = &odd {
                odd.damage(&mut frame);
            }
            frame
        });
        let (mut fragments, mut is_cut_oddly) = (Vec::new(), false);
        if let Some(odd) = odd {
            what += &format!(", {odd:?}");
        } else if random.u8(..12) == 0
            && let Some(outline) = Outline::of(&frames[OURS])
            && let Some(cut) = Cut::draw(outline.end - outline.transport, identification, random)
        {
            what += &format!(", {cut:?}");
            is_cut_oddly = cut.is_odd;
            fragments = fragments::of_both(&cut, &frames);
        }
        Self {
            link: host.link(),
            from: drawn.from,
            frames,
            fragments,
            is_cut_oddly,
            what,
            is_first: drawn.is_first,
            is_disturbance: drawn.is_disturbance,
        }
    }
}

/// A packet before anything odd is done to it.
pub struct Drawn {
    pub from: End,
    pub packets: Both<Packet>,
    pub what: String,
    pub is_first: bool,
    pub is_disturbance: bool,
}
