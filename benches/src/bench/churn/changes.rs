//! Who changes objects: one change after another at a pace, each of another EndpointSlice, which says when it was made.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Services whose slices change in turn.
const SERVICES: u32 = 250;
/// Endpoints of each; one of them is another one after each change.
const ENDPOINTS: u32 = 10;
/// Requests under way at once.
const AT_ONCE: usize = 64;
/// k8s.io/api/core/v1 annotation_key_constants.go, EndpointsLastChangeTriggerTime.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[derive(clap::Args)]
pub struct ChangesArguments {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Put the Services there, and each slice for the first time.
    #[arg(long)]
    prepare: bool,
    /// A second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    #[arg(long, default_value_t = 1)]
    seconds: u32,
}

/// What it came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Made {
    pub changes: u64,
    pub seconds: f64,
}

/// Makes the changes and prints what it came to.
pub fn make(arguments: &ChangesArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let made = runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(&arguments.kubeconfig)
            .with_context(|| format!("cannot read {}", arguments.kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        if arguments.prepare {
            prepare(&client).await
        } else {
            change(&client, arguments.rate, arguments.seconds).await
        }
    })?;
    println!("{}", serde_json::to_string(&made)?);
    Ok(())
}

async fn prepare(client: &Client) -> Result<Made> {
    let (start, services) = (Instant::now(), api(client, "", "v1", "Service"));
    let slices = api(client, "discovery.k8s.io", "v1", "EndpointSlice");
    let apply = PatchParams::apply("atalho-bench").force();
    for index in 0..SERVICES {
        let (name, service) = service(index);
        services.patch(&name, &apply, &Patch::Apply(&service)).await.with_context(|| name.clone())?;
        let (name, slice) = slice(index, 0);
        slices.patch(&name, &apply, &Patch::Apply(&slice)).await.with_context(|| name.clone())?;
    }
    Ok(Made { changes: u64::from(SERVICES), seconds: start.elapsed().as_secs_f64() })
}

async fn change(client: &Client, rate: u32, seconds: u32) -> Result<Made> {
    let (start, slices) = (Instant::now(), api(client, "discovery.k8s.io", "v1", "EndpointSlice"));
    let (mut under_way, mut changes) = (JoinSet::new(), 0);
    while start.elapsed() < Duration::from_secs(seconds.into()) {
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await.context("nothing is under way")???;
        }
        let slices = slices.clone();
        let (name, slice) = slice(changes % SERVICES, changes / SERVICES + 1);
        under_way.spawn(async move {
            // Without a version, what is there is replaced whatever it is.
            slices.patch(&name, &PatchParams::default(), &Patch::Merge(&slice)).await.with_context(|| name).map(drop)
        });
        changes += 1;
        let due = start + Duration::from_secs_f64(f64::from(changes) / f64::from(rate));
        // Whoever is late does not make up for it for ever: so many are under way at most.
        tokio::time::sleep_until(due.into()).await;
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(Made { changes: changes.into(), seconds: start.elapsed().as_secs_f64() })
}

fn api(client: &Client, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), "default", &resource)
}

fn service(index: u32) -> (String, Value) {
    let (name, address) = (format!("churn-{index}"), format!("10.96.32.{index}"));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
        },
    });
    (name, service)
}

/// Of each version another endpoint stands in the place of one before.
fn slice(index: u32, version: u32) -> (String, Value) {
    let name = format!("churn-{index}-1");
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|number| {
            let round = (version + ENDPOINTS - 1 - number) / ENDPOINTS % 200;
            let address = format!("10.248.{index}.{}", number * 20 + round % 20 + 1);
            json!({"addresses": [address], "nodeName": "node-b", "conditions": {"ready": true}})
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "labels": {"kubernetes.io/service-name": format!("churn-{index}")},
            "annotations": {TRIGGER_ANNOTATION: Timestamp::now().to_string()},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "protocol": "UDP", "port": 5353}],
        "endpoints": endpoints,
    });
    (name, slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_differs_from_the_one_before_by_one_endpoint() {
        let addresses = |version| {
            let (_, slice) = slice(7, version);
            slice["endpoints"].as_array().unwrap().iter().map(|one| one["addresses"][0].to_string()).collect::<Vec<_>>()
        };
        for version in 0..500 {
            let (before, after) = (addresses(version), addresses(version + 1));
            assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1, "{before:?} {after:?}");
        }
    }
}
