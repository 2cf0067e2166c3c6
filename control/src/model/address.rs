//! Addresses as the API takes them: parts of an IPv4 address may have leading zeros, and what they mean is decimal
//! (k8s.io/utils/net, ParseIPSloppy and ParseCIDRSloppy). Objects from before that was forbidden still have them.

use std::net::IpAddr;

use ipnet::IpNet;

/// An address.
pub(crate) fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| without_zeros(text)?.parse().ok())
}

/// A range, with or without bits behind its prefix, which mean nothing; spaces around it are forgiven.
pub(crate) fn cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = is_number.then(|| length.parse().ok()).flatten()?;
    Some(IpNet::new(ip(address)?, length).ok()?.trunc())
}

/// An address with an IPv4 part, its leading zeros gone.
fn without_zeros(text: &str) -> Option<String> {
    let at = text.rfind(':').map_or(0, |colon| colon + 1);
    let (before, v4) = text.split_at(at);
    let parts: Vec<&str> = v4.split('.').map(plain_number).collect();
    (parts.len() == 4).then(|| format!("{before}{}", parts.join(".")))
}

fn plain_number(digits: &str) -> &str {
    match digits.trim_start_matches('0') {
        "" if !digits.is_empty() => "0",
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal_and_spaces_around_a_range_nothing() {
        for (text, meant) in [
            ("010.0.0.1", "10.0.0.1"),
            ("192.168.001.000", "192.168.1.0"),
            ("::ffff:010.1.1.1", "::ffff:10.1.1.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(ip(text), Some(meant.parse().unwrap()), "{text}");
        }
        for (text, meant) in [
            (" 10.0.0.0/8", "10.0.0.0/8"),
            ("010.0.0.0/8\t", "10.0.0.0/8"),
            ("10.1.2.3/08", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::5/64", "fd00::/64"),
        ] {
            assert_eq!(cidr(text), Some(meant.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_address_stays_none() {
        for text in
            ["", "10.0.0", "10.0.0.0.1", "10..0.1", "10.0.0.256", "10.0.0.0x1", "0x0a.0.0.1", "a.b.c.d", " 10.0.0.1"]
        {
            assert_eq!(ip(text), None, "{text:?}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/-1", "/8", "x/8"] {
            assert_eq!(cidr(text), None, "{text:?}");
        }
    }
}
