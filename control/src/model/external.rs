//! By which addresses a Service is reached from outside, node ports aside. What is wrong with one of them leaves it out and
//! says so; the rest of the Service works.

use std::net::IpAddr;

use atalho_engine::service::VipKind;
use ipnet::IpNet;

use super::object::Fault;
use super::service::unusable;
use super::{address, api};

/// Read where spec.loadBalancerSourceRanges is empty (k8s.io/api/core/v1 annotation_key_constants.go).
const ANNOTATION_SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Addresses that somebody else gives a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct External {
    /// status.loadBalancer.ingress, but for those of ipMode Proxy: a load balancer that rewrites packets on their way must
    /// see them, also those from inside (KEP-1860).
    pub load_balancer_ips: Vec<IpAddr>,
    /// spec.externalIPs, as far as the configuration allows them and they are no load-balancer address as well.
    pub external_ips: Vec<IpAddr>,
    /// Who may use the load-balancer addresses: spec.loadBalancerSourceRanges or the annotation. `None`: everybody.
    pub source_ranges: Option<Vec<IpNet>>,
}

impl External {
    /// Reduces `service` with these cluster IPs; `allowed`: ranges of external IPs that the operator allows.
    pub(super) fn new(service: &api::Service, cluster_ips: &[IpAddr], allowed: &[IpNet]) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let (mut external, mut load_balancer_ips) = (Self::default(), Vec::new());
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        for (n, ingress) in status.and_then(|status| status.ingress.as_ref()).into_iter().flatten().enumerate() {
            let Some(text) = ingress.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
            if ingress.ip_mode.as_deref() != Some("Proxy") {
                load_balancer_ips.push((format!("status.loadBalancer.ingress[{n}].ip"), text));
            }
        }
        for (field, text) in load_balancer_ips {
            take(&mut external.load_balancer_ips, usable(&field, text, cluster_ips), &mut faults);
        }
        let spec = service.spec.as_ref();
        for (n, text) in spec.and_then(|spec| spec.external_ips.as_ref()).into_iter().flatten().enumerate() {
            let field = format!("spec.externalIPs[{n}]");
            let checked = usable(&field, text, cluster_ips).and_then(|ip| match allowed.iter().any(|r| r.contains(&ip)) {
                true => Ok(ip),
                false => Err(Fault::new(
                    format!("{field} is {ip}, and no range of service.external_ip_cidrs has it"),
                    "it is not served, for whoever may write a Service could take any address with it (CVE-2020-8554); \
                     allow its range in the configuration, or use a load balancer",
                )),
            });
            take(&mut external.external_ips, checked, &mut faults);
        }
        let also_load_balanced = external.load_balancer_ips.clone();
        external.external_ips.retain(|ip| !also_load_balanced.contains(ip));
        external.source_ranges = source_ranges(service, &mut faults);
        (external, faults)
    }

    /// Every address, and what kind it is.
    pub fn addresses(&self) -> impl Iterator<Item = (VipKind, IpAddr)> {
        let load_balancer = self.load_balancer_ips.iter().map(|ip| (VipKind::LoadBalancer, *ip));
        load_balancer.chain(self.external_ips.iter().map(|ip| (VipKind::ExternalIP, *ip)))
    }
}

fn take(ips: &mut Vec<IpAddr>, checked: Result<IpAddr, Fault>, faults: &mut Vec<Fault>) {
    match checked {
        Ok(ip) if ips.contains(&ip) => {}
        Ok(ip) => ips.push(ip),
        Err(fault) => faults.push(fault),
    }
}

fn usable(field: &str, text: &str, cluster_ips: &[IpAddr]) -> Result<IpAddr, Fault> {
    let Some(ip) = address::ip(text) else {
        let reason = format!("{field} is {text:?}, which is not an IP address");
        return Err(Fault::new(reason, "it is not served; write an IPv4 or IPv6 address"));
    };
    if let Some(class) = unusable(ip) {
        let reason = format!("{field} is {ip}, which is {class}");
        return Err(Fault::new(reason, "it is not served; use an address that is routed to the nodes"));
    }
    if !cluster_ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
        let reason = format!("{field} is {ip}, of a family that the Service has no clusterIP of");
        return Err(Fault::new(reason, "it is not served; add the family to spec.ipFamilies"));
    }
    Ok(ip)
}

/// A range that cannot be read allows nobody.
fn source_ranges(service: &api::Service, faults: &mut Vec<Fault>) -> Option<Vec<IpNet>> {
    let in_spec = service.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.clone()).unwrap_or_default();
    let annotations = service.metadata.annotations.as_ref();
    let annotation = annotations.and_then(|all| all.get(ANNOTATION_SOURCE_RANGES)).map(|text| text.trim());
    let (field, texts) = match annotation {
        _ if !in_spec.is_empty() => ("spec.loadBalancerSourceRanges", in_spec),
        Some(text) if !text.is_empty() => (ANNOTATION_SOURCE_RANGES, text.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    let mut ranges = Vec::with_capacity(texts.len());
    for text in texts {
        match address::cidr(&text) {
            Some(range) => ranges.push(range),
            None => faults.push(Fault::new(
                format!("{field} has {text:?}, which is not a CIDR"),
                "nobody is let in by it; write one such as \"203.0.113.0/24\"",
            )),
        }
    }
    Some(ranges)
}
