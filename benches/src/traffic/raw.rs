//! Frames of any content, past the stack of the namespace that sends them.

use std::io::BufRead;

use anyhow::{Context, Result, bail};
use pnet_datalink::{Channel, DataLinkSender};

/// Reads a frame a line, in hexadecimal digits, and sends each so many times; returns how many the kernel took.
pub fn send_lines(interface: &str, copies: u64, lines: impl BufRead) -> Result<u64> {
    let mut sender = open(interface)?;
    let mut taken = 0;
    for line in lines.lines() {
        let frame = from_hex(line?.trim())?;
        for _ in 0..copies {
            taken += u64::from(matches!(sender.send_to(&frame, None), Some(Ok(()))));
        }
    }
    Ok(taken)
}

/// The form in which [`send_lines`] reads a frame.
pub fn to_hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    (0..text.len()).step_by(2).map(|at| pair(at).with_context(|| format!("no hexadecimal digits: {text:?}"))).collect()
}

fn open(interface: &str) -> Result<Box<dyn DataLinkSender>> {
    let found = pnet_datalink::interfaces().into_iter().find(|found| found.name == interface);
    let found = found.with_context(|| format!("no interface {interface}"))?;
    match pnet_datalink::channel(&found, pnet_datalink::Config::default()) {
        Ok(Channel::Ethernet(sender, _receiver)) => Ok(sender),
        Ok(_) => bail!("{interface} is no Ethernet interface"),
        Err(error) => Err(error).with_context(|| format!("cannot open {interface} for sending")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_its_digits() {
        let frame: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&frame)).unwrap(), frame);
        assert!(from_hex("0g").is_err() && from_hex("123").is_err());
    }
}
