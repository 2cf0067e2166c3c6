//! A packet to ask about, from words or from a batch line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use atalho_engine::flow::Protocol;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A packet to ask about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Value", try_from = "Value")]
pub struct Query {
    pub id: Option<Value>,
    /// ICMP for both families.
    pub protocol: Protocol,
    pub src: IpAddr,
    pub src_port: Option<u16>,
    pub dst: IpAddr,
    pub dst_port: Option<u16>,
    /// Where it comes in; `None`: told by the source.
    pub way: Option<Way>,
}

/// Where a packet comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    Uplink,
    /// A process of the node.
    Node,
    /// `namespace/name`.
    Pod(String),
}

impl Way {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "uplink" => Some(Self::Uplink),
            "node" => Some(Self::Node),
            _ => match text.strip_prefix("pod:")?.split_once('/')? {
                (namespace, name) if !namespace.is_empty() && !name.is_empty() => {
                    Some(Self::Pod(format!("{namespace}/{name}")))
                }
                _ => None,
            },
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uplink => f.write_str("uplink"),
            Self::Node => f.write_str("node"),
            Self::Pod(name) => write!(f, "pod:{name}"),
        }
    }
}

/// A question that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct QueryError {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// Of the batch, from 1; `None` for words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    pub error: String,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(field) = self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.error)
    }
}

const FIELDS: [&str; 7] = ["id", "protocol", "src_ip", "src_port", "dst_ip", "dst_port", "in"];
const WAYS: &str = "wanted uplink, node or pod:NAMESPACE/NAME";

impl Query {
    /// PROTOCOL SOURCE[:PORT] DESTINATION[:PORT], as on the command line; IPv6 with a port as `[address]:port`.
    pub(super) fn from_words(words: &[String], port: Option<&str>) -> Result<Self, QueryError> {
        let [protocol, source, destination] = words else {
            return Err(fault("packet", format!("{} words, wanted PROTOCOL SOURCE DESTINATION", words.len())));
        };
        let (src, src_port) = address_and_port("source", source)?;
        let (dst, dst_port) = address_and_port("destination", destination)?;
        let protocol = protocol_of(protocol).ok_or_else(|| fault("protocol", unknown_protocol(protocol)))?;
        let way =
            port.map(|text| Way::parse(text).ok_or_else(|| fault("--in", format!("{text:?}; {WAYS}")))).transpose()?;
        Self { id: None, protocol, src, src_port, dst, dst_port, way }.checked("destination")
    }

    /// Line `number` of a batch. `port`: where packets come in that do not say.
    pub(super) fn from_line(number: usize, line: &[u8], port: Option<&str>) -> Result<Self, QueryError> {
        let located = |error: QueryError, id: Option<Value>| QueryError { line: Some(number), id, ..error };
        let value: Value = serde_json::from_slice(line).map_err(|cause| {
            let error = format!("not JSON: {cause}");
            located(QueryError { id: None, line: None, field: None, error }, None)
        })?;
        let id = value.get("id").filter(|id| !id.is_null()).cloned();
        let mut query = Self::from_value(value).map_err(|error| located(error, id.clone()))?;
        if query.way.is_none()
            && let Some(text) = port
        {
            query.way = Some(Way::parse(text).ok_or_else(|| located(fault("in", format!("{text:?}; {WAYS}")), id))?);
        }
        Ok(query)
    }

    fn from_value(value: Value) -> Result<Self, QueryError> {
        let Value::Object(map) = value else {
            return Err(QueryError { id: None, line: None, field: None, error: "wanted an object".to_owned() });
        };
        if let Some(unknown) = map.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            let error = format!("unknown field {unknown:?}; the fields are {}", FIELDS.join(", "));
            return Err(QueryError { id: None, line: None, field: None, error });
        }
        let protocol = text(&map, "protocol")?;
        let way = match map.get("in") {
            None | Some(Value::Null) => None,
            Some(_) => {
                let text = text(&map, "in")?;
                Some(Way::parse(text).ok_or_else(|| fault("in", format!("{text:?}; {WAYS}")))?)
            }
        };
        Self {
            id: map.get("id").filter(|id| !id.is_null()).cloned(),
            protocol: protocol_of(protocol).ok_or_else(|| fault("protocol", unknown_protocol(protocol)))?,
            src: address(&map, "src_ip")?,
            src_port: number(&map, "src_port")?,
            dst: address(&map, "dst_ip")?,
            dst_port: number(&map, "dst_port")?,
            way,
        }
        .checked("dst_ip")
    }

    /// What no single field tells.
    fn checked(self, destination: &'static str) -> Result<Self, QueryError> {
        if self.src.is_ipv4() != self.dst.is_ipv4() {
            return Err(fault(destination, format!("{} is of another family than the source {}", self.dst, self.src)));
        }
        if self.protocol != Protocol::Icmp && self.dst_port.is_none() {
            let field = if destination == "dst_ip" { "dst_port" } else { destination };
            return Err(fault(field, format!("{} needs a destination port", self.protocol.name())));
        }
        Ok(self)
    }
}

impl From<Query> for Value {
    fn from(query: Query) -> Self {
        let mut map = Map::new();
        let mut put = |key: &str, value: Option<Self>| value.and_then(|value| map.insert(key.to_owned(), value));
        put("id", query.id);
        put("protocol", Some(query.protocol.name().into()));
        put("src_ip", Some(query.src.to_string().into()));
        put("src_port", query.src_port.map(Into::into));
        put("dst_ip", Some(query.dst.to_string().into()));
        put("dst_port", query.dst_port.map(Into::into));
        put("in", query.way.map(|way| way.to_string().into()));
        Self::Object(map)
    }
}

impl TryFrom<Value> for Query {
    type Error = QueryError;

    fn try_from(value: Value) -> Result<Self, QueryError> {
        Self::from_value(value)
    }
}

fn fault(field: &'static str, error: String) -> QueryError {
    QueryError { id: None, line: None, field: Some(field), error }
}

fn unknown_protocol(text: &str) -> String {
    format!("{text:?}; wanted TCP, UDP, SCTP or ICMP")
}

fn protocol_of(text: &str) -> Option<Protocol> {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];
    protocols.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(text))
}

fn address_and_port(field: &'static str, text: &str) -> Result<(IpAddr, Option<u16>), QueryError> {
    if let Ok(both) = text.parse::<SocketAddr>() {
        return Ok((both.ip(), Some(both.port())));
    }
    match text.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(address) => Ok((address, None)),
        Err(_) => Err(fault(
            field,
            format!("{text:?} is neither ADDRESS nor ADDRESS:PORT; IPv6 with a port is [ADDRESS]:PORT"),
        )),
    }
}

fn text<'m>(map: &'m Map<String, Value>, field: &'static str) -> Result<&'m str, QueryError> {
    match map.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(fault(field, format!("{other} is not a string"))),
        None => Err(fault(field, "it is missing".to_owned())),
    }
}

fn address(map: &Map<String, Value>, field: &'static str) -> Result<IpAddr, QueryError> {
    let text = text(map, field)?;
    text.parse().map_err(|_| fault(field, format!("{text:?} is not an IP address")))
}

fn number(map: &Map<String, Value>, field: &'static str) -> Result<Option<u16>, QueryError> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|number| u16::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(fault(field, format!("{value} is not a port from 0 to 65535"))),
        },
    }
}
