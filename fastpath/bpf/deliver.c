/* deliver: tcx on f1, the kernel's end of the funnel; what the workers send. To f1's own MAC: up into the node's stack.
 * To a tag: into the pod behind that port, straight into its namespace.
 *
 * Frames to a group address are not the workers': the stack of f0 says hello to its neighbours. They go up and nobody
 * answers.
 */
#include "counters.h"
#include "ports.h"

/* Set by the loader. */
const volatile __u8 f1_mac[6];

SEC("classifier")
int deliver(struct __sk_buff *skb)
{
    __u8 *mac = (void *)(long)skb->data;
    if ((void *)(mac + ETH_BYTES) > (void *)(long)skb->data_end)
        return end_at(C_MALFORMED, skb, TC_DROP);
    if (mac[0] & 1)
        return TC_NEXT;
    if (same_mac(mac, f1_mac))
        return end_at(C_DELIVER_NODE, skb, TC_NEXT);
    if (mac[0] != TAG_PREFIX_0 || mac[1] != TAG_PREFIX_1)
        return end_at(C_DELIVER_DEAD_PORT, skb, TC_DROP);

    __u32 ifindex = (__u32)mac[2] << 24 | (__u32)mac[3] << 16 | (__u32)mac[4] << 8 | mac[5];
    struct port_record *port = bpf_map_lookup_elem(&ports, &ifindex);
    __u32 mtu_len = 0;
    /* The redirect drops in silence what goes to a device that is gone, so ask whether it is there. */
    if (!port || bpf_check_mtu(skb, ifindex, &mtu_len, 0, 0) == -ENODEV)
        return end_at(C_DELIVER_DEAD_PORT, skb, TC_DROP);

    __u8 pod_mac[6];
    copy(pod_mac, port->pod_mac, 6);
    /* f1 took the tag for another station's address; the pod's stack drops what is not for this host. */
    if (bpf_skb_store_bytes(skb, 0, pod_mac, sizeof(pod_mac), 0) || bpf_skb_change_type(skb, PACKET_HOST))
        return end_at(C_REDIRECT_FAILED, skb, TC_DROP);
    int action = bpf_redirect_peer(ifindex, 0);
    if (action != TC_REDIRECT)
        return end_at(C_REDIRECT_FAILED, skb, TC_DROP);
    return end_at(C_DELIVER_POD, skb, TC_REDIRECT);
}

char LICENSE[] SEC("license") = "GPL";
