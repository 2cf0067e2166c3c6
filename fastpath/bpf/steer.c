/* steer: XDP on the uplink. Claims what is ours and gives it to the worker of its queue; everything else passes, always,
 * so ssh, kubelet and the API server never depend on us.
 *
 * Ours are: Service addresses and local pods (any port), Service ranges, node ports, and what belongs to a tracked flow:
 * answers to flows whose source was rewritten and to the node's own Service flows, whose destination is a node address
 * and a port that only the connection table knows.
 *
 * What it does not do: forward, rewrite, check. It decides who looks at a packet.
 */
#include "claims.h"
#include "workers.h"

/* Set by the loader. Frames for other stations (a flooding switch) are not ours to forward. */
const volatile __u8 uplink_mac[6];

SOCKETS(uplink_xsks);

/* Neighbours and whatever stays on the link are the node's own business. */
INLINE bool is_link_business(const struct packet *p)
{
    return p->is_ipv6 &&
           (is_ipv6_multicast(p->own.dst) || is_ipv6_link_local(p->own.dst) || is_neighbour_discovery(p));
}

INLINE enum ours whose(const struct packet *p)
{
    switch (claim_on(p->own.dst, 0, 0)) {
    case CLAIM_VIP:
    case CLAIM_POD:
        return OURS;
    case CLAIM_NODE:
        break;
    default:
        if (in_service_range(p->own.dst))
            return OURS;
    }
    return ours_at_node(p);
}

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
    void *frame = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    struct packet p = {};

    if (frame + ETH_BYTES > end) {
        count(C_MALFORMED, 1);
        return XDP_PASS;
    }
    __u16 ethertype = ntohs(*(__u16 *)(frame + 12)); /* a VLAN tag is no ethertype of ours */
    if (!same_mac(frame, uplink_mac)) {
        count(C_UPLINK_PASS, 1);
        return XDP_PASS;
    }
    switch (parse_ip(&p, ethertype, frame + ETH_BYTES, end)) {
    case MALFORMED:
        count(C_MALFORMED, 1);
        return XDP_PASS;
    case NOT_IP:
        count(C_UPLINK_PASS, 1);
        return XDP_PASS;
    case PARSED:
        break;
    }
    if (is_link_business(&p)) {
        count(C_UPLINK_PASS, 1);
        return XDP_PASS;
    }
    switch (whose(&p)) {
    case OURS:
        return GIVE_TO_WORKER(ctx, uplink_xsks, C_UPLINK_CLAIM, C_UPLINK_NO_WORKER);
    case OURS_BY_FRAGMENT:
        return GIVE_TO_WORKER(ctx, uplink_xsks, C_FRAGMENT_CLAIM, C_UPLINK_NO_WORKER);
    default:
        count(C_UPLINK_PASS, 1);
        return XDP_PASS;
    }
}

char LICENSE[] SEC("license") = "GPL";
