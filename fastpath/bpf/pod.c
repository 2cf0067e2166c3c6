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
 *
 * Into the funnel: destination MAC = tag of the port by which the packet came in, queue chosen by a symmetric hash, so
 * both directions of an untranslated flow meet one worker, and so do all fragments of a datagram.
 */
#include "claims.h"
#include "counters.h"
#include "fairness.h"
#include "pod_drops.h"
#include "ports.h"

/* Set by the loader. */
const volatile __u32 workers;

/* As much of a packet as parsing reads where TCP, UDP or SCTP stands directly behind the IP header. */
#define LINEAR_BYTES (ETH_BYTES + 40 + 8)
/* The same of others: extension headers are long, and ICMP errors quote a packet that may have them too. */
#define LONG_LINEAR_BYTES 2048

struct frame {
    void *data;
    void *end;
    __u16 ethertype;
};

/* Makes this much of the frame readable; false where it is too short for an Ethernet header. */
INLINE bool open_linear(struct frame *f, struct __sk_buff *skb, __u32 bytes)
{
    __u32 linear = skb->data_end - skb->data;
    if (linear < bytes && linear < skb->len)
        bpf_skb_pull_data(skb, skb->len < bytes ? skb->len : bytes);
    f->data = (void *)(long)skb->data;
    f->end = (void *)(long)skb->data_end;
    if (f->data + ETH_BYTES > f->end)
        return false;
    f->ethertype = ntohs(*(__u16 *)(f->data + 12));
    return true;
}

INLINE bool has_long_headers(const struct frame *f)
{
    __u8 *ip = f->data + ETH_BYTES;
    if ((void *)(ip + 20) > f->end)
        return false;
    if (f->ethertype == ETH_IPV4)
        return ip[0] != 0x45 || ip[9] == PROTO_ICMP;
    return f->ethertype == ETH_IPV6 && !is_tcp_like(ip[6]);
}

/* Makes the headers readable; false where the frame is too short for an Ethernet header. */
INLINE bool open_frame(struct frame *f, struct __sk_buff *skb)
{
    if (!open_linear(f, skb, LINEAR_BYTES))
        return false;
    return !has_long_headers(f) || open_linear(f, skb, LONG_LINEAR_BYTES);
}

INLINE bool is_vlan(const struct __sk_buff *skb, __u16 ethertype)
{
    return skb->vlan_present || ethertype == ETH_8021Q || ethertype == ETH_8021AD;
}

INLINE __u32 queue_of(const struct packet *p)
{
    __u32 mix = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        mix ^= p->own.src[i] ^ p->own.dst[i];
    /* Fragments by their addresses alone, as NICs do it: datagrams of one flow stay in order. */
    if (p->fragment == WHOLE)
        mix ^= (p->own.ports & 0xffff) ^ (p->own.ports >> 16);
    __u32 hash = (mix * 0x9e3779b97f4a7c15ULL) >> 32;
    return ((__u64)hash * workers) >> 32;
}

/* Counted as `counter` on success. The frame's destination MAC is written, all else stays. */
INLINE int into_funnel(struct __sk_buff *skb, __u32 queue, __u32 port, __u32 counter)
{
    __u8 tag[6] = { TAG_PREFIX_0, TAG_PREFIX_1, port >> 24, port >> 16, port >> 8, port };
    __u32 packets = segments(skb);
    if (bpf_skb_store_bytes(skb, 0, tag, sizeof(tag), 0)) {
        count(C_REDIRECT_FAILED, packets);
        return TC_DROP;
    }
    skb->queue_mapping = queue + 1; /* 0 means unset */
    int action = bpf_redirect(f1_ifindex, 0);
    count(action == TC_REDIRECT ? counter : C_REDIRECT_FAILED, packets);
    return action == TC_REDIRECT ? TC_REDIRECT : TC_DROP;
}

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

INLINE int end_at(__u32 counter, struct __sk_buff *skb, int action)
{
    count(counter, segments(skb));
    return action;
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
