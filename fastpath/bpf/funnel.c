/* funnel: XDP on f0, the workers' end of the funnel. All that comes in here was sent to the workers: by the programs on
 * pod ports, or by the node's own routes. The tag in the destination MAC says by which port it came.
 */
#include "workers.h"

SOCKETS(funnel_xsks);

SEC("xdp.frags")
int funnel(struct xdp_md *ctx)
{
    return GIVE_TO_WORKER(ctx, funnel_xsks, C_FUNNEL_CLAIM, C_FUNNEL_NO_WORKER);
}

char LICENSE[] SEC("license") = "GPL";
