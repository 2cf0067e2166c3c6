/* loopback_egress: tcx on lo, on the way out; what the node sends to its own addresses.
 *
 * Ours are what goes to a node port, and answers of a process of this node that serves as an endpoint: its client's request
 * came by the node's own port with a source address of the node, so the answer is the key of a live entry. All else passes.
 *
 * Packets on lo are as long as lo takes them, but ours go through the funnel. The node's kernel is on either end of such a
 * connection, or on one, and learns of that by the MSS option of SYNs, which is lowered. A datagram that is too long is dropped.
 */
#include "into_funnel.h"

/* RFC 9293 section 3.2: the flags, the checksum, and the options, of which the kernel writes the MSS first. */
#define TCP_FLAGS 13
#define TCP_SYN 2
#define TCP_CHECKSUM 16
#define TCP_OPTIONS 20
#define MSS_KIND 2
#define MSS_LENGTH 4

INLINE void lower_mss(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
    __u32 ip_bytes = p->is_ipv6 ? 40 : 20;
    __u32 tcp_at = ETH_BYTES + ip_bytes;
    __u8 tcp[TCP_OPTIONS + MSS_LENGTH];

    if (p->own.protocol != PROTO_TCP || bpf_skb_load_bytes(skb, tcp_at, tcp, sizeof(tcp)))
        return;
    if (!(tcp[TCP_FLAGS] & TCP_SYN) || tcp[TCP_OPTIONS] != MSS_KIND || tcp[TCP_OPTIONS + 1] != MSS_LENGTH)
        return;
    __u16 old, mss = htons((__u16)(mtu - ip_bytes - TCP_OPTIONS));
    copy(&old, &tcp[TCP_OPTIONS + 2], 2);
    if (ntohs(old) <= ntohs(mss))
        return;
    bpf_l4_csum_replace(skb, tcp_at + TCP_CHECKSUM, old, mss, sizeof(mss));
    bpf_skb_store_bytes(skb, tcp_at + TCP_OPTIONS + 2, &mss, sizeof(mss), 0);
}

SEC("classifier")
int loopback_egress(struct __sk_buff *skb)
{
    struct packet p = {};
    struct frame f;

    if (!open_frame(&f, skb) || parse_ip(&p, f.ethertype, f.data + ETH_BYTES, f.end) != PARSED ||
        claim_on(p.own.dst, 0, 0) != CLAIM_NODE || ours_at_node(&p) == NOT_OURS)
        return end_at(C_EGRESS_PASS, skb, TC_NEXT);
    __u32 mtu = 0;
    if (bpf_check_mtu(skb, f1_ifindex, &mtu, 0, MTU_OF_SEGMENTS))
        return end_at(C_EGRESS_TOO_BIG, skb, TC_DROP);
    lower_mss(skb, &p, mtu);
    return into_funnel(skb, queue_of(&p), f1_ifindex, C_EGRESS_CLAIM);
}

char LICENSE[] SEC("license") = "GPL";
