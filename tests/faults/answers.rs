//! Answers of an API server that the proxy gives in its place.

/// What a server says that has too much to do (k8s.io/apiserver, filters `tooManyRequests`): its body is no object.
pub fn busy(retry_after_s: u64) -> String {
    let body = "Too many requests, please try again later.\n";
    format!(
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: {retry_after_s}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// What a server says that has streams turned off (k8s.io/apimachinery, `validateWatchOptions`).
pub fn no_streams() -> String {
    let body = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled","reason":"Invalid","code":422}"#;
    format!(
        "HTTP/1.1 422 Unprocessable Entity\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An event that ends a watch whose version is compacted (k8s.io/apimachinery, `NewResourceExpired`).
pub fn too_old() -> String {
    let event = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (2)","reason":"Expired","code":410}}"#;
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{event}\n\r\n0\r\n\r\n",
        event.len() + 1
    )
}
