//! The programs and their maps in the running kernel: verdicts by BPF_PROG_TEST_RUN, paths on real veths, and what
//! stays behind when a daemon ends. They need root, and fail without it unless `ATALHO_SKIP_ROOT_TESTS=1`.

mod claims;
mod fairness;
mod frames;
mod lab;
mod loopback;
mod overload;
mod paths;
mod pods;
mod same_flow;
mod takeover;
