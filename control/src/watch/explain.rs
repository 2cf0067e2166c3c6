//! What is wrong with a resource's watch, and what to do next.

use kube::runtime::watcher::Error;

use crate::model::Kind;

/// The resource's name as RBAC spells it.
fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices.discovery.k8s.io",
        Kind::Pod => "pods",
        Kind::Node => "nodes",
        Kind::ServiceCidr => "servicecidrs.networking.k8s.io",
    }
}

/// The HTTP status that the server answered with, if it answered. The client makes a status without a code of an event that
/// it cannot read.
pub fn status_code(error: &Error) -> Option<u16> {
    let code = match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => status.code,
        _ => 0,
    };
    (code != 0).then_some(code)
}

/// For people: the resource, the reason and the next step. `status`: of an answer whose body was no object of the API.
pub fn explain(kind: Kind, url: &str, error: &Error, status: Option<u16>) -> String {
    let resource = resource(kind);
    let why = chain(error);
    match status_code(error).or(status) {
        Some(401) => format!(
            "{resource}: the API server {url} does not know us (401 Unauthorized); renew the credentials in the kubeconfig or the service account's token"
        ),
        Some(403) => format!(
            "{resource}: the API server {url} forbids it (403 Forbidden): {why}; grant get, list and watch on {resource} by a ClusterRole"
        ),
        Some(410) => format!("{resource}: the watch was too old (410 Gone); listed anew"),
        Some(429) => format!(
            "{resource}: the API server {url} has too much to do (429 Too Many Requests); asked again when it said"
        ),
        Some(code) => {
            format!("{resource}: the API server {url} answered {code}: {why}; tried again with growing pauses")
        }
        None if why.contains("certificate") => format!(
            "{resource}: the certificate of the API server {url} is refused: {why}; compare this node's clock with the certificate's dates and the \
             kubeconfig's certificate authority with its issuer, tried again with growing pauses"
        ),
        None if matches!(error, Error::WatchFailed(kube::Error::Api(_) | kube::Error::SerdeError(_))) => format!(
            "{resource}: the API server {url} told of what cannot be read as one of them: {why}; look at the objects that changed last"
        ),
        None if matches!(error, Error::WatchFailed(_)) => format!(
            "{resource}: the watch of the API server {url} broke off: {why}; taken up again with growing pauses"
        ),
        None => format!(
            "{resource}: the API server {url} cannot be reached: {why}; check its address and the network, tried again with growing pauses"
        ),
    }
}

/// An error with everything that caused it, for one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://192.0.2.1:6443";

    fn refused(code: u16) -> Error {
        let status = kube::core::Status { code, message: "no".into(), ..Default::default() };
        Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_names_the_resource_and_the_next_step() {
        assert_eq!(status_code(&refused(403)), Some(403));
        let text = explain(Kind::EndpointSlice, URL, &refused(403), None);
        assert!(text.contains("endpointslices.discovery.k8s.io") && text.contains("ClusterRole"), "{text}");
        let text = explain(Kind::Pod, URL, &refused(401), None);
        assert!(text.contains("pods") && text.contains("credentials"), "{text}");
        let text = explain(Kind::Pod, URL, &Error::NoResourceVersion, None);
        assert!(text.contains("https://192.0.2.1:6443 cannot be reached"), "{text}");
        let no_object = Error::WatchFailed(kube::Error::Service("expected value".into()));
        let text = explain(Kind::Pod, URL, &no_object, Some(429));
        assert!(text.contains("429") && text.contains("when it said"), "{text}");
    }

    #[test]
    fn a_refused_certificate_asks_for_the_clock() {
        let expired = std::io::Error::other("invalid peer certificate: certificate expired");
        let text = explain(Kind::Node, URL, &Error::WatchFailed(kube::Error::Service(expired.into())), None);
        assert!(text.contains("expired") && text.contains("this node's clock"), "{text}");
    }
}
