//! The arguments of the commands that ask the running daemon: `status`, `svc`, `flows`, `drops`.

use std::io::stdout;

use atalho_control::drops::{self, DropsOptions};
use atalho_control::flows::{self, Filter, FlowsOptions};
use atalho_control::status::{self, StatusOptions};
use atalho_control::svc::{self, SvcOptions};
use clap::Args;

use crate::{ConfigArgument, OutputArgument, load};

#[derive(Args)]
pub struct StatusArguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args)]
pub struct SvcArguments {
    /// Everything about this Service: NAMESPACE/NAME, or a name in `default` or --namespace.
    service: Option<String>,
    /// Those of this namespace only.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args)]
pub struct FlowsArguments {
    /// Let in by this Service: NAMESPACE/NAME or NAMESPACE/NAME:PORT-NAME.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// With this pod of this node at either end.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
    /// With this address, or one of this range, at either end, translated or not.
    #[arg(long, value_name = "ADDRESS|CIDR")]
    address: Option<String>,
    /// TCP, UDP, SCTP or ICMP.
    #[arg(long)]
    protocol: Option<String>,
    /// With this port at either end, translated or not.
    #[arg(long)]
    port: Option<u16>,
    /// In this state, as netfilter calls it: ESTABLISHED, TIME_WAIT, UNREPLIED, ...
    #[arg(long)]
    state: Option<String>,
    /// No more than so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args)]
pub struct DropsArguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    output: OutputArgument,
}

pub fn status(arguments: StatusArguments) -> anyhow::Result<u8> {
    let node = load(&arguments.config)?.node;
    let options = StatusOptions { run_dir: node.run_dir, node: node.name, json: arguments.output.is_json() };
    Ok(status::run(&options, &mut stdout().lock()))
}

pub fn svc(arguments: SvcArguments) -> anyhow::Result<u8> {
    let node = load(&arguments.config)?.node;
    let options = SvcOptions {
        run_dir: node.run_dir,
        node: node.name,
        service: arguments.service,
        namespace: arguments.namespace,
        json: arguments.output.is_json(),
    };
    Ok(svc::run(&options, &mut stdout().lock()))
}

pub fn flows(arguments: FlowsArguments) -> anyhow::Result<u8> {
    let node = load(&arguments.config)?.node;
    let FlowsArguments { service, pod, address, protocol, port, state, .. } = arguments;
    let options = FlowsOptions {
        run_dir: node.run_dir,
        node: node.name,
        filter: Filter { service, pod, address, protocol, port, state },
        limit: arguments.limit,
        json: arguments.output.is_json(),
    };
    // Standard output has a buffer of one line; a million of them want a larger one.
    Ok(flows::run(&options, &mut std::io::BufWriter::with_capacity(64 << 10, stdout().lock())))
}

pub fn drops(arguments: DropsArguments) -> anyhow::Result<u8> {
    let node = load(&arguments.config)?.node;
    let options = DropsOptions { run_dir: node.run_dir, node: node.name, json: arguments.output.is_json() };
    Ok(drops::run(&options, &mut stdout().lock()))
}
