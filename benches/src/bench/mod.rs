//! How fast: the pipeline in memory, and whole nodes beside their peers, all in one run and interleaved, because a
//! machine's speed changes from minute to minute.
//!
//! `engine` is the pipeline alone, one worker `in_memory` on `frames` of one `node`; `stages` tells where its
//! nanoseconds go, with a picture; `snapshot` is how tables are handed to
//! a worker.
//!
//! `groups` is the one list of what is compared with what, of every `peer` there is; `contender` holds who forwards, a file
//! for each, and `cluster` the Services that they are given. `live` drives frames through nodes made of namespaces, the
//! `sites` that stand, and `latency` probes them; `steadiness` tells which rounds count, `pacing` what somebody can bear,
//! `schedule` how long it all takes and `progress` how far it is. `programs` makes and judges frames in the kernel, `probe`
//! takes the time of single ones, `agent` holds both inside a namespace, `site` is one node with its far side, `cpu` reads
//! what it all cost, `priority` keeps the rest of the machine out of the way, `handover` tells how far the cores are apart.
//!
//! A `record` keeps all that was measured; `statistics`, `report` and `chart` make figures and pictures of it; a `ratio` that
//! has to be reached is judged, `output` prints and keeps what a command found, `document` puts it into README.md, `machine`
//! says where it was.
//!
//! `alone` measures what needs no node, part by part: `engine`, `table` (look-ups alone, in huge pages as `memory` tells),
//! `density` (what memory `connections` take), `scale` (what a second worker brings), `setup` (how fast connections come).
//! `control` is how long a change takes until it is in force, beside nftables; `churn` changes objects hundreds of times a second
//! under traffic with a million flows. `instructions` counts those of fixed `cases`; `microbench` has each stage alone.

pub mod agent;
pub mod alone;
pub mod cases;
pub mod chart;
pub mod churn;
pub mod cluster;
pub mod connections;
pub mod contender;
pub mod control;
pub mod cpu;
pub mod density;
pub mod document;
pub mod engine;
pub mod frames;
pub mod groups;
pub mod handover;
pub mod in_memory;
pub mod instructions;
pub mod latency;
pub mod live;
pub mod machine;
pub mod memory;
pub mod microbench;
pub mod node;
pub mod output;
pub mod pacing;
pub mod peer;
pub mod priority;
pub mod probe;
pub mod programs;
pub mod progress;
pub mod ratio;
pub mod record;
pub mod report;
pub mod scale;
pub mod scan;
pub mod schedule;
pub mod setup;
pub mod site;
pub mod sites;
pub mod snapshot;
pub mod stages;
pub mod statistics;
pub mod steadiness;
pub mod table;
