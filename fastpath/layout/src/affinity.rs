//! The entry of session affinity: which endpoint a client of a Service had last. 64 bytes, one cache line, every field
//! one 32-bit word. Only workers read it; it stands here because it is pinned and outlives the process.

/// Clients that are remembered, over all Services.
pub const ENTRIES: usize = 65_536;

/// Offset of the word that grows by one when a writer begins and by one when it is done: odd while the entry is being
/// written, 0 = never used.
pub const CTL: usize = 0;
/// 4 words: the client's address, IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
pub const CLIENT: usize = 1;
/// 2 words: the number of the Service.
pub const SERVICE: usize = 5;
/// 4 words: the endpoint's address, as the client's.
pub const ENDPOINT: usize = 7;
/// Kernel coarse seconds of the last connection.
pub const TICK: usize = 11;
/// Seconds without a new connection after which the entry says nothing.
pub const TIMEOUT_S: usize = 12;
/// 32-bit words of one entry; the last three are spare.
pub const WORDS: usize = 16;
