//! The HTTP endpoints that a node's health checks and scrapers know from kube-proxy: `/healthz` and `/livez` on port
//! 10256, `/metrics`, `/healthz`, `/livez`, `/readyz` and `/proxyMode` on 10249.
//!
//! A port that is taken is told as a fault and tried again: a node that moves from kube-proxy to us has both for a while.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
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
            .route("/healthz", get(|| async { "ok" }))
            .route("/livez", get(|| async { "ok" }))
            .route("/readyz", get(readyz))
            .route("/proxyMode", get(|| async { "atalho" })),
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

/// Whether the loop does its work: the first tables are in use, and no change waits for long.
fn is_alive(published: &Published) -> bool {
    published.ready && published.waiting_since.is_none_or(|since| since.elapsed() < HUNG)
}

/// As kube-proxy answers: 503 also while the node is about to leave, so that load balancers send new connections
/// elsewhere (KEP-3836).
async fn healthz(State(collector): State<Arc<Collector>>) -> Response {
    let shared = collector.shared.lock();
    let eligible = !shared.node_leaves;
    let mut body = times(&shared);
    body["nodeEligible"] = json!(eligible);
    answer(is_alive(&shared) && eligible, &body)
}

/// The same without regard to the node's leaving (KEP-3836): a restart would not help.
async fn livez(State(collector): State<Arc<Collector>>) -> Response {
    let shared = collector.shared.lock();
    answer(is_alive(&shared), &times(&shared))
}

async fn readyz(State(collector): State<Arc<Collector>>) -> Response {
    let shared = collector.shared.lock();
    match shared.ready {
        true => "ok".into_response(),
        false => {
            let missing: Vec<&str> = shared.waiting_for.iter().map(|kind| kind.name()).collect();
            let text = format!("not ready: waiting for the first list of {}\n", missing.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn metrics(State(collector): State<Arc<Collector>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::page(&collector)).into_response()
}

fn times(published: &Published) -> serde_json::Value {
    let last = published.last_publication.and_then(|at| Timestamp::try_from(at).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    json!({"lastUpdated": last.to_string(), "currentTime": Timestamp::now().to_string()})
}

fn answer(well: bool, body: &serde_json::Value) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn health_is_the_first_tables_and_no_change_that_waits_for_long() {
        let mut published = Published::default();
        assert!(!is_alive(&published));
        published.ready = true;
        assert!(is_alive(&published));
        published.waiting_since = Some(Instant::now());
        assert!(is_alive(&published));
        published.waiting_since = Instant::now().checked_sub(HUNG);
        assert!(published.waiting_since.is_none() || !is_alive(&published));
    }
}
