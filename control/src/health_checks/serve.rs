//! The listeners of the health-check node ports, opened and closed as Services come and go. A port that is taken is
//! told as a fault and tried again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch as latest;
use tokio::task::JoinHandle;

use super::connection::BoundedListener;
use super::{Answer, Answers};
use crate::http::is_alive;
use crate::model::ServiceName;
use crate::shared::{Part, Shared};

/// A port that is taken is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// KEP-3836's sister for load balancers that weigh nodes; kube-proxy has it since 1.26.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Who answers on one address.
struct Listening {
    service: ServiceName,
    task: JoinHandle<()>,
}

/// Listens on what is wanted until its sender is gone.
pub async fn serve(mut wanted: latest::Receiver<Arc<Answers>>, shared: Arc<Shared>) {
    let mut open: HashMap<SocketAddr, Listening> = HashMap::new();
    loop {
        let answers = wanted.borrow_and_update().clone();
        open.retain(|address, listening| {
            let stays = answers.get(address).is_some_and(|answer| answer.service == listening.service);
            if !stays {
                listening.task.abort();
            }
            stays
        });
        let mut faults = Vec::new();
        for (address, Answer { service, .. }) in answers.iter() {
            if open.contains_key(address) {
                continue;
            }
            match BoundedListener::bind(*address).await {
                Ok(listener) => {
                    let router = Router::new().fallback(answer).with_state(Asked {
                        address: *address,
                        answers: wanted.clone(),
                        shared: shared.clone(),
                    });
                    let task = tokio::spawn(async move {
                        // It ends by being aborted only.
                        let _ = axum::serve(listener, router).await;
                    });
                    open.insert(*address, Listening { service: service.clone(), task });
                }
                Err(error) => faults.push(format!(
                    "listening on {address} for the health checks of Service {service}: {error}; stop what listens there, tried again every {} s",
                    RETRY.as_secs()
                )),
            }
        }
        let all_open = faults.is_empty();
        shared.lock().set_faults(Part::HealthChecks, faults);
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            () = tokio::time::sleep(RETRY), if !all_open => {}
        }
    }
    open.into_values().for_each(|listening| listening.task.abort());
}

/// What a listener answers from.
#[derive(Clone)]
struct Asked {
    address: SocketAddr,
    answers: latest::Receiver<Arc<Answers>>,
    shared: Arc<Shared>,
}

/// As kube-proxy answers, on any path.
async fn answer(State(asked): State<Asked>) -> Response {
    // The Service may have gone since this connection was accepted.
    let Some(answer) = asked.answers.borrow().get(&asked.address).cloned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::CONNECTION, "close")]).into_response();
    };
    let is_healthy = is_alive(&asked.shared.lock());
    let count = answer.local_endpoints;
    let status = if count > 0 && is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (WEIGHT, HeaderValue::from(count)),
        // Each question on a connection of its own: then none can meet the end of an old one.
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    let (namespace, name) = answer.service.split_once('/').unwrap_or(("", &answer.service));
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}\n"
    );
    (status, headers, body).into_response()
}
