//! A Service with a TCP and a UDP port, and its slice.

pub const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  ports:
  - {name: http, port: 80, protocol: TCP}
  - {name: dns, port: 53, protocol: UDP}
";

/// A slice of it, all of whose endpoints are ready.
pub fn slice(addresses: &[&str]) -> String {
    let endpoints: String =
        addresses.iter().map(|a| format!("- {{addresses: ['{a}'], conditions: {{ready: true}}}}\n")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}, {{name: dns, port: 5353, protocol: UDP}}]
endpoints:
{endpoints}"
    )
}
