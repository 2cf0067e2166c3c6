//! What comes in: objects with the place they came from, as puts and deletions; and what goes back out: refusals.

use std::fmt;
use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::api::{EndpointSlice, Node, Pod, Service, ServiceCidr};

/// The kinds that the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Service,
    EndpointSlice,
    Pod,
    Node,
    ServiceCidr,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Service, Self::EndpointSlice, Self::Pod, Self::Node, Self::ServiceCidr];

    /// Kubernetes' spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    pub const fn is_namespaced(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice | Self::Pod)
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// The key of an object with this metadata; the namespace defaults to `default`, as with kubectl.
    pub fn of(kind: Kind, metadata: &ObjectMeta) -> Self {
        let namespace = match kind.is_namespaced() {
            true => metadata.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned()),
            false => String::new(),
        };
        Self { kind, namespace, name: metadata.name.clone().unwrap_or_default() }
    }
}

impl Key {
    /// Reads what it is shown as.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        let (namespace, name) = match (kind.is_namespaced(), name.split_once('/')) {
            (true, Some(parts)) => parts,
            (false, None) => ("", name),
            _ => return None,
        };
        Some(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.is_namespaced() {
            true => write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name),
            false => write!(f, "{} {}", self.kind.name(), self.name),
        }
    }
}

/// An object as Kubernetes has it, with what is read of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Pod(Box<Pod>),
    Node(Box<Node>),
    ServiceCidr(Box<ServiceCidr>),
}

impl Object {
    pub fn key(&self) -> Key {
        match self {
            Self::Service(o) => Key::of(Kind::Service, &o.metadata),
            Self::EndpointSlice(o) => Key::of(Kind::EndpointSlice, &o.metadata),
            Self::Pod(o) => Key::of(Kind::Pod, &o.metadata),
            Self::Node(o) => Key::of(Kind::Node, &o.metadata),
            Self::ServiceCidr(o) => Key::of(Kind::ServiceCidr, &o.metadata),
        }
    }
}

macro_rules! from_kind {
    ($( $type:ty => $variant:ident ),*) => {
        $( impl From<$type> for Object { fn from(object: $type) -> Self { Self::$variant(Box::new(object)) } } )*
    };
}

from_kind!(Service => Service, EndpointSlice => EndpointSlice, Pod => Pod, Node => Node, ServiceCidr => ServiceCidr);

/// Where an object came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Source {
    Api,
    /// Not an object, but how this node is set up.
    Node,
    /// `line` from 1: where the object's document starts.
    File {
        path: PathBuf,
        line: u32,
    },
}

const THIS_NODE: &str = "this node";

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("API server"),
            Self::Node => f.write_str(THIS_NODE),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        match text.rsplit_once(':').map(|(path, line)| (path, line.parse())) {
            _ if text == THIS_NODE => Self::Node,
            Some((path, Ok(line))) => Self::File { path: path.into(), line },
            _ => Self::Api,
        }
    }
}

/// A change of the world, from a watch or from files.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Put(Object, Source),
    Delete(Key),
}

impl Change {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Put(object, _) => object.key().kind,
            Self::Delete(key) => key.kind,
        }
    }
}

/// Something that was not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Kind and name, as far as they could be told.
    pub object: String,
    pub source: Source,
    pub reason: String,
    /// What to do about it.
    pub next_step: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.source, self.object, self.reason, self.next_step)
    }
}

/// Why an object, or a part of it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub reason: String,
    pub next_step: String,
}

impl Fault {
    pub fn new(reason: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { reason: reason.into(), next_step: next_step.into() }
    }

    pub fn about(self, object: impl Into<String>, source: &Source) -> Refusal {
        Refusal { object: object.into(), source: source.clone(), reason: self.reason, next_step: self.next_step }
    }
}
