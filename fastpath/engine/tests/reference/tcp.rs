//! TCP as a pair of notebooks: what each side has sent, in numbers that never wrap.

/// A segment with its place in the stream of its side, and of the other side for what it acknowledges.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub bytes: u32,
    pub window: u16,
    pub scale: Option<u8>,
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// What has been sent by one side.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notes {
    pub has_spoken: bool,
    pub syn_at: Option<i64>,
    pub has_fin: bool,
    pub has_reset: bool,
    /// Behind the last byte.
    pub end: i64,
    /// The highest acknowledgment.
    pub ack: Option<i64>,
    /// The largest window: of the SYN, or of all segments without one.
    pub window: u32,
    pub scale: Option<u8>,
    pub has_sent_plain: bool,
    /// Segments in a row with nothing new.
    pub repeats: u32,
    /// The low half of the number of a SYN that was let through last, for the other side to judge.
    pub again: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Belongs, and is noted down.
    Noted,
    /// Goes on without a note.
    Unnoted,
    /// Begins a new connection.
    Renews,
    BadState,
    OutOfWindow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Calling,
    BothCalling,
    Answered,
    Up,
    OneClosed,
    OneClosedAcknowledged,
    BothClosed,
    Over,
    Reset,
}

/// The number next to `near` that looks like `word`.
fn place(word: u32, near: i64) -> i64 {
    let ahead = word.wrapping_sub(near as u32);
    near + i64::from(ahead as i32)
}

impl Notes {
    /// Whether a SYN is as old as what is known.
    fn is_repeated(&self, segment: &Segment) -> bool {
        let end = segment.seq.wrapping_add(1).wrapping_add(segment.bytes);
        (self.end as u32).wrapping_sub(end) <= 66_000
    }

    fn let_through(&self, ack: u32) -> bool {
        self.again == Some(ack.wrapping_sub(1) as u16)
    }

    fn is_acknowledged(&self, other: &Self) -> bool {
        other.ack.is_some_and(|ack| ack >= self.end)
    }

    fn window_bytes(&self, other: &Self) -> i64 {
        let window = i64::from(self.window);
        if !self.has_sent_plain {
            window
        } else if self.syn_at.is_none() || other.syn_at.is_none() {
            window << 14
        } else {
            match (self.scale, other.scale) {
                (Some(scale), Some(_)) => window << scale,
                _ => window,
            }
        }
    }

    fn of_syn(segment: &Segment, near: i64, ack_near: i64) -> Self {
        let at = place(segment.seq, near);
        Self {
            has_spoken: true,
            syn_at: Some(at),
            end: at + 1 + i64::from(segment.bytes) + i64::from(segment.flags & FIN),
            ack: (segment.flags & ACK != 0).then(|| place(segment.ack, ack_near)),
            window: segment.window.into(),
            scale: segment.scale,
            ..Self::default()
        }
    }

    /// The first segment that is seen of a side, which has no SYN.
    fn of_middle(segment: &Segment, near: i64, ack_near: i64) -> Self {
        let mut notes = Self { has_spoken: true, end: place(segment.seq, near), ..Self::default() };
        notes.end += i64::from(segment.bytes) + i64::from(segment.flags & FIN);
        notes.ack = Some(place(segment.ack, ack_near));
        notes.window = segment.window.into();
        notes.has_sent_plain = true;
        notes.has_fin = segment.flags & FIN != 0;
        notes
    }
}

/// Both sides of a connection, the caller first.
#[derive(Debug, Clone, Copy)]
pub struct Tcp(pub [Notes; 2]);

impl Tcp {
    pub fn begun_by(segment: &Segment) -> Self {
        let (seq, ack) = (1 << 40, 1 << 41);
        let notes = match segment.flags {
            SYN => Notes::of_syn(segment, seq, ack),
            _ => Notes::of_middle(segment, seq, ack),
        };
        Self([notes, Notes::default()])
    }

    pub fn stage(&self) -> Stage {
        let [caller, callee] = &self.0;
        if caller.has_reset || callee.has_reset {
            return Stage::Reset;
        }
        let is_acknowledged = [caller.is_acknowledged(callee), callee.is_acknowledged(caller)];
        match (caller.has_fin, callee.has_fin) {
            (true, true) if is_acknowledged == [true, true] => Stage::Over,
            (true, true) => Stage::BothClosed,
            (true, false) if is_acknowledged[0] => Stage::OneClosedAcknowledged,
            (false, true) if is_acknowledged[1] => Stage::OneClosedAcknowledged,
            (true, false) | (false, true) => Stage::OneClosed,
            (false, false) => match (caller.syn_at, callee.syn_at, callee.has_spoken) {
                (Some(_), _, false) => Stage::Calling,
                (Some(_), Some(_), _) => match (caller.ack, callee.ack) {
                    (None, None) => Stage::BothCalling,
                    (Some(_), Some(_)) => Stage::Up,
                    _ => Stage::Answered,
                },
                _ => Stage::Up,
            },
        }
    }

    pub fn timeout_s(&self, last_s: [u32; 2]) -> u32 {
        let own_s = match self.stage() {
            Stage::Calling | Stage::BothCalling => 120,
            Stage::Answered => 60,
            Stage::Up => 432_000,
            Stage::OneClosed => 120,
            Stage::OneClosedAcknowledged => 60,
            Stage::BothClosed => 30,
            Stage::Over => 120,
            Stage::Reset => 10,
        };
        let [caller, callee] = &self.0;
        let is_stalled = caller.repeats >= 3 && last_s[0] > last_s[1] || callee.repeats >= 3 && last_s[1] > last_s[0];
        let waits = !caller.is_acknowledged(callee) || !callee.is_acknowledged(caller);
        if is_stalled || waits { own_s.min(300) } else { own_s }
    }

    /// Where the stream of side `from` and what it acknowledges are, for numbers that have to be placed.
    fn near(&self, from: usize) -> (i64, i64) {
        let (own, other) = (&self.0[from], &self.0[1 - from]);
        let seq = if own.has_spoken { own.end } else { other.ack.unwrap_or(1 << 41) };
        let ack = if other.has_spoken { other.end } else { own.ack.unwrap_or(1 << 41) };
        (seq, ack)
    }

    pub fn take(&mut self, from: usize, segment: &Segment) -> Fate {
        let (near, ack_near) = self.near(from);
        let (seq, ack) = (place(segment.seq, near), place(segment.ack, ack_near));
        let is_caller = from == 0;
        let [own, other] = [self.0[from], self.0[1 - from]];
        let bytes = i64::from(segment.bytes);
        let is_silent = own.ack.is_none() && other.ack.is_none();
        if segment.flags & RST != 0 {
            return self.take_reset(from, segment, seq, ack);
        }
        match segment.flags & (SYN | ACK | FIN) {
            SYN => {
                match self.stage() {
                    Stage::Reset => return Fate::Renews,
                    Stage::Over if seq > own.end => return Fate::Renews,
                    Stage::Calling if is_caller => {
                        let first = own.syn_at.unwrap_or_default();
                        if seq < first {
                            self.0[0].again = Some(segment.seq as u16);
                            return Fate::Unnoted;
                        } else if seq > first {
                            self.0[0] = Notes::of_syn(segment, near, ack_near);
                            return Fate::Noted;
                        } else if seq + 1 + bytes > own.end {
                            self.0[0].end = seq + 1 + bytes;
                            return Fate::Noted;
                        }
                        return Fate::Unnoted;
                    }
                    Stage::Calling => {
                        self.0[1] = Notes::of_syn(segment, near, ack_near);
                        return Fate::Noted;
                    }
                    Stage::BothCalling => {
                        return if own.syn_at == Some(seq) { Fate::Unnoted } else { Fate::OutOfWindow };
                    }
                    _ => {}
                }
                if !is_caller {
                    return Fate::BadState;
                }
                if !own.is_repeated(segment) {
                    self.0[0].again = Some(segment.seq as u16);
                }
                Fate::Unnoted
            }
            flags if flags & SYN != 0 => {
                let lag = own.window_bytes(&other).max(66_000);
                let takes = |lag: i64| ack <= other.end && ack >= other.end - lag;
                let is_known = own.has_spoken && (own.is_repeated(segment) || takes(lag));
                if !is_caller && other.let_through(segment.ack) && !is_known {
                    // Both ends begin anew.
                    self.0[from] = Notes::of_syn(segment, near, ack_near);
                    return Fate::Noted;
                }
                let is_other_answer = own.syn_at.is_some() && !own.has_sent_plain && seq + 1 + bytes != own.end;
                let is_answer = !own.has_spoken || is_other_answer;
                let answers = !is_caller && is_answer && other.syn_at.is_some() && other.ack.is_none();
                let crosses = own.syn_at == Some(seq) && own.ack.is_none() && other.syn_at.is_some();
                if answers || crosses {
                    let began = if other.ack.is_none() { other.syn_at } else { None };
                    if ack > other.end {
                        return Fate::OutOfWindow;
                    } else if !takes(66_000) || began.is_some_and(|began| ack <= began) {
                        return Fate::Unnoted;
                    }
                    self.0[from] = Notes::of_syn(segment, near, ack_near);
                    return Fate::Noted;
                }
                if is_caller && !other.has_spoken { Fate::BadState } else { Fate::Unnoted }
            }
            flags => {
                let is_fin = flags & FIN != 0;
                let is_fresh = other.syn_at.is_some() && !other.has_sent_plain;
                if let Some(answered) = other.ack.filter(|_| is_fresh)
                    && own.let_through(answered as u32)
                    && (segment.seq, segment.ack) == (answered as u32, other.end as u32)
                {
                    self.0[from] = Notes::of_middle(segment, answered, other.end);
                    return Fate::Noted;
                }
                if is_caller && own.syn_at.is_some() && is_silent {
                    return Fate::BadState;
                }
                if !is_caller && is_silent {
                    return if is_fin { Fate::BadState } else { Fate::Unnoted };
                }
                if is_caller && !other.has_spoken {
                    self.note(from, segment, seq, ack);
                    return Fate::Noted;
                }
                let lag = own.window_bytes(&other).max(66_000);
                if ack > other.end || ack < other.end - lag {
                    return Fate::OutOfWindow;
                }
                if !own.has_spoken {
                    self.0[from] = Notes::of_middle(segment, near, ack_near);
                    return Fate::Noted;
                }
                let end = seq + bytes + i64::from(is_fin);
                if end > seq && !self.may_send(from, seq, end) {
                    return Fate::OutOfWindow;
                }
                self.note(from, segment, seq, ack);
                Fate::Noted
            }
        }
    }

    fn may_send(&self, from: usize, seq: i64, end: i64) -> bool {
        let (own, other) = (&self.0[from], &self.0[1 - from]);
        let window = other.window_bytes(own).max(1);
        let limit = other.ack.unwrap_or(own.end) + window;
        seq <= limit && end >= own.end.min(limit) - window
    }

    fn take_reset(&mut self, from: usize, segment: &Segment, seq: i64, ack: i64) -> Fate {
        let (own, other) = (self.0[from], self.0[1 - from]);
        let mut close = || {
            if !own.has_spoken {
                self.0[from].end = seq;
            }
            self.0[from].has_reset = true;
            self.0[from].has_spoken = true;
            Fate::Noted
        };
        if !other.has_spoken {
            return if own.end == seq { close() } else { Fate::Unnoted };
        }
        let is_expected = other.ack.is_some_and(|ack| ack as u32 == segment.seq);
        if !own.has_spoken && !is_expected {
            return if segment.flags & ACK != 0 && ack == other.end { close() } else { Fate::OutOfWindow };
        }
        if segment.flags & ACK != 0 && segment.ack != 0 {
            let lag = own.window_bytes(&other).max(66_000);
            if ack > other.end || ack < other.end - lag {
                return Fate::OutOfWindow;
            }
        }
        if is_expected || own.has_spoken && own.end == seq {
            return close();
        }
        let is_old = other.ack.is_some_and(|ack| seq < ack);
        if !is_old && self.may_send(from, seq, seq + i64::from(segment.bytes)) {
            Fate::Unnoted
        } else {
            Fate::OutOfWindow
        }
    }

    fn note(&mut self, from: usize, segment: &Segment, seq: i64, ack: i64) {
        let own = &mut self.0[from];
        let is_fin = segment.flags & FIN != 0;
        let end = seq + i64::from(segment.bytes) + i64::from(is_fin);
        let before = (own.end, own.ack, own.window);
        if is_fin && end >= own.end {
            own.has_fin = true;
        }
        own.end = own.end.max(end);
        own.ack = Some(own.ack.map_or(ack, |old| old.max(ack)));
        let window = u32::from(segment.window);
        own.window = if own.has_sent_plain { own.window.max(window) } else { window };
        own.has_sent_plain = true;
        own.again = None;
        own.repeats = if before == (own.end, own.ack, own.window) { own.repeats + 1 } else { 0 };
    }
}
