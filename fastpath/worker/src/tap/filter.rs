//! Which packets a tap takes: terms joined by `and`.
//!
//! It looks at fixed places in the headers and checks nothing, for what is malformed may be just what is looked for:
//! IPv6 extension headers are not walked, and a fragment other than the first has no ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use atalho_engine::tables::{Port, Tables};
use ipnet::IpNet;

/// What one can say, for messages.
const WORDS: &str = "in PORT, host ADDRESS, net CIDR, port NUMBER, tcp, udp, sctp, icmp, joined by and";

/// A filter; without terms it takes everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    In(PortName),
    /// Source or destination.
    Net(IpNet),
    /// Source or destination.
    Port(u16),
    /// IANA protocol numbers.
    Protocol(&'static [u8]),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PortName {
    Uplink,
    Node,
    /// `namespace/name`.
    Pod(String),
}

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// In characters, from 1.
    pub column: usize,
    pub what: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}; a filter is made of {WORDS}", self.column, self.what)
    }
}

impl std::error::Error for FilterError {}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut words = Words { text, at: 0 };
        let mut terms = Vec::new();
        loop {
            terms.push(words.term()?);
            let column = words.column();
            match words.next() {
                None => return Ok(Self { terms }),
                Some("and") => {}
                Some(word) => return Err(FilterError { column, what: format!("{word:?} where only `and` can stand") }),
            }
        }
    }
}

/// The words of a text, and where the next one stands.
struct Words<'t> {
    text: &'t str,
    /// Byte offset.
    at: usize,
}

impl<'t> Words<'t> {
    fn next(&mut self) -> Option<&'t str> {
        let start = self.start();
        let rest = &self.text[start..];
        let word = rest.split_whitespace().next()?;
        self.at = start + word.len();
        Some(word)
    }

    fn start(&self) -> usize {
        self.at + self.text[self.at..].len() - self.text[self.at..].trim_start().len()
    }

    /// Of the next word, or of the end.
    fn column(&self) -> usize {
        self.text[..self.start()].chars().count() + 1
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let column = self.column();
        match self.next() {
            Some("tcp") => Ok(Term::Protocol(&[6])),
            Some("udp") => Ok(Term::Protocol(&[17])),
            Some("sctp") => Ok(Term::Protocol(&[132])),
            Some("icmp") => Ok(Term::Protocol(&[1, 58])),
            Some("in") => self.value("a port (uplink, node or pod:NAMESPACE/NAME)", PortName::parse).map(Term::In),
            Some("host") => {
                self.value("an IP address", |word| word.parse::<IpAddr>().ok()).map(|host| Term::Net(host.into()))
            }
            Some("net") => self.value("a CIDR, as 10.0.0.0/8", |word| word.parse().ok()).map(Term::Net),
            Some("port") => self.value("a number up to 65535", |word| word.parse().ok()).map(Term::Port),
            Some(word) => Err(FilterError { column, what: format!("{word:?} is no term") }),
            None => Err(FilterError { column, what: "a term is missing".to_owned() }),
        }
    }

    fn value<T>(&mut self, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, FilterError> {
        let column = self.column();
        let word = self.next();
        word.and_then(parse).ok_or_else(|| FilterError {
            column,
            what: match word {
                Some(word) => format!("{word:?} is not {wanted}"),
                None => format!("{wanted} is missing"),
            },
        })
    }
}

impl PortName {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "uplink" => Some(Self::Uplink),
            "node" => Some(Self::Node),
            _ => word.strip_prefix("pod:").filter(|name| name.contains('/')).map(|name| Self::Pod(name.to_owned())),
        }
    }

    fn is(&self, port: Option<&Port>) -> bool {
        match (self, port) {
            (Self::Uplink, Some(Port::Uplink)) | (Self::Node, Some(Port::Node)) => true,
            (Self::Pod(wanted), Some(Port::Pod { name, .. })) => **name == **wanted,
            _ => false,
        }
    }
}

impl Filter {
    /// Whether it takes a frame that came in by the port of interface index `ingress`.
    pub fn wants(&self, tables: &Tables, ingress: u32, frame: &[u8]) -> bool {
        if self.terms.is_empty() {
            return true;
        }
        let headers = Headers::of(frame);
        self.terms.iter().all(|term| match term {
            Term::In(name) => name.is(tables.ports.get(&ingress)),
            Term::Net(net) => headers.addresses.iter().flatten().any(|address| net.contains(address)),
            Term::Port(port) => headers.ports.iter().flatten().any(|own| own == port),
            Term::Protocol(numbers) => headers.protocol.is_some_and(|own| numbers.contains(&own)),
        })
    }
}

/// As much of a frame as is there.
struct Headers {
    /// Source and destination.
    addresses: [Option<IpAddr>; 2],
    protocol: Option<u8>,
    ports: [Option<u16>; 2],
}

impl Headers {
    fn of(frame: &[u8]) -> Self {
        let (src, dst, protocol, transport) = match frame.get(12..14) {
            Some([0x08, 0x00]) => {
                let is_later_fragment = word(frame, 20).is_some_and(|field| field & 0x1fff != 0);
                let header_bytes = frame.get(14).map_or(20, |first| usize::from(first & 0xf) * 4);
                let transport = (!is_later_fragment).then_some(14 + header_bytes);
                (address::<4>(frame, 26), address::<4>(frame, 30), frame.get(23).copied(), transport)
            }
            Some([0x86, 0xdd]) => {
                (address::<16>(frame, 22), address::<16>(frame, 38), frame.get(20).copied(), Some(54))
            }
            _ => (None, None, None, None),
        };
        let port = |at: usize| match protocol {
            Some(6 | 17 | 132) => word(frame, transport? + at),
            _ => None,
        };
        Self { addresses: [src, dst], protocol, ports: [port(0), port(2)] }
    }
}

fn address<const N: usize>(frame: &[u8], at: usize) -> Option<IpAddr>
where
    IpAddr: From<[u8; N]>,
{
    Some(IpAddr::from(*frame.get(at..)?.first_chunk::<N>()?))
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn tables() -> Tables {
        let pod = Port::Pod { name: "default/a".into(), addresses: vec![] };
        let ports = [(2, Port::Uplink), (3, Port::Node), (11, pod)];
        Tables { ports: Arc::new(ports.into_iter().collect()), ..Tables::default() }
    }

    /// 10.0.0.1:1000 -> 192.0.2.7:53 by UDP.
    fn udp4() -> Vec<u8> {
        let mut frame = vec![0; 42];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 17;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 7]);
        frame[34..38].copy_from_slice(&[0x03, 0xe8, 0, 53]);
        frame
    }

    /// An echo request to 2001:db8::1.
    fn icmp6() -> Vec<u8> {
        let mut frame = vec![0; 62];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[20] = 58;
        frame[38..42].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        frame[53] = 1;
        frame[54] = 128;
        frame
    }

    #[test]
    fn every_term_takes_what_it_says_and_nothing_else() {
        for (text, takes_udp4, takes_icmp6) in [
            ("in uplink", true, false),
            ("in pod:default/a", false, true),
            ("in pod:default/b", false, false),
            ("in node", false, false),
            ("host 10.0.0.1", true, false),
            ("host 192.0.2.7", true, false),
            ("host 2001:db8::1", false, true),
            ("net 192.0.2.0/24", true, false),
            ("net ::/0", false, true),
            ("port 53", true, false),
            ("port 1000 and port 53 and udp", true, false),
            ("port 54", false, false),
            ("udp", true, false),
            ("tcp", false, false),
            ("icmp", false, true),
            ("  icmp   and in pod:default/a ", false, true),
        ] {
            let filter: Filter = text.parse().unwrap();
            let taken = (filter.wants(&tables(), 2, &udp4()), filter.wants(&tables(), 11, &icmp6()));
            assert_eq!(taken, (takes_udp4, takes_icmp6), "{text}");
        }
        let nothing = Filter::default();
        assert!(nothing.wants(&tables(), 99, &[]));
        for filter in ["udp", "port 53", "host 10.0.0.1"] {
            let filter: Filter = filter.parse().unwrap();
            for cut in 0..23 {
                assert!(!filter.wants(&tables(), 2, &udp4()[..cut]));
            }
        }
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = udp4();
        frame[21] = 1;
        let of = |text: &str| text.parse::<Filter>().unwrap().wants(&tables(), 2, &frame);
        assert!(of("udp and host 10.0.0.1") && !of("port 53"));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place_and_the_words_that_can() {
        for (text, column, what) in [
            ("", 1, "a term is missing"),
            ("tcp and", 8, "a term is missing"),
            ("tcp udp", 5, "\"udp\" where only `and` can stand"),
            ("tcp or udp", 5, "\"or\" where only `and` can stand"),
            ("udp and prot 53", 9, "\"prot\" is no term"),
            ("port http", 6, "\"http\" is not a number up to 65535"),
            ("port 65536", 6, "is not a number"),
            ("host", 5, "an IP address is missing"),
            ("net 10.0.0.0/33", 5, "is not a CIDR"),
            ("in eth0", 4, "\"eth0\" is not a port"),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert_eq!(error.column, column, "{text}: {error}");
            assert!(error.what.contains(what), "{text}: {error}");
            assert!(error.to_string().contains("net CIDR"), "{error}");
        }
    }
}
