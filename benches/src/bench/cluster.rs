//! The Services that traffic goes to: so many, each with ten endpoints on another node, as any cluster has them.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Of each Service.
pub const ENDPOINTS: u32 = 10;
pub const ENDPOINT_PORT: u16 = 5353;
pub const SERVICE_PORT: u16 = 53;
/// Cluster addresses and endpoints stand in rows from here on.
pub const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 16, 0);
pub const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 248, 0, 0);
/// A pod of another node: nobody has a reason to rewrite its packets' source.
pub const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 200);
/// Both rows stay inside their ranges.
pub const SERVICES_MAX: u32 = 20_000;
/// The node on which they are forwarded.
const NODE: &str = "node-a";
const NODE_ADDRESS: &str = "192.168.0.2";
/// Requests under way at once while objects are put to an API server.
const PUTS_AT_ONCE: usize = 32;

/// A cluster with so many Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    pub services: u32,
}

impl Cluster {
    /// Service `index` and its EndpointSlice.
    fn objects_of(index: u32) -> [Value; 2] {
        let first = index * ENDPOINTS;
        [service(index), slice(index, 1, first..first + ENDPOINTS)]
    }

    /// Every object, as one List for a folder of manifests.
    pub fn manifest(self) -> Value {
        let items: Vec<Value> = (0..self.services).flat_map(Self::objects_of).collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    /// Puts every object, and the node itself, to an API server that has none of them; says every now and then how far it is.
    pub fn put(self, kubeconfig: &Path) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let kubeconfig =
                Kubeconfig::read_from(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            create(&client, &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})).await?;
            // A status is not taken at creation. Without an address kube-proxy waits half a minute for one.
            let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]}});
            Api::<Node>::all(client.clone()).patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await?;
            let mut under_way = tokio::task::JoinSet::new();
            for index in 0..self.services {
                if under_way.len() >= PUTS_AT_ONCE {
                    under_way.join_next().await.context("nothing is under way")???;
                }
                if index > 0 && index % 2000 == 0 {
                    eprintln!("bench:          {index} of {} Services are at the API server", self.services);
                }
                let client = client.clone();
                under_way.spawn(async move {
                    for object in Self::objects_of(index) {
                        create(&client, &object).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(done) = under_way.join_next().await {
                done??;
            }
            Ok(())
        })
    }
}

/// Service `index`.
pub fn service(index: u32) -> Value {
    let address = nth(FIRST_SERVICE, index).to_string();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("bench-{index}"), "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ports": [{"name": "dns", "protocol": "UDP", "port": SERVICE_PORT}],
        },
    })
}

/// The slice of this number of Service `index`, with these of the row of endpoints.
pub fn slice(index: u32, number: u32, endpoints: Range<u32>) -> Value {
    let endpoint = |row: u32| {
        json!({
            "addresses": [nth(FIRST_ENDPOINT, row).to_string()],
            "nodeName": "node-b",
            "conditions": {"ready": true},
        })
    };
    let name = format!("bench-{index}");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{number}"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "protocol": "UDP", "port": ENDPOINT_PORT}],
        "endpoints": endpoints.map(endpoint).collect::<Vec<Value>>(),
    })
}

async fn create(client: &Client, object: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let types = object.types.as_ref().context("an object without a kind")?;
    let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("cannot create {} {name}", types.kind))?;
    Ok(())
}

fn nth(first: Ipv4Addr, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_services_do_not_meet_and_stay_in_their_ranges() {
        let last = SERVICES_MAX - 1;
        let [service, slice] = Cluster::objects_of(last);
        assert_eq!(service["spec"]["clusterIP"], "10.96.94.31");
        assert_eq!(slice["endpoints"][9]["addresses"][0], "10.251.13.63");
        let [_, before] = Cluster::objects_of(last - 1);
        assert_eq!(before["endpoints"][9]["addresses"][0], "10.251.13.53");
        assert_eq!(Cluster { services: 3 }.manifest()["items"].as_array().unwrap().len(), 6);
    }
}
