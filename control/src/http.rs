//! The HTTP endpoints that a node's health checks and scrapers know from kube-proxy: `/healthz` and `/livez` on port
//! 10256, `/metrics`, `/healthz`, `/livez`, `/readyz` and `/proxyMode` on 10249. Status codes, headers and bodies are those
//! of kube-proxy 1.37 (pkg/proxy/healthcheck/proxy_health.go), but that `/healthz` sends no new clients to a node whose
//! first tables are not in use yet.
//!
//! A port that is taken is told as a fault and tried again: a node that moves from kube-proxy to us has both for a while.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::metrics;
use crate::shared::{Part, Published};
use crate::status::Collector;

/// Changes that wait for so long mean that the loop hangs.
const HUNG: Duration = Duration::from_secs(60);
/// A port that is taken is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// 10256: for load balancers and kubelet.
    Health,
    /// 10249: for scrapers.
    Metrics,
}

/// Serves on `address` until the runtime ends.
pub async fn serve(service: Service, address: SocketAddr, collector: Arc<Collector>) {
    let router = match service {
        Service::Health => Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)),
        Service::Metrics => Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { plain("ok") }))
            .route("/livez", get(|| async { plain("ok") }))
            .route("/readyz", get(readyz))
            .route("/proxyMode", get(|| async { plain("atalho") })),
    };
    let router = router.with_state(collector.clone());
    loop {
        let listener = match bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                tell(
                    &collector,
                    address,
                    Some(format!(
                        "listening on {address}: {error}; stop what listens there or set another address in [status], tried again every {} s",
                        RETRY.as_secs()
                    )),
                );
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        tell(&collector, address, None);
        if let Err(error) = axum::serve(listener, router.clone()).await {
            tell(&collector, address, Some(format!("serving on {address}: {error}; begun again")));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Binds; where the kernel has no IPv6, any IPv6 address falls to any IPv4 address.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // EAFNOSUPPORT (asm-generic/errno.h).
        Err(error) if error.raw_os_error() == Some(97) && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
}

/// Sets or clears this address's fault and leaves the other addresses' alone.
fn tell(collector: &Collector, address: SocketAddr, fault: Option<String>) {
    let mut shared = collector.shared.lock();
    let mut faults = shared.faults.get(&Part::Http).cloned().unwrap_or_default();
    faults.retain(|fault| !fault.contains(&format!("on {address}:")));
    faults.extend(fault);
    shared.set_faults(Part::Http, faults);
}

/// Whether the loop does its work: no change waits for long. One that waits for its first lists is well: a restart
/// would not bring them sooner.
pub(crate) fn is_alive(published: &Published) -> bool {
    !published.ready || published.waiting_since.is_none_or(|since| since.elapsed() < HUNG)
}

/// kube-proxy's `ProxyHealth`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

impl Health {
    /// Both families are compiled together, so they are well together. `is_well` is what the status code says.
    fn new(published: &Published, node_eligible: Option<bool>, is_well: bool) -> Self {
        let (now, healthy) = (Timestamp::now().to_string(), is_alive(published));
        let last = published.last_publication.and_then(|at| Timestamp::try_from(at).ok());
        let published_at = last.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string());
        let family = |name| (name, FamilyHealth { last_updated: published_at.clone(), healthy });
        // Before the first tables there is no family to tell of.
        let status = if published.ready { BTreeMap::from(["IPv4", "IPv6"].map(family)) } else { BTreeMap::new() };
        // Whoever watches the time for staleness reads that all is well.
        let last_updated = if is_well { now.clone() } else { published_at.clone() };
        Self { last_updated, current_time: now, node_eligible, healthy, status }
    }
}

/// 503 also while the node is about to leave, so that load balancers send new connections elsewhere (KEP-3836).
async fn healthz(State(collector): State<Arc<Collector>>) -> Response {
    let mut shared = collector.shared.lock();
    let is_eligible = shared.ready && !shared.node_leaves;
    let is_well = is_alive(&shared) && is_eligible;
    shared.probes.healthz.count(is_well);
    answer(is_well, &Health::new(&shared, Some(is_eligible), is_well))
}

/// The same without regard to the node's leaving (KEP-3836): a restart would not help.
async fn livez(State(collector): State<Arc<Collector>>) -> Response {
    let mut shared = collector.shared.lock();
    let is_well = is_alive(&shared);
    shared.probes.livez.count(is_well);
    answer(is_well, &Health::new(&shared, None, is_well))
}

async fn readyz(State(collector): State<Arc<Collector>>) -> Response {
    let shared = collector.shared.lock();
    match shared.ready {
        true => plain("ok"),
        false => {
            let missing: Vec<&str> = shared.waiting_for.iter().map(|kind| kind.name()).collect();
            let text = format!("not ready: waiting for the first list of {}\n", missing.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, [NO_SNIFF], text).into_response()
        }
    }
}

async fn metrics(State(collector): State<Arc<Collector>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::page(&collector)).into_response()
}

const NO_SNIFF: (HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

fn plain(text: &'static str) -> Response {
    ([NO_SNIFF], text).into_response()
}

fn answer(is_well: bool, health: &Health) -> Response {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(health).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json"), NO_SNIFF], body).into_response()
}

#[cfg(test)]
mod tests;
