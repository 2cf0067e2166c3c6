/* pod_ingress: tcx on the host end of a pod's port; what the pod sends. Checked for its source, then into the funnel.
 * node_egress: tcx on the same device and on the uplink, on the way out; what the node's own stack sends.
 *
 * Which packets of the node meet node_egress, and which of them are ours: the stack sends to a pod's host end and to the
 * uplink the node's own connections, probes and forwarded traffic. They pass. Ours are only answers of a process of this
 * node (hostNetwork) that serves as an endpoint: the request reached it, translated, through the node's own port, so its
 * answer carries the endpoint's address where the client expects the Service's. That answer is the key of a live entry
 * whose packets come in by the node's port (f1). A plain flow node -> pod is never such a key: its packets would have to
 * enter by f1, and the answers of node -> Service -> pod enter by the pod's port. What we deliver ourselves does not pass
 * here: bpf_redirect_peer skips the host end, and AF_XDP transmits below the queueing layer where tcx stands.
 */
#include "fairness.h"
#include "into_funnel.h"
#include "pod_drops.h"

/* ---- What a pod sends. ---- */

INLINE bool is_own_source(const struct packet *p, const struct port_record *port)
{
    __u32 own[4];
    if (p->is_ipv6) {
        copy(own, port->addr6, 16);
    } else {
        own[0] = own[1] = 0;
        own[2] = MAPPED_PREFIX;
        copy(&own[3], port->addr4, 4);
    }
    return same_address(p->own.src, own);
}

/* RFC 826: the sender's protocol address stands 14 bytes into the ARP packet; 0 in a probe (RFC 5227). */
INLINE bool is_honest_arp(const struct frame *f, const struct port_record *port)
{
    if (f->data + ETH_BYTES + 28 > f->end)
        return false;
    __u32 sender = *(__u32 *)(f->data + ETH_BYTES + 14);
    __u32 own;
    copy(&own, port->addr4, 4);
    return sender == 0 || sender == own;
}

/* What stays on the pod's link: neighbour discovery and multicast of a pod that speaks as itself, link-local or, while
 * it looks for duplicates, as nobody. A pod is no router: its advertisements and redirects (134, 137) are spoofs.
 */
INLINE bool is_link_business(const struct packet *p)
{
    return p->is_ipv6 &&
           (is_ipv6_multicast(p->own.dst) || is_ipv6_link_local(p->own.dst) || is_neighbour_discovery(p));
}

INLINE bool is_honest_link_business(const struct packet *p, const struct port_record *port)
{
    if (p->own.protocol == PROTO_ICMPV6 && (p->icmp_type == 134 || p->icmp_type == 137))
        return false;
    const __u32 *src = p->own.src;
    return is_own_source(p, port) || is_ipv6_link_local(src) || !(src[0] | src[1] | src[2] | src[3]);
}

SEC("classifier")
int pod_ingress(struct __sk_buff *skb)
{
    __u32 ifindex = skb->ifindex;
    struct packet p = {};
    struct frame f;

    struct port_record *port = bpf_map_lookup_elem(&ports, &ifindex);
    if (!port)
        return end_at(C_POD_UNKNOWN_PORT, skb, TC_DROP);
    if (!open_frame(&f, skb))
        return drop_of_pod(C_MALFORMED, skb);
    if (is_vlan(skb, f.ethertype))
        return drop_of_pod(C_POD_VLAN, skb);
    if (f.ethertype == ETH_ARP)
        return is_honest_arp(&f, port) ? end_at(C_POD_PASS, skb, TC_NEXT) : drop_of_pod(C_POD_SPOOF, skb);

    enum parsed parsed = parse_ip(&p, f.ethertype, f.data + ETH_BYTES, f.end);
    if (parsed == PARSED && is_link_business(&p))
        return is_honest_link_business(&p, port) ? end_at(C_POD_PASS, skb, TC_NEXT) : drop_of_pod(C_POD_SPOOF, skb);
    if (!same_mac(f.data, port->host_mac))
        return drop_of_pod(C_POD_NOT_GATEWAY, skb);
    if (parsed != PARSED)
        return drop_of_pod(C_MALFORMED, skb);
    if (!is_own_source(&p, port))
        return drop_of_pod(C_POD_SPOOF, skb);

    /* A pod reaches its own node directly, but for node ports and for answers to the node's Service flows. */
    if (claim_on(p.own.dst, 0, 0) == CLAIM_NODE && ours_at_node(&p) == NOT_OURS)
        return end_at(C_POD_PASS, skb, TC_NEXT);
    /* The funnel would drop it without a word. */
    __u32 mtu_len = 0;
    if (bpf_check_mtu(skb, f1_ifindex, &mtu_len, 0, MTU_OF_SEGMENTS))
        return drop_of_pod(C_POD_TOO_BIG, skb);
    __u32 queue = queue_of(&p);
    if (!may_enter(skb, &p, queue, ifindex))
        return drop_of_pod(C_POD_POLICED, skb);
    return into_funnel(skb, queue, ifindex, C_POD_CLAIM);
}

/* ---- What the node sends. ---- */

/* Whether it answers a flow that entered the node through its own port. */
INLINE bool is_endpoint_answer(const struct packet *p)
{
    if (p->fragment == LATER_FRAGMENT)
        return is_known_fragment(p);
    if (find_flow(p) != f1_ifindex)
        return false;
    if (p->fragment == FIRST_FRAGMENT)
        learn_fragment(p);
    return true;
}

SEC("classifier")
int node_egress(struct __sk_buff *skb)
{
    struct packet p = {};
    struct frame f;

    if (!open_frame(&f, skb) || is_vlan(skb, f.ethertype) ||
        parse_ip(&p, f.ethertype, f.data + ETH_BYTES, f.end) != PARSED || !is_endpoint_answer(&p))
        return end_at(C_EGRESS_PASS, skb, TC_NEXT);
    return into_funnel(skb, queue_of(&p), f1_ifindex, C_EGRESS_CLAIM);
}

char LICENSE[] SEC("license") = "GPL";
