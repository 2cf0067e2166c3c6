//! Services as admission sees them: a VIP (address, protocol, port) leads to a list of backends.
//!
//! The table is sharded behind Arcs: control replaces the shard of what changed and shares the rest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::Protocol;

/// Shards of the VIP table; a changed Service copies one of them.
pub const SHARDS: usize = 1024;

/// What a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Which kind of address a VIP is; the spelling of `atalho why`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VipKind {
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalIP,
    Gateway,
}

impl VipKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIP => "ExternalIP",
            Self::Gateway => "Gateway",
        }
    }
}

/// One VIP of one Service port.
#[derive(Debug, Clone, PartialEq)]
pub struct Vip {
    /// `namespace/name:port-name`, or `:port-number` if the port has no name.
    pub service: Arc<str>,
    pub kind: VipKind,
    /// For traffic from this cluster's pods and this node.
    pub inside: Route,
    /// For traffic from elsewhere.
    pub outside: Route,
}

/// What becomes of traffic from one side.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub backends: Arc<Backends>,
    /// Rewrite the source to the node's address.
    pub masquerade: bool,
    /// With no backend: drop silently (policy Local) instead of rejecting.
    pub drop_without_backend: bool,
}

/// The endpoints of one Service port that a policy allows, with their table of choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Backends {
    pub endpoints: Box<[Endpoint]>,
    /// Index into `endpoints` by hash (Maglev, sized to the endpoints); empty: choose evenly at random.
    pub lookup: Box<[u16]>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// Kubernetes has no weights; Gateways will.
    pub weight: u32,
    pub node: Option<Arc<str>>,
    /// On this node.
    pub local: bool,
}

type Shard = HashMap<VipKey, Arc<Vip>>;

/// Every VIP, and the addresses that have any.
#[derive(Clone)]
pub struct Services {
    shards: Arc<[Arc<Shard>]>,
    /// VIP addresses with the number of their VIPs, whatever the port; node addresses are not among them.
    addresses: Arc<HashMap<IpAddr, u32>>,
    vips: usize,
}

impl Default for Services {
    fn default() -> Self {
        let empty = Arc::new(Shard::new());
        Self { shards: (0..SHARDS).map(|_| empty.clone()).collect(), addresses: Arc::default(), vips: 0 }
    }
}

impl Services {
    #[inline]
    pub fn look_up(&self, key: &VipKey) -> Option<&Vip> {
        self.shards[shard_of(key)].get(key).map(|vip| &**vip)
    }

    /// Whether any port of `address` is a Service's (node addresses aside).
    #[inline]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Number of VIPs.
    pub fn len(&self) -> usize {
        self.vips
    }

    pub fn is_empty(&self) -> bool {
        self.vips == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&VipKey, &Arc<Vip>)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// A table with these changes: `Some` puts, `None` takes away. Untouched shards are shared with `self`.
    pub fn with_changes(&self, changes: impl IntoIterator<Item = (VipKey, Option<Arc<Vip>>)>) -> Self {
        let mut next = self.clone();
        let mut shards: Vec<Arc<Shard>> = self.shards.to_vec();
        let addresses = Arc::make_mut(&mut next.addresses);
        for (key, vip) in changes {
            let owns_address = |vip: &Vip| vip.kind != VipKind::NodePort;
            let shard = Arc::make_mut(&mut shards[shard_of(&key)]);
            let (added, removed) = match vip {
                Some(vip) => {
                    let owns = owns_address(&vip);
                    (Some(owns), shard.insert(key, vip).map(|old| owns_address(&old)))
                }
                None => (None, shard.remove(&key).map(|old| owns_address(&old))),
            };
            if added == Some(true) {
                *addresses.entry(key.address).or_default() += 1;
            }
            if removed == Some(true) && let Some(count) = addresses.get_mut(&key.address) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&key.address);
                }
            }
            next.vips = next.vips + usize::from(added.is_some()) - usize::from(removed.is_some());
        }
        next.shards = shards.into();
        next
    }
}

/// Any even spread does; this one is not secret and does not need to be, control alone fills the table.
fn shard_of(key: &VipKey) -> usize {
    let mut hash = u64::from(key.port) << 8 | key.protocol as u64;
    let words: [u8; 16] = crate::flow::mapped(key.address);
    for chunk in words.as_chunks::<8>().0 {
        hash = (hash ^ u64::from_le_bytes(*chunk)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    (hash >> 32) as usize % SHARDS
}
