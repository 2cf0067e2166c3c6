//! Frames with bytes that are not as they were built.

/// `frame` with these bytes at these offsets.
pub fn changed(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for (at, byte) in changes {
        frame[*at] = *byte;
    }
    frame
}

/// The same, with a right IPv4 header checksum.
pub fn mended(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = changed(frame, changes);
    let header_bytes = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = !atalho_engine::wire::checksum::sum(&frame[14..14 + header_bytes]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}
